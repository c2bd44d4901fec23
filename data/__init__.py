# SPDX-License-Identifier: Apache-2.0
"""What never leaves a merchant: the data contract, readers, time split, vocabulary and bounded histories.

The way of one event: `readers` reads a source, `contract` checks it at the border, `league` (simulation)
or one merchant's frame (deployment) holds it, `split` cuts by time, `catalogue` turns items into codes,
`samples` makes one bounded history of each user, `sampling` draws users. No other room and no torch here.
"""

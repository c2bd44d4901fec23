# SPDX-License-Identifier: Apache-2.0
"""Signed releases (TUF): what the platform publishes and a merchant verifies before serving it.

    card, contents        what a release is: six files, one of them a typed card; nothing pickled
    keys, publish         the platform's side: keys by role, a repository that a crash leaves usable
    sources, feed, pull   the merchant's side: fetch, verify, install
    installed             what a merchant holds: verify again, activate, roll back; needs no network
    cli                   `hansa release ...`

Assumes: the merchant got the first root of trust from a person, not from the mirror.
"""

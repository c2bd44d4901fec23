# SPDX-License-Identifier: Apache-2.0
"""A league on one machine: the same client and server code, called in process."""

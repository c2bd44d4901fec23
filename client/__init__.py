# SPDX-License-Identifier: Apache-2.0
"""A merchant's node: trains on its own events, enforces its own policy, lets only checked answers out."""

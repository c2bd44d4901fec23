# SPDX-License-Identifier: Apache-2.0
"""What protects a user: plan, clipping, noise, accounting, ledger, secure aggregation. Knows no room."""

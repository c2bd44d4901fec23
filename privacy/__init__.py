# SPDX-License-Identifier: Apache-2.0
"""What protects a user: plan, clipping, noise, accountant, policy, ledger, secure aggregation. Knows no other room."""

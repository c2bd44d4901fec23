# SPDX-License-Identifier: Apache-2.0
"""The platform: rounds, checkpoints, resume, release gate. It sees sums, never one merchant's update."""

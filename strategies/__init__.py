# SPDX-License-Identifier: Apache-2.0
"""How sums become the next model: Flower's strategies and the cohort that they run over."""

# SPDX-License-Identifier: Apache-2.0
"""One runnable module per figure that we claim: `python -m benchmarks.NAME [--quick]`."""

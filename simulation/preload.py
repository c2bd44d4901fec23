# SPDX-License-Identifier: Apache-2.0
"""What the pool's fork server imports once, so that its processes start at once."""

import simulation.nodes  # noqa: F401

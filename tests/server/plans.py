# SPDX-License-Identifier: Apache-2.0
"""Privacy plans for tests that need one and do not look into it."""

from privacy.plan import PrivacyPlan, PrivacyRequest, calibrate

OPEN = calibrate(PrivacyRequest("none", float("inf"), 1e-5, 1, 1, 1.0, 1.0))


def shared(cohort: int, dropouts: int, **changes) -> PrivacyPlan:
    """Mode `distributed` at epsilon 8 over four rounds."""
    asked = {
        **{"mode": "distributed", "epsilon": 8.0, "delta": 1e-5, "rounds": 4, "steps_per_round": 1},
        **{"sampling_rate": 0.25, "clipping_norm": 1.0, "popularity_share": 0.2, "gate_share": 0.05},
        **{"cohort": cohort, "dropouts": dropouts, "colluders": 1, "coordinates": 5000, "scale_log2": 16},
        "accountant": "rdp",
    }
    return calibrate(PrivacyRequest(**asked | changes))

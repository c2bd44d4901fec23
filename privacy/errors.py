# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the privacy room.

PrivacyError
├── AccountingError        an event, delta or accountant that cannot be accounted for
├── CalibrationError       no noise meets the request, or the mode does not exist yet
├── PolicyError            a policy file that cannot be read as a policy
├── PolicyRefusal          the merchant's policy forbids what was asked
│   ├── BudgetExceeded     … because it would cost more than max_epsilon
│   └── OtherUnit          … because the ledger was kept for another unit of privacy
├── LedgerError            the ledger was used in the wrong order
│   └── LedgerTampered     the ledger's chain is broken: edit, deletion, reorder, truncation
├── ClippingError          the engine was used in the wrong order or got wrong shapes
│   ├── UnsupportedUse     a parameter is used in a way whose per-user gradient is not known
│   └── UsersNotIndependent  one user's loss depends on another user of the batch
└── NoiseError             a scale, key or label that noise cannot be drawn with
"""

__all__ = [
    "AccountingError",
    "BudgetExceeded",
    "CalibrationError",
    "ClippingError",
    "LedgerError",
    "LedgerTampered",
    "NoiseError",
    "OtherUnit",
    "PolicyError",
    "PolicyRefusal",
    "PrivacyError",
    "UnsupportedUse",
    "UsersNotIndependent",
]


class PrivacyError(Exception):
    """Any refusal of the privacy room; the message says expected, found and what to do."""


class AccountingError(PrivacyError):
    """An event, delta or accountant that cannot be accounted for."""


class CalibrationError(PrivacyError):
    """No noise meets the request, or the mode does not exist yet."""


class PolicyError(PrivacyError):
    """A policy file that cannot be read as a policy."""


class PolicyRefusal(PrivacyError):
    """The merchant's policy forbids what was asked; `reason` may be shown to the platform."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BudgetExceeded(PolicyRefusal):
    """The request would cost more than the policy's max_epsilon."""


class OtherUnit(PolicyRefusal):
    """The ledger was kept for another unit: its epsilon says nothing of the one that is asked for."""


class LedgerError(PrivacyError):
    """The ledger was used in the wrong order."""


class LedgerTampered(LedgerError):
    """The ledger's hash chain is broken."""


class ClippingError(PrivacyError):
    """The clipping engine was used in the wrong order or got wrong shapes."""


class UnsupportedUse(ClippingError):
    """A parameter is used in a way whose per-user gradient the engine does not know."""


class UsersNotIndependent(ClippingError):
    """One user's loss depends on another user of the batch: clipping would bound nothing."""


class NoiseError(PrivacyError):
    """A scale, key or label that noise cannot be drawn with."""

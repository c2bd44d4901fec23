# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in secure aggregation.

    SecAggError (a privacy.errors.PrivacyError)
    ├── Malformed            bytes that are no message of this version
    ├── RosterRefused        a roster that is unsigned, not the pinned one, or unsafe [R1–R6]
    ├── StateRefused         a message or call that does not fit the stage; a key store that can't be read
    │   └── Replayed         an epoch, round, confirmation or answer that was already used
    ├── PeerRefused          something signed, sealed or sent in another merchant's name does not verify
    ├── RequestRefused       the platform asks for what the roster or the merchant does not allow
    ├── ValueRefused         NaN, infinite, out of range, or of another shape or dtype than the plan says
    ├── BelowThreshold       too few merchants: nothing was opened in this attempt
    └── Misbehaviour         the round can't be finished, and these merchants are why

A message says what was expected, what was found and what to do. No message carries a secret or a user's datum.
"""

from privacy.errors import PrivacyError

__all__ = [
    "BelowThreshold",
    "Malformed",
    "Misbehaviour",
    "PeerRefused",
    "Replayed",
    "RequestRefused",
    "RosterRefused",
    "SecAggError",
    "StateRefused",
    "ValueRefused",
]


class SecAggError(PrivacyError):
    """Base of all errors of secure aggregation."""


class Malformed(SecAggError):
    """The bytes are no message of this version."""


class RosterRefused(SecAggError):
    """The roster is unsigned, not the pinned one, or its parameters are unsafe."""


class StateRefused(SecAggError):
    """The message or the call does not fit the stage, or the key store can't be read."""


class Replayed(StateRefused):
    """The epoch, round, confirmation or answer was already used."""


class PeerRefused(SecAggError):
    """What came in a merchant's name does not verify."""


class RequestRefused(SecAggError):
    """The platform asks for what the roster or this merchant does not allow."""


class ValueRefused(SecAggError):
    """A value is NaN, infinite, out of range, or not of the planned shape or dtype."""


class BelowThreshold(SecAggError):
    """Too few merchants are left; nothing was opened in this attempt."""


class Misbehaviour(SecAggError):
    """The round can't be finished; `merchants` are the names of those who are why."""

    def __init__(self, message: str, merchants: tuple[str, ...]) -> None:
        super().__init__(message)
        self.merchants = merchants

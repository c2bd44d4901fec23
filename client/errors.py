# SPDX-License-Identifier: Apache-2.0
"""Why a merchant's node does not answer.

ClientError
├── HomeError     the merchant's own settings, keys or data are not usable
├── CouncilError  an enrolment, roster or key that the council's command cannot use
├── WireError     bytes from the socket are not a message of this version
│   └── NothingSent  … since there are none: somebody only looked whether one listens
└── Refused       the request is understood and declined; the platform may read the reason
"""


class ClientError(Exception):
    """Base of all errors of this room."""


class HomeError(ClientError):
    """A file of the merchant's home is missing or wrong; names file, field, value and remedy."""


class CouncilError(ClientError):
    """The council's command cannot use a file or an option; names it, what was found, and the remedy."""


class WireError(ClientError):
    """Not a message of the expected version, or longer than allowed."""


class NothingSent(WireError):
    """The connection was closed before its first byte, as `hansa merchant status` does."""


class Refused(ClientError):
    """The merchant disposes: the reason is fit to be read by the platform and holds nothing of the data."""

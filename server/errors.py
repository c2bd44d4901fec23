# SPDX-License-Identifier: Apache-2.0
"""What can end a run on the platform.

ServerError
├── CheckpointMismatch   the checkpoints belong to another configuration
├── NotEnoughMerchants   too few merchants were online before the deadline
└── RunFailed            every round failed; the reason of the last one is in the message
"""


class ServerError(Exception):
    """Base of all errors of this room."""


class CheckpointMismatch(ServerError):
    """Resuming would mix two different runs."""


class NotEnoughMerchants(ServerError):
    """The league did not gather in time."""


class RunFailed(ServerError):
    """No round produced a model."""

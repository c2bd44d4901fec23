# SPDX-License-Identifier: Apache-2.0
"""What models take in, as structural types: the data room's classes fit them, and so does anything alike.

Items are 1 … V; 0 is padding and everything unknown. Days count from 2000-01-01 UTC. A row is one user.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evaluation", "Histories", "ItemRows"]


class Histories(Protocol):
    """U users' bounded histories, ragged, oldest event first (see data/samples.py)."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64 [U+1]: user u owns the events offsets[u] … offsets[u+1]-1."""

    @property
    def items(self) -> NDArray[np.int32]:
        """int32 [E], 1 … V."""

    @property
    def days(self) -> NDArray[np.float32]:
        """float32 [E]: days since 2000-01-01 UTC."""

    def __len__(self) -> int: ...


class ItemRows(Protocol):
    """Ragged sets of items, one row per user."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64 [U+1]."""

    @property
    def items(self) -> NDArray[np.int32]:
        """int32 [E], 1 … V."""


class Evaluation(Protocol):
    """One merchant's users at a cut in time and what they did afterwards; row u is one user everywhere."""

    @property
    def histories(self) -> Histories:
        """What was known at the cut."""

    @property
    def targets_all(self) -> ItemRows:
        """Items of the next basket."""

    @property
    def targets_novel(self) -> ItemRows:
        """Items of the window that the user had never bought at this merchant."""

    @property
    def seen(self) -> ItemRows:
        """Everything bought before the cut: masked out in the novel view."""

    @property
    def cut_day(self) -> float:
        """Days since 2000-01-01 UTC."""

    def __len__(self) -> int: ...

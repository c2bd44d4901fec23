# SPDX-License-Identifier: Apache-2.0
"""The identity of a catalogue: which item each index stands for. Ties a merchant's local part to a release."""

from collections.abc import Iterable
from hashlib import sha256


def catalogue_digest(item_ids: Iterable[str]) -> str:
    """SHA-256 over the ids in index order, each as UTF-8 after its length in 4 little-endian bytes."""
    digest = sha256(b"hansa-catalogue/1")
    for item in item_ids:
        encoded = item.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return digest.hexdigest()

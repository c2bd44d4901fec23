# SPDX-License-Identifier: Apache-2.0
"""Every domain-separation tag and every size of suite 1, in one place (docs/secure-aggregation.md §2–§5).

Guarantees:
- no tag is a prefix of another tag
"""

import hashlib
import hmac
from typing import Final


def _tag(name: str) -> bytes:
    return b"hansa/secagg/1/" + name.encode() + b"\x00"


ENROLMENT: Final = _tag("enrolment")
ROSTER: Final = _tag("roster")
KEYS: Final = _tag("keys")
EPOCH: Final = _tag("epoch")
KEM: Final = _tag("kem")
PAIR: Final = _tag("pair")
KEY_CONFIRMATION: Final = _tag("key-confirmation")
READY: Final = _tag("ready")
NEXT: Final = _tag("next")
CTX: Final = _tag("ctx")
MASK: Final = _tag("mask")
SECRET: Final = _tag("secret")
SHARES: Final = _tag("shares")
SEAL: Final = _tag("seal")
REPORT: Final = _tag("report")
SURVIVORS: Final = _tag("survivors")
CONFIRM: Final = _tag("confirm")
ANSWER: Final = _tag("answer")
PLAN: Final = _tag("plan")
REQUEST: Final = _tag("request")

ALL: Final = (
    *(ENROLMENT, ROSTER, KEYS, EPOCH, KEM, PAIR, KEY_CONFIRMATION, READY, NEXT, CTX, MASK, SECRET, SHARES, SEAL),
    *(REPORT, SURVIVORS, CONFIRM, ANSWER, PLAN, REQUEST),
)

KEY_SIZE: Final = 32
DIGEST_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64
NODE_SIZE: Final = 16
SEAL_TAG_SIZE: Final = 16
X25519_SIZE: Final = 32
MLKEM_KEY_SIZE: Final = 1184
MLKEM_CIPHERTEXT_SIZE: Final = 1088
MEMBERS_SIZE: Final = 32
MAX_MEMBERS: Final = 255


def digest(*parts: bytes | bytearray | memoryview) -> bytes:
    """SHA-256 of the parts in a row, 32 bytes."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.digest()


def mac(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256, 32 bytes."""
    return hmac.digest(key, b"".join(parts), "sha256")

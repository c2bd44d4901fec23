# SPDX-License-Identifier: Apache-2.0
"""Flower 1.41's legacy SecAgg+ functions: a merchant's four stages, and the platform's unmask stage composed.

Flower's platform is composed from its own functions (one reconstruction of each kind timed and multiplied): whole,
it takes minutes.
"""

import importlib
import os
import time
from typing import Any

import numpy as np
from flwr.app import ConfigRecord
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation import secaggplus_utils as flower_utils
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from benchmarks.secagg_parties import seconds

FLOWER = "Flower 1.41 legacy SecAgg+"
flower = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # hidden by a function


class FlowerMerchant:
    """Flower's client stages for node 0 of n, threshold 2/3, all neighbours."""

    def __init__(self, n: int, parameters: int) -> None:
        self.n, self.threshold = n, 2 * n // 3 + 1
        pairs = [(generate_key_pairs(), generate_key_pairs()) for _ in range(n - 1)]
        self.peers = {
            k + 1: (private_key_to_bytes(two[0]), public_key_to_bytes(one[1]), public_key_to_bytes(two[1]))
            for k, (one, two) in enumerate(pairs)
        }
        rng = np.random.default_rng(0)
        self.update = ndarrays_to_parameters([rng.normal(scale=0.1, size=parameters).astype(np.float32)])
        self.sent_bytes = 0

    def round(self) -> float:
        state = flower.SecAggPlusState()
        state.nid = 0
        settings = {
            Key.SAMPLE_NUMBER: self.n,
            Key.SHARE_NUMBER: self.n,
            Key.THRESHOLD: self.threshold,
            Key.CLIPPING_RANGE: 8.0,
            Key.TARGET_RANGE: 1 << 22,
            Key.MOD_RANGE: 1 << 32,
            Key.MAX_WEIGHT: 1000.0,
        }
        start = time.perf_counter()
        own = flower._setup(state, ConfigRecord(settings))
        announced = {"0": [own[Key.PUBLIC_KEY_1], own[Key.PUBLIC_KEY_2]]}
        announced |= {str(k): [one, two] for k, (_, one, two) in self.peers.items()}
        shares = flower._share_keys(state, ConfigRecord(announced))
        spent = time.perf_counter() - start
        incoming = self._incoming(state)
        start = time.perf_counter()
        masked = flower._collect_masked_vectors(state, incoming, 500, self.update)
        lists = {Key.ACTIVE_NODE_ID_LIST: list(range(self.n)), Key.DEAD_NODE_ID_LIST: []}
        flower._unmask(state, ConfigRecord(lists))
        spent += time.perf_counter() - start
        parts = [*masked[Key.MASKED_PARAMETERS], *shares[Key.CIPHERTEXT_LIST]]  # type: ignore[misc]
        self.sent_bytes = sum(len(part) for part in parts)  # type: ignore[arg-type]
        return spent

    def _incoming(self, state: Any) -> ConfigRecord:
        """What the others would have sent: shares of the right size, encrypted for node 0."""
        mine = bytes_to_public_key(state.pk2)
        texts = []
        for k, (secret, _, _) in self.peers.items():
            key = generate_shared_key(bytes_to_private_key(secret), mine)
            text = flower_utils.share_keys_plaintext_concat(
                k, 0, state.rd_seed_share_dict[0], state.sk1_share_dict[0]
            )
            texts.append(encrypt(key, text))
        return ConfigRecord({Key.SOURCE_LIST: list(self.peers), Key.CIPHERTEXT_LIST: texts})


def flower_platform(n: int, dropped: int, parameters: int) -> float:
    """Flower's unmask stage, composed: every kind of step timed once and multiplied.

    A share of its 306-byte key has as many 16-byte pieces more than one of a seed as the key is longer.
    """
    threshold, active = 2 * n // 3 + 1, n - dropped
    shares = create_shares(os.urandom(32), threshold, n)[:active]
    seed_s = seconds(lambda: combine_shares(shares))
    pieces_seed, pieces_key = 3, 20  # 32 and 306 bytes, padded
    key_s = seed_s * pieces_key / pieces_seed
    vector = [np.zeros(parameters, np.int64)]
    seed = os.urandom(44)
    mask = flower_utils.pseudo_rand_gen(seed, 1 << 32, [(parameters,)])
    mask_s = seconds(lambda: flower_utils.pseudo_rand_gen(seed, 1 << 32, [(parameters,)]))
    add_s = seconds(lambda: vector[0] + mask[0])
    one, two = generate_key_pairs(), generate_key_pairs()
    pair_s = seconds(lambda: generate_shared_key(one[0], two[1]))
    collect_s = active * add_s
    return collect_s + active * (seed_s + mask_s + add_s) + dropped * (key_s + active * (pair_s + mask_s + add_s))

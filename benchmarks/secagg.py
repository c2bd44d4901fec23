# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation beside Flower 1.41's legacy SecAgg+ functions, in one run on one machine.

    python -m benchmarks.secagg [--quick] [--plot]    --plot: also 3 to 1,000 merchants, draws docs/secagg-cost.svg

A merchant's time is all that it computes in a round: quantise, mask, share, seal, commit, hash, sign, confirm,
answer. The other merchants' messages are made beforehand. Flower's time is its four client stages, likewise.
"""

import argparse
import os
import statistics
import time
import tracemalloc
from collections.abc import Sequence
from functools import partial

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from benchmarks.measure import Row, alternate, row, table, write
from benchmarks.secagg_cost import cost_rows, draw
from benchmarks.secagg_flower import FLOWER, FlowerMerchant, flower_platform
from benchmarks.secagg_parties import OurMerchant, OurPlatform, seconds
from benchmarks.secagg_surcharge import surcharge_rows
from privacy.quantisation import quantise
from privacy.secagg.masks import BLOCK_SIZE, Vector, apply_masks

PARAMETERS = 6_000_000


def medians(figure: str, ours: Sequence[float], unit: str, peer: Sequence[float] = (), peer_name: str = "") -> Row:
    """A row of medians."""
    other = statistics.median(peer) if peer else None
    return row(figure, statistics.median(ours), unit, len(ours), other, peer_name)


def key_stream(size: int) -> float:
    """Seconds of the bare AES-256-CTR key stream, in the same blocks."""
    stream = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor()
    zeros, out = bytes(BLOCK_SIZE), bytearray(BLOCK_SIZE + 16)
    start = time.perf_counter()
    for _ in range(size // BLOCK_SIZE):
        stream.update_into(zeros, out)
    return time.perf_counter() - start


def expansion(parameters: int, count: int) -> Row:
    """Rate of mask expansion with its additions over the rate of the bare key stream."""
    vector, seeds = Vector.zeros(parameters, 0), [os.urandom(32) for _ in range(count)]
    gigabytes = 4 * parameters / 1e9
    spent = alternate(
        {
            "ours": lambda: seconds(lambda: apply_masks(vector, seeds, [], 1)) / count,
            "bare": lambda: key_stream(4 * parameters * count) / count,  # as long, so as often interrupted
        },
        5,
    )
    ours, bare = ([gigabytes / turn for turn in spent[name]] for name in ("ours", "bare"))
    return medians("mask_expansion_over_key_stream", ours, "GB/s", bare, "bare AES-256-CTR key stream")


def merchant_rows(sizes: tuple[int, ...], quick: bool) -> list[Row]:
    """Two rounds of ours, one with masks expanded before, and one of Flower's a turn."""
    rows = []
    for n in sizes:
        ours, peer = OurMerchant(n, PARAMETERS), FlowerMerchant(n, PARAMETERS)
        runs = {"one": ours.round, "ready": partial(ours.round, True), "two": ours.round, "peer": peer.round}
        times = alternate(runs, 1 if quick and n > 30 else 3)
        rows.append(medians(f"merchant_6e6_n{n}", times["one"] + times["two"], "s", times["peer"], FLOWER))
        rows.append(medians(f"merchant_6e6_n{n}_masks_expanded", times["ready"], "s", times["peer"], FLOWER))
        if n == sizes[0]:
            rows.append(peak_memory(ours))
        each = [ours.sent_bytes / PARAMETERS], "bytes", [peer.sent_bytes / PARAMETERS], FLOWER
        name = "upload_bytes_per_parameter" if n == sizes[-1] else f"upload_bytes_per_parameter_n{n}"
        rows.append(medians(name, *each))
    return rows


def peak_memory(ours: OurMerchant) -> Row:
    """Peak of what a round allocates, over the vector's size; the update itself is not counted."""
    merchant, opening = ours.merchant, ours.opening().encode()
    tracemalloc.start()
    merchant.open_round(opening, ours.terms)
    merchant.expand_masks()  # as client/secure.py does
    merchant.report(quantise(ours.plan, ours.update))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return medians("merchant_peak_memory_over_vector", [peak / (4 * PARAMETERS)], "ratio")


def platform_rows() -> list[Row]:
    ours = OurPlatform(100, 10, PARAMETERS)
    spent, apart = ours.run()
    peer = flower_platform(100, 10, PARAMETERS)
    return [
        medians("platform_6e6_n100_drop10", [spent], "s", [peer], f"{FLOWER}, composed"),
        medians("platform_seeds_n100_drop10", [apart], "s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Secure aggregation beside Flower's legacy SecAgg+.")
    parser.add_argument("--quick", action="store_true", help="at most 50 seconds")
    parser.add_argument("--plot", action="store_true", help="also measure 3 to 1,000 merchants and draw the cost")
    arguments = parser.parse_args()
    rows = [expansion(PARAMETERS, 10)]
    rows += merchant_rows((10, 30, 100), arguments.quick)
    rows += platform_rows()
    rows += surcharge_rows(1 if arguments.quick else 5)
    if arguments.plot:
        cost = cost_rows(PARAMETERS)
        draw(cost)
        rows += cost
    print(table(rows))
    print(write("secagg", rows))


if __name__ == "__main__":
    main()

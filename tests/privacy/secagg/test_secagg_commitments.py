# SPDX-License-Identifier: Apache-2.0
"""Commitments and the hash tree over a holder's shares."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg import commitments
from privacy.secagg.commitments import ShareTree
from privacy.secagg.errors import PeerRefused

CTX = bytes(range(32))


def deal(leaves: int) -> tuple[list[bytes], list[int], ShareTree, bytes]:
    shares, positions = [os.urandom(32) for _ in range(leaves)], list(range(3, 3 + leaves))
    tree = ShareTree.over(shares, positions)
    return shares, positions, tree, tree.root(CTX, 1, 2)


@given(st.data())
def test_what_was_dealt_proves(data: st.DataObject) -> None:
    leaves = data.draw(st.integers(1, 40))
    opened = data.draw(st.sets(st.integers(0, leaves - 1), min_size=1))
    shares, positions, tree, root = deal(leaves)
    nodes = tree.prove(opened)
    shown = {leaf: (positions[leaf], shares[leaf]) for leaf in opened}
    commitments.check_proof(root, CTX, 1, 2, shown, leaves, nodes)


@given(st.data())
def test_a_share_that_differs_from_what_its_author_dealt_does_not_prove(data: st.DataObject) -> None:
    leaves = data.draw(st.integers(1, 20))
    opened = data.draw(st.sets(st.integers(0, leaves - 1), min_size=1))
    shares, positions, tree, root = deal(leaves)
    nodes = tree.prove(opened)
    shown = {leaf: (positions[leaf], shares[leaf]) for leaf in opened}
    bad = data.draw(st.sampled_from(sorted(opened)))
    bit = data.draw(st.integers(0, 255))
    share = (int.from_bytes(shares[bad], "little") ^ 1 << bit).to_bytes(32, "little")
    with pytest.raises(PeerRefused):
        commitments.check_proof(root, CTX, 1, 2, shown | {bad: (positions[bad], share)}, leaves, nodes)


def test_a_proof_is_bound_to_context_author_holder_and_place() -> None:
    shares, positions, tree, root = deal(5)
    nodes = tree.prove([2])
    shown = {2: (positions[2], shares[2])}
    for ctx, author, holder, opened in [
        (bytes(32), 1, 2, shown),
        (CTX, 2, 2, shown),
        (CTX, 1, 1, shown),
        (CTX, 1, 2, {3: (positions[2], shares[2])}),
        (CTX, 1, 2, {2: (positions[3], shares[2])}),
    ]:
        with pytest.raises(PeerRefused):
            commitments.check_proof(root, ctx, author, holder, opened, 5, nodes)


def test_missing_nodes_do_not_prove() -> None:
    shares, positions, _, root = deal(5)
    with pytest.raises(PeerRefused):
        commitments.check_proof(root, CTX, 1, 2, {2: (positions[2], shares[2])}, 5, [])


def test_a_secret_commits_to_its_pair_and_context() -> None:
    secret = os.urandom(32)
    made = {
        commitments.commit_secret(ctx, low, high, secret)
        for ctx in (CTX, bytes(32))
        for low, high in ((0, 1), (0, 0), (1, 1))
    }
    assert len(made) == 6

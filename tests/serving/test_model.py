# SPDX-License-Identifier: Apache-2.0
"""Loading, refusing and swapping releases and local parts."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save

from models.export import ScorerParts, build_scorer
from releases.catalogue import catalogue_digest
from serving.errors import LocalPartUnusable, ReleaseUnusable
from serving.local_part import read_local_part
from serving.messages import Filters
from serving.model import ServedModel, load_model
from serving.recommend import filter_mask, recommend
from serving.window import Entry, History
from tests.serving.drivers import Client
from tests.serving.small import (
    N_DIMENSIONS,
    N_ITEMS,
    MemoryRelease,
    MemoryReleases,
    item_id,
    payload,
    popularity_for,
    vectors_for,
    write_local_part,
)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=array.dtype == object)
    return stream.getvalue()


def other_inputs(files: dict[str, bytes]) -> bytes:
    model = onnx.load_from_string(files["scorer.onnx"])
    model.graph.output[0].name = "something"
    for node in model.graph.node:
        node.output[:] = ["something" if name == "items" else name for name in node.output]
    return bytes(model.SerializeToString())


def test_a_release_that_cant_score_is_refused_before_it_serves(home: Path, files: dict[str, bytes]) -> None:
    wrong: list[tuple[dict[str, bytes], str]] = [
        ({"scorer.onnx": b"no model"}, "expected an ONNX model"),
        ({"scorer.onnx": other_inputs(files)}, "outputs: expected"),
        (payload(broken="nan"), "finite scores"),
        (payload(broken="raise"), "expected the scorer to run"),
        ({"item_vectors.npy": npy(vectors_for(N_ITEMS - 1))}, "item_vectors.npy: expected float32"),
        ({"item_vectors.npy": npy(np.full((N_ITEMS + 1, 2), np.nan, np.float32))}, "finite"),
        ({"item_vectors.npy": npy(np.asarray([{}], object))}, "expected readable files"),
        ({"catalogue.parquet": b"no table"}, "expected readable files"),
        ({"model.safetensors": b"no weights"}, "expected safetensors"),
        ({"model.safetensors": save({"league_log_popularity": popularity_for(3)})}, "expected finite float32"),
    ]
    for change, words in wrong:
        with pytest.raises(ReleaseUnusable, match=words):
            load_model(MemoryRelease(2, {**files, **change}), home / "local.safetensors")


def test_a_local_part_of_another_catalogue_or_with_wrong_numbers_is_refused(
    home: Path, files: dict[str, bytes]
) -> None:
    release = MemoryRelease(1, files)
    path = home / "local.safetensors"
    catalogue = load_model(release, path).catalogue

    def read() -> object:
        return read_local_part(path, catalogue, vectors_for(), files["model.safetensors"])

    write_local_part(home, prefix="other")
    with pytest.raises(LocalPartUnusable, match="found another"):
        read()
    nan = popularity_for()
    nan[3] = np.nan
    write_local_part(home, nan)
    with pytest.raises(LocalPartUnusable, match="finite"):
        read()
    write_local_part(home, popularity_for().astype(np.float64))
    with pytest.raises(LocalPartUnusable, match="float32"):
        read()
    path.write_bytes(b"rubbish")
    model = load_model(release, path)
    assert not model.has_local_part
    assert "safetensors" in (model.local_problem or "")


def exported(vectors: np.ndarray) -> bytes:
    parts = ScorerParts(
        vectors, (1.0, 1.0, 2.0, 1.0), np.zeros((vectors.shape[1], 3), np.float32), 3.0, 28.0, 0.05
    )
    return build_scorer(parts)


def own_part(home: Path, files: dict[str, bytes], **more: np.ndarray) -> Path:
    """A local part with more than a popularity, beside the release of `files`."""
    digests = {
        "catalogue_digest": catalogue_digest(item_id(index) for index in range(1, N_ITEMS + 1)),
        "model_digest": sha256(files["model.safetensors"]).hexdigest(),
    }
    path = home / "local.safetensors"
    path.write_bytes(save({"merchant_log_popularity": popularity_for(), **more}, digests))
    return path


def ranked(model: ServedModel) -> list[tuple[str, float]]:
    history = History([Entry(0, item_id(3), 1), Entry(1, item_id(9), 2)], [])
    ranking = recommend(model, history, Filters(), k=N_ITEMS, reasons=1, now_us=86_400_000_000)
    assert ranking.fallback == []
    return [(item.item_id, item.score) for item in ranking.items]


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_merchants_residual_and_weight_are_served_as_if_the_release_held_them(
    home: Path, files: dict[str, bytes], weight: float
) -> None:
    vectors, residual = vectors_for(), 0.3 * vectors_for(seed=5)
    files = {**files, "scorer.onnx": exported(vectors)}
    factor = np.array([weight], np.float32)
    path = own_part(home, files, merchant_item_residual=residual, merchant_league_weight=factor)
    other = {**files, "scorer.onnx": exported((vectors + residual) * factor)}
    found = ranked(load_model(MemoryRelease(1, files), path))
    own_part(home, files)
    assert found == ranked(load_model(MemoryRelease(1, other), path))
    assert found != ranked(load_model(MemoryRelease(1, files), path))


def test_a_residual_to_another_release_is_left_out_and_the_popularity_stays(
    home: Path, files: dict[str, bytes]
) -> None:
    files = {**files, "scorer.onnx": exported(vectors_for())}
    path = own_part(home, files)
    without = ranked(load_model(MemoryRelease(1, files), path))
    own_part(home, {"model.safetensors": b"an older release"}, merchant_item_residual=vectors_for(seed=5))
    model = load_model(MemoryRelease(1, files), path)
    assert "fitted to another release" in (model.local_problem or "")
    assert model.has_local_part
    assert ranked(model) == without


def test_a_scorer_whose_item_vectors_cannot_be_replaced_serves_without_the_local_part(
    home: Path, files: dict[str, bytes]
) -> None:
    path = own_part(home, files, merchant_item_residual=vectors_for(seed=5))
    model = load_model(MemoryRelease(1, files), path)
    assert not model.has_local_part
    assert "replaceable" in (model.local_problem or "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"merchant_item_residual": vectors_for(N_ITEMS - 1)},
        {"merchant_item_residual": np.full((N_ITEMS + 1, N_DIMENSIONS), np.nan, np.float32)},
        {"merchant_league_weight": np.ones(2, np.float32)},
        {"merchant_league_weight": np.array([np.inf], np.float32)},
    ],
)
def test_a_local_part_of_another_shape_or_not_finite_is_left_out(
    home: Path, files: dict[str, bytes], wrong: dict[str, np.ndarray]
) -> None:
    model = load_model(MemoryRelease(1, files), own_part(home, files, **wrong))
    assert not model.has_local_part
    assert "hansa merchant fit-local" in (model.local_problem or "")


def test_nothing_that_a_filter_forbids_is_recommended(home: Path, files: dict[str, bytes]) -> None:
    model = load_model(MemoryRelease(1, files), home / "local.safetensors")
    history = History([Entry(0, item_id(1), 1)], [Entry(0, item_id(2), 2)])
    nothing = filter_mask(model, Filters(), history)
    assert nothing[0] == -np.inf
    assert not nothing[1:].any()
    all_of_them = Filters(
        in_stock=[item_id(i) for i in range(1, 11)],
        exclude=[item_id(10)],
        attributes={"department": ["dairy", "produce"]},
        exclude_bought=True,
    )
    allowed = np.flatnonzero(filter_mask(model, all_of_them, history) == 0.0)
    assert allowed.tolist() == [2, 5, 6, 9]  # 1 was bought, 10 is excluded, 2 was only viewed


def wait_for_version(client: Client, version: int) -> None:
    deadline_s = time.monotonic() + 10
    while client.get("/readyz").json().get("model_version") != version:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_no_request_fails_while_a_release_is_swapped(
    connect: Callable[..., Client], source: MemoryReleases
) -> None:
    client = connect(watch_interval_s=0.02)
    client.buy("u", 3)
    seen: list[tuple[int, int, str]] = []

    async def ask() -> None:
        response = await client.request_async("POST", "/v1/recommend", json={"user_id": "u", "k": 3})
        body = response.json()
        seen.append((response.status_code, body["model_version"], body["items"][0]["item_id"][:4]))

    async def keep_asking() -> None:
        for version in range(2, 6):
            prefix = "item" if version % 2 else "next"
            source.release = MemoryRelease(version, payload(vectors=vectors_for(seed=version), prefix=prefix))
            deadline_s = time.monotonic() + 10
            while not seen or seen[-1][1] != version:
                assert time.monotonic() < deadline_s
                await asyncio.gather(*(ask() for _ in range(4)))

    client.run(keep_asking())
    assert {status for status, _, _ in seen} == {200}
    assert {version for _, version, _ in seen} >= {2, 3, 4, 5}
    for _, version, prefix in seen:  # never the items of one release under the version of another
        assert prefix == ("item" if version % 2 else "next")


def test_a_release_that_cant_be_loaded_leaves_the_old_one_serving(
    connect: Callable[..., Client], source: MemoryReleases, files: dict[str, bytes]
) -> None:
    client = connect(watch_interval_s=0.02)
    client.buy("u", 3)
    source.release = MemoryRelease(2, {**files, "scorer.onnx": b"no model"})
    time.sleep(0.2)
    assert client.recommend(user_id="u")["model_version"] == 1
    source.release = None
    time.sleep(0.1)
    assert client.recommend(user_id="u")["model_version"] == 1
    source.release = MemoryRelease(3, files)
    wait_for_version(client, 3)


def test_a_new_local_part_is_read_without_a_restart(connect: Callable[..., Client], home: Path) -> None:
    client = connect(watch_interval_s=0.02)
    best = item_id(7)
    popularity = popularity_for()
    popularity[7] = 50.0
    write_local_part(home, popularity)
    deadline_s = time.monotonic() + 10
    while client.recommend(user_id="nobody", k=1)["items"][0]["item_id"] != best:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_the_scorer_that_the_models_room_exports_is_served(home: Path, files: dict[str, bytes]) -> None:
    vectors = vectors_for()
    model = load_model(MemoryRelease(1, {**files, "scorer.onnx": exported(vectors)}), home / "local.safetensors")
    history = History([Entry(0, item_id(3), 1), Entry(1, item_id(9), 2)], [])
    ranking = recommend(model, history, Filters(), k=N_ITEMS, reasons=1, now_us=86_400_000_000 * 10)
    assert ranking.fallback == []
    user = vectors[[3, 9]].sum(axis=0) / (2 + 3.0)
    expected = vectors @ user + popularity_for()
    repeat = 2.0 * np.log1p(1 / 0.05) + np.log1p(0.5 ** (10.0 / 28.0) / 0.05)
    expected[[3, 9]] += repeat
    order = 1 + np.argsort(-expected[1:], kind="stable")
    assert [item.item_id for item in ranking.items] == [item_id(i) for i in order]
    np.testing.assert_allclose([item.score for item in ranking.items], expected[order], rtol=1e-4)

# SPDX-License-Identifier: Apache-2.0
"""What stays at the merchant: it is fitted beside the active release, served, and in nothing that leaves."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from client.choice import FEWEST_USERS, Choice, choose, fit_chosen
from client.cli import main as merchant
from client.home import open_home
from client.local_part import FILE, fit_local_part
from client.runtime import read_runtime, write_runtime
from client.wire import encode_reply
from data.files import load_merchant
from data.samples import histories
from models.metrics import ViewMetrics
from models.parameters import public_arrays
from releases.card import ModelCard
from releases.installed import activate
from releases.keys import Signers, SigningKey
from releases.publish import Repository
from releases.pull import pull, trust
from serving.messages import Filters
from serving.model import load_model
from serving.recommend import recommend
from serving.source import InstalledReleases
from serving.window import Entry, History
from tests.client.small import GATE_UNTIL, OPEN_PLAN, OPTIONS, Small, request

LOCAL = {**OPTIONS, "item_id": "local"}
CARD = ModelCard(
    created=datetime(2024, 3, 25, tzinfo=UTC),
    league="made up",
    data_licence="none",
    task="recommendation",
    mode="none",
    unit="user_merchant",
    epsilon=None,
    delta=None,
    accountant="none",
    privacy_statement="No privacy is claimed.",
    rounds=1,
    merchants=2,
    items=12,
    config_hash="0" * 16,
    code_hash="0" * 16,
)


def publish(small: Small) -> None:
    """Sign the home's model as the platform would, pull it, activate it."""
    settings = read_runtime(small.home / "runtime.json")
    write_runtime(small.home / "runtime.json", replace(settings, options=LOCAL))
    runtime = small.runtime()
    model = runtime.task.build(seed=3)
    exported = runtime.task.export(model)
    signers = Signers(*((SigningKey.generate(),) for _ in range(3)))
    made = Repository.create(small.folder / "repository", signers, (SigningKey.generate(),), root_threshold=1)
    files = {
        "model.safetensors": save(public_arrays(model, runtime.spec)),
        "scorer.onnx": exported.scorer,
        "item_vectors.npy": exported.item_vectors,
        "catalogue.parquet": small.folder / "vocabulary.parquet",
    }
    made.publish(files, CARD)
    trust(small.home, made.root_bytes())
    activate(small.home, pull(small.home, str(made.folder)).version)


@pytest.fixture(scope="session")
def published(original: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("published") / "league"
    shutil.copytree(original.folder, folder)
    publish(Small(folder))
    return Small(folder)


@pytest.fixture
def small(published: Small, tmp_path) -> Small:
    shutil.copytree(published.folder, tmp_path / "league", symlinks=True)
    return Small(tmp_path / "league")


def known(small: Small, until: datetime):
    events, vocabulary = load_merchant(str(small.events)), small.runtime().vocabulary
    return histories(events, vocabulary, until=until, max_events=16)


def test_fit_local_writes_a_file_that_serving_ranks_by_as_the_model_does(small, capsys):
    assert merchant(["fit-local", str(small.home)]) == 0
    assert "beside release 1" in capsys.readouterr().out
    assert (small.home / FILE).stat().st_mode & 0o777 == 0o600
    runtime = small.runtime()
    home = open_home(small.home)
    fit_local_part(home, runtime)
    served = load_model(InstalledReleases(small.home).active(), small.home / FILE)
    assert served.has_local_part
    assert served.local_problem is None
    own = known(small, GATE_UNTIL)
    day = float(own.days.max()) + 1.0
    expected = runtime.task.scores(runtime.model, own, np.array([0]), day)[0].numpy()
    ids = [served.catalogue.item_ids[item] for item in own.items[: own.offsets[1]]]
    times = [int(moment * 86_400e6) for moment in own.days[: own.offsets[1]]]
    history = History([Entry(t, item, n) for n, (t, item) in enumerate(zip(times, ids, strict=True))], [])
    found = recommend(served, history, Filters(), k=12, reasons=1, now_us=int(day * 86_400e6))
    scores = [expected[served.catalogue.index_of[item.item_id]] for item in found.items]
    np.testing.assert_allclose([item.score for item in found.items], scores, atol=2e-3)
    assert np.abs(load_file(small.home / FILE)["merchant_item_residual"]).max() > 0


def test_the_same_release_and_events_give_the_same_numbers(small):
    found = []
    for _ in range(2):
        fit_local_part(open_home(small.home), small.runtime())
        found.append(load_file(small.home / FILE))
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name])


def test_an_update_holds_nothing_of_the_local_parts(small):
    runtime = small.runtime()
    asked = request(runtime, plan=OPEN_PLAN)
    before = small.worker(runtime).answer(asked)
    fit_local_part(open_home(small.home), runtime)
    local = load_file(small.home / FILE)
    assert set(local) == set(runtime.spec.local)
    after = small.worker(runtime).answer(asked)
    assert set(after.arrays) == set(runtime.spec.shared)
    assert encode_reply(after) == encode_reply(before)


def test_fit_local_without_an_active_release_says_what_to_do(small, capsys):
    shutil.rmtree(small.home / "releases")
    assert merchant(["fit-local", str(small.home)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (small.home / FILE).exists()


def test_fit_local_beside_a_release_of_another_model_is_refused(small, capsys):
    settings = read_runtime(small.home / "runtime.json")
    write_runtime(small.home / "runtime.json", replace(settings, options={**LOCAL, "dimension": 8}))
    assert merchant(["fit-local", str(small.home)]) == 2
    assert "same configuration" in capsys.readouterr().err
    assert not (small.home / FILE).exists()


@pytest.mark.parametrize(
    ("users", "lead", "error", "league"),
    [
        (40, 0.021, 0.01, False),
        (40, 0.019, 0.01, True),
        (40, -0.5, 0.01, True),
        (40, 0.0, 0.0, True),
        (FEWEST_USERS - 1, 0.5, 0.01, True),
        (0, 0.0, float("inf"), True),
    ],
)
def test_a_lead_within_two_standard_errors_or_of_few_users_changes_nothing(users, lead, error, league):
    assert Choice(users, lead, error).league is league


class Judged:
    """A task that was fitted in one way or the other, with the figures of both."""

    def __init__(self, release, own):
        self.task, self.model, self.figures, self.fitted = self, None, (release, own), 0

    def fit_local(self, model, histories):
        self.fitted = 0

    def fit_alone(self, model, histories):
        self.fitted = 1

    def evaluate(self, model, evaluation, ks):
        figures = self.figures[self.fitted]
        return {"novel": ViewMetrics(np.arange(len(figures)), {"ndcg@10": figures}, {})}


@pytest.mark.parametrize(("lead", "league"), [(0.3, False), (0.0, True), (-0.3, True)])
def test_a_release_clearly_worse_than_the_merchants_own_formula_is_not_served(lead, league):
    release = np.random.default_rng(0).uniform(0.0, 0.4, 40)
    noise = np.random.default_rng(1).normal(0.0, 0.2, 40)
    judged = Judged(release, release + lead + noise)
    choice = choose(judged, None, None)
    assert choice.league is league
    assert ("without the league" in choice.words) is not league
    fit_chosen(judged, None, choice)
    assert judged.fitted == (not league)

# SPDX-License-Identifier: Apache-2.0
"""What a run measured: `results.json` as typed values, for tables, plots, verdicts and the report.

This is the border of the report: names in a catalogue come from outside, numbers may be missing or not
finite. After `read`, every number is finite or None, every text is printable on one line (a control or
direction character becomes U+FFFD), and every missing part is None or empty.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = "hansa.results/1"
METRIC = "ndcg@10"
VIEWS = ("novel", "all")
VIEW_NAMES = {"novel": "Novel items", "all": "All items"}
VIEW_MEANINGS = {
    "novel": "items that the user had never bought at this merchant before",
    "all": "everything in the next basket, repeat purchases included",
}
KIND_NAMES = {
    "baseline": "Baseline",
    "local_only": "Local only",
    "federated": "Federated",
    "federated_private": "Federated, private",
    "centralised": "Centralised",
}
UNTRAINED_MIX = "untrained mix of repeats and popularity"
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95% interval; `low` and `high` are both None where no interval was measured."""

    mean: float
    low: float | None
    high: float | None

    def __neg__(self) -> "Estimate":
        low, high = self.high, self.low
        return Estimate(-self.mean, None if low is None else -low, None if high is None else -high)


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    kind: str
    private: bool
    views: Mapping[str, Mapping[str, Estimate]]

    @property
    def label(self) -> str:
        return KIND_NAMES.get(self.kind, self.name) if self.name in ("", self.kind) else spoken(self.name)

    def estimate(self, view: str, metric: str = METRIC) -> Estimate | None:
        return self.views.get(view, {}).get(metric)


@dataclass(frozen=True, slots=True)
class Paired:
    """`method` minus `against` over the same users; `relative` is a fraction of the mean of `against`."""

    method: str
    against: str
    view: str
    metric: str
    difference: Estimate
    relative: Estimate | None


@dataclass(frozen=True, slots=True)
class MerchantUplift:
    merchant: str
    users: int
    federated: float | None
    local_only: float | None
    difference: float


@dataclass(frozen=True, slots=True)
class Uplift:
    """A method over each merchant's own model; `relative` and `share_better` are fractions."""

    method: str
    view: str
    metric: str
    paired: Estimate | None
    relative: Estimate | None
    median: float | None
    worst: float | None
    share_better: float | None
    merchants: tuple[MerchantUplift, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    merchant: str
    reason: str


@dataclass(frozen=True, slots=True)
class Round:
    run: str
    number: int
    train_loss: float | None
    ndcg_novel: float | None
    epsilon: float | None
    wall_s: float | None
    merchants: int | None
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Privacy:
    """The guarantee of the private run, in figures; in words its plan's `statement` alone.

    `private` is false where nothing is promised.
    """

    mode: str
    epsilon: float | None
    delta: float | None
    noise_multiplier: float | None
    clipping_norm: float | None
    sampling_rate: float | None
    steps: int | None
    accountant: str
    statement: str
    not_protected: tuple[str, ...]

    @property
    def private(self) -> bool:
        return self.mode not in ("", "none")


@dataclass(frozen=True, slots=True)
class HistoryItem:
    item_id: str
    name: str
    date: str


@dataclass(frozen=True, slots=True)
class Recommended:
    item_id: str
    name: str
    score: float | None
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Example:
    user: str
    merchant: str
    history: tuple[HistoryItem, ...]
    recommended: tuple[Recommended, ...]


@dataclass(frozen=True, slots=True)
class League:
    name: str
    merchants: int | None
    users: int | None
    items: int | None
    events: int | None
    split: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Release:
    version: int | None
    published: bool
    gate: str
    model_sha256: str


@dataclass(frozen=True, slots=True)
class Measured:
    created: str
    seed: int | None
    config_hash: str
    model_hash: str
    league: League
    privacy: Privacy
    methods: tuple[Method, ...]
    paired: tuple[Paired, ...]
    uplift: tuple[Uplift, ...]
    rounds: tuple[Round, ...]
    example: Example | None
    release: Release | None
    timings_s: Mapping[str, float]

    @property
    def views(self) -> tuple[str, ...]:
        """The views that some method was measured on: novel, all, then any other."""
        seen = dict.fromkeys(view for method in self.methods for view in method.views)
        return tuple(v for v in VIEWS if v in seen) + tuple(v for v in seen if v not in VIEWS)

    def of_kind(self, kind: str) -> tuple[Method, ...]:
        return tuple(method for method in self.methods if method.kind == kind)

    def paired_of(self, method: str, against: str, view: str) -> Paired | None:
        wanted = (method, against, view, METRIC)
        return next((p for p in self.paired if (p.method, p.against, p.view, p.metric) == wanted), None)

    def uplift_of(self, method: str, view: str, metric: str = METRIC) -> Uplift | None:
        found = (u for u in self.uplift if (u.method, u.view, u.metric) == (method, view, metric))
        return next(found, None)

    def rounds_of(self, run: str) -> tuple[Round, ...]:
        return tuple(sorted((r for r in self.rounds if r.run == run), key=lambda r: r.number))

    def label_of(self, method: str) -> str:
        """How an uplift's or a round's method is called in text."""
        named = (m.label for m in self.methods if method in (m.name, m.kind))
        return next(named, KIND_NAMES.get(method, spoken(method)))


def read(results: Mapping[str, Any]) -> Measured:
    """`results.json` as typed values. Raises ValueError where its format is not `hansa.results/1`."""
    if results.get("format") != FORMAT:
        found = results.get("format")
        raise ValueError(f"expected results of format {FORMAT!r}, found {found!r}: run simulate.py again")
    methods = tuple(_method(m) for m in _maps(results.get("methods")))
    return Measured(
        created=text(results.get("created")),
        seed=whole(results.get("seed")),
        config_hash=text(results.get("config_hash")),
        model_hash=text(results.get("model_hash")),
        league=_league(_map(results.get("league"))),
        privacy=_privacy(_map(results.get("privacy"))),
        methods=methods,
        paired=tuple(_paired(results.get("paired"))),
        uplift=tuple(_uplift(u) for u in _maps(results.get("uplift"))),
        rounds=tuple(_rounds(results.get("rounds"))),
        example=_example(_map(results.get("example"))),
        release=_release(_map(results.get("release"))),
        timings_s={
            text(k): v for k, raw in _map(results.get("timings")).items() if (v := number(raw)) is not None
        },
    )


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: object) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def text(value: object) -> str:
    """One printable line: white space becomes a space, a control or direction character U+FFFD."""
    if value is None:
        return ""
    return "".join(
        " " if c.isspace() else c if c.isprintable() or c in _JOINERS else "\ufffd" for c in str(value)
    ).strip()


def spoken(name: str) -> str:
    """A name for a table: `own_repeats` becomes `Own repeats`, `item_knn` is ItemKNN by its authors' habit."""
    plain = name.replace("item_knn", "ItemKNN").replace("_", " ")
    return plain[:1].upper() + plain[1:]


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: object) -> Iterator[Mapping[str, Any]]:
    items: Iterable[object] = value if isinstance(value, list | tuple) else ()
    return (item for item in items if isinstance(item, Mapping))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text(v) for v in value) if isinstance(value, list | tuple) else ()


def _estimate(value: object) -> Estimate | None:
    raw = _map(value)
    mean = number(raw.get("mean"))
    if mean is None:
        return None
    low, high = number(raw.get("low")), number(raw.get("high"))
    return Estimate(mean, low, high) if low is not None and high is not None else Estimate(mean, None, None)


def _method(raw: Mapping[str, Any]) -> Method:
    views = {
        text(view): {text(k): e for k, v in _map(metrics).items() if (e := _estimate(v)) is not None}
        for view, metrics in _map(raw.get("views")).items()
    }
    return Method(text(raw.get("name")), text(raw.get("kind")), bool(raw.get("private")), views)


def _paired(value: object) -> Iterator[Paired]:
    for raw in _maps(value):
        method, against, view, metric = (text(raw.get(k)) for k in ("method", "against", "view", "metric"))
        if (difference := _estimate(raw.get("difference"))) is not None:
            yield Paired(method, against, view, metric, difference, _estimate(raw.get("relative")))


def _uplift(raw: Mapping[str, Any]) -> Uplift:
    merchants = tuple(
        MerchantUplift(
            text(m.get("merchant")),
            whole(m.get("users")) or 0,
            number(m.get("federated")),
            number(m.get("local_only")),
            difference,
        )
        for m in _maps(raw.get("merchants"))
        if (difference := number(m.get("difference"))) is not None
    )
    return Uplift(
        method=text(raw.get("method")),
        view=text(raw.get("view")),
        metric=text(raw.get("metric")),
        paired=_estimate(raw.get("paired")),
        relative=_estimate(raw.get("relative")),
        median=number(raw.get("median")),
        worst=number(raw.get("worst")),
        share_better=number(raw.get("share_better")),
        merchants=merchants,
    )


def _rounds(value: object) -> Iterator[Round]:
    for raw in _maps(value):
        count = whole(raw.get("round"))
        if count is None:
            continue
        yield Round(
            run=text(raw.get("run")),
            number=count,
            train_loss=number(raw.get("train_loss")),
            ndcg_novel=number(raw.get("ndcg@10_novel")),
            epsilon=number(raw.get("epsilon")),
            wall_s=number(raw.get("wall_s")),
            merchants=whole(raw.get("merchants")),
            dropped=tuple(
                Dropped(text(d.get("merchant")), text(d.get("reason"))) for d in _maps(raw.get("dropped"))
            ),
        )


def _league(raw: Mapping[str, Any]) -> League:
    split = {text(k): text(v) for k, v in _map(raw.get("split")).items() if v is not None}
    merchants, users = whole(raw.get("merchants")), whole(raw.get("users"))
    return League(
        text(raw.get("name")), merchants, users, whole(raw.get("items")), whole(raw.get("events")), split
    )


def _privacy(raw: Mapping[str, Any]) -> Privacy:
    return Privacy(
        mode=text(raw.get("mode")),
        epsilon=number(raw.get("epsilon")),
        delta=number(raw.get("delta")),
        noise_multiplier=number(raw.get("noise_multiplier")),
        clipping_norm=number(raw.get("clipping_norm")),
        sampling_rate=number(raw.get("sampling_rate")),
        steps=whole(raw.get("steps")),
        accountant=text(raw.get("accountant")),
        statement=text(raw.get("statement")),
        not_protected=_texts(raw.get("not_protected")),
    )


def _example(raw: Mapping[str, Any]) -> Example | None:
    history = tuple(
        HistoryItem(text(h.get("item_id")), text(h.get("name")), text(h.get("date")))
        for h in _maps(raw.get("history"))
    )
    recommended = tuple(
        Recommended(text(r.get("item_id")), text(r.get("name")), number(r.get("score")), _texts(r.get("because")))
        for r in _maps(raw.get("recommended"))
    )
    if not history and not recommended:
        return None
    return Example(text(raw.get("user")), text(raw.get("merchant")), history, recommended)


def _release(raw: Mapping[str, Any]) -> Release | None:
    if not raw:
        return None
    return Release(
        whole(raw.get("version")), bool(raw.get("published")), text(raw.get("gate")), text(raw.get("model_sha256"))
    )

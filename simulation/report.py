# SPDX-License-Identifier: Apache-2.0
"""A run's report: one HTML page that needs nothing but itself.

Guarantees:
- the page loads nothing and runs no script
- a name from outside is shown, never obeyed
- a missing part becomes a sentence, never a crash
- a reader sees the old page or the new one, never half a page

Names of products and merchants come from outside: the template escapes every value, and the page's
content policy forbids scripts and requests should an escape ever be missed.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from simulation.measured import METRIC, Example, Measured, Recommended, read, spoken
from simulation.plots import BIN_MERCHANTS, RUNS, plots
from simulation.rounding import better_off, interval, nearest, percent, scientific, signed, up
from simulation.summary import summary
from simulation.tables import MISSING, merchant_table, method_tables, uplift_table
from simulation.verdicts import promised, ratio_to_centralised, verdicts

_TEMPLATES = Path(__file__).parent / "templates"
_ROLES = ("federated", "federated_private", "centralised", "local_only")
_HEADLINE_VIEW = "novel"
_DROPPED_SHOWN = 12
_LEAD_CHARACTERS, _SUMMARY_LEAD_CHARACTERS = 44, 90


@dataclass(frozen=True, slots=True)
class Fact:
    """One of the figures at the top of the page."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict with its subject apart, so that the page can set it in bold."""

    lead: str
    rest: str
    caution: bool


@dataclass(frozen=True, slots=True)
class PrivacySection:
    private: bool
    statement: str
    sheet: tuple[tuple[str, str], ...]
    not_protected: tuple[str, ...]
    not_protected_missing: str


@dataclass(frozen=True, slots=True)
class ShownItem:
    item_id: str
    name: str
    score: str
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShownExample:
    user: str
    merchant: str
    history: tuple[object, ...]
    recommended: tuple[ShownItem, ...]


def write_report(results: Mapping[str, Any], path: Path) -> None:
    """Write the page of `results` to `path`, in one step and durably.

    Raises ValueError for results of another format, OSError where the file cannot be written.
    """
    page = page_of(results).encode("utf-8", errors="replace")
    # Readable by its owner only, as temporary files are: it holds one user's purchases.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as staged:
        try:
            staged.write(page)
            staged.flush()
            os.fsync(staged.fileno())
            Path(staged.name).replace(path)
        except BaseException:
            Path(staged.name).unlink(missing_ok=True)
            raise


def page_of(results: Mapping[str, Any]) -> str:
    """The page as text; the same results give the same text. Raises ValueError for another format."""
    measured = read(results)
    headline = next((u for run in RUNS if (u := measured.uplift_of(run, _HEADLINE_VIEW))), None)
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    return environment.get_template("report.html").render(
        title=measured.league.name or "A league of merchants",
        subtitle=_subtitle(measured),
        facts=tuple(_facts(measured)),
        summary=tuple(_split(sentence, _SUMMARY_LEAD_CHARACTERS) for sentence in summary(results)),
        verdicts=tuple(_split(v) for v in verdicts(results)),
        plots=plots(measured),
        roles=_ROLES,
        methods_caption=f"{METRIC} with 95% intervals; the dotted line marks the federated model.",
        uplift_caption=(
            "One dot is one merchant; above the line the league serves it better than its own model does. "
            f"In a larger league a line joins the medians of {BIN_MERCHANTS} merchants of like size each."
        ),
        method_tables=method_tables(measured),
        uplift_table=uplift_table(measured),
        merchant_table=merchant_table(headline) if headline and headline.merchants else None,
        rounds=measured.rounds,
        dropped=tuple(_dropped(measured)),
        privacy=_privacy(measured),
        example=_example(measured.example),
        provenance=tuple(_provenance(measured)),
    )


def _subtitle(measured: Measured) -> str:
    league = measured.league
    counts = {"merchants": league.merchants, "users": league.users, "items": league.items, "events": league.events}
    parts = [f"{count:,} {name}" for name, count in counts.items() if count is not None]
    if measured.created:
        parts.append(_moment(measured.created))
    return " · ".join(parts)


def _moment(created: str) -> str:
    """`2026-03-14 09:26 UTC`, or the text as it came where it is no ISO time with a zone."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment.tzinfo else created


def _facts(measured: Measured) -> Iterator[Fact]:
    federated = next(iter(measured.of_kind("federated")), None)
    own = federated.estimate(_HEADLINE_VIEW) if federated else None
    yield Fact(
        f"{METRIC}, novel items, federated",
        nearest(own.mean) if own else MISSING,
        interval(own) if own else "not measured",
    )
    compared = ratio_to_centralised(measured, _HEADLINE_VIEW)
    yield Fact(
        "of the centralised model's score, federated",
        percent(compared[1]) if compared else MISSING,
        "same view and metric" if compared else "no centralised model",
    )
    uplift = measured.uplift_of("federated", _HEADLINE_VIEW)
    median = uplift.median if uplift else None
    yield Fact(
        "merchants better off than alone, federated",
        (better_off(uplift) if uplift else "") or MISSING,
        f"median merchant {signed(median)}" if median is not None else "not measured",
    )
    privacy = measured.privacy
    stated = promised(privacy)
    yield Fact(
        "ε of the private run",
        up(privacy.epsilon, 2) if stated and privacy.epsilon is not None else MISSING,
        f"δ = {scientific(privacy.delta)}" if stated and privacy.delta is not None else "no guarantee",
    )


def _split(verdict: str, longest: int = _LEAD_CHARACTERS) -> Verdict:
    lead, colon, rest = verdict.partition(": ")
    if not colon or len(lead) > longest:
        return Verdict("", verdict, caution=False)
    first = rest[:1].upper() if rest[:1].isascii() else rest[:1]  # ε is a name, never a capital
    return Verdict(lead, first + rest[1:], caution="not " in lead.lower())


def _dropped(measured: Measured) -> Iterator[str]:
    """One line for each merchant and reason, with the rounds that it missed."""
    missed: dict[tuple[str, str, str], list[int]] = {}
    for r in measured.rounds:
        for d in r.dropped:
            reason = d.reason or "no reason given"
            missed.setdefault((measured.label_of(r.run), d.merchant, reason), []).append(r.number)
    lines = [
        f"{label}, {_rounds(rounds)}: {merchant}, {reason}" for (label, merchant, reason), rounds in missed.items()
    ]
    yield from lines[:_DROPPED_SHOWN]
    if len(lines) > _DROPPED_SHOWN:
        yield f"and {len(lines) - _DROPPED_SHOWN} more"


def _rounds(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"round {numbers[0]}"
    return f"{len(numbers)} rounds from {numbers[0]} to {numbers[-1]}"


def _privacy(measured: Measured) -> PrivacySection:
    privacy = measured.privacy
    if not privacy.private:
        statement = privacy.statement or "This run states no guarantee: treat its models as not private."
        return PrivacySection(False, statement, (), privacy.not_protected, "Nothing here is protected by noise.")
    lost = "The run states no ε or no δ: treat it as not private."
    statement = (
        (privacy.statement or "The run states its guarantee only in figures.") if promised(privacy) else lost
    )
    sheet = (
        ("Mode", f"{spoken(privacy.mode)} noise"),
        ("ε, planned", up(privacy.epsilon, 2) if privacy.epsilon is not None else "not stated"),
        ("δ", scientific(privacy.delta) if privacy.delta is not None else "not stated"),
        ("Compositions", f"{privacy.steps:,}" if privacy.steps is not None else "not stated"),
        ("Accountant", privacy.accountant.upper() or "not stated"),
        ("Noise multiplier σ", _short(privacy.noise_multiplier)),
        ("Clipping norm C", _short(privacy.clipping_norm)),
        ("Sampling rate", _short(privacy.sampling_rate)),
    )
    missing = "The results do not list what is not protected; assume that nothing beyond the statement above is."
    return PrivacySection(True, statement, sheet, privacy.not_protected, missing)


def _short(value: float | None) -> str:
    return "not stated" if value is None else f"{value:.4g}"


def _example(example: Example | None) -> ShownExample | None:
    if example is None:
        return None
    return ShownExample(example.user, example.merchant, example.history, tuple(map(_shown, example.recommended)))


def _shown(item: Recommended) -> ShownItem:
    score = MISSING if item.score is None else nearest(item.score, 2)
    return ShownItem(item.item_id, item.name, score, item.because)


def _provenance(measured: Measured) -> Iterator[tuple[str, str]]:
    split = ", ".join(f"{spoken(name).lower()} {when}" for name, when in measured.league.split.items())
    release = measured.release
    rows = {
        "Created": measured.created,
        "Seed": "" if measured.seed is None else str(measured.seed),
        "Time split": split,
        "Config hash": measured.config_hash,
        "Hash of the model's arrays": measured.model_hash,
    }
    yield from ((name, value or "not stated") for name, value in rows.items())
    if release is None:
        yield "Release", "none"
    else:
        state = "published" if release.published else "not published"
        version = "" if release.version is None else f"version {release.version}, "
        yield "Release", f"{version}{state}{f': {release.gate}' if release.gate else ''}"
        if release.model_sha256:
            yield "Released model.safetensors, SHA-256", release.model_sha256
    for name, seconds in measured.timings_s.items():
        yield f"Time: {spoken(name).lower()}", f"{seconds:,.1f} s"

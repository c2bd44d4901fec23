# SPDX-License-Identifier: Apache-2.0
"""A run's results in plain words, good or bad: the details behind `simulation.summary`.

Guarantees:
- whether a method is ahead or behind is decided on the unrounded values
- a difference is called shown only where its paired interval excludes zero
- what is not ahead of something simpler is labelled not useful at this scale

Assumes `results.json` of format `hansa.results/1`. All methods are measured on the same users, so the paired
difference of two methods judges them; whether their own intervals overlap says nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulation.measured import (
    METRIC,
    UNTRAINED_MIX,
    VIEW_NAMES,
    Estimate,
    Measured,
    Method,
    Privacy,
    Uplift,
    read,
    spoken,
)
from simulation.rounding import better_off, down, nearest, percent, signed, up

SECOND_METRICS = ("hit_rate@10", "recall@20")
CENTRALISED_GOAL = 0.98
_NOUNS = {
    "federated": "the federated model",
    "federated_private": "the private federated model",
    "centralised": "the centralised model",
}


@dataclass(frozen=True, slots=True)
class Lead:
    """How far a method is ahead of `other`; without a paired interval nothing is shown."""

    other: Method
    difference: Estimate
    relative: float | None

    @property
    def shown_better(self) -> bool:
        return self.difference.low is not None and self.difference.low > 0.0

    @property
    def shown_worse(self) -> bool:
        return self.difference.high is not None and self.difference.high < 0.0

    @property
    def not_ahead(self) -> bool:
        return self.difference.mean <= 0.0 or self.shown_worse


def verdicts(results: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences about the run, most important first. Raises ValueError for another format."""
    measured = read(results)
    return tuple(
        verdict
        for part in (_baselines, _usefulness, _local_only, _centralised, _private, _run)
        for verdict in part(measured)
    )


def ratio_to_centralised(measured: Measured, view: str) -> tuple[Method, float] | None:
    """The non-private centralised model and the federated model's score as a fraction of its score."""
    federated = _federated(measured)
    own = federated.estimate(view) if federated else None
    for method in measured.of_kind("centralised"):
        other = method.estimate(view)
        if own and other and other.mean > 0.0 and not method.private:
            return method, own.mean / other.mean
    return None


def _baselines(measured: Measured) -> Iterator[str]:
    federated = _federated(measured)
    if federated is None:
        yield "There is no federated model in these results: nothing can be said about the league."
        return
    for view in measured.views:
        own = federated.estimate(view)
        leads = leads_over(measured, federated, view, "baseline")
        if own is None or not leads:
            yield f"{_view(view)} against baselines: the federated model was not compared with any."
            continue
        better = [lead for lead in leads if lead.shown_better]
        worse = [lead for lead in leads if lead.shown_worse]
        others = [lead for lead in leads if lead not in better and lead not in worse]
        closest = leads[:1] if len(better) == len(leads) else []
        named = (("Shown worse than", worse), ("Open", others), ("Closest", closest))
        yield (
            f"{_view(view)} against baselines: the federated model, {METRIC} {nearest(own.mean)}, "
            f"is shown better than {len(better)} of {len(leads)}."
            + "".join(f" {what}: {_list(found)}." for what, found in named if found)
            + _other_metrics(federated, leads[0].other, view)
        )


def _usefulness(measured: Measured) -> Iterator[str]:
    """What a merchant would do without, because something simpler is as good."""
    for method in (*measured.of_kind("federated"), *measured.of_kind("federated_private")):
        for view in measured.views:
            leads = leads_over(measured, method, view, "baseline", "local_only")
            in_doubt = [lead for lead in leads if not lead.shown_better]
            if not in_doubt:
                continue
            useless = [lead for lead in in_doubt if lead.not_ahead]
            label = "Not useful at this scale" if useless else "Not yet shown to be useful at this scale"
            lead = (useless or in_doubt)[0]
            what = f"{the(method)} on {_lower(_view(view))}"
            yield f"{label}: {what}. Beside the simpler: {_named(lead.other)}, {_gap(lead)}."


def leads_over(measured: Measured, method: Method, view: str, *kinds: str) -> list[Lead]:
    """The leads of `method` over every method of these kinds, the smallest first."""
    others = (other for kind in kinds for other in measured.of_kind(kind))
    found = (lead_over(measured, method, other, view) for other in others)
    return sorted((lead for lead in found if lead), key=lambda lead: lead.difference.mean)


def lead_over(measured: Measured, method: Method, other: Method, view: str) -> Lead | None:
    """How far a method is ahead of another, paired where a pair was measured."""
    paired = measured.paired_of(method.name, other.name, view)
    if paired:
        return Lead(other, paired.difference, paired.relative.mean if paired.relative else None)
    own, theirs = method.estimate(view), other.estimate(view)
    if own is None or theirs is None:
        return None
    difference = own.mean - theirs.mean
    relative = difference / theirs.mean if theirs.mean > 0.0 else None
    return Lead(other, Estimate(difference, None, None), relative)


def _local_only(measured: Measured) -> Iterator[str]:
    if not measured.uplift:
        yield "The uplift over each merchant's own model was not measured."
    for uplift in sorted(measured.uplift, key=lambda u: u.view != "novel"):
        method = next((m for m in measured.methods if uplift.method in (m.name, m.kind)), None)
        name = the(method) if method else spoken(uplift.method)
        start = f"{_view(uplift.view)} against own models: {name}"
        yield f"{start}{_over_own_models(uplift)}{_spread(uplift)}"


def _over_own_models(uplift: Uplift) -> str:
    if uplift.paired is None:
        return " was not compared pair by pair."
    alone = Method("local_only", "local_only", private=False, views={})
    lead = Lead(alone, uplift.paired, uplift.relative.mean if uplift.relative else None)
    verdict = "shown better" if lead.shown_better else "shown worse" if lead.shown_worse else "not shown to differ"
    return f" is {verdict} in {uplift.metric}: {_gap(lead)}."


def _spread(uplift: Uplift) -> str:
    parts = []
    if better := better_off(uplift):
        parts.append(f"{better} are better off")
    if uplift.merchants:
        parts.append(f"{sum(m.difference < 0.0 for m in uplift.merchants)} worse off")
    if uplift.median is not None:
        parts.append(f"median {signed(uplift.median)}")
    if uplift.worst is not None:
        last = min(uplift.merchants, key=lambda m: m.difference, default=None)
        who = f" ({last.merchant}, {last.users} users)" if last else ""
        parts.append(f"worst {signed(uplift.worst)}{who}")
    return f" Merchants: {', '.join(parts)}." if parts else ""


def _centralised(measured: Measured) -> Iterator[str]:
    compared = [(view, r) for view in measured.views if (r := ratio_to_centralised(measured, view))]
    federated = _federated(measured)
    if not compared or federated is None:
        yield "There is no non-private centralised model to hold the federated one against."
        return
    for view, (centralised, ratio) in compared:
        paired = measured.paired_of(federated.name, centralised.name, view)
        relative = paired.relative if paired else None
        lead = lead_over(measured, federated, centralised, view)
        yield (
            f"{_view(view)} against centralised: the federated model reaches {percent(ratio)}{_ratio(relative)} "
            f"of that model's {METRIC}, which {_goal(ratio, relative)}{f'; {_gap(lead)}' if lead else ''}."
        )


def _ratio(relative: Estimate | None) -> str:
    if relative is None or relative.low is None or relative.high is None:
        return ""
    return f" [{percent(1.0 + relative.low)} to {percent(1.0 + relative.high)}]"


def _goal(ratio: float, relative: Estimate | None) -> str:
    """Whether the goal is met, and whether by the whole interval."""
    goal = f"the goal of {CENTRALISED_GOAL:.0%}"
    if ratio < CENTRALISED_GOAL:
        return f"misses {goal}"
    sure = relative is not None and relative.low is not None and 1.0 + relative.low >= CENTRALISED_GOAL
    return f"meets {goal}" if sure else f"meets {goal} on average, not with its whole interval"


def _private(measured: Measured) -> Iterator[str]:
    runs = measured.of_kind("federated_private")
    if not runs or not measured.privacy.private:
        yield "There is no private run in these results: no figure here carries a privacy guarantee."
        return
    federated = _federated(measured)
    for method in runs:
        for view in measured.views:
            yield f"{_view(view)} with privacy: {the(method)} {_beside(measured, method, federated, view)}."
    yield _promise(measured)


def _beside(measured: Measured, method: Method, federated: Method | None, view: str) -> str:
    """The private model's score, and what privacy costs beside the non-private one."""
    own = method.estimate(view)
    free = federated.estimate(view) if federated else None
    lead = lead_over(measured, method, federated, view) if federated else None
    if own is None:
        return "was not measured"
    scores = f"scores {METRIC} {nearest(own.mean)}"
    if lead is None or free is None or free.mean <= 0.0:
        return scores
    return f"{scores}, {percent(own.mean / free.mean)} of the non-private one; it is {_gap(lead)}"


def _promise(measured: Measured) -> str:
    """The plan's own statement: nothing else says in words what is private."""
    privacy = measured.privacy
    if not promised(privacy):
        return "The private run states no ε or no δ: treat it as not private."
    return f"Privacy of the private run: {privacy.statement or 'its plan states it only in figures.'}"


def promised(privacy: Privacy) -> bool:
    """Whether the run is private and says by how much."""
    return privacy.private and privacy.epsilon is not None and privacy.delta is not None


def _run(measured: Measured) -> Iterator[str]:
    dropped = [d.merchant for r in measured.rounds for d in r.dropped]
    if dropped:
        yield f"Drop-outs: {len(dropped)} over all rounds, of {len(set(dropped))} different merchants."
    release = measured.release
    if release is None or not release.published:
        reason = f": {release.gate}" if release and release.gate else ""
        yield f"No release was published{reason}."
    seed = "" if measured.seed is None else f" (seed {measured.seed})"
    yield f"One run{seed}: the intervals, 95% each and not all at once, cover users, not seeds or leagues."


def _federated(measured: Measured) -> Method | None:
    return next((m for m in measured.of_kind("federated") if not m.private), None)


def the(method: Method) -> str:
    """A method as the subject of a sentence; its own name beside its kind where it has one."""
    noun = _NOUNS.get(method.kind)
    if noun is None:
        return method.label
    return noun if method.name in ("", method.kind) else f"{noun} ({method.label})"


def called(method: Method) -> str:
    """A method beside others in a sentence."""
    return f"the {UNTRAINED_MIX}" if method.name == UNTRAINED_MIX else method.label


def _named(method: Method) -> str:
    own = " (our own formula, which needs no training)" if method.name == UNTRAINED_MIX else ""
    return f"{called(method)}{own}"


def _list(leads: Sequence[Lead]) -> str:
    return "; ".join(f"{_named(lead.other)}, {_gap(lead)}" for lead in leads)


def _gap(lead: Lead) -> str:
    """`ahead by 0.0013 (2.2%), paired interval [+0.0002 to +0.0024]`."""
    mean = lead.difference.mean
    if mean == 0.0:
        return f"level, {_interval(lead)}"
    relative = "" if lead.relative is None else f" ({size(100.0 * lead.relative, 1)}%)"
    return f"{_side(mean)} by {size(mean, 4)}{relative}, {_interval(lead)}"


def _interval(lead: Lead) -> str:
    low, high = lead.difference.low, lead.difference.high
    if low is None or high is None:
        return "without a paired interval to judge it"
    return f"paired interval [{signed(low)} to {signed(high)}]"


def _side(difference: float) -> str:
    return "ahead" if difference > 0.0 else "behind"


def size(difference: float, digits: int) -> str:
    """The size of a difference: an advantage rounded down, a disadvantage rounded up."""
    size = down(difference, digits) if difference > 0.0 else up(-difference, digits)
    return size if float(size) else f"less than {10.0**-digits:.{digits}f}"


def _other_metrics(federated: Method, best: Method, view: str) -> str:
    """A sentence where another metric orders the two the other way round."""
    first, second = federated.estimate(view), best.estimate(view)
    turned = []
    for metric in SECOND_METRICS:
        own, other = federated.estimate(view, metric), best.estimate(view, metric)
        if not (first and second and own and other):
            continue
        if (own.mean - other.mean) * (first.mean - second.mean) < 0.0:
            turned.append(metric)
    return f" Against {called(best)} it is the other way round by {' and '.join(turned)}." if turned else ""


def _view(view: str) -> str:
    return VIEW_NAMES.get(view, spoken(view))


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]

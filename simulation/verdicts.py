# SPDX-License-Identifier: Apache-2.0
"""A run's results in plain words, good or bad.

Guarantees:
- whether a method is ahead or behind is decided on the unrounded values
- overlapping intervals are said to show no difference
- what is not ahead of something simpler is labelled not useful at this scale

Assumes `results.json` of format `hansa.results/1`. An interval of a method covers the choice of users, so
that two overlapping intervals leave a difference open; only a paired difference can settle it.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from simulation.measured import METRIC, VIEW_NAMES, Estimate, Measured, Method, Uplift, read, spoken
from simulation.rounding import down, interval, nearest, percent, scientific, signed, up

SECOND_METRICS = ("hit_rate@10", "recall@20")
CENTRALISED_GOAL = 0.98
_NOUNS = {
    "federated": "the federated model",
    "federated_private": "the private federated model",
    "centralised": "the centralised model",
}


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
        others = [(m, e) for m in measured.of_kind("baseline") if (e := m.estimate(view))]
        if own is None or not others:
            yield f"{_view(view)} against baselines: the federated model was not compared with any."
            continue
        others.sort(key=lambda pair: pair[1].mean, reverse=True)
        above = [e for _, e in others if own.mean > e.mean]
        apart = sum(own.overlaps(e) is False for e in above)
        best, bar = others[0]
        rest = ", ".join(f"{m.label} {_short_gap(own, e)}" for m, e in others[1:])
        yield (
            f"{_view(view)} against baselines: the federated model scores {METRIC} {_shown(own)}, "
            f"above {len(above)} of {len(others)} baselines, with intervals apart for {apart} of them. "
            f"Against the best, {best.label} at {_shown(bar)}, it is {_gap(own, bar)}."
            f"{_other_metrics(federated, best, view)}{f' Against the others: {rest}.' if rest else ''}"
        )


def _usefulness(measured: Measured) -> Iterator[str]:
    """What a merchant would do without, because something simpler is as good."""
    for method in (*measured.of_kind("federated"), *measured.of_kind("federated_private")):
        for view in measured.views:
            own = method.estimate(view)
            if own is None:
                continue
            simpler = [m for m in measured.methods if m.kind in ("baseline", "local_only") and m.estimate(view)]
            judged = [(m, *_better(measured, method, m, view)) for m in simpler]
            beaten_by = [(m, words) for m, better, words in judged if better is False]
            open_against = [(m, words) for m, better, words in judged if better is None]
            found = beaten_by or open_against
            if not found:
                continue
            best, words = max(found, key=lambda pair: _mean(pair[0], view))
            label = "Not useful at this scale" if beaten_by else "Not yet shown to be useful at this scale"
            what = f"{_the(method)} on {_lower(_view(view))}"
            yield f"{label}: {what}; against the simpler {best.label} it is {words}."


def _better(measured: Measured, method: Method, simpler: Method, view: str) -> tuple[bool | None, str]:
    """True where `method` is shown to be better, None where that is open, False where it is not ahead.

    Against local-only the paired difference decides where there is one: it is the sharper test.
    """
    own, other = method.estimate(view), simpler.estimate(view)
    if own is None or other is None:
        return None, "not compared"
    uplift = _uplift_for(measured, method, view) if simpler.kind == "local_only" else None
    if uplift and uplift.paired:
        paired = uplift.paired
        words = f"{_side(paired.mean)} by a paired difference of {signed(paired.mean)}"
        if paired.mean <= 0.0:
            return False, words
        if paired.low is not None and paired.low > 0.0:
            return True, words
        return None, f"{words}, whose interval contains zero"
    if own.mean <= other.mean:
        return False, _gap(own, other)
    return (True if own.overlaps(other) is False else None), _gap(own, other)


def _local_only(measured: Measured) -> Iterator[str]:
    if not measured.uplift:
        yield "The uplift over each merchant's own model was not measured."
    for uplift in measured.uplift:
        method = next((m for m in measured.methods if uplift.method in (m.name, m.kind)), None)
        name = _the(method) if method else spoken(uplift.method)
        start = f"{_view(uplift.view)} against own models: {name} over each merchant's own"
        yield f"{start}, {uplift.metric}: {_paired(uplift)}{_spread(uplift)}"


def _paired(uplift: Uplift) -> str:
    paired, relative = uplift.paired, uplift.relative
    if paired is None:
        return "no paired difference was measured."
    mean = f"paired difference {signed(paired.mean)}"
    if paired.low is None or paired.high is None:
        return f"{mean}, without an interval: not shown to be real."
    mean += f" [{_interval_down(paired.low, paired.high)}]{_relative(relative)}"
    if paired.low > 0.0:
        return f"{mean}, an improvement."
    if paired.high < 0.0:
        return f"{mean}: the league's model is worse than the merchants' own."
    return f"{mean}; the interval contains zero, so an improvement is not shown."


def _spread(uplift: Uplift) -> str:
    parts = []
    if uplift.share_better is not None:
        of = f" of {len(uplift.merchants)} merchants" if uplift.merchants else " of the merchants"
        parts.append(f"{percent(uplift.share_better)}{of} are better off")
    if uplift.merchants:
        parts.append(f"{sum(m.difference < 0.0 for m in uplift.merchants)} are worse off")
    if uplift.median is not None:
        parts.append(f"the median merchant changes by {signed(uplift.median)}")
    if uplift.worst is not None:
        last = min(uplift.merchants, key=lambda m: m.difference, default=None)
        who = f" ({last.merchant}, {last.users} users)" if last else ""
        parts.append(f"the worst{who} by {signed(uplift.worst)}")
    sentence = ", ".join(parts)
    return f" {sentence[:1].upper()}{sentence[1:]}." if parts else ""


def _centralised(measured: Measured) -> Iterator[str]:
    compared = [(view, r) for view in measured.views if (r := ratio_to_centralised(measured, view))]
    federated = _federated(measured)
    if not compared or federated is None:
        yield "There is no non-private centralised model to hold the federated one against."
        return
    for view, (centralised, ratio) in compared:
        verb = "meets" if ratio >= CENTRALISED_GOAL else "misses"
        own, other = federated.estimate(view), centralised.estimate(view)
        open_between = own and other and own.overlaps(other)
        note = " Their intervals overlap, so either may be the better one." if open_between else ""
        yield (
            f"{_view(view)} against centralised: the federated model reaches {percent(ratio)} "
            f"of the centralised model's {METRIC}, which {verb} the goal of {CENTRALISED_GOAL:.0%}.{note}"
        )


def _private(measured: Measured) -> Iterator[str]:
    runs = measured.of_kind("federated_private")
    if not runs or not measured.privacy.private:
        yield "There is no private run in these results: no figure here carries a privacy guarantee."
        return
    federated = _federated(measured)
    for method in runs:
        for view in measured.views:
            own = method.estimate(view)
            free = federated.estimate(view) if federated else None
            if own is None:
                yield f"{_view(view)} with privacy: {_the(method)} was not measured."
            elif free is None or free.mean <= 0.0:
                yield f"{_view(view)} with privacy: {_the(method)} scores {METRIC} {_shown(own)}."
            else:
                cost = free.mean - own.mean
                change = f"privacy costs {up(cost)}" if cost > 0.0 else "no cost of privacy shows in this run"
                yield (
                    f"{_view(view)} with privacy: {_the(method)} scores {METRIC} {_shown(own)}, "
                    f"{percent(own.mean / free.mean)} of the non-private one; {change}."
                )
    yield _promise(measured)


def _promise(measured: Measured) -> str:
    privacy = measured.privacy
    if privacy.epsilon is None or privacy.delta is None:
        return "The private run states no ε or no δ: treat it as not private."
    spent = f"ε = {up(privacy.epsilon, 2)}, δ = {scientific(privacy.delta)}, {spoken(privacy.mode).lower()} noise"
    return f"Privacy of the private run: {spent}; unit: {privacy.unit or 'not stated'}."


def _run(measured: Measured) -> Iterator[str]:
    dropped = [d.merchant for r in measured.rounds for d in r.dropped]
    if dropped:
        yield f"Drop-outs: {len(dropped)} over all rounds, of {len(set(dropped))} different merchants."
    release = measured.release
    if release is None or not release.published:
        reason = f": {release.gate}" if release and release.gate else ""
        yield f"No release was published{reason}."
    seed = "" if measured.seed is None else f" (seed {measured.seed})"
    yield f"One run{seed}: the intervals cover the choice of users, not of seeds or leagues."


def _federated(measured: Measured) -> Method | None:
    return next((m for m in measured.of_kind("federated") if not m.private), None)


def _uplift_for(measured: Measured, method: Method, view: str) -> Uplift | None:
    """The uplift of this very method: one named after a kind only fits the only method of that kind."""
    named = measured.uplift_of(method.name, view)
    return named or (measured.uplift_of(method.kind, view) if len(measured.of_kind(method.kind)) == 1 else None)


def _mean(method: Method, view: str) -> float:
    estimate = method.estimate(view)
    return estimate.mean if estimate else -math.inf


def _the(method: Method) -> str:
    """A method as the subject of a sentence; its own name beside its kind where it has one."""
    noun = _NOUNS.get(method.kind)
    if noun is None:
        return method.label
    return noun if method.name in ("", method.kind) else f"{noun} ({method.label})"


def _gap(own: Estimate, other: Estimate) -> str:
    """`ahead by 0.0013 (2.2%), but the intervals overlap, so …`."""
    difference = own.mean - other.mean
    if difference == 0.0:
        return "level"
    gap = f"{_side(difference)} by {_size(difference, 4)}"
    if other.mean > 0.0:
        gap += f" ({_size(100.0 * difference / other.mean, 1)}%)"
    overlaps = own.overlaps(other)
    if overlaps is None:
        return f"{gap}, without intervals to judge it"
    return f"{gap}; the intervals overlap, so no difference is shown" if overlaps else f"{gap}, intervals apart"


def _short_gap(own: Estimate, other: Estimate) -> str:
    overlaps = own.overlaps(other)
    intervals = "no interval" if overlaps is None else "overlap" if overlaps else "apart"
    return f"{signed(own.mean - other.mean)} ({intervals})"


def _side(difference: float) -> str:
    return "ahead" if difference > 0.0 else "behind"


def _size(difference: float, digits: int) -> str:
    """The size of a difference: an advantage rounded down, a disadvantage rounded up."""
    size = down(difference, digits) if difference > 0.0 else up(-difference, digits)
    return size if float(size) else f"less than {10.0**-digits:.{digits}f}"


def _relative(relative: Estimate | None) -> str:
    if relative is None:
        return ""
    mean = f" or {signed(100.0 * relative.mean, 1)}%"
    if relative.low is None or relative.high is None:
        return mean
    return f"{mean} [{_interval_down(100.0 * relative.low, 100.0 * relative.high, 1)}]"


def _interval_down(low: float, high: float, digits: int = 4) -> str:
    return f"{signed(low, digits)} to {signed(high, digits)}"


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
    return f" By {' and '.join(turned)} it is the other way round." if turned else ""


def _shown(estimate: Estimate) -> str:
    between = interval(estimate)
    return f"{nearest(estimate.mean)} [{between}]" if between else nearest(estimate.mean)


def _view(view: str) -> str:
    return VIEW_NAMES.get(view, spoken(view))


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]

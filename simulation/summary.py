# SPDX-License-Identifier: Apache-2.0
"""A run in three sentences: is the league worth it, at what price of privacy, what was released.

Guarantees:
- the league is called worth it only where it is shown better than own models and than everything simpler
- what was not measured is said not to have been measured
- where a private model was trained, it is the one that is judged: it is what may be released

Judged on novel items, where learning must show; the other view is named beside it. `simulation.verdicts` has the
details.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from simulation.measured import METRIC, VIEW_NAMES, Measured, Method, read
from simulation.rounding import better_off, nearest, scientific, up
from simulation.verdicts import Lead, called, lead_over, leads_over, promised, size, the

_VIEW, _OTHER = "novel", "all"


def summary(results: Mapping[str, Any]) -> tuple[str, str, str]:
    """The three sentences. Raises ValueError for another format."""
    measured = read(results)
    return _worth(measured), _price(measured), _released(measured)


def _worth(measured: Measured) -> str:
    method = next((m for kind in ("federated_private", "federated") for m in measured.of_kind(kind)), None)
    if method is None:
        return "Whether the league is worth it cannot be said: these results hold no federated model."
    if method.estimate(_VIEW) is None:
        return "Whether the league is worth it was not measured: no user bought a new item in the weeks that test."
    own, simpler = (leads_over(measured, method, _VIEW, kind) for kind in ("local_only", "baseline"))
    if not own:
        return "Whether the league is worth it was not measured: no merchant's own model was trained to compare."
    evidence = "; ".join(_evidence(measured, method, own[0], simpler))
    return f"{_worth_it(own[0], simpler)}: on novel items {the(method)} is {evidence}."


def _worth_it(own: Lead, simpler: list[Lead]) -> str:
    if own.shown_worse:
        return "The league is not worth it"
    if not own.shown_better:
        return "The league is not shown to be worth it"
    if all(each.shown_better for each in simpler):
        return "The league is worth it"
    return "The league beats going alone, but is not shown to beat something simpler"


def _evidence(measured: Measured, method: Method, own: Lead, simpler: list[Lead]) -> Iterator[str]:
    uplift = measured.uplift_of(method.name, _VIEW)
    better = better_off(uplift) if uplift else ""
    beside = _beside(own, "merchants' own models")
    yield f"{beside}, {better} merchants better off" if better else beside
    if simpler:
        behind = [called(each.other) for each in simpler if not each.shown_better]
        but = f" (not {' nor '.join(behind)})" if behind else ""
        yield f"shown better than {len(simpler) - len(behind)} of {len(simpler)} baselines{but}"
    if others := leads_over(measured, method, _OTHER, "local_only", "baseline"):
        doubt = [called(each.other) for each in others if not each.shown_better]
        word = f"not shown better than {doubt[0]}" if doubt else "shown better than everything simpler"
        yield f"on {VIEW_NAMES[_OTHER].lower()} {word}"


def _beside(lead: Lead, whom: str) -> str:
    """`ahead of ItemKNN by 0.0013 (2.2%)`."""
    mean = lead.difference.mean
    if mean == 0.0:
        return f"level with {whom}"
    relative = "" if lead.relative is None else f" ({size(100.0 * lead.relative, 1)}%)"
    return f"{'ahead of' if mean > 0.0 else 'behind'} {whom} by {size(mean, 4)}{relative}"


def _price(measured: Measured) -> str:
    private = next(iter(measured.of_kind("federated_private")), None)
    privacy = measured.privacy
    if private is None or not privacy.private:
        return "The price of privacy was not measured: no private model was trained, and nothing here is private."
    own = private.estimate(_VIEW)
    if not promised(privacy) or own is None or privacy.epsilon is None or privacy.delta is None:
        return "The price of privacy is unknown: the private run lacks its ε, its δ or its score."
    start = f"The price of privacy at ε = {up(privacy.epsilon, 2)}, δ = {scientific(privacy.delta)}"
    free = next(iter(measured.of_kind("federated")), None)
    cost = lead_over(measured, private, free, _VIEW) if free else None
    score = f"{METRIC} {nearest(own.mean)} on novel items"
    beside = _beside(cost, "the one without noise") if cost else "with none without noise to compare"
    doubt = [
        each for each in leads_over(measured, private, _VIEW, "baseline", "local_only") if not each.shown_better
    ]
    useful = (
        f"it is not shown better than {called(doubt[0].other)}"
        if doubt
        else "it stays ahead of everything simpler"
    )
    return f"{start}: the private model scores {score}, {beside}, and {useful}."


def _released(measured: Measured) -> str:
    release = measured.release
    if release is None or not release.published:
        why = f": {release.gate}" if release and release.gate else ""
        return f"Nothing was released{why}."
    which = "the private federated model" if measured.privacy.private else "the federated model, without privacy"
    version = "" if release.version is None else f" as version {release.version}"
    return f"Released{version}: {which}{f' ({release.gate})' if release.gate else ''}."

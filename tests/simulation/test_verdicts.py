# SPDX-License-Identifier: Apache-2.0
"""Verdicts say what the figures say, and never more."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.measured import UNTRAINED_MIX, Estimate, number, read, text
from simulation.rounding import down, interval, percent, scientific, signed, up
from simulation.verdicts import verdicts

Results = dict[str, Any]


def method_of(results: Results, name: str) -> dict[str, Any]:
    return next(m for m in results["methods"] if m["name"] == name)


def set_score(results: Results, name: str, view: str, mean: float) -> None:
    """A method's score, and every paired difference that follows from it."""
    method_of(results, name)["views"][view]["ndcg@10"] |= {"mean": mean, "low": mean - 0.002, "high": mean + 0.002}
    for pair in results["paired"]:
        if pair["view"] == view and name in (pair["method"], pair["against"]):
            ours, theirs = (
                method_of(results, pair[k])["views"][view]["ndcg@10"]["mean"] for k in ("method", "against")
            )
            set_lead(results, pair["against"], view, ours - theirs, method=pair["method"])
            pair["relative"] = {k: v / theirs for k, v in pair["difference"].items()}


def set_lead(
    results: Results, against: str, view: str, mean: float, half: float = 0.0016, method: str = "federated"
) -> None:
    wanted = (method, against, view)
    pair = next(p for p in results["paired"] if (p["method"], p["against"], p["view"]) == wanted)
    pair["difference"] = {"mean": mean, "low": mean - half, "high": mean + half}


def about(results: Results, *parts: str) -> str:
    """The one verdict that holds all parts."""
    found = [v for v in verdicts(results) if all(part in v for part in parts)]
    assert len(found) == 1, found
    return found[0]


def test_a_difference_is_called_shown_only_where_its_paired_interval_excludes_zero(results: Results) -> None:
    verdict = about(results, "Novel items against baselines")
    assert "is shown better than 3 of 4." in verdict
    assert "Open: ItemKNN, ahead by 0.0014 (2.3%), paired interval [−0.0002 to +0.0030]." in verdict
    set_lead(results, "item_knn", "novel", 0.0014, half=0.0013)
    verdict = about(results, "Novel items against baselines")
    assert "is shown better than 4 of 4." in verdict
    assert "Closest: ItemKNN, ahead by 0.0014 (2.3%), paired interval [+0.0001 to +0.0027]." in verdict
    assert "Open" not in verdict


def test_a_difference_below_zero_is_shown_worse_only_where_its_paired_interval_excludes_zero(
    results: Results,
) -> None:
    set_lead(results, "item_knn", "novel", -0.0014, half=0.0015)
    verdict = about(results, "Novel items against baselines")
    assert "Open: ItemKNN, behind by 0.0014" in verdict
    assert "worse" not in verdict
    set_lead(results, "item_knn", "novel", -0.0014, half=0.0013)
    verdict = about(results, "Novel items against baselines")
    assert "is shown better than 3 of 4. Shown worse than: ItemKNN, behind by 0.0014" in verdict
    assert "Open" not in verdict
    assert "Closest" not in verdict


def test_intervals_that_touch_zero_show_nothing(results: Results) -> None:
    set_lead(results, "item_knn", "novel", 0.001, half=0.001)
    assert "Open: ItemKNN" in about(results, "Novel items against baselines")
    set_lead(results, "item_knn", "novel", -0.001, half=0.001)
    assert "Open: ItemKNN" in about(results, "Novel items against baselines")


def test_the_intervals_of_two_methods_alone_decide_nothing(results: Results) -> None:
    before = verdicts(results)
    for method in results["methods"]:
        for metrics in method["views"].values():
            metrics["ndcg@10"] |= {"low": -1.0, "high": 1.0}
    assert verdicts(results) == before


def test_beaten_baselines_are_counted_and_the_others_named(results: Results) -> None:
    set_lead(results, "popularity", "novel", 0.0001)
    verdict = about(results, "Novel items against baselines")
    assert "is shown better than 2 of 4. Open: Popularity, ahead" in verdict
    assert "; ItemKNN, ahead" in verdict
    assert "Own repeats" not in verdict


def test_the_untrained_mix_is_a_baseline_and_said_to_be_our_own_formula(results: Results) -> None:
    method_of(results, "item_knn")["name"] = UNTRAINED_MIX
    for pair in results["paired"]:
        if pair["against"] == "item_knn":
            pair["against"] = UNTRAINED_MIX
    named = f"the {UNTRAINED_MIX} (our own formula, which needs no training), "
    verdict = about(results, "Novel items against baselines")
    assert f"better than 3 of 4. Open: {named}ahead by 0.0014" in verdict
    assert named in about(results, "Not useful at this scale", "the private federated model on novel items")


def test_what_is_not_ahead_of_something_simpler_is_labelled_not_useful_at_this_scale(results: Results) -> None:
    verdict = about(results, "Not useful at this scale", "the private federated model on novel items")
    assert "Beside the simpler: ItemKNN, behind by 0.0040 (6.9%), paired interval" in verdict
    set_score(results, "federated", "novel", 0.0580)  # behind on average, and the interval holds zero
    verdict = about(results, "Not useful at this scale", "the federated model on novel items")
    assert "ItemKNN, behind by 0.0008 (1.4%), paired interval [−0.0024 to +0.0008]" in verdict


def test_shown_worse_is_not_useful_whatever_the_mean(results: Results) -> None:
    set_lead(results, "own_repeats", "novel", 0.005)
    pair = next(p for p in results["paired"] if (p["method"], p["against"]) == ("federated", "own_repeats"))
    pair["difference"] |= {"low": -0.002, "high": -0.001}
    assert "Own repeats" in about(results, "Not useful at this scale", "the federated model on novel items")


def test_a_tie_counts_as_not_useful(results: Results) -> None:
    set_lead(results, "item_knn", "novel", 0.0)
    verdict = about(results, "Not useful at this scale", "the federated model on novel items")
    assert "ItemKNN, level, paired interval [−0.0016 to +0.0016]" in verdict


def test_ahead_but_open_is_not_yet_shown_to_be_useful(results: Results) -> None:
    verdict = about(results, "the federated model on novel items")
    assert verdict.startswith("Not yet shown to be useful at this scale: ")
    set_lead(results, "item_knn", "novel", 0.0020)
    assert not [v for v in verdicts(results) if "the federated model on novel items" in v]


def test_the_merchants_own_models_count_as_something_simpler(results: Results) -> None:
    set_lead(results, "item_knn", "novel", 0.0020)
    set_lead(results, "local_only", "novel", 0.0010)
    verdict = about(results, "Not yet shown to be useful at this scale", "the federated model on novel items")
    assert "Local only, ahead by 0.0010" in verdict


def test_the_pairs_of_one_method_are_no_evidence_for_another_of_its_kind(results: Results) -> None:
    results["methods"].append(method_of(results, "federated_private") | {"name": "private_eps_1"})
    verdict = about(results, "useful at this scale", "(Private eps 1) on all items")
    assert "without a paired interval to judge it" in verdict


def test_whether_a_method_is_ahead_or_behind_is_decided_on_the_unrounded_values(results: Results) -> None:
    set_score(results, "federated", "novel", 0.05880001)
    verdict = about(results, "the federated model on novel items")
    assert verdict.startswith("Not yet")
    assert "ahead by less than 0.0001 (less than 0.1%)" in verdict
    set_score(results, "federated", "novel", 0.05879999)
    verdict = about(results, "the federated model on novel items")
    assert verdict.startswith("Not useful")
    assert "behind by 0.0001 (0.1%)" in verdict


def test_an_interval_just_above_zero_is_shown_without_rounding_it_up(results: Results) -> None:
    set_lead(results, "item_knn", "novel", 0.00205, half=0.00204)
    verdict = about(results, "Novel items against baselines")
    assert "better than 4 of 4. Closest: ItemKNN, ahead by 0.0020 (2.3%), paired interval [0.0000 to +0.0040]" in (
        verdict
    )


def test_the_goal_is_decided_on_the_unrounded_ratio(results: Results) -> None:
    set_score(results, "centralised", "novel", 0.1)
    set_score(results, "federated", "novel", 0.09799)
    verdict = about(results, "Novel items against centralised")
    assert "reaches 97.9% [" in verdict
    assert "which misses the goal of 98%" in verdict
    set_score(results, "federated", "novel", 0.098)
    assert "meets the goal of 98%" in about(results, "Novel items against centralised")


def test_the_goal_is_said_to_be_met_on_average_where_the_interval_reaches_below(results: Results) -> None:
    verdict = about(results, "Novel items against centralised")
    assert "reaches 99.3% [96.6% to 102.1%] of that model's ndcg@10" in verdict
    assert "meets the goal of 98% on average, not with its whole interval" in verdict
    assert "behind by 0.0004 (0.7%), paired interval [−0.0020 to +0.0012]." in verdict
    verdict = about(results, "All items against centralised")
    assert "which meets the goal of 98%; behind" in verdict
    pair = next(p for p in results["paired"] if (p["against"], p["view"]) == ("centralised", "all"))
    pair["relative"] = None
    assert "on average, not with" in about(results, "All items against centralised")


def test_uplift_names_the_worst_merchant_and_the_share_better_off(results: Results) -> None:
    uplift = results["uplift"][0]
    worst = min(uplift["merchants"], key=lambda m: m["difference"])
    verdict = about(results, "Novel items against own models", "the federated model")
    assert f"worst {signed(uplift['worst'])} ({worst['merchant']}, {worst['users']} users)." in verdict
    better = sum(m["difference"] > 0 for m in uplift["merchants"])
    assert f"Merchants: {better} of 111 are better off, {111 - better} worse off" in verdict
    assert "is shown better in ndcg@10: ahead by 0.0034" in verdict


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.0001, 0.002, "is not shown to differ in"),
        (0.0, 0.002, "is not shown to differ in"),
        (-0.002, 0.0, "is not shown to differ in"),
        (0.0001, 0.002, "is shown better in"),
        (-0.002, -0.0001, "is shown worse in"),
        (None, None, "is not shown to differ in"),
    ],
)
def test_the_paired_interval_decides_against_own_models(
    results: Results, low: float | None, high: float | None, said: str
) -> None:
    results["uplift"][0]["paired"] |= {"low": low, "high": high}
    assert said in about(results, "Novel items against own models", "the federated model")


def test_novel_items_come_before_all_items(results: Results) -> None:
    results["uplift"].reverse()
    said = [v for v in verdicts(results) if "against own models" in v]
    assert [v.split(" ")[0] for v in said] == ["Novel", "Novel", "All", "All"]


def test_another_metric_that_disagrees_is_said(results: Results) -> None:
    method_of(results, "federated")["views"]["novel"]["hit_rate@10"]["mean"] = 0.30
    verdict = about(results, "Novel items against baselines")
    assert "Against ItemKNN it is the other way round by hit_rate@10." in verdict


def test_the_private_run_states_its_cost_and_its_plans_own_statement(results: Results) -> None:
    verdict = about(results, "Novel items with privacy")
    assert "ndcg@10 0.0548, 91.0% of the non-private one; it is behind by 0.0054 (9.0%), paired " in verdict
    verdict = about(results, "Privacy of the private run")
    assert verdict == f"Privacy of the private run: {results['privacy']['statement']}"


@pytest.mark.parametrize("missing", ["epsilon", "delta"])
def test_a_private_run_without_epsilon_or_delta_is_not_called_private(results: Results, missing: str) -> None:
    results["privacy"][missing] = None
    assert about(results, "treat it as not private")


def test_no_private_run_means_no_guarantee(results: Results) -> None:
    results["methods"] = [m for m in results["methods"] if not m["private"]]
    assert about(results, "no figure here carries a privacy guarantee")


def test_an_unpublished_release_says_why(results: Results) -> None:
    results["release"] = {"version": None, "published": False, "gate": "not better than release 3"}
    assert about(results, "No release was published: not better than release 3")


def test_missing_parts_become_sentences() -> None:
    said = verdicts({"format": "hansa.results/1"})
    assert any("no federated model" in v for v in said)
    assert any("no private run" in v for v in said)
    assert any("uplift" in v and "not measured" in v for v in said)


@pytest.mark.parametrize("missing", ["pairs", "intervals"])
def test_without_paired_intervals_nothing_is_shown(results: Results, missing: str) -> None:
    for pair in results["paired"]:
        pair["difference"] |= {"low": None, "high": math.nan}
    if missing == "pairs":
        del results["paired"]
    verdict = about(results, "Novel items against baselines")
    assert "is shown better than 0 of 4. Open: ItemKNN, ahead by 0.0014 (2.3%), without a paired " in verdict
    assert about(results, "Not yet shown to be useful", "the federated model on novel items")
    assert about(results, "Not useful at this scale", "the private federated model on novel items")


def test_another_format_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected results of format 'hansa\.results/1', found 'hansa\.results/9'"
    ):
        verdicts({"format": "hansa.results/9"})


@given(st.floats(-1.0, 1.0, allow_nan=False), st.integers(0, 6))
def test_no_figure_is_rounded_in_our_favour(value: float, digits: int) -> None:
    slack = 1e-11 * max(1.0, abs(value))
    assert float(down(value, digits).replace("−", "-")) <= value + slack
    assert float(up(value, digits).replace("−", "-")) >= value - slack
    assert float(percent(value)[:-1].replace("−", "-")) <= 100.0 * value + 1e-9
    shown = interval(Estimate(value, value - 0.01, value + 0.01), digits).replace("−", "-").split(" to ")
    assert float(shown[0]) <= value - 0.01 + slack
    assert float(shown[1]) >= value + 0.01 - slack


@given(st.floats(1e-12, 0.5))
def test_delta_is_never_shown_smaller_than_it_is(delta: float) -> None:
    assert delta * (1.0 - 1e-9) <= float(scientific(delta)) <= 1.2 * delta


def test_rounding_knows_what_a_decimal_means() -> None:
    assert down(0.0602 - 0.0588) == "0.0014"
    assert signed(-0.00001) == "−0.0001"
    assert (signed(0.0), signed(0.00009), signed(0.0002)) == ("0.0000", "0.0000", "+0.0002")
    assert (scientific(1e-5), scientific(1.04e-5), scientific(9.99e-6), scientific(0.0)) == (
        "1e-5",
        "1.1e-5",
        "1e-5",
        "0",
    )


def test_only_finite_numbers_and_printable_text_pass_the_border() -> None:
    assert [number(v) for v in (math.nan, math.inf, True, "1", None, 10**400)] == [None] * 6
    assert text("a\x1b[31m\u202eb\nc\x00") == "a\ufffd[31m\ufffdb c\ufffd"
    assert read({"format": "hansa.results/1", "methods": "no list", "rounds": [{"round": None}]}).rounds == ()

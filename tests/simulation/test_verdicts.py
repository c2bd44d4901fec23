# SPDX-License-Identifier: Apache-2.0
"""Verdicts say what the figures say, and never more."""

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.measured import Estimate, number, read, text
from simulation.rounding import down, interval, percent, scientific, signed, up
from simulation.verdicts import verdicts

Results = dict[str, Any]


def set_score(results: Results, name: str, view: str, mean: float | None, half: float = 0.002) -> None:
    method = next(m for m in results["methods"] if m["name"] == name)
    method["views"][view]["ndcg@10"] = {
        "mean": mean,
        "low": None if mean is None else mean - half,
        "high": None if mean is None else mean + half,
    }


def about(results: Results, *parts: str) -> str:
    """The one verdict that holds all parts."""
    found = [v for v in verdicts(results) if all(part in v for part in parts)]
    assert len(found) == 1, found
    return found[0]


def test_overlapping_intervals_are_said_to_show_no_difference(results: Results) -> None:
    verdict = about(results, "Novel items against baselines")
    assert "above 4 of 4 baselines, with intervals apart for 1 of them" in verdict
    assert "ahead by 0.0014 (2.3%); the intervals overlap, so no difference is shown" in verdict


def test_intervals_apart_are_said_too(results: Results) -> None:
    set_score(results, "federated", "novel", 0.0800)
    verdict = about(results, "Novel items against baselines")
    assert "ahead by 0.0212 (36.0%), intervals apart" in verdict
    assert not [v for v in verdicts(results) if "the federated model on novel items" in v]


def test_every_baseline_is_named_with_its_distance(results: Results) -> None:
    verdict = about(results, "All items against baselines")
    for name in ("Popularity", "Merchant popularity", "Own repeats", "ItemKNN"):
        assert name in verdict
    assert "Merchant popularity +0.1019 (apart)" in verdict


def test_a_baseline_that_is_not_beaten_is_said_and_labelled_not_useful(results: Results) -> None:
    set_score(results, "federated", "novel", 0.0580)
    assert "above 3 of 4 baselines" in about(results, "Novel items against baselines")
    assert "behind by 0.0008 (1.4%)" in about(results, "Not useful at this scale", "the federated model on novel")


def test_what_is_not_ahead_of_something_simpler_is_labelled_not_useful_at_this_scale(results: Results) -> None:
    verdict = about(results, "Not useful at this scale", "the private federated model on novel items")
    assert "against the simpler ItemKNN it is behind by 0.0040 (6.9%)" in verdict


def test_a_tie_counts_as_not_useful(results: Results) -> None:
    set_score(results, "federated", "novel", 0.0588)
    assert "it is level" in about(results, "Not useful at this scale", "the federated model on novel items")


def test_the_paired_difference_decides_against_local_only(results: Results) -> None:
    for name in ("popularity", "merchant_popularity", "own_repeats", "item_knn"):
        set_score(results, name, "novel", 0.01)
    assert not [v for v in verdicts(results) if "the federated model on novel items" in v]
    results["uplift"][0]["paired"]["low"] = -0.0001
    verdict = about(results, "Not yet shown to be useful at this scale", "the federated model on novel items")
    assert "whose interval contains zero" in verdict


def test_an_uplift_of_a_kind_is_no_evidence_for_two_methods_of_that_kind(results: Results) -> None:
    second = copy.deepcopy(next(m for m in results["methods"] if m["name"] == "federated_private"))
    results["methods"].append(second | {"name": "private_eps_1"})
    verdict = about(results, "useful at this scale", "(Private eps 1) on all items")
    assert "paired" not in verdict


def test_whether_a_method_is_ahead_or_behind_is_decided_on_the_unrounded_values(results: Results) -> None:
    set_score(results, "federated", "novel", 0.05880001)
    verdict = about(results, "Novel items against baselines")
    assert "above 4 of 4" in verdict
    assert "ahead by less than 0.0001 (less than 0.1%)" in verdict
    set_score(results, "federated", "novel", 0.05879999)
    verdict = about(results, "Novel items against baselines")
    assert "above 3 of 4" in verdict
    assert "behind by 0.0001 (0.1%)" in verdict


def test_the_goal_is_decided_on_the_unrounded_ratio(results: Results) -> None:
    set_score(results, "centralised", "novel", 0.1)
    set_score(results, "federated", "novel", 0.09799)
    assert "reaches 97.9% of the centralised model's ndcg@10, which misses the goal of 98%" in about(
        results, "Novel items against centralised"
    )
    set_score(results, "federated", "novel", 0.098)
    assert "meets the goal of 98%" in about(results, "Novel items against centralised")


def test_uplift_names_the_worst_merchant_and_the_share_better_off(results: Results) -> None:
    uplift = results["uplift"][0]
    worst = min(uplift["merchants"], key=lambda m: m["difference"])
    verdict = about(results, "Novel items against own models", "the federated model")
    assert f"the worst ({worst['merchant']}, {worst['users']} users) by {signed(uplift['worst'])}" in verdict
    assert f"{percent(uplift['share_better'])} of 111 merchants are better off" in verdict
    assert "an improvement" in verdict


def test_a_model_worse_than_the_merchants_own_is_said(results: Results) -> None:
    verdict = about(results, "Novel items against own models", "the private federated model")
    assert "the league's model is worse than the merchants' own" in verdict


def test_another_metric_that_disagrees_is_said(results: Results) -> None:
    method = next(m for m in results["methods"] if m["name"] == "federated")
    method["views"]["novel"]["hit_rate@10"]["mean"] = 0.30
    assert "By hit_rate@10 it is the other way round." in about(results, "Novel items against baselines")


def test_the_private_run_states_cost_epsilon_delta_and_unit(results: Results) -> None:
    assert "91.0% of the non-private one; privacy costs 0.0054" in about(results, "Novel items with privacy")
    verdict = about(results, "Privacy of the private run")
    assert "ε = 8.00, δ = 1e-5, local noise; unit: one user inside one merchant" in verdict


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


def test_missing_intervals_are_said(results: Results) -> None:
    for method in results["methods"]:
        for metrics in method["views"].values():
            metrics["ndcg@10"] |= {"low": None, "high": math.nan}
    assert "without intervals to judge it" in about(results, "Novel items against baselines")


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

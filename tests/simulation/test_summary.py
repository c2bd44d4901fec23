# SPDX-License-Identifier: Apache-2.0
"""Three sentences, which say no more than the figures do."""

from typing import Any

import pytest

from simulation.summary import summary

Results = dict[str, Any]


def lead(results: Results, against: str, view: str, low: float, high: float, method: str = "federated") -> None:
    wanted = (method, against, view)
    pair = next(p for p in results["paired"] if (p["method"], p["against"], p["view"]) == wanted)
    pair["difference"] = {"mean": (low + high) / 2, "low": low, "high": high}


def test_three_sentences_say_worth_price_and_release(results: Results) -> None:
    worth, price, released = summary(results)
    assert worth == (
        "The league is not worth it: on novel items the private federated model is behind merchants' own "
        "models by 0.0023 (4.1%), 34 of 111 merchants better off; shown better than 1 of 4 baselines (not "
        "ItemKNN nor Own repeats nor Merchant popularity); on all items not shown better than Local only."
    )
    assert price == (
        "The price of privacy at ε = 8.00, δ = 1e-5: the private model scores ndcg@10 0.0548 on novel items, "
        "behind the one without noise by 0.0054 (9.0%), and it is not shown better than ItemKNN."
    )
    assert released == "Released as version 1: the private federated model (first release of this league)."


@pytest.mark.parametrize(
    ("own", "item_knn", "said"),
    [
        ((0.001, 0.005), (0.0002, 0.002), "The league is worth it"),
        ((0.001, 0.005), (0.0, 0.002), "The league beats going alone, but is not shown to beat something simpler"),
        ((0.0, 0.005), (0.0002, 0.002), "The league is not shown to be worth it"),
        ((-0.005, 0.0), (0.0002, 0.002), "The league is not shown to be worth it"),
        ((-0.005, -0.001), (0.0002, 0.002), "The league is not worth it"),
    ],
)
def test_the_league_is_called_worth_it_only_where_it_is_shown_better_than_own_models_and_everything_simpler(
    results: Results, own: tuple[float, float], item_knn: tuple[float, float], said: str
) -> None:
    results["methods"] = [m for m in results["methods"] if m["kind"] != "federated_private"]
    lead(results, "local_only", "novel", *own)
    lead(results, "item_knn", "novel", *item_knn)
    assert summary(results)[0].split(":")[0] == said


def test_what_was_not_measured_is_said_not_to_have_been_measured(results: Results) -> None:
    assert summary({"format": "hansa.results/1"}) == (
        "Whether the league is worth it cannot be said: these results hold no federated model.",
        "The price of privacy was not measured: no private model was trained, and nothing here is private.",
        "Nothing was released.",
    )
    results["methods"] = [m for m in results["methods"] if m["kind"] not in ("local_only", "federated")]
    worth, price, _ = summary(results)
    assert "no merchant's own model was trained" in worth
    assert "with none without noise to compare" in price


def test_a_league_whose_users_bought_nothing_new_is_not_said_to_lack_models(results: Results) -> None:
    for method in results["methods"]:
        del method["views"]["novel"]["ndcg@10"]
    results["paired"] = []
    assert summary(results)[0].endswith("not measured: no user bought a new item in the weeks that test.")


def test_a_run_without_epsilon_has_no_price_and_a_refused_release_says_why(results: Results) -> None:
    results["privacy"]["epsilon"] = None
    results["release"] = {"version": 1, "published": False, "gate": "not better than the last release"}
    _, price, released = summary(results)
    assert "the private run lacks its ε" in price
    assert released == "Nothing was released: not better than the last release."

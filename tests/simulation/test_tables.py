# SPDX-License-Identifier: Apache-2.0
"""The tables hold every method, lose nothing in the terminal, and obey no name."""

import io
from typing import Any

import pytest
from rich.console import Console

from simulation.measured import UNTRAINED_MIX, read
from simulation.tables import (
    MISSING,
    Table,
    merchant_table,
    method_tables,
    print_tables,
    privacy_line,
    uplift_table,
)

Results = dict[str, Any]


def printed(results: Results, width: int = 100) -> str:
    out = io.StringIO()
    print_tables(results, Console(file=out, width=width, force_terminal=True, color_system="truecolor"))
    return out.getvalue()


def plain(results: Results, width: int = 100) -> str:
    out = io.StringIO()
    print_tables(results, Console(file=out, width=width))
    return out.getvalue()


def row(table: Table, name: str) -> list[str]:
    return next([cell.value for cell in r.cells] for r in table.rows if r.name == name)


def test_one_table_per_view_with_every_method_in_order(results: Results) -> None:
    results["methods"].reverse()
    novel, everything = method_tables(read(results))
    assert (novel.title, everything.title) == ("Novel items", "All items")
    kinds = [r.kind for r in novel.rows]
    assert kinds == ["baseline"] * 4 + ["local_only", "federated", "federated_private", "centralised"]
    assert novel.header == ("Method", "ndcg@10", "Δ federated", "hit_rate@10", "recall@20", "coverage@10")
    assert row(novel, "Federated")[:4] == ["0.0602", MISSING, "0.3590", "0.0538"]
    assert all(cell.interval for r in novel.rows for cell in (r.cells[0], *r.cells[2:])), "every figure has one"


def test_the_best_of_a_column_is_marked_whoever_it_is(results: Results) -> None:
    novel = method_tables(read(results))[0]
    assert [[r.name for r in novel.rows if r.cells[i].best] for i in range(4)] == [
        ["Centralised"],
        [],
        ["Federated"],
        ["Federated"],
    ]


def test_a_width_is_the_larger_side_of_the_interval(results: Results) -> None:
    cell = next(r for r in method_tables(read(results))[0].rows if r.name == "Federated").cells[0]
    assert (cell.width, cell.interval) == ("0.0040", "0.0565 to 0.0642")


def lead(results: Results, name: str) -> tuple[str, str]:
    cell = next(r for r in method_tables(read(results))[0].rows if r.name == name).cells[1]
    return cell.value, cell.interval


def test_a_lead_is_marked_only_where_its_paired_interval_excludes_zero(results: Results) -> None:
    assert lead(results, "Own repeats") == ("+0.0044*", "+0.0028 to +0.0060")
    assert lead(results, "ItemKNN") == ("+0.0014", "−0.0002 to +0.0030")
    assert lead(results, "Centralised") == ("−0.0004", "−0.0020 to +0.0012")
    pair = next(p for p in results["paired"] if p["against"] == "centralised")
    for low, high, value in (
        (-0.002, -0.0001, "−0.0004*"),
        (-0.002, 0.0, "−0.0004"),
        (0.0, 0.001, "−0.0004"),
        (None, None, "−0.0004"),
    ):
        pair["difference"] |= {"low": low, "high": high}
        assert lead(results, "Centralised")[0] == value


def test_the_cost_of_privacy_is_the_federated_models_lead_over_the_private_one_rounded_up(
    results: Results,
) -> None:
    pair = next(p for p in results["paired"] if (p["method"], p["against"]) == ("federated_private", "federated"))
    pair["difference"] = {"mean": -0.00541, "low": -0.00703, "high": -0.00382}
    assert lead(results, "Federated, private") == ("+0.0055*", "+0.0039 to +0.0071")


def test_a_private_run_alone_leads_the_table_itself(results: Results) -> None:
    results["methods"] = [m for m in results["methods"] if m["name"] not in ("federated", "centralised")]
    novel = method_tables(read(results))[0]
    assert novel.header[2] == "Δ private"
    assert novel.foot.startswith("Δ: Federated, private minus this row")
    assert lead(results, "ItemKNN") == ("−0.0040*", "−0.0056 to −0.0024")


def test_without_pairs_there_is_no_column_of_them(results: Results) -> None:
    results["paired"] = None
    novel = method_tables(read(results))[0]
    assert novel.header == ("Method", "ndcg@10", "hit_rate@10", "recall@20", "coverage@10")
    assert novel.foot == ""
    assert "Δ" not in plain(results)


def test_the_untrained_mix_is_said_to_be_our_own_formula(results: Results) -> None:
    assert "our own formula" not in plain(results)
    results["methods"][0]["name"] = UNTRAINED_MIX
    assert all(
        table.foot.endswith("Untrained mix of repeats and popularity: our own formula, which needs no training.")
        for table in method_tables(read(results))
    )


def test_uplift_has_median_worst_and_share_better_off(results: Results) -> None:
    table = uplift_table(read(results))
    assert len(table.rows) == 4
    assert row(table, "Federated, novel items, ndcg@10")[0] == "+0.0034"
    assert row(table, "Federated, novel items, ndcg@10")[-1] == "85 of 111"


def test_merchants_are_listed_worst_first(results: Results) -> None:
    table = merchant_table(read(results).uplift[0])
    differences = [float(r.cells[-1].value.replace("−", "-")) for r in table.rows]
    assert len(differences) == 111
    assert differences == sorted(differences)


def test_a_terminal_and_a_page_show_the_same_rows(results: Results) -> None:
    measured = read(results)
    shown = plain(results, width=140)
    for table in (*method_tables(measured), uplift_table(measured)):
        for r in table.rows:
            line = next(line for line in shown.splitlines() if all(c.value in line for c in r.cells))
            assert r.name in line


def test_eighty_columns_are_enough(results: Results) -> None:
    shown = plain(results, width=80)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert "…" not in shown
    assert "0.0602 ±0.0040" in shown
    assert "+0.0014 ±0.0017" in shown
    results["methods"][0]["name"] = UNTRAINED_MIX
    wider = plain(results, width=80)
    assert max(len(line.rstrip()) for line in wider.splitlines()) <= 80
    assert "Untrained mix of" in wider


def test_a_name_cannot_style_or_move_the_terminal(results: Results) -> None:
    results["methods"][0]["name"] = "[red]x[/red]\x1b[2Jy"
    results["privacy"]["statement"] = "[bold]unit\x1b]0;owned\x07"
    shown = printed(results)
    assert "[red]x[/red]\ufffd[2Jy" in shown
    assert "[bold]unit" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown


def test_a_missing_value_is_a_dash_never_a_zero(results: Results) -> None:
    results["methods"][5]["views"]["novel"]["ndcg@10"]["mean"] = None
    results["uplift"][0] |= {
        "paired": None,
        "relative": None,
        "median": None,
        "worst": None,
        "share_better": None,
    } | {"merchants": []}
    measured = read(results)
    assert row(method_tables(measured)[0], "Federated")[0] == MISSING
    assert row(uplift_table(measured), "Federated, novel items, ndcg@10") == [MISSING] * 5
    assert MISSING in plain(results)


def test_nothing_but_a_format_prints() -> None:
    assert plain({"format": "hansa.results/1"}) == "Privacy: none.\n"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"statement": "(8, 1e-05)-…"}, "Privacy: (8, 1e-05)-…"),
        ({"mode": "none", "statement": "No differential privacy: …"}, "Privacy: none. No differential privacy: …"),
        ({"epsilon": None}, "Privacy: local noise, but ε or δ is not stated: treat it as not private."),
    ],
)
def test_the_privacy_line(results: Results, change: dict[str, Any], line: str) -> None:
    results["privacy"] |= change
    assert privacy_line(read(results)) == line

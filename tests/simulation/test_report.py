# SPDX-License-Identifier: Apache-2.0
"""The page: whole, safe, the same each time."""

import copy
import html.parser
import itertools
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from simulation.measured import read
from simulation.plots import plots
from simulation.report import page_of, write_report

Results = dict[str, Any]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&$x^2$\x00\u202e"


class Page(html.parser.HTMLParser):
    """Tags, their attributes, and the headings of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def hostile(value: Any) -> Any:
    """The same results with every name replaced by an attack; keys and what selects a part stay."""
    kept = {"format", "kind", "run", "view", "metric", "method", "mode"}
    if isinstance(value, dict):
        return {k: v if k in kept else hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v) for v in value]
    return f"{HOSTILE}{value}" if isinstance(value, str) else value


def without(value: Any) -> Any:
    """The same structure with every number and text gone, but for the format and what selects a part."""
    kept = {"format", "kind", "run", "view", "metric", "method", "mode", "round"}
    if isinstance(value, dict):
        return {k: v if k in kept else without(v) for k, v in value.items()}
    return [without(v) for v in value] if isinstance(value, list) else None


def test_the_same_results_give_the_same_bytes(results: Results) -> None:
    assert page_of(results) == page_of(copy.deepcopy(results))


def test_the_page_loads_nothing_and_runs_no_script(results: Results) -> None:
    page = page_of(results)
    tags = Page(page)
    assert not tags.all("script")
    assert not [t for t, attributes in tags.tags if any(name.startswith("on") for name in attributes)]
    addresses = [v or "" for _, a in tags.tags for k, v in a.items() if k in ("src", "href", "xlink:href")]
    assert addresses
    assert all(address.startswith(("#", "data:,")) for address in addresses)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]+)\)", page))
    policy = next(a["content"] for a in tags.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_plot_is_inline_with_text_as_text(results: Results) -> None:
    made = plots(read(results))
    assert set(made) == {"methods", "uplift", "learning", "epsilon"}
    page = page_of(results)
    for plot in made.values():
        assert plot.svg in page
        assert plot.summary
        assert "#0" not in re.sub(r"(href|url)\S*", "", plot.svg), "a stand-in colour was left"
    assert re.search(r"<text[^>]*>Federated, private</text>", made["methods"].svg)
    assert made["uplift"].svg.count("<title>") == 2 * 111


def test_a_plot_asks_for_nothing_outside_itself(results: Results) -> None:
    for plot in plots(read(results)).values():
        references = re.findall(r'(?:href="|url\()([^")]+)', plot.svg)
        assert all(reference.startswith("#") for reference in references)
        assert {reference[1:] for reference in references} <= set(re.findall(r' id="([^"]+)"', plot.svg))
        assert "<style" not in plot.svg


def test_a_name_from_outside_cannot_become_markup(results: Results) -> None:
    for plot in plots(read(hostile(results))).values():
        drawn = ElementTree.fromstring(plot.svg)
        names = {element.tag.rpartition("}")[2] for element in drawn.iter()}
        assert names <= {"svg", "title", "desc", "g", "path", "use", "text", "defs", "clipPath", "rect"}
        assert plot.name == "epsilon" or "&lt;script&gt;" in plot.svg  # that plot names nobody


@pytest.mark.parametrize("rounds", [1, 300])
def test_one_round_and_many_are_drawn(results: Results, rounds: int) -> None:
    first = results["rounds"][-1]
    results["rounds"] = [first | {"round": n, "epsilon": n / rounds} for n in range(rounds)]
    assert {"learning", "epsilon"} <= set(plots(read(results)))


def test_every_id_is_unique_and_every_reference_is_met(results: Results) -> None:
    tags = Page(page_of(results)).tags
    ids = Counter(a["id"] for _, a in tags if "id" in a)
    assert {i: n for i, n in ids.items() if n > 1} == {}
    named = [i for _, a in tags for i in (a.get("aria-labelledby") or "").split()]
    used = [(a.get("xlink:href") or "#")[1:] for t, a in tags if t == "use"]
    assert set(named) | set(used) <= set(ids)


def test_headings_captions_and_names_for_who_listens(results: Results) -> None:
    page = Page(page_of(results))
    levels = [int(t[1]) for t, _ in page.tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert all(a.get("role") == "img" and a.get("aria-labelledby") for a in page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"


def test_a_name_from_outside_is_shown_never_obeyed(results: Results) -> None:
    page = page_of(hostile(results))
    tags = Page(page)
    assert not tags.all("script")
    assert not tags.all("img")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x00" not in page
    assert "\u202e" not in page
    assert {t for t, _ in tags.tags} == {t for t, _ in Page(page_of(results)).tags}


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("methods", "No method was measured."),
        ("uplift", "The uplift per merchant was not measured, so there is no plot of it."),
        ("rounds", "No round reported a loss or a score, so there is no learning curve."),
        ("privacy", "This run states no guarantee: treat its models as not private."),
        ("example", "These results hold no example user."),
        ("release", "No release was published."),
    ],
)
@pytest.mark.parametrize("gone", ["absent", "none"])
def test_a_missing_part_becomes_a_sentence_never_a_crash(
    results: Results, key: str, sentence: str, gone: str
) -> None:
    if gone == "absent":
        del results[key]
    else:
        results[key] = None
    assert sentence in page_of(results)


def test_no_value_at_all_becomes_a_page(results: Results) -> None:
    assert "</html>" in page_of(without(results))
    assert "</html>" in page_of({"format": "hansa.results/1"})


def test_no_private_run_leaves_no_trace_of_one(results: Results) -> None:
    results["methods"] = [m for m in results["methods"] if not m["private"]]
    results["rounds"] = [r for r in results["rounds"] if r["run"] == "federated"]
    results["uplift"] = [u for u in results["uplift"] if u["method"] == "federated"]
    results["privacy"] = {"mode": "none"}
    page = page_of(results)
    assert "No figure here carries a privacy guarantee" in page
    assert "plot-epsilon" not in page
    assert "Federated, private" not in page


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_a_league_of_any_size_is_drawn(results: Results, count: int) -> None:
    for uplift in results["uplift"]:
        uplift["merchants"] = uplift["merchants"][:count]
    assert f"of {count} merchants are better off" in plots(read(results))["uplift"].summary


def test_the_page_shows_each_lead_with_its_paired_interval(results: Results) -> None:
    page = page_of(results)
    assert page.count('<th scope="col" class="number">Δ federated</th>') == 2
    assert "<span>+0.0014</span><small>−0.0002 to +0.0030</small>" in page
    assert page.count("paired over the same users; *: interval without zero.") == 2


def test_the_privacy_section_states_all_that_a_guarantee_needs(results: Results) -> None:
    page = page_of(results)
    section = page[page.index('id="privacy"') : page.index('id="example"')]
    for term, value in (
        ("Mode", "Local noise"),
        ("ε, planned", "8.00"),
        ("δ", "1e-5"),
        ("Compositions", "240"),
        ("Accountant", "PRV"),
    ):
        assert re.search(rf"<dt>{term}</dt><dd>{value}", section), term
    for line in (results["privacy"]["statement"], *results["privacy"]["not_protected"]):
        assert line.replace("'", "&#39;") in section


@pytest.mark.parametrize("mode", ["none", "local"])
def test_unit_and_promise_are_worded_by_the_plans_statement_alone(results: Results, mode: str) -> None:
    results["privacy"] |= {"mode": mode, "unit": "one canary", "statement": "As the plan says it."}
    page = page_of(results)
    assert '<p class="statement">As the plan says it.</p>' in page
    assert "one canary" not in page
    assert "per-user" not in page
    assert "user-level" not in page


def test_the_page_begins_with_three_sentences_and_the_details_come_after(results: Results) -> None:
    page = page_of(results)
    first = page[page.index('<ol class="summary">') : page.index("</ol>")]
    assert first.count("<li>") == 3
    assert (
        page.index("</ol>")
        < page.index('class="facts"')
        < page.index('id="quality"')
        < page.index('id="verdicts"')
    )


def test_the_hash_of_the_arrays_and_of_the_released_file_are_named_apart(results: Results) -> None:
    page = page_of(results)
    assert f"<dt>Hash of the model&#39;s arrays</dt><dd>{results['model_hash']}</dd>" in page
    assert f"<dt>Released model.safetensors, SHA-256</dt><dd>{'5e' * 32}</dd>" in page
    assert "Model hash" not in page


def test_colours_can_be_told_from_the_paper_in_light_and_dark() -> None:
    css = (Path(__file__).parents[2] / "simulation/templates/report.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in css.split("@media screen", 2)[:2])
    assert set(light) == set(dark)
    for theme in (light, dark):
        for role, colour in theme.items():
            needed = {"line": 1.0, "panel": 1.0, "paper": 1.0, "baseline": 3.0}.get(role, 4.5)
            assert contrast(colour, theme["paper"]) >= needed, (role, colour)


def contrast(first: str, second: str) -> float:
    """WCAG 2.2, contrast ratio."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_reader_sees_the_old_page_or_the_new_one_never_half_a_page(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_report(results, path)
    assert path.read_text(encoding="utf-8") == "old"
    write_report(results, path)
    assert path.read_text(encoding="utf-8") == page_of(results)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.stat().st_mode & 0o077 == 0


def test_the_page_is_small_and_quick(results: Results, tmp_path: Path) -> None:
    page_of(results)  # imports and fonts
    start = time.process_time()
    write_report(results, tmp_path / "report.html")
    assert time.process_time() - start < 5.0
    assert (tmp_path / "report.html").stat().st_size < 400_000

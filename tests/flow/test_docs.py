# SPDX-License-Identifier: Apache-2.0
"""The docs say what the code does: settings as they stand, links that lead somewhere, commands that exist."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = runpy.run_path(str(ROOT / "docs" / "build.py"))


def test_the_settings_page_is_what_stands_in_conf():
    found = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert found == BUILD["settings_page"](), "run `make docs`"


def test_every_relative_link_leads_somewhere():
    assert BUILD["broken_links"]() == []


def test_every_make_target_that_the_readme_names_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", (ROOT / "README.md").read_text("utf-8"), re.M))
    targets = {a or b for a, b in named} | {"demo", "test", "check", "bench", "docs"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)

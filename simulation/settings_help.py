# SPDX-License-Identifier: Apache-2.0
"""What `simulate.py --help` prints: groups, and settings with the sentences that stand beside them in `conf/`."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

CONF: Final = Path(__file__).resolve().parents[1] / "conf"
_HEAD: Final = """\
A league on one machine, from events to recommendations.

  python simulate.py [GROUP=NAME | SETTING=VALUE] ...

--help with a group typed shows that group's settings; --cfg job prints all as composed; docs/settings.md has every
file. Exit code 0: done. 1: the run failed. 2: settings or data are wrong.

Groups (*: chosen)
"""


def help_text(typed: Sequence[str]) -> str:
    """The page, in the groups that were typed and the default ones beside them."""
    files = {(path.parent.name, path.stem): path.read_text("utf-8") for path in sorted(CONF.glob("*/*.yaml"))}
    main = (CONF / "config.yaml").read_text("utf-8")
    chosen = dict(re.findall(r"^  - (\w+): (\w+)$", main, re.M))
    chosen |= {group: name for group, _, name in (text.partition("=") for text in typed) if (group, name) in files}
    return "\n".join([_HEAD, *_groups(files, chosen), "", *_settings(files, chosen, main)])


def _groups(files: dict[tuple[str, str], str], chosen: dict[str, str]) -> Iterator[str]:
    width = max(len(f"{group}={name}") for group, name in files)
    for (group, name), text in files.items():
        mark = "*" if chosen.get(group) == name else " "
        yield f"{mark} {f'{group}={name}':<{width}}  {_first_sentence(text)}"


def _first_sentence(text: str) -> str:
    lines = re.match(r"(?:#.*\n)*", text)
    words = " ".join(line[2:] for line in (lines[0] if lines else "").splitlines() if not line.startswith("# @"))
    return words.split(". ")[0].rstrip(".")


def _settings(files: dict[tuple[str, str], str], chosen: dict[str, str], main: str) -> Iterator[str]:
    yield "Settings, as NAME=VALUE, with their defaults\n"
    yield re.sub(r"^(?:#.*|(?:defaults|hydra):)\n(?:[ -].*\n)*\n?", "", main, flags=re.M)
    for group, name in chosen.items():
        if (group, name) in files:
            yield f"Settings of {group}={name}, as {group}.NAME=VALUE\n\n{files[group, name]}"

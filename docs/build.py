# SPDX-License-Identifier: Apache-2.0
"""`make docs`: writes docs/settings.md from the files in conf/ and checks every relative link of every page.

The reason for a setting stands beside it in `conf/`; this page only gathers them.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def settings_page() -> str:
    """The text of docs/settings.md."""
    parts = [
        "# Settings",
        "",
        "Made by `make docs` from the files in `conf/`; override any as `group.name=value`.",
        "",
    ]
    for path in sorted((ROOT / "conf").rglob("*.yaml"), key=lambda p: (p.parent != ROOT / "conf", p)):
        name = path.relative_to(ROOT).as_posix()
        parts += [f"## `{name}`", "", "```yaml", path.read_text("utf-8").rstrip(), "```", ""]
    return "\n".join(parts)


def broken_links() -> list[str]:
    """Relative links that lead nowhere, as `page: link`."""
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in LINK.findall(page.read_text("utf-8"))
        if not (page.parent / link).exists()
    ]


def main() -> int:
    """Write the page; 1 when a link is broken."""
    (ROOT / "docs" / "settings.md").write_text(settings_page(), "utf-8")
    broken = broken_links()
    print("\n".join(broken) or "every link leads somewhere")  # noqa: T201
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())

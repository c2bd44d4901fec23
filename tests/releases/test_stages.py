# SPDX-License-Identifier: Apache-2.0
"""Types carry the stage: what is not verified doesn't type-check where a verified release is asked for."""

from pathlib import Path

from mypy import api

USE = """
from releases.stages import Release, VerifiedRelease

def serve(release: VerifiedRelease) -> None: ...

def listed(release: Release) -> None:
    serve(release)

def checked(release: VerifiedRelease) -> None:
    serve(release)
"""


def test_an_unverified_release_does_not_type_check_where_a_verified_one_is_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "use.py"
    source.write_text(USE, encoding="utf-8")
    root = Path(__file__).parents[2]
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nmypy_path = {root}\nfollow_imports = silent\nignore_missing_imports = True\n")
    report, _, status = api.run(
        ["--config-file", str(config), "--cache-dir", str(tmp_path / "cache"), str(source)]
    )
    assert status == 1
    assert report.count("error:") == 1, report
    assert 'use.py:7: error: Argument 1 to "serve" has incompatible type "Release"' in report

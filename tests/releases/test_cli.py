# SPDX-License-Identifier: Apache-2.0
"""`hansa release` from the outside: the whole way, exit codes, JSON."""

import json
from pathlib import Path

import pytest

from releases.cli import main
from tests.releases.small_release import card, files, mirror


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A platform's keys, repository and the files of a release, all made through the command line."""
    keys = tmp_path / "keys"
    names = ["root-1", "root-2", "root-3", "targets-anna", "snapshot", "timestamp"]
    assert main(["keys", "new", "--keys", str(keys), *names]) == 0
    assert main(["init", "--repository", str(tmp_path / "repository"), "--keys", str(keys)]) == 0
    (tmp_path / "files").mkdir()
    for name, data in files().items():
        (tmp_path / "files" / name).write_bytes(data)
    (tmp_path / "card.json").write_bytes(card().to_json())
    return tmp_path


def publish(place: Path, keys: str = "keys") -> int:
    whole = ["--card", str(place / "card.json"), "--files", str(place / "files")]
    return main(["publish", "--repository", str(place / "repository"), "--keys", str(place / keys), *whole])


def merchant(place: Path, command: str, *more: str) -> int:
    return main([command, str(place / "home"), *more])


def test_the_whole_way_from_keys_to_rollback(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(place) == 0
    assert publish(place) == 0
    with mirror(place / "repository") as url:
        root = str(place / "repository" / "metadata" / "1.root.json")
        assert merchant(place, "pull", "--source", url, "--version", "1", "--root", root, "--activate") == 0
        assert merchant(place, "pull", "--source", url) == 0
        capsys.readouterr()
        assert merchant(place, "list", "--source", url, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["active"] == 1
    assert report["available"] == [1, 2]
    assert report["feed_stale"] is False
    assert [entry["version"] for entry in report["installed"]] == [1, 2]
    assert report["installed"][0]["release_age_s"] > 0
    assert merchant(place, "activate", "2") == 0
    assert merchant(place, "rollback") == 0
    capsys.readouterr()
    assert merchant(place, "list") == 0
    words = capsys.readouterr().out
    assert "active: 1" in words
    assert "version 2" in words


def test_wrong_calls_exit_with_2_and_say_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(place / "home")
    pull = ["pull", home, "--source", str(place / "repository")]
    new = ["keys", "new", "--keys", str(place / "keys")]
    for argv, words in (
        ([], "usage"),
        (["fetch"], "invalid choice"),
        (pull, "expected a pinned root"),
        (["activate", home, "1"], "not installed"),
        (["rollback", home], "found none"),
        ([*pull, "--root", str(place / "card.json")], "root metadata"),
        ([*pull, "--root", str(place / "absent")], "absent"),
        ([*new, "anna"], "expected a role"),
        ([*new, "root-../x"], "expected a role"),
        ([*new, "root-1"], "never overwritten"),
    ):
        assert main(argv) == 2
        assert words in capsys.readouterr().err
    assert publish(place, "nowhere") == 2
    assert "targets was signed by 0/1 keys" in capsys.readouterr().err


def test_a_refusal_exits_with_1_and_names_its_class_in_json(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(place)
    root = str(place / "repository" / "metadata" / "1.root.json")
    source = ("--source", str(place / "repository"), "--root", root)
    path = next((place / "repository" / "targets" / "1").glob("*.scorer.onnx"))
    path.write_bytes(path.read_bytes() + b"more")
    assert merchant(place, "pull", *source, "--json") == 1
    assert json.loads(capsys.readouterr().err)["error"] == "TargetTooLong"


def test_list_shows_a_damaged_release(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(place)
    root = str(place / "repository" / "metadata" / "1.root.json")
    merchant(place, "pull", "--source", str(place / "repository"), "--root", root, "--activate")
    broken = place / "home" / "releases" / "installed" / "1" / "scorer.onnx"
    broken.chmod(0o644)
    broken.write_bytes(b"\x08")
    capsys.readouterr()
    assert merchant(place, "list", "--json") == 0
    entry = json.loads(capsys.readouterr().out)["installed"][0]
    assert entry["active"] is True
    assert "scorer.onnx" in entry["problem"]


def test_a_key_is_rotated_from_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(place)
    keys, repository, draft = str(place / "keys"), str(place / "repository"), str(place / "2.root.json")
    assert main(["keys", "new", "--keys", keys, "targets-bert"]) == 0
    public = str(place / "keys" / "targets-bert.pub.json")
    change = ["--role", "targets", "--public", public, "--out", draft]
    assert main(["keys", "draft-root", "--repository", repository, *change]) == 0
    assert main(["keys", "sign-root", draft, "--key", f"{keys}/root-1.pem"]) == 0
    put = ["keys", "publish-root", "--repository", repository, "--keys", keys, draft]
    assert main(put) == 2
    assert "root was signed by 1/2 keys" in capsys.readouterr().err
    assert main(["keys", "sign-root", draft, "--key", f"{keys}/root-3.pem"]) == 0
    assert main(put) == 0
    (place / "keys" / "targets-anna.pem").unlink()
    assert publish(place) == 0
    assert main(["refresh", "--repository", repository, "--keys", keys, "--json"]) == 0
    root = str(place / "repository" / "metadata" / "1.root.json")
    assert merchant(place, "pull", "--source", repository, "--root", root) == 0


def test_keys_with_a_passphrase_need_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse battery\n")
    keys = ["--keys", str(tmp_path / "keys")]
    opened = [*keys, "--passphrase-file", str(secret)]
    names = ["root-1", "root-2", "targets", "snapshot", "timestamp"]
    assert main(["keys", "new", *opened, *names]) == 0
    assert main(["init", "--repository", str(tmp_path / "r"), *keys]) == 2
    assert "needs a passphrase" in capsys.readouterr().err
    assert main(["init", "--repository", str(tmp_path / "r"), *opened]) == 0


@pytest.mark.parametrize("command", [[], ["list"], ["pull"], ["publish"], ["keys"], ["keys", "draft-root"]])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert "usage: hansa release" in capsys.readouterr().out

# SPDX-License-Identifier: Apache-2.0
"""A merchant's home: what is refused when it is opened, and what it never shows."""

import stat
from datetime import timedelta
from pathlib import Path

import pytest

from client.enrolment import enrol
from client.errors import HomeError
from client.home import Home, MerchantSettings, create_home, open_home
from client.runtime import RuntimeSettings, choose_device, read_runtime, write_runtime
from privacy.errors import PolicyError
from tests.client.small import GATE_UNTIL, POLICY, SECRET, TRAIN_UNTIL

SETTINGS = MerchantSettings("north", "events.parquet", TRAIN_UNTIL, GATE_UNTIL, 16)


@pytest.fixture
def home(tmp_path):
    create_home(tmp_path / "home", SETTINGS, POLICY, SECRET)
    return tmp_path / "home"


def test_what_is_made_opens_and_only_its_owner_can_read_it(home):
    opened = open_home(home)
    assert opened.settings == SETTINGS
    assert opened.secret == SECRET
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for name in ("merchant.toml", "policy.toml", "secret.key"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600


def test_a_folder_that_stood_already_is_closed_to_others(tmp_path):
    (tmp_path / "home").mkdir(mode=0o755)
    create_home(tmp_path / "home", SETTINGS, POLICY)
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


@pytest.fixture
def synced(monkeypatch):
    """Every path that was flushed to disk, in order."""
    paths = []
    monkeypatch.setattr("os.fsync", lambda handle: paths.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    return paths


def test_a_fresh_home_is_on_disk_before_it_is_used(tmp_path, synced):
    folder = tmp_path / "home"
    create_home(folder, SETTINGS, POLICY)
    files = [str(folder / f".{name}.tmp") for name in ("merchant.toml", "policy.toml", "secret.key")]
    assert synced == [path for file in files for path in (file, str(folder))]


def test_a_fresh_identity_is_on_disk_before_its_public_key_is_shown(home, synced):
    enrol(home)
    assert len(synced) == 2


def test_a_runtime_file_is_written_whole_and_on_disk_or_not_at_all(home, synced, monkeypatch):
    write_runtime(home / "runtime.json", RuntimeSettings("first", {}, "v.parquet"))
    assert synced == [str(home / ".runtime.json.tmp"), str(home)]

    def full(handle):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="full"):
        write_runtime(home / "runtime.json", RuntimeSettings("second", {}, "v.parquet"))
    assert read_runtime(home / "runtime.json").task == "first"


def test_two_homes_have_different_secrets(tmp_path):
    for name in ("a", "b"):
        create_home(tmp_path / name, SETTINGS, POLICY)
    assert open_home(tmp_path / "a").secret != open_home(tmp_path / "b").secret


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_secret_file_that_others_can_read_is_refused(home, mode):
    (home / "secret.key").chmod(mode)
    with pytest.raises(HomeError, match="chmod 600"):
        open_home(home)


@pytest.mark.parametrize("size", [0, 31, 33, 4096])
def test_a_secret_of_another_length_is_refused(home, size):
    (home / "secret.key").write_bytes(bytes(size))
    with pytest.raises(HomeError, match="expected 32 bytes"):
        open_home(home)


@pytest.mark.parametrize("name", ["merchant.toml", "secret.key"])
def test_a_missing_file_is_refused_with_a_remedy(home, name):
    (home / name).unlink()
    with pytest.raises(HomeError, match="hansa merchant init"):
        open_home(home)


def test_a_missing_or_wrong_policy_is_refused(home):
    (home / "policy.toml").write_text("max_epsilon = -1.0")
    with pytest.raises(PolicyError, match="max_epsilon"):
        open_home(home)
    (home / "policy.toml").unlink()
    with pytest.raises(PolicyError, match="cannot read"):
        open_home(home)


LINES = {
    "name": 'name = "north"',
    "events": 'events = "events.parquet"',
    "train_until": "train_until = 2024-03-01T00:00:00Z",
    "gate_until": "gate_until = 2024-04-01T00:00:00Z",
    "max_events": "max_events = 16",
}
BAD = {
    "zone": ("train_until", "train_until = 2024-03-01T00:00:00", "time zone"),
    "order": ("gate_until", "gate_until = 2024-02-01T00:00:00Z", "gate_until must lie after"),
    "no events": ("max_events", "max_events = 0", "at least 1"),
    "text": ("max_events", 'max_events = "16"', "max_events"),
    "empty name": ("name", 'name = ""', "must not be empty"),
    "unknown key": ("name", 'name = "north"\nepsilon = 9', "unknown epsilon"),
    "not TOML": ("name", "name north", "merchant.toml"),
}


@pytest.mark.parametrize("field", LINES)
def test_settings_without_a_field_are_refused_by_its_name(home, field):
    (home / "merchant.toml").write_text("\n".join(line for name, line in LINES.items() if name != field))
    with pytest.raises(HomeError, match=field):
        open_home(home)


@pytest.mark.parametrize("case", BAD)
def test_settings_with_a_bad_value_are_refused(home, case):
    field, line, reason = BAD[case]
    (home / "merchant.toml").write_text("\n".join({**LINES, field: line}.values()))
    with pytest.raises(HomeError, match=reason):
        open_home(home)


@pytest.mark.parametrize("name", ['a "quoted" one', "back\\slash", "two\nlines", "ünï", "#x = 1"])
def test_any_name_survives_the_file(tmp_path, name):
    settings = MerchantSettings(name, "e.csv", TRAIN_UNTIL, GATE_UNTIL, 1)
    create_home(tmp_path, settings, POLICY)
    assert open_home(tmp_path).settings == settings


def test_the_text_form_of_a_home_shows_neither_secret_nor_data(home):
    opened = open_home(home)
    for text in (repr(opened), str(opened), f"{opened}"):
        assert text == "Home(merchant='north')"


def test_different_contexts_give_independent_keys(home):
    opened = open_home(home)
    contexts = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("a|1:b",), ("", "ab"), ("a", "", "b")]
    keys = {opened.key(*context) for context in contexts}
    assert len(keys) == len(contexts)
    assert all(len(key) == 32 for key in keys)
    assert Home(home, opened.settings, bytes(32)).key("a") != opened.key("a")


def test_a_policy_edited_counts_when_it_is_next_read(home):
    opened = open_home(home)
    (home / "policy.toml").write_text(POLICY.replace("min_cohort = 2", "min_cohort = 7"))
    assert opened.policy.min_cohort == 7


def test_the_paths_of_runtime_and_events_count_from_the_home(home):
    (home / "runtime.json").write_text('{"task": "t", "options": {}, "vocabulary": "words.parquet"}')
    assert read_runtime(home / "runtime.json").vocabulary == str(home / "words.parquet")
    assert open_home(home).events == str(home / "events.parquet")
    for name, reason in (("none.json", "hands it out"), ("merchant.toml", "JSON")):
        with pytest.raises(HomeError, match=reason):
            read_runtime(home / name)


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(HomeError, match="use auto, cpu or cuda"):
        choose_device("tpu")


def test_train_and_gate_until_are_what_was_given(home):
    settings = open_home(home).settings
    assert settings.gate_until - settings.train_until == timedelta(weeks=4)

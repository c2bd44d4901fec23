# SPDX-License-Identifier: Apache-2.0
"""`hansa release`: list, pull, activate, rollback at a merchant; init, publish, refresh, keys at the platform.

Exit code 0: done. 1: refused, because a source or the disk failed verification. 2: a wrong call or setting.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from releases.card import ModelCard
from releases.contents import PAYLOAD_NAMES
from releases.errors import (
    ContentError,
    InstalledError,
    KeyFileError,
    NothingToRollBackTo,
    NotInstalled,
    PublishError,
    ReleaseError,
    RootNotPinned,
    UnknownVersion,
)
from releases.keys import ROLES, Signers, SigningKey, load_keys, load_signers, public_from_json, public_to_json
from releases.publish import Repository, sign_root
from releases.pull import (
    activate,
    active_version,
    available,
    feed_state,
    installed,
    pull,
    rollback,
    trust,
    verified,
)
from releases.stages import VerifiedRelease

Report = dict[str, Any]

_WRONG_CALL: Final = (
    ContentError,
    KeyFileError,
    NotInstalled,
    NothingToRollBackTo,
    PublishError,
    RootNotPinned,
    UnknownVersion,
    FileNotFoundError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (default: the process's arguments), print its report and return the exit code."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        report: Report = arguments.command(arguments)
    except (ReleaseError, OSError) as error:
        failure = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(failure) if arguments.json else f"hansa release: {error}", file=sys.stderr)
        return 2 if isinstance(error, _WRONG_CALL) else 1
    print(json.dumps(report, indent=2) if arguments.json else "\n".join(_lines(report)))
    return 0


def _lines(report: Report, indent: str = "") -> list[str]:
    lines = []
    for key, value in report.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{key}:")
            for entry in value:
                lines += [f"{indent}  - " + ", ".join(f"{name} {item}" for name, item in entry.items())]
        else:
            lines.append(f"{indent}{key}: {value if value not in (None, []) else 'none'}")
    return lines


def _release_report(release: VerifiedRelease) -> Report:
    card = release.card
    return {
        "version": release.version,
        "league": card.league,
        "task": card.task,
        "created": card.created.isoformat(),
        "release_age_s": round(release.release_age_s()),
        "mode": card.mode,
        "epsilon_spent": card.epsilon,
        "model_sha256": card.model_hash,
    }


def _list(arguments: argparse.Namespace) -> Report:
    home: Path = arguments.home
    try:
        serving: int | None = active_version(home)
    except NotInstalled:
        serving = None
    entries = []
    for version in installed(home):
        try:
            entries.append(_release_report(verified(home, version)) | {"active": version == serving})
        except InstalledError as error:
            entries.append({"version": version, "active": version == serving, "problem": str(error)})
    feed = feed_state(home)
    report: Report = {
        "active": serving,
        "feed_expires": None if feed.expires is None else feed.expires.isoformat(),
        "feed_stale": feed.stale(),
        "installed": entries,
    }
    if arguments.source:
        report["available"] = [release.version for release in available(home, arguments.source)]
    return report


def _pull(arguments: argparse.Namespace) -> Report:
    if arguments.root is not None:
        trust(arguments.home, arguments.root.read_bytes())
    release = pull(arguments.home, arguments.source, arguments.version, timeout_s=arguments.timeout_s)
    if arguments.activate:
        activate(arguments.home, release.version)
    return _release_report(release) | {"activated": arguments.activate}


def _activate(arguments: argparse.Namespace) -> Report:
    return _release_report(activate(arguments.home, arguments.version))


def _rollback(arguments: argparse.Namespace) -> Report:
    return _release_report(rollback(arguments.home))


def _init(arguments: argparse.Namespace) -> Report:
    passphrase = _passphrase(arguments)
    root_keys = load_keys(arguments.keys, "root", passphrase)
    signers = load_signers(arguments.keys, passphrase)
    Repository.create(arguments.repository, signers, root_keys, root_threshold=arguments.threshold)
    return {
        "repository": str(arguments.repository),
        "root": str(arguments.repository / "metadata" / "1.root.json"),
        "next": "give merchants the root by another way than the mirror; move root*.pem off this machine",
    }


def _publish(arguments: argparse.Namespace) -> Report:
    card = ModelCard.from_json(arguments.card.read_bytes())
    version = _repository(arguments).publish({name: arguments.files / name for name in PAYLOAD_NAMES}, card)
    return {"version": version}


def _refresh(arguments: argparse.Namespace) -> Report:
    due = _repository(arguments).refresh_timestamp()
    return {
        "offline_signatures_expire": due.isoformat(),
        "days_left": (due - datetime.now(UTC)).days,
    }


def _keys_new(arguments: argparse.Namespace) -> Report:
    made = []
    for name in arguments.name:
        if not name.startswith(ROLES) or not name.replace("-", "").isalnum():
            raise KeyFileError(
                f"{name}: expected a role and a word, as in root-1 or targets-anna; roles: {ROLES}."
            )
        key = SigningKey.generate()
        key.save(arguments.keys / f"{name}.pem", _passphrase(arguments))
        (arguments.keys / f"{name}.pub.json").write_bytes(public_to_json(key.public))
        made.append({"name": name, "keyid": key.keyid})
    return {"keys": made}


def _draft_root(arguments: argparse.Namespace) -> Report:
    role_keys = {arguments.role: [public_from_json(path.read_bytes()) for path in arguments.public]}
    repository = Repository(arguments.repository, Signers((), (), ()))
    draft = repository.draft_root(role_keys, root_threshold=arguments.threshold)
    arguments.out.write_bytes(draft)
    return {"draft": str(arguments.out), "next": "sign it with sign-root on each root key's machine"}


def _sign_root(arguments: argparse.Namespace) -> Report:
    key = SigningKey.load(arguments.key, _passphrase(arguments))
    arguments.draft.write_bytes(sign_root(arguments.draft.read_bytes(), key))
    return {"draft": str(arguments.draft), "signed_by": key.keyid}


def _publish_root(arguments: argparse.Namespace) -> Report:
    return {"root_version": _repository(arguments).publish_root(arguments.draft.read_bytes())}


def _repository(arguments: argparse.Namespace) -> Repository:
    return Repository(arguments.repository, load_signers(arguments.keys, _passphrase(arguments)))


def _passphrase(arguments: argparse.Namespace) -> bytes | None:
    path: Path | None = arguments.passphrase_file
    return None if path is None else path.read_bytes().strip()


class _Options:
    """The options that several commands share, each described once."""

    def __init__(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        self._commands = commands

    def add(self, name: str, run: Callable[[argparse.Namespace], Report], words: str) -> argparse.ArgumentParser:
        parser = self._commands.add_parser(name, help=words, description=words)
        parser.set_defaults(command=run)
        parser.add_argument("--json", action="store_true", help="print the report (or the failure) as JSON")
        return parser

    def merchant(
        self, name: str, run: Callable[[argparse.Namespace], Report], words: str
    ) -> argparse.ArgumentParser:
        parser = self.add(name, run, words)
        parser.add_argument("home", type=Path, metavar="HOME", help="the merchant's home folder")
        return parser

    def keyed(self, name: str, run: Callable[[argparse.Namespace], Report], words: str) -> argparse.ArgumentParser:
        parser = self.add(name, run, words)
        parser.add_argument("--keys", type=Path, required=True, help="folder with this machine's *.pem keys")
        parser.add_argument("--passphrase-file", type=Path, help="file with the passphrase of the keys")
        return parser

    def platform(
        self, name: str, run: Callable[[argparse.Namespace], Report], words: str
    ) -> argparse.ArgumentParser:
        parser = self.keyed(name, run, words)
        parser.add_argument("--repository", type=Path, required=True, help="folder that a web server carries")
        return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hansa release", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    options = _Options(commands)
    command = options.merchant("list", _list, "what is installed and active, verified now, and how old it is")
    command.add_argument("--source", help="also list what this URL or folder offers")
    command = options.merchant("pull", _pull, "fetch, verify and install a release")
    command.add_argument("--source", required=True, help="http(s) URL of the repository, or its folder (air gap)")
    command.add_argument("--version", type=int, help="default: the newest")
    command.add_argument("--root", type=Path, help="pin this root file first (once, from a person you trust)")
    command.add_argument("--activate", action="store_true", help="and make it the active one")
    command.add_argument("--timeout-s", type=float, default=3600.0, help="bound of the whole download in seconds")
    command = options.merchant("activate", _activate, "make an installed version the active one, old or new")
    command.add_argument("version", type=int)
    options.merchant("rollback", _rollback, "return to the activation before")
    command = options.platform("init", _init, "create an empty repository, signed by the keys in --keys")
    command.add_argument("--threshold", type=int, default=2, help="how many root keys must sign (default 2)")
    command = options.platform("publish", _publish, "publish a release")
    command.add_argument("--card", type=Path, required=True, help="the card as JSON, with release_version 0")
    command.add_argument(
        "--files", type=Path, required=True, help=f"folder with {', '.join(sorted(PAYLOAD_NAMES))}"
    )
    options.platform("refresh", _refresh, "sign snapshot and timestamp for another day; run it every few hours")
    _add_keys(commands)
    return parser


def _add_keys(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    words = "make keys, and rotate them by a new root"
    options = _Options(
        commands.add_parser("keys", help=words, description=words).add_subparsers(required=True, metavar="COMMAND")
    )
    command = options.keyed("new", _keys_new, "make key files (mode 600) and their public halves")
    command.add_argument(
        "name", nargs="+", help="role and word: root-1 root-2 root-3 targets-anna snapshot timestamp"
    )
    command = options.add("draft-root", _draft_root, "write the next root, unsigned, with other keys for a role")
    command.add_argument("--repository", type=Path, required=True, help="the repository whose root it follows")
    command.add_argument("--role", choices=ROLES, required=True)
    command.add_argument(
        "--public", type=Path, nargs="+", required=True, help="all public keys of the role from now on"
    )
    command.add_argument("--threshold", type=int, help="a new threshold of root keys")
    command.add_argument("--out", type=Path, required=True)
    command = options.add("sign-root", _sign_root, "add one root key's signature to a draft; needs no repository")
    command.add_argument("draft", type=Path)
    command.add_argument("--key", type=Path, required=True, help="the root key's .pem file")
    command.add_argument("--passphrase-file", type=Path, help="file with the passphrase of the key")
    command = options.platform("publish-root", _publish_root, "put a signed root into effect")
    command.add_argument("draft", type=Path)


if __name__ == "__main__":
    sys.exit(main())

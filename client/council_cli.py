# SPDX-License-Identifier: Apache-2.0
"""`hansa council`: make the league's roster, sign it one council key at a time, show who is in it and who signed.

The roster fixes every parameter of secure aggregation (docs/secure-aggregation.md, §2). Its keys are files like
those of releases: a root key can serve as a council key. Needs neither network nor platform.

Exit code 0: done. 2: something must be mended first; one line says what.

Guarantees:
- a roster that merchants would refuse is never written
- nobody is in a new roster without a proof that it holds its key
- a signature is added only to a roster whose other signatures all hold
- a roster is never written over another
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from client.errors import ClientError, CouncilError
from privacy.errors import PrivacyError
from privacy.secagg import tags
from privacy.secagg.enrolment import read_enrolment
from privacy.secagg.errors import SecAggError
from privacy.secagg.roster import Member, Roster, SignedRoster, make_roster, open_roster
from privacy.secure_exchange import scale_for
from releases import durable
from releases.errors import ReleaseError
from releases.keys import SigningKey

BOUND: Final = 16.0  # of one number of a weighted update; those of the shipped model stay below 1
Report = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, print its report and return the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        report: Report = arguments.command(arguments)
    except (ClientError, PrivacyError, ReleaseError) as wrong:
        print(f"hansa council: {wrong}", file=sys.stderr)
        return 2
    except OSError as wrong:
        print(f"hansa council: {wrong.filename}: {wrong.strerror}; check the path", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=2) if arguments.json else _words(report))
    return 0


def _words(report: Report) -> str:
    lines = []
    for name, value in report.items():
        title = name.replace("_", " ")
        if isinstance(value, list):
            lines += [f"{title}:", *(f"  {line}" for line in value or ["nobody"])]
        else:
            lines.append(f"{title:<14} {value}")
    return "\n".join(lines)


def _key(arguments: argparse.Namespace) -> Report:
    path: Path = arguments.key
    public = path.with_suffix(".pub")
    if public.exists() or public == path:
        raise CouncilError(f"{public}: the public half would be written here; choose another name for the key")
    key = SigningKey.generate()
    key.save(path, _passphrase(arguments))
    durable.write(public, f"{_public(key).hex()}\n".encode())
    return {"key": str(path), "public": _public(key).hex(), "next": f"give {public} to merchants and council"}


def _roster(arguments: argparse.Namespace) -> Report:
    members = _enrolled(arguments.enrolment)
    bound = BOUND if arguments.bound is None else arguments.bound
    scale = arguments.scale_log2
    roster = make_roster(
        arguments.league,
        members,
        serial=arguments.serial,
        colluders=arguments.colluders,
        min_survivors=arguments.min_survivors,
        bound=bound,
        scale_log2=_finest(len(members), bound) if scale is None else scale,
    )
    return _draft(roster, arguments.out)


def _revise(arguments: argparse.Namespace) -> Report:
    before = _read(arguments.roster).roster()
    names = {member.name for member in before.members}
    if strangers := sorted(set(arguments.remove) - names):
        raise CouncilError(f"--remove {', '.join(strangers)}: not in this roster; `hansa council show` lists it")
    kept = [member for member in before.members if member.name not in arguments.remove]

    def promise(name: str) -> Any:
        given = getattr(arguments, name)
        return getattr(before, name) if given is None else given

    roster = make_roster(
        before.league,
        kept + _enrolled(arguments.add),
        serial=before.serial + 1,
        colluders=promise("colluders"),
        min_survivors=promise("min_survivors"),
        bound=promise("bound"),
        scale_log2=promise("scale_log2"),
        max_words=before.max_words,
        epoch_rounds=before.epoch_rounds,
    )
    return _draft(roster, arguments.out)


def _draft(roster: Roster, out: Path) -> Report:
    if out.exists():
        raise CouncilError(f"--out {out}: a file is here already, nothing was changed; choose another name")
    unsigned = SignedRoster(roster.encoded)
    unsigned.roster()  # reads it as merchants will
    durable.write(out, unsigned.encode())
    return _about(roster) | {"next": f"`hansa council sign {out} --key KEY` at each member of the council"}


def _sign(arguments: argparse.Namespace) -> Report:
    path: Path = arguments.roster
    signed = _read(path)
    roster = signed.roster()
    key = SigningKey.load(arguments.key, _passphrase(arguments))
    public = _public(key)
    if public in dict(signed.signatures):
        raise CouncilError(f"{path}: this key has signed already; another member of the council is next")
    signature = bytes.fromhex(key.signer.sign(tags.ROSTER + signed.encoded).signature)
    signed.check(public, signature)
    signatures = (*signed.signatures, (public, signature))
    durable.write(path, SignedRoster(signed.encoded, signatures).encode())
    return _about(roster) | {"signed_by": [key.hex() for key, _ in signatures]}


def _show(arguments: argparse.Namespace) -> Report:
    signed = _read(arguments.roster)
    roster = signed.roster()
    if arguments.council:
        council = [_hex_key(text, f"--council {text}") for text in arguments.council]
        open_roster(signed.encode(), council=council, signatures_needed=arguments.signatures, pin=None)
    return _about(roster) | {
        "members": [f"{member.name} {member.key.hex()}" for member in roster.members],
        "signed_by": [key.hex() for key, _ in signed.signatures],
    }


def _about(roster: Roster) -> Report:
    n = len(roster.members)
    return {
        "league": roster.league,
        "serial": roster.serial,
        "digest": roster.digest.hex(),
        "merchants": n,
        "threshold": roster.threshold,
        "colluders": roster.colluders,
        "min_survivors": roster.min_survivors,
        "drop_outs": min(roster.drops_tolerated, n - roster.min_survivors),
        "bound": roster.bound,
        "scale_log2": roster.scale_log2,
    }


def _read(path: Path) -> SignedRoster:
    """A roster file whose signatures all hold."""
    signed = SignedRoster.decode(path.read_bytes())
    for key, signature in signed.signatures:
        signed.check(key, signature)
    return signed


def _enrolled(paths: Sequence[Path]) -> list[Member]:
    """Members from files that hold what `hansa merchant enrol` printed, a line each."""
    members: list[Member] = []
    for path in paths:
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            raise CouncilError(f"{path}: not a text; expected what `hansa merchant enrol` printed") from None
        numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        for number, line in numbered:
            try:
                members.append(read_enrolment(line))
            except SecAggError as wrong:
                raise CouncilError(f"{path}, line {number}: {wrong}") from None
        if not numbered:
            raise CouncilError(f"{path}: found nothing; expected what `hansa merchant enrol` printed")
    return members


def _hex_key(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != tags.KEY_SIZE:
        raise CouncilError(
            f"{where}: expected a public key of {2 * tags.KEY_SIZE} hex digits; copy the whole line"
        )
    return key


def _finest(members: int, bound: float) -> int:
    try:
        return max(0, scale_for(members, bound))
    except (ValueError, ArithmeticError):  # too few merchants or no bound at all: the roster says so by name
        return 0


def _public(key: SigningKey) -> bytes:
    return bytes.fromhex(key.public.keyval["public"])


def _passphrase(arguments: argparse.Namespace) -> bytes | None:
    path: Path | None = arguments.passphrase_file
    return None if path is None else path.read_bytes().strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hansa council",
        description="Make the roster of a league's secure aggregation and sign it. Run it where the platform has "
        "no say: the roster is what merchants trust instead of the platform.",
        epilog="The order of things: key, once at each member of the council; roster, from the enrolments; show, "
        "then sign, at each member. docs/secure-aggregation.md, §2, says what the numbers mean.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], Report], words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.set_defaults(command=command)
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    key = add("key", _key, "make a council key (mode 600) and, beside it, its public half (.pub)")
    key.add_argument("key", type=Path, metavar="KEY", help="the new key's file, such as council.pem")
    roster = add("roster", _roster, "make a roster, not signed yet, from what merchants enrolled")
    roster.add_argument("enrolment", type=Path, nargs="+", help="files with the lines of `hansa merchant enrol`")
    roster.add_argument("--league", required=True, help="the league's name")
    roster.add_argument("--serial", type=int, default=1, help="number of this roster in the league (default 1)")
    revise = add("revise", _revise, "make the next roster from one: what is not given stays as it was")
    revise.add_argument("roster", type=Path, metavar="ROSTER", help="the roster that it follows")
    revise.add_argument("--add", type=Path, nargs="+", default=[], metavar="ENROLMENT", help="newcomers' files")
    revise.add_argument("--remove", nargs="+", default=[], metavar="NAME", help="merchants that leave")
    for command in (roster, revise):
        command.add_argument("--out", type=Path, required=True, help="the new roster's file")
        _add_promises(command)
    sign = add("sign", _sign, "add one council key's signature to a roster; look at it first with show")
    sign.add_argument("roster", type=Path, metavar="ROSTER")
    sign.add_argument("--key", type=Path, required=True, help="the key's file")
    for command in (key, sign):
        command.add_argument("--passphrase-file", type=Path, help="file with the passphrase of the key")
    show = add("show", _show, "who is in a roster, what it promises, its digest, who signed")
    show.add_argument("roster", type=Path, metavar="ROSTER")
    show.add_argument("--council", nargs="+", metavar="KEY", help="check it as a merchant with these keys does")
    show.add_argument("--signatures", type=int, default=1, help="how many of them must have signed (default 1)")
    return parser


def _add_promises(command: argparse.ArgumentParser) -> None:
    """For mode `distributed`: colluders and scale_log2 as in the plan, min_survivors its cohort less drop-outs."""
    command.add_argument("--colluders", type=int, help="may work with the platform (default a third, at least 1)")
    command.add_argument("--min-survivors", type=int, help="fewest merchants in a sum (default the threshold)")
    command.add_argument("--bound", type=float, help=f"largest number of a weighted update (default {BOUND:g})")
    command.add_argument("--scale-log2", type=int, help="grid steps a unit, log2 (default: the finest that fits)")


if __name__ == "__main__":
    raise SystemExit(main())

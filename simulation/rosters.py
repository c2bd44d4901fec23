# SPDX-License-Identifier: Apache-2.0
"""A simulated league's secure aggregation: identities that follow from the seed, one council key, pinned rosters.

In a deployment a merchant draws its identity at home and the council signs elsewhere; here one machine plays all.
A league that is too large for one roster is divided by lot: who could choose a name could else choose its company.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from client.enrolment import enrol, pin_roster
from privacy.noise_shares import Sharing
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, make_roster, sign_roster
from privacy.secagg.tags import MAX_MEMBERS
from privacy.secure_exchange import scale_for

BOUND = 16.0  # of one number of a weighted update; those of the shipped model stay below 1


def sizes(merchants: int, most: int = MAX_MEMBERS) -> tuple[int, int]:
    """Members of the smallest and of the largest roster, of as few as there can be with at most `most` each."""
    rosters = -(-merchants // most)
    return merchants // rosters, -(-merchants // rosters)


def divided(names: Collection[str], seed: int, most: int = MAX_MEMBERS) -> list[list[str]]:
    """The names in as few rosters of at most `most` as there can be, drawn by lot, equal in size but for one.

    All runs of a seed draw alike: what was counted over a roster holds for no other.
    """
    drawn = sorted(names, key=lambda name: _secret("", seed, "lot", name))
    rosters = -(-len(drawn) // most)
    return [sorted(drawn[number::rosters]) for number in range(rosters)]


def write_rosters(
    homes: Mapping[str, Path],
    league: str,
    seed: int,
    sharing: Sharing | None = None,
    most: int = MAX_MEMBERS,
) -> list[bytes]:
    """Enrol every home, divide the league, sign and pin the rosters; returns them signed, for the platform.

    `sharing` is what a plan with shared noise counts on in each of them.

    Raises:
        privacy.secagg.errors.RosterRefused: fewer than 3 merchants.
    """
    council = Identity(_secret(league, seed, "council", ""))
    return [
        _write_roster({name: homes[name] for name in names}, league, seed, sharing, council)
        for names in divided(homes, seed, most)
    ]


def _write_roster(
    homes: Mapping[str, Path], league: str, seed: int, sharing: Sharing | None, council: Identity
) -> bytes:
    secrets = {name: _secret(league, seed, "merchant", name) for name in sorted(homes)}
    members = [Member(name, Identity(secret).public) for name, secret in secrets.items()]
    roster = make_roster(league, members, bound=BOUND, **_promises(len(members), sharing))
    signed = sign_roster(roster, [council])
    for name, home in homes.items():
        enrol(home, secrets[name])
        pin_roster(home, signed, [council.public], signatures_needed=1)
    return signed


def _promises(members: int, sharing: Sharing | None) -> dict[str, int]:
    if sharing is None:
        return {"scale_log2": scale_for(members, BOUND)}
    tolerance = sharing.tolerance
    return {
        "colluders": tolerance.colluders,
        "min_survivors": max(tolerance.least_survivors, tolerance.colluders + 2),
        "scale_log2": sharing.scale_log2,
    }


def _secret(league: str, seed: int, role: str, name: str) -> bytes:
    return hashlib.sha256(f"hansa.simulated.identity/1|{league}|{seed}|{role}|{name}".encode()).digest()

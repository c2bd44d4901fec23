# SPDX-License-Identifier: Apache-2.0
"""A merchant's side of an epoch's set-up, as functions from state and message to state and message (spec. §4).

Guarantees:
- keys that their merchant did not sign are refused
- an epoch that was announced is never announced again
- private keys of an epoch are gone once it is established

Assumes that the caller persists the returned state before it sends the returned message.
"""

from collections.abc import Callable
from dataclasses import replace
from hmac import compare_digest

from privacy.secagg import keys, tags, wire
from privacy.secagg.errors import PeerRefused, Replayed, RequestRefused, StateRefused
from privacy.secagg.identity import Identity, verify
from privacy.secagg.keys import EpochKeys
from privacy.secagg.roster import Roster
from privacy.secagg.setup_messages import Bundle, Capsule, Delivery, EpochOpen, Kem, Keys, Ready
from privacy.secagg.state import Epoch, PendingEpoch, Setup, State


def epoch_digest(opening: EpochOpen, bundle: Bundle) -> bytes:
    """[E2] The transcript that salts every pair root, 32 bytes."""
    return tags.digest(tags.EPOCH, opening.binding(), *(announced.body() for announced in bundle.keys))


def announce(
    state: State,
    epoch_open: bytes,
    roster: Roster,
    identity: Identity,
    index: int,
    entropy: Callable[[int], bytes],
) -> tuple[State, bytes]:
    """[E0], [E1]"""
    opening = EpochOpen.decode(epoch_open)
    if opening.roster_digest != roster.digest:
        raise RequestRefused("the epoch is for another roster than the pinned one")
    if opening.epoch <= state.highest_epoch:
        raise Replayed(f"epoch {opening.epoch} is not after epoch {state.highest_epoch}")
    if opening.base_round <= state.highest_round:
        raise Replayed(f"the epoch starts at round {opening.base_round}, round {state.highest_round} was opened")
    drawn = EpochKeys.draw(entropy)
    unsigned = Keys(index, *drawn.public(), b"")
    message = replace(unsigned, signature=identity.sign(tags.KEYS, opening.binding(), unsigned.signed()))
    pending = PendingEpoch(opening, drawn, Setup.ANNOUNCED)
    return replace(state, highest_epoch=opening.epoch, pending=pending), message.encode()


def encapsulate(
    state: State, bundle: bytes, roster: Roster, identity: Identity, index: int
) -> tuple[State, bytes]:
    """[E2], [E3]"""
    pending = _pending(state, Setup.ANNOUNCED)
    message = Bundle.decode(bundle)
    _check_bundle(message, pending, roster, index)
    digest = epoch_digest(pending.opening, message)
    roots, capsules = {}, []
    for announced in message.keys:
        if announced.index <= index:
            continue
        peer = roster.members[announced.index].name
        ecdh = pending.keys.exchange(announced.x25519, peer)
        secret, ciphertext = keys.encapsulate(announced.mlkem, peer)
        root = keys.pair_root(ecdh, secret, ciphertext, digest, index, announced.index)
        mac = keys.confirmation_mac(root, index, announced.index)
        signature = identity.sign(tags.KEM, _capsule_binding(digest, index, announced.index, ciphertext, mac))
        roots[announced.index] = root
        capsules.append(Capsule(announced.index, ciphertext, mac, signature))
    pending = replace(pending, setup=Setup.ENCAPSULATED, bundle=bundle, roots=roots)
    return replace(state, pending=pending), Kem(index, tuple(capsules)).encode()


def establish(
    state: State,
    delivery: bytes,
    roster: Roster,
    identity: Identity,
    index: int,
    entropy: Callable[[int], bytes],
) -> tuple[State, bytes]:
    """[E4], [E5]"""
    pending = _pending(state, Setup.ENCAPSULATED)
    message = Delivery.decode(delivery)
    bundle = Bundle.decode(pending.bundle)
    announced = {item.index: item for item in bundle.keys}
    digest = epoch_digest(pending.opening, bundle)
    if message.index != index:
        raise RequestRefused(f"the delivery is for merchant {message.index}, this is {index}")
    roots = dict(pending.roots)
    for capsule in message.capsules:
        if capsule.other >= index or capsule.other not in announced:
            raise RequestRefused(f"no ciphertext from merchant {capsule.other} is due here")
        member = roster.members[capsule.other]
        binding = _capsule_binding(digest, capsule.other, index, capsule.ciphertext, capsule.mac)
        verify(member.key, capsule.signature, f"ciphertext of {member.name}", tags.KEM, binding)
        ecdh = pending.keys.exchange(announced[capsule.other].x25519, member.name)
        secret = pending.keys.decapsulate(capsule.ciphertext, member.name)
        root = keys.pair_root(ecdh, secret, capsule.ciphertext, digest, capsule.other, index)
        if not compare_digest(keys.confirmation_mac(root, capsule.other, index), capsule.mac):
            raise PeerRefused(f"{member.name} derived another pair root; it misbehaves or its keys were altered")
        roots[capsule.other] = root
    roots[index] = entropy(tags.KEY_SIZE)
    epoch = Epoch(digest, pending.opening.base_round, 0, roots)
    signature = identity.sign(tags.READY, digest)
    return replace(state, pending=None, epoch=epoch, round=None), Ready(index, digest, signature).encode()


def _check_bundle(message: Bundle, pending: PendingEpoch, roster: Roster, index: int) -> None:
    """[E2]"""
    roster.require_members([announced.index for announced in message.keys])
    needed = max(roster.threshold, roster.min_survivors)
    if len(message.keys) < needed:
        raise RequestRefused(f"expected keys of at least {needed} merchants, found {len(message.keys)}")
    own = [(item.x25519, item.mlkem) for item in message.keys if item.index == index]
    if own != [pending.keys.public()]:
        raise RequestRefused("the bundle carries other keys in this merchant's name than it announced")
    for announced in message.keys:
        member = roster.members[announced.index]
        verify(
            *(member.key, announced.signature, f"keys of {member.name}"),
            *(tags.KEYS, pending.opening.binding(), announced.signed()),
        )


def _capsule_binding(digest: bytes, low: int, high: int, ciphertext: bytes, mac: bytes) -> bytes:
    return digest + wire.u8(low) + wire.u8(high) + tags.digest(ciphertext) + mac


def _pending(state: State, setup: Setup) -> PendingEpoch:
    if state.pending is None:
        raise StateRefused("no epoch is being set up at this merchant")
    if state.pending.setup is not setup:
        raise Replayed(f"set-up stands at {state.pending.setup.name}, expected {setup.name}; a step is taken once")
    return state.pending

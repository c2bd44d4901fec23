# SPDX-License-Identifier: Apache-2.0
"""A merchant's machine: bytes in, bytes or exceptions out; no sockets, files, clock or Flower (spec. §4, §5).

Guarantees:
- a round that was opened is never opened again, also after a crash
- a merchant confirms at most one survivor list in an attempt
- a merchant answers at most once in a round
- a merchant never opens both secrets of one merchant
- a refused message changes nothing
- state is saved before a message leaves

Assumes a key store that is never rolled back, and that the caller computed the digests of `RoundTerms` itself.
Bonawitz et al. 2017 (active variant) with the key reuse of Ma et al. 2023; differences in the specification, §11.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from privacy.secagg import keys, masks, merchant_setup, shamir, tags
from privacy.secagg.commitments import ShareTree, commit_secret
from privacy.secagg.errors import Malformed, PeerRefused, Replayed, RequestRefused, StateRefused
from privacy.secagg.identity import Identity, verify
from privacy.secagg.keystore import KeyStore
from privacy.secagg.masks import Vector
from privacy.secagg.roster import Requirements, Roster, require
from privacy.secagg.round_messages import (
    Answer,
    Certificate,
    Confirmation,
    Opened,
    Report,
    RoundOpen,
    SignedHeader,
    Survivors,
    survivors_digest,
)
from privacy.secagg.setup_messages import Bundle, Delivery, EpochOpen
from privacy.secagg.state import Epoch, Round, Stage, State, decode_state, encode_state
from privacy.secagg.wire import kind_of


@dataclass(frozen=True, slots=True)
class RoundTerms:
    """What a party knows of a round by itself: 32-byte digests of the model that it holds and of what the vector
    means, and the vector's size (d words of u32, e words of u64)."""

    model_digest: bytes
    plan_digest: bytes
    d: int
    e: int


class MerchantSession:
    """One merchant in one roster. A method returns the message to send, or raises and changes nothing."""

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        store: KeyStore,
        *,
        requirements: Requirements | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Go on from what the store holds. `entropy` is replaced only to reproduce test vectors.

        Raises RosterRefused when the roster lacks this identity or protects less than `requirements`.
        """
        require(roster, requirements or Requirements())
        self._identity = identity
        self._roster = roster
        self._store = store
        self._entropy = entropy
        self.index = roster.index_of_key(identity.public)
        self.name = roster.members[self.index].name
        stored = store.load()
        self._state = State(roster.digest) if stored is None else decode_state(stored, roster.digest)
        self._own_seed = b""
        self._masks: Vector | None = None

    @property
    def opening(self) -> RoundOpen | None:
        """The newest round that was opened here in this epoch."""
        return self._state.round.opening if self._state.round else None

    @property
    def confirmed(self) -> tuple[int, ...]:
        """The survivors that this merchant confirmed in that round, by number; empty before."""
        return self._state.round.survivors if self._state.round else ()

    def receive(self, message: bytes) -> bytes:
        """Answer any message but ROUND_OPEN, which needs `open_round` and `report`; for relays of bytes."""
        kind = kind_of(message)
        steps = {
            EpochOpen.KIND: self.announce,
            Bundle.KIND: self.encapsulate,
            Delivery.KIND: self.establish,
            Survivors.KIND: self.confirm,
            Certificate.KIND: self.unmask,
        }
        if kind not in steps:
            raise Malformed(f"no merchant answers a message of kind {kind}")
        return steps[kind](message)

    def announce(self, epoch_open: bytes) -> bytes:
        """[E0], [E1] EPOCH_OPEN to KEYS."""
        state, message = merchant_setup.announce(
            self._state, epoch_open, self._roster, self._identity, self.index, self._entropy
        )
        self._save(state)
        return message

    def encapsulate(self, bundle: bytes) -> bytes:
        """[E2], [E3] BUNDLE to KEM."""
        state, message = merchant_setup.encapsulate(self._state, bundle, self._roster, self._identity, self.index)
        self._save(state)
        return message

    def establish(self, delivery: bytes) -> bytes:
        """[E4], [E5] DELIVERY to READY."""
        state, message = merchant_setup.establish(
            self._state, delivery, self._roster, self._identity, self.index, self._entropy
        )
        self._forget_masks()
        self._save(state)
        return message

    def open_round(self, round_open: bytes, terms: RoundTerms) -> RoundOpen:
        """[A1], [A2] Check ROUND_OPEN against what this merchant knows itself; persist the round as used.

        Raises Replayed, RequestRefused or StateRefused.
        """
        opening = RoundOpen.decode(round_open)
        epoch = self._state.epoch
        if epoch is None or opening.epoch_digest != epoch.digest:
            raise StateRefused("the round belongs to an epoch that this merchant has not established; set up anew")
        self._check_fresh(opening)
        self._check_terms(opening, terms)
        step = opening.round - epoch.base_round
        if not epoch.step <= step < self._roster.epoch_rounds:
            raise StateRefused(
                f"round {opening.round} is step {step} of its epoch, expected {epoch.step} to "
                f"{self._roster.epoch_rounds - 1}; set up a new epoch"
            )
        missing = [member for member in opening.members if member not in epoch.roots]
        if missing:
            raise RequestRefused(f"no pair root with {self._roster.names(missing)}; they did not finish set-up")
        ctx = opening.ctx(self._roster.digest)
        self._forget_masks()
        self._save(
            replace(
                self._state,
                highest_round=opening.round,
                highest_attempt=opening.attempt,
                epoch=_ratcheted(epoch, step),
                round=Round(opening, ctx, Stage.OPENED),
            )
        )
        return opening

    def expand_masks(self) -> None:
        """[A3] Expand this round's masks; optional, to be called while the model trains."""
        round_, epoch = self._round(Stage.OPENED)
        opening = round_.opening
        if self.index not in opening.cohort:
            raise StateRefused("a witness has no vector to mask")
        self._masks = Vector.zeros(opening.d, opening.e)
        self._own_seed = self._entropy(tags.KEY_SIZE)
        masks.apply_masks(self._masks, *self._mask_seeds(round_, epoch))

    def report(self, vector: Vector) -> bytes:
        """[A4]–[A8] REPORT with the masked vector. Masks are added in place: `vector` is used up, also on errors.

        Raises StateRefused when no round is open or this merchant has reported, RequestRefused when the size is
        not the opening's.
        """
        round_, epoch = self._round(Stage.OPENED)
        opening = round_.opening
        if self.index not in opening.cohort:
            raise StateRefused("a witness does not report")
        if (vector.body.size, vector.tail.size) != (opening.d, opening.e):
            raise RequestRefused(
                f"expected {opening.d} + {opening.e} words, found {vector.body.size} + {vector.tail.size}"
            )
        if self._masks is None:
            self._own_seed = self._entropy(tags.KEY_SIZE)
            masks.apply_masks(vector, *self._mask_seeds(round_, epoch))
        else:
            vector.add(self._masks)
        seeds, roots, sealed = self._share(round_, epoch)
        body, tail = vector.views()
        signed = self._sign_header(
            round_.ctx, tags.digest(body, tail), tags.digest(*sealed), tags.digest(*seeds, *roots)
        )
        self._forget_masks()
        self._save(replace(self._state, round=replace(round_, stage=Stage.REPORTED, header=signed)))
        return Report(round_.ctx, signed, seeds, roots, sealed, (body, tail)).encode()

    def confirm(self, survivors: bytes) -> bytes:
        """[C1]–[C3] SURVIVORS to CONFIRMATION, once an attempt."""
        message = Survivors.decode(survivors)
        round_, _ = self._round(Stage.OPENED, Stage.REPORTED)
        self._check_ctx(round_, message.ctx)
        listed = tuple(signed.index for signed in message.headers)
        if not set(listed) <= set(round_.opening.cohort):
            raise RequestRefused("survivors outside the round's cohort")
        if len(listed) < self._roster.min_survivors:
            raise RequestRefused(f"expected at least {self._roster.min_survivors} survivors, found {len(listed)}")
        for signed in message.headers:
            if signed.index == self.index:
                self._check_own_header(round_, signed)
            else:
                member = self._roster.members[signed.index]
                verify(
                    *(member.key, signed.signature, f"report of {member.name}"),
                    *(tags.REPORT, round_.ctx, signed.header()),
                )
        digest = survivors_digest(round_.ctx, message.headers)
        self._forget_masks()
        confirmed = replace(round_, stage=Stage.CONFIRMED, survivors=listed, survivors_digest=digest)
        self._save(replace(self._state, round=confirmed))
        signature = self._identity.sign(tags.CONFIRM, round_.ctx, digest)
        return Confirmation(self.index, round_.ctx, digest, signature).encode()

    def unmask(self, certificate: bytes) -> bytes:
        """[U1]–[U4] CERTIFICATE to ANSWER, once a round."""
        message = Certificate.decode(certificate)
        round_, epoch = self._round(Stage.CONFIRMED)
        self._check_certificate(round_, message)
        answer = self._answer(round_, epoch, message)
        step = epoch.step + 1
        answered = replace(round_, stage=Stage.ANSWERED)
        state = replace(self._state, answered_round=round_.opening.round, round=answered)
        self._save(replace(state, epoch=_ratcheted(epoch, step)))  # [U3]
        return answer

    def _check_fresh(self, opening: RoundOpen) -> None:
        state = self._state
        if opening.round <= state.answered_round:
            raise Replayed(f"round {opening.round} was answered; a round is opened once, go on to the next")
        if (opening.round, opening.attempt) <= (state.highest_round, state.highest_attempt):
            raise Replayed(
                f"round {opening.round} attempt {opening.attempt} is not after round {state.highest_round} "
                f"attempt {state.highest_attempt}; open a later attempt"
            )

    def _check_terms(self, opening: RoundOpen, terms: RoundTerms) -> None:
        roster = self._roster
        roster.require_members(opening.members)
        if self.index not in opening.members or not set(opening.cohort) <= set(opening.members):
            raise RequestRefused("expected this merchant among the members and the cohort within them")
        if len(opening.members) < roster.threshold or len(opening.cohort) < roster.min_survivors:
            raise RequestRefused(
                f"expected at least {roster.threshold} members and a cohort of {roster.min_survivors}, found "
                f"{len(opening.members)} and {len(opening.cohort)}"
            )
        if opening.model_digest != terms.model_digest:
            raise RequestRefused("the round names another model than the one that this merchant received")
        if opening.plan_digest != terms.plan_digest:
            raise RequestRefused("the round gives the vector another meaning than this merchant's plan")
        if (opening.d, opening.e) != (terms.d, terms.e) or opening.d + 2 * opening.e > roster.max_words:
            raise RequestRefused(
                f"expected {terms.d} + {terms.e} words within {roster.max_words}, found {opening.d} + {opening.e}"
            )

    def _check_own_header(self, round_: Round, signed: SignedHeader) -> None:
        if round_.header is None or signed.header() != round_.header.header():
            raise RequestRefused("the survivor list carries a report in this merchant's name that it did not send")

    def _check_certificate(self, round_: Round, message: Certificate) -> None:
        """[U2]"""
        self._check_ctx(round_, message.ctx)
        if message.index != self.index:
            raise RequestRefused(f"the certificate is for merchant {message.index}, this is {self.index}")
        if (message.survivors, message.survivors_digest) != (round_.survivors, round_.survivors_digest):
            raise RequestRefused("the certificate is for another survivor list than the one that was confirmed")
        if len(message.signatures) < self._roster.threshold:
            raise RequestRefused(
                f"expected {self._roster.threshold} confirmations, found {len(message.signatures)}"
            )
        for index, signature in message.signatures:
            if index not in round_.opening.members:
                raise RequestRefused(f"a confirmation of merchant {index}, who is no member of the round")
            member = self._roster.members[index]
            what = f"confirmation of {member.name}"
            verify(member.key, signature, what, tags.CONFIRM, round_.ctx, round_.survivors_digest)
        expected = (len(round_.survivors), len(round_.opening.cohort))
        if (len(message.sealed), message.shares) != expected:
            raise RequestRefused(
                f"expected sealed shares {expected}, found {(len(message.sealed), message.shares)}"
            )

    def _answer(self, round_: Round, epoch: Epoch, message: Certificate) -> bytes:
        """[U4] Open own shares of one secret of each merchant, never of both."""
        cohort, survivors = round_.opening.cohort, round_.survivors
        dropped = tuple(index for index in cohort if index not in survivors)
        own: tuple[bytes, ...] = ()
        if self.index in survivors:
            own = tuple(keys.mask_seed(epoch.roots[index], round_.ctx) for index in dropped)
        opened = []
        for author, item in zip(survivors, message.sealed, strict=True):
            leaves = sorted(cohort.index(index) for index in (author, *dropped))
            try:
                shares, tree = self._unsealed(round_, epoch, author, item.root, item.sealed)
            except PeerRefused:
                opened.append(Opened(True, (), ()))
                continue
            opened.append(Opened(False, tuple(shares[leaf] for leaf in leaves), tree.prove(leaves)))
        answer = Answer(
            *(self.index, round_.ctx, round_.survivors_digest, own, 1 + len(dropped), tuple(opened), b"")
        )
        digest = tags.digest(answer.body())
        signature = self._identity.sign(tags.ANSWER, round_.ctx, round_.survivors_digest, digest)
        return replace(answer, signature=signature).encode()

    def _unsealed(
        self, round_: Round, epoch: Epoch, author: int, root: bytes, sealed: bytes
    ) -> tuple[list[bytes], ShareTree]:
        """This merchant's shares of an author's secrets, in the cohort's order; PeerRefused if not as dealt."""
        raw = keys.unseal(epoch.roots[author], round_.ctx, author, self.index, root, sealed)
        shares = [raw[start : start + tags.KEY_SIZE] for start in range(0, len(raw), tags.KEY_SIZE)]
        tree = ShareTree.over(shares, round_.opening.cohort)
        if tree.root(round_.ctx, author, self.index) != root:
            raise PeerRefused(f"merchant {author} dealt other shares than it committed to")
        return shares, tree

    def _share(
        self, round_: Round, epoch: Epoch
    ) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
        """[A5]–[A7] Commitments to the secrets, roots for the members, sealed shares for the members."""
        cohort, members, ctx, me = round_.opening.cohort, round_.opening.members, round_.ctx, self.index
        secrets = [self._own_seed if peer == me else keys.mask_seed(epoch.roots[peer], ctx) for peer in cohort]
        points = [member + 1 for member in members]
        dealt = shamir.split(b"".join(secrets), points, self._roster.threshold, self._entropy)
        committed, roots, sealed = [], [], []
        for peer, secret in zip(cohort, secrets, strict=True):
            committed.append(commit_secret(ctx, min(me, peer), max(me, peer), secret))
        for member, raw in zip(members, dealt, strict=True):
            shares = [raw[start : start + tags.KEY_SIZE] for start in range(0, len(raw), tags.KEY_SIZE)]
            roots.append(ShareTree.over(shares, cohort).root(ctx, me, member))
            sealed.append(keys.seal(epoch.roots[member], ctx, me, member, roots[-1], raw))
        return tuple(committed), tuple(roots), tuple(sealed)

    def _mask_seeds(self, round_: Round, epoch: Epoch) -> tuple[list[bytes], list[bytes]]:
        """[A3] Seeds whose masks are added, and seeds whose masks are taken away."""
        seeds = {
            peer: keys.mask_seed(epoch.roots[peer], round_.ctx)
            for peer in round_.opening.cohort
            if peer != self.index
        }
        plus = [self._own_seed] + [seed for peer, seed in seeds.items() if peer > self.index]
        return plus, [seed for peer, seed in seeds.items() if peer < self.index]

    def _sign_header(self, ctx: bytes, vector: bytes, sealed: bytes, committed: bytes) -> SignedHeader:
        unsigned = SignedHeader(self.index, vector, sealed, committed, b"")
        return replace(unsigned, signature=self._identity.sign(tags.REPORT, ctx, unsigned.header()))

    def _check_ctx(self, round_: Round, ctx: bytes) -> None:
        if ctx != round_.ctx:
            raise RequestRefused("the message belongs to another round, attempt, cohort or model")

    def _round(self, *stages: Stage) -> tuple[Round, Epoch]:
        round_, epoch = self._state.round, self._state.epoch
        if round_ is None or epoch is None:
            raise StateRefused("no round is open at this merchant")
        if round_.stage not in stages:
            raise Replayed(
                f"round {round_.opening.round} attempt {round_.opening.attempt} stands at {round_.stage.name}, "
                f"expected {' or '.join(stage.name for stage in stages)}; a step is taken once"
            )
        return round_, epoch

    def _forget_masks(self) -> None:
        self._masks, self._own_seed = None, b""

    def _save(self, state: State) -> None:
        self._store.save(encode_state(state))
        self._state = state

    def __repr__(self) -> str:
        return f"MerchantSession({self.name!r}, {self._state!r})"


def _ratcheted(epoch: Epoch, step: int) -> Epoch:
    """[E6] The epoch at a later step; the roots before it are gone."""
    roots = {index: keys.ratchet(root, step - epoch.step) for index, root in epoch.roots.items()}
    return replace(epoch, step=step, roots=roots)

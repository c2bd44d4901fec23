# SPDX-License-Identifier: Apache-2.0
"""One plan that builds sampling, clipping, noise and accounting events together, so that they cannot disagree.

A `PrivacyRequest` says what is wanted; `calibrate` finds the smallest training noise whose total, together
with the one-shot popularity and gate releases, stays within epsilon. A `PrivacyPlan` recomputes its own
epsilon whenever it is made, also from what another party sent: a plan that claims less than it costs cannot
exist. In modes `distributed` and `merchant` it also fixes each merchant's share of the noise
(`privacy.noise_shares`).

Guarantees:
- the plan's epsilon covers popularity, every training step and the gate together
- a plan that claims less than its events cost cannot be built
- epsilon_after never falls from round to round and ends at the plan's epsilon
- where clipping adapts, noise is laid out for gradient and count together
- a distributed plan whose shares, grid or ring don't fit its noise cannot be built
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Self

from privacy.accountant import (
    DRAWN,
    Accountant,
    DpEvent,
    GaussianEvent,
    GroupSampledGaussianEvent,
    SampledGaussianEvent,
    epsilon,
    gaussian_mu,
    smallest_noise,
)
from privacy.adaptive_clipping import joint_norm
from privacy.errors import CalibrationError
from privacy.noise_shares import NoiseShare, Sharing, Tolerance
from privacy.plan_checks import check_ranges, check_whole_merchants
from privacy.statements import adversary, not_protected, statement
from privacy.units import SHARED_NOISE, Mode, Unit, mode_of, unit_of

__all__ = ["FAMILY", "Mode", "PrivacyPlan", "PrivacyRequest", "Unit", "calibrate"]


_FAMILIES: Final = ("popularity", "training", "gate")
FAMILY: Final = {"popularity": "popularity", "train": "training", "gate": "gate"}  # by what is asked
_SHARING: Final = ("cohort", "dropouts", "colluders", "coordinates", "scale_log2")
_ADAPTIVE: Final = ("clipping_quantile", "clipping_share")
_OTHER_MACHINES: Final = 1e-5  # of epsilon, claimed on top: the account differs by 1e-6 between processors


@dataclass(frozen=True, slots=True)
class PrivacyRequest:
    """What is wanted. Shares are of mu², the squared signal-to-noise budget that epsilon and delta allow.

    epsilon and delta are totals over all rounds. clipping_norm bounds one user's gradient in one step,
    popularity_clipping_norm one user's item histogram, gate_clipping_norm one user's evaluation vector (L2
    norms); in mode `merchant`, where a step is a round, the first two bound a merchant's whole update and
    histogram. merchants_per_user counts for the unit `user_k` only; cohort, dropouts, colluders (merchants),
    coordinates (length of the longest released vector) and scale_log2 (the grid is 2^-scale_log2) for the modes
    `distributed` and `merchant`. In the former a clipping_quantile above 0 lets the clipping norm follow that
    quantile of the users' gradient norms, from clipping_norm on; the count that steers it gets clipping_share of
    each round's mu² (`privacy.adaptive_clipping`).
    """

    mode: Mode | str
    epsilon: float
    delta: float
    rounds: int
    steps_per_round: int
    sampling_rate: float
    clipping_norm: float
    unit: Unit | str = Unit.USER_MERCHANT
    merchants_per_user: int = 1
    popularity_share: float = 0.0
    popularity_clipping_norm: float = 1.0
    gate_share: float = 0.0
    gate_clipping_norm: float = 1.0
    accountant: Accountant = "prv"
    cohort: int = 0
    dropouts: int = 0
    colluders: int = 0
    coordinates: int = 0
    scale_log2: int = 20
    clipping_quantile: float = 0.0
    clipping_share: float = 0.0


@dataclass(frozen=True, slots=True)
class PrivacyPlan:
    """What is done. A noise multiplier of 0 for popularity or gate means that this release is not made.

    All noise has deviation `noise multiplier * its clipping norm`, added by every merchant in mode `local`. In the
    modes `distributed` and `merchant` the multiplier is what the tolerated adversary faces, in units of one unit's
    rounded contribution (gradient and count together where clipping adapts), and `share` says what each merchant
    adds; in other modes the last seven fields are 0. Raises CalibrationError where fields disagree. A plan with
    epsilon inf claims nothing: shares are not checked.
    """

    mode: Mode
    unit: Unit
    epsilon: float
    delta: float
    clipping_norm: float
    noise_multiplier: float
    sampling_rate: float
    steps_per_round: int
    rounds: int
    popularity_noise_multiplier: float = 0.0
    popularity_clipping_norm: float = 1.0
    gate_noise_multiplier: float = 0.0
    gate_clipping_norm: float = 1.0
    merchants_per_user: int = 1
    accountant: Accountant = "prv"
    cohort: int = 0
    dropouts: int = 0
    colluders: int = 0
    coordinates: int = 0
    scale_log2: int = 0
    clipping_quantile: float = 0.0
    clipping_share: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)
        object.__setattr__(self, "mode", mode_of(self.mode))
        object.__setattr__(self, "unit", unit_of(self.unit, self.merchants_per_user))
        if self.mode not in SHARED_NOISE and any(getattr(self, n) for n in _SHARING + _ADAPTIVE):
            names = ", ".join(_SHARING + _ADAPTIVE)
            raise CalibrationError(f"mode {str(self.mode)!r} shares no noise: leave {names} at 0")
        if self.mode is Mode.NONE:
            if self.epsilon != math.inf:
                raise CalibrationError(f"mode none protects nothing: epsilon must be inf, found {self.epsilon}")
            return
        check_whole_merchants(self)
        _check_sharing(self)
        cost = _cost(self.events, self.delta, self.accountant)
        if not cost <= self.epsilon:
            raise CalibrationError(
                f"the plan claims epsilon {self.epsilon:.6g}, its events cost {cost:.6g} at delta {self.delta:g}; "
                "use calibrate() to build a plan"
            )

    @property
    def private(self) -> bool:
        return self.mode is not Mode.NONE

    @property
    def steps(self) -> int:
        """Training steps over all rounds."""
        return self.rounds * self.steps_per_round

    @property
    def events(self) -> tuple[DpEvent, ...]:
        """Everything that one unit's data may leave a trace in, as accounting events; empty in mode `none`."""
        return self.events_after(self.rounds)

    def events_after(self, round: int) -> tuple[DpEvent, ...]:
        """Events once `round` rounds are done: popularity comes before round 1, the gate after the last round."""
        if not 0 <= round <= self.rounds:
            raise CalibrationError(f"round must lie in 0..{self.rounds}, found {round}")
        if not self.private:
            return ()
        found = list(self.release_events("popularity"))
        found += [e for _ in range(round) for e in self.release_events("training")]
        if round == self.rounds:
            found += self.release_events("gate")
        return tuple(found)

    def release_events(self, family: str) -> tuple[DpEvent, ...]:
        """What one release costs its unit: `popularity`, `gate`, or one round of `training`. For the ledger."""
        if family not in _FAMILIES:
            raise CalibrationError(f"a release is one of {_FAMILIES}, found {family!r}")
        if not self.private:
            return ()
        if family == "training":
            return self._sampled(self.noise_multiplier, self.steps_per_round)
        noise = self.popularity_noise_multiplier if family == "popularity" else self.gate_noise_multiplier
        return self._gaussian(noise) if noise > 0 else ()

    def _sampled(self, noise: float, steps: int) -> tuple[DpEvent, ...]:
        if self.merchants_per_user > 1 and self.mode is Mode.DISTRIBUTED:
            return (GroupSampledGaussianEvent(noise, self.sampling_rate, steps, self.merchants_per_user),)
        # Each merchant draws and adds noise by itself: a user of k merchants takes part in k times the steps.
        return (SampledGaussianEvent(noise, self.sampling_rate, steps * self.merchants_per_user),)

    def _gaussian(self, noise: float) -> tuple[DpEvent, ...]:
        if self.merchants_per_user > 1 and self.mode is Mode.DISTRIBUTED:
            return (GaussianEvent(noise / self.merchants_per_user),)
        return (GaussianEvent(noise),) * self.merchants_per_user

    def epsilon_after(self, round: int) -> float:
        """Epsilon spent once `round` rounds are done; inf in mode `none` from round 1 on."""
        if not self.private:
            return math.inf if round > 0 else 0.0
        return min(self.epsilon, _cost(self.events_after(round), self.delta, self.accountant))

    @property
    def sharing(self) -> Sharing | None:
        """Tolerance, length and grid of the modes that share noise; None in the others."""
        if self.mode not in SHARED_NOISE:
            return None
        tolerance = Tolerance(self.cohort, self.dropouts, self.colluders)
        return Sharing(tolerance, self.coordinates, self.scale_log2)

    def merchant_noise(self, family: str) -> float:
        """Deviation of the noise that every merchant adds to each number of a release, in units of the update."""
        if not self.release_events(family):
            return 0.0
        if self.mode in SHARED_NOISE:
            return self.share(family).deviation
        prefix = "" if family == "training" else f"{family}_"
        noise, norm = getattr(self, f"{prefix}noise_multiplier"), getattr(self, f"{prefix}clipping_norm")
        return float(noise * norm)

    def share(self, family: str) -> NoiseShare:
        """What every merchant adds to this release, its grid and the room in the ring.

        Raises CalibrationError unless the mode shares noise and the release is made.
        """
        if self.sharing is None or not self.release_events(family):
            raise CalibrationError(f"mode {str(self.mode)!r}: the release {family!r} shares no noise in this plan")
        if family == "training":
            return self.sharing.share(self.noise_multiplier, joint_norm(self.clipping_norm, self.clipping_share))
        noise, norm = getattr(self, f"{family}_noise_multiplier"), getattr(self, f"{family}_clipping_norm")
        return self.sharing.share(noise, norm)

    @property
    def _tolerance(self) -> Tolerance | None:
        return self.sharing.tolerance if self.sharing else None

    @property
    def adversary(self) -> str:
        """Against whom, in words."""
        return adversary(self.mode, self._tolerance)

    @property
    def statement(self) -> str:
        """The guarantee in words, with its unit, adversary, epsilon and delta."""
        return self.stated(self.epsilon)

    def stated(self, spent: float) -> str:
        """The guarantee in words where `spent` epsilon was used in all, of several runs perhaps."""
        words = (self.mode, self.unit, spent, self.delta, self.rounds, self.steps, self.merchants_per_user)
        return statement(*words, self._tolerance)

    @property
    def not_protected(self) -> tuple[str, ...]:
        """What the guarantee does not cover, one sentence each."""
        return not_protected(self.mode, self.unit, self.merchants_per_user, self._tolerance)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for config, card and wire; infinity is written as the string "inf"."""
        data = asdict(self)
        data.update(mode=str(self.mode), unit=str(self.unit))
        return {k: "inf" if v == math.inf else v for k, v in data.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The plan that `to_dict` wrote, checked again as if it were new."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise CalibrationError(f"a plan has no fields {unknown}; it has {sorted(known)}")
        try:
            values: dict[str, Any] = {k: math.inf if v == "inf" else v for k, v in data.items()}
            return cls(**values)
        except TypeError as error:
            raise CalibrationError(f"a plan lacks fields or holds wrong types: {error}") from None


def calibrate(request: PrivacyRequest) -> PrivacyPlan:
    """The plan with the smallest training noise whose total epsilon is at most the request's.

    Popularity and gate get their share of mu² as one Gaussian release each; the training noise is found by
    root search on the accountant. Raises CalibrationError where no noise meets the request.
    """
    mode = mode_of(request.mode)
    unit = unit_of(request.unit, request.merchants_per_user)
    base = PrivacyPlan(
        mode=Mode.NONE,
        unit=unit,
        epsilon=math.inf,
        delta=request.delta,
        clipping_norm=request.clipping_norm,
        noise_multiplier=0.0,
        sampling_rate=request.sampling_rate,
        steps_per_round=request.steps_per_round,
        rounds=request.rounds,
        popularity_clipping_norm=request.popularity_clipping_norm,
        gate_clipping_norm=request.gate_clipping_norm,
        merchants_per_user=request.merchants_per_user,
        accountant=request.accountant,
    )
    if mode is Mode.NONE:
        return base
    _check_budget(request)
    names = () if mode not in SHARED_NOISE else _SHARING + (_ADAPTIVE if request.clipping_quantile else ())
    sharing = {name: getattr(request, name) for name in names}
    mu = gaussian_mu(request.epsilon / (1 + _OTHER_MACHINES), request.delta * (1 - DRAWN))
    scale = _releases_per_unit(mode, request.merchants_per_user) / mu
    one_shot: dict[str, Any] = {
        f"{name}_noise_multiplier": scale / math.sqrt(share) if share > 0 else 0.0
        for name, share in (("popularity", request.popularity_share), ("gate", request.gate_share))
    }

    def plan(noise: float) -> PrivacyPlan:
        return replace(base, mode=mode, epsilon=math.inf, noise_multiplier=noise, **one_shot, **sharing)

    def total(noise: float) -> float:
        return _cost(plan(noise).events, request.delta, request.accountant) * (1 + _OTHER_MACHINES)

    noise = smallest_noise(total, request.epsilon) if request.rounds * request.steps_per_round else 0.0
    return replace(plan(noise), epsilon=total(noise))


def _cost(events: tuple[DpEvent, ...], delta: float, accountant: Accountant) -> float:
    try:
        return epsilon(events, delta, accountant)
    except ValueError as beyond:  # the accountant's arithmetic ends before delta does
        raise CalibrationError(f"delta={delta:.3g} is too small to account for; raise it ({beyond})") from None


def _releases_per_unit(mode: Mode, merchants: int) -> float:
    """Noise factor of a one-shot release for a user of k merchants: k Gaussians, or one k times as big."""
    return float(merchants) if mode is Mode.DISTRIBUTED else math.sqrt(merchants)


def _check_budget(request: PrivacyRequest) -> None:
    if not (request.epsilon > 0 and math.isfinite(request.epsilon)):
        raise CalibrationError(f"epsilon must be positive and finite, found {request.epsilon}; else use mode none")
    shares = (request.popularity_share, request.gate_share)
    trains = request.rounds * request.steps_per_round > 0
    if min(shares) < 0 or sum(shares) > 1 or (trains and sum(shares) == 1):
        raise CalibrationError(
            f"popularity_share and gate_share must be >= 0 and leave something for training, found {shares}"
        )
    if request.clipping_quantile and mode_of(request.mode) is not Mode.DISTRIBUTED:
        raise CalibrationError(
            f"clipping_quantile={request.clipping_quantile:g} takes mode distributed; set it to 0 in mode "
            f"{str(request.mode)!r}"
        )


def _check_sharing(plan: PrivacyPlan) -> None:
    """That each release's share exists, on this grid and in this ring, and is drawn exactly enough."""
    if plan.mode in SHARED_NOISE and not (plan.cohort and plan.coordinates):
        raise CalibrationError(
            f"mode {plan.mode} shares its noise: give cohort, dropouts, colluders, coordinates and scale_log2"
        )
    if plan.sharing is None:
        return
    if plan.rounds and plan.steps_per_round != 1:
        raise CalibrationError(
            f"mode {plan.mode} sums once per round: steps_per_round must be 1, found {plan.steps_per_round}"
        )
    if plan.epsilon == math.inf:
        return
    for family in _FAMILIES:
        if plan.release_events(family) and (family != "training" or plan.rounds):
            plan.share(family)
    releases = (plan.steps + 2) * plan.merchants_per_user  # a user's merchants may sit in as many rosters
    plan.sharing.check_draws(releases, plan.epsilon, DRAWN * plan.delta)

# SPDX-License-Identifier: Apache-2.0
"""What a sequence of private releases costs: events as data, one total epsilon.

Adjacency: one unit (see `privacy.plan`) added or removed. Every event releases a sum whose L2 sensitivity is
`clipping_norm`, with Gaussian noise of deviation `noise_multiplier * clipping_norm`.

`prv` (default) composes privacy-loss random variables numerically (Gopi et al. 2021, arXiv 2106.02848) with
Opacus's discretisation and convolution, on loss distributions of our own that are exact at sampling rate 1
and stable at small rates; both directions of adjacency, the larger counts. `rdp` is Opacus's Rényi
accountant: looser, never smaller, used as a check and above epsilon 50. Gaussian events alone use the exact
formula (Balle & Wang 2018).

Guarantees:
- the epsilon is an upper bound: numerical error is added, never subtracted
- a millionth of delta is kept for the distance of drawn noise from the exact distribution
- an unknown event is refused, never guessed
- without noise the epsilon is infinite
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from privacy.errors import AccountingError, CalibrationError

__all__ = [
    "DRAWN",
    "Accountant",
    "DpEvent",
    "GaussianEvent",
    "GroupSampledGaussianEvent",
    "SampledGaussianEvent",
    "epsilon",
    "event_from_dict",
    "event_to_dict",
    "fits",
    "gaussian_epsilon",
    "gaussian_mu",
    "smallest_noise",
]

Accountant = Literal["prv", "rdp"]
_ACCOUNTANTS: Final = ("prv", "rdp")
DRAWN: Final = 1e-6  # share of delta that is kept for how far drawn noise is from exact
_RDP_ONLY_ABOVE: Final = 50.0  # nothing is protected there: a loose figure says so as well as a tight one
_ALPHAS: Final = tuple([1 + x / 20 for x in range(1, 200)] + list(range(11, 64)) + [80, 128, 256, 512, 1024])


def _check_noise(noise_multiplier: float) -> None:
    if not (isinstance(noise_multiplier, (int, float)) and noise_multiplier >= 0):
        raise AccountingError(
            f"noise_multiplier must be a number >= 0, found {noise_multiplier!r}; "
            "it is the noise's standard deviation in units of the clipping norm"
        )


def _check_rate_and_steps(sampling_rate: float, steps: int) -> None:
    if not (isinstance(sampling_rate, (int, float)) and 0 <= sampling_rate <= 1):
        raise AccountingError(f"sampling_rate must lie in [0, 1], found {sampling_rate!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise AccountingError(f"steps must be a whole number >= 0, found {steps!r}")


@dataclass(frozen=True, slots=True)
class GaussianEvent:
    """One Gaussian release over all users (no sampling)."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class SampledGaussianEvent:
    """`steps` Gaussian releases, each over users drawn independently with `sampling_rate` (Poisson)."""

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier)
        _check_rate_and_steps(self.sampling_rate, self.steps)


@dataclass(frozen=True, slots=True)
class GroupSampledGaussianEvent:
    """As `SampledGaussianEvent`, for a unit of `group_size` samples under *one* noise, each drawn by itself.

    A user of k merchants whose sums share one distributed noise: Binomial(k, q) of their samples are in a
    step, so the loss is that of the mixture of N(j, sigma²), j ~ Binomial(k, q) (Choquette-Choo et al. 2024,
    Lemma 4.5).
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    group_size: int

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier)
        _check_rate_and_steps(self.sampling_rate, self.steps)
        if isinstance(self.group_size, bool) or not isinstance(self.group_size, int) or self.group_size < 1:
            raise AccountingError(f"group_size must be a whole number >= 1, found {self.group_size!r}")


DpEvent = GaussianEvent | SampledGaussianEvent | GroupSampledGaussianEvent
_EVENTS: Final[dict[str, type[Any]]] = {
    "gaussian": GaussianEvent,
    "sampled_gaussian": SampledGaussianEvent,
    "group_sampled_gaussian": GroupSampledGaussianEvent,
}


def event_to_dict(event: DpEvent) -> dict[str, Any]:
    """The event as plain JSON data, tagged with its kind."""
    for tag, kind in _EVENTS.items():
        if type(event) is kind:
            return {"event": tag, **asdict(event)}
    raise _unknown(event)


def event_from_dict(data: Mapping[str, Any]) -> DpEvent:
    """The event that `event_to_dict` wrote. Raises AccountingError for an unknown kind, field or value."""
    fields = dict(data)
    kind = _EVENTS.get(str(fields.pop("event", None)))
    if kind is None:
        raise _unknown(data)
    try:
        event: DpEvent = kind(**fields)
    except TypeError as error:
        raise AccountingError(f"expected the fields of {kind.__name__}, found {sorted(fields)}: {error}") from None
    return event


def _unknown(event: object) -> AccountingError:
    return AccountingError(
        f"expected one of the events {sorted(_EVENTS)}, found {event!r}; "
        "an unknown mechanism cannot be accounted for: add its loss distribution to privacy.accountant first"
    )


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Exact epsilon of the Gaussian mechanism with sensitivity / deviation = `mu` (Balle & Wang 2018, Thm 8)."""
    if mu == 0:
        return 0.0
    if math.isinf(mu):
        return math.inf

    def excess(eps: float) -> float:
        log_tail = eps + special.log_ndtr(-eps / mu - mu / 2)
        return float(special.ndtr(mu / 2 - eps / mu) - math.exp(log_tail) - delta)

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    root = float(optimize.brentq(excess, 0.0, high, xtol=1e-12, rtol=1e-12))
    return root * (1 + 1e-9) + 1e-11


def gaussian_mu(eps: float, delta: float) -> float:
    """Largest `mu` whose Gaussian mechanism is (eps, delta)-private: the inverse of `gaussian_epsilon`."""
    low, high = 0.0, 1.0
    while gaussian_epsilon(high, delta) <= eps:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_epsilon(middle, delta) <= eps else (low, middle)
    return low


def epsilon(events: Iterable[DpEvent], delta: float, accountant: Accountant = "prv") -> float:
    """Total epsilon at `delta` of all events together, in any order: an upper bound.

    Raises AccountingError for an unknown event or accountant and for delta outside (0, 1).
    """
    _check_delta(delta)
    if accountant not in _ACCOUNTANTS:
        raise AccountingError(f"accountant must be one of {_ACCOUNTANTS}, found {accountant!r}")
    return _epsilon(_canonical(events), delta * (1 - DRAWN), accountant, 0.002)


def fits(events: Iterable[DpEvent], max_epsilon: float, delta: float, accountant: Accountant = "prv") -> bool:
    """Whether `epsilon(events, delta) <= max_epsilon`, trying the cheap bounds first."""
    _check_delta(delta)
    composed = _canonical(events)
    return any(
        _epsilon(composed, delta * (1 - DRAWN), which, error) <= max_epsilon
        for which, error in (("rdp", 0.0), ("prv", 0.02), ("prv", 0.002))
        if which == "rdp" or accountant == "prv"
    )


def smallest_noise(total: Callable[[float], float], target: float) -> float:
    """Smallest noise multiplier, to 0.01 %, at which total(noise) <= target; total falls in noise.

    Raises CalibrationError when 1e6 is not enough.
    """
    low, high = 0.1, 1.0
    while total(high) > target:
        low, high = high, 2 * high
        if high > 1e6:
            raise CalibrationError(
                f"no noise multiplier below 1e6 meets epsilon {target:g}; raise epsilon or delta"
            )
    while low > 1e-3 and total(low) <= target:
        low, high = low / 2, low
    if total(low) <= target:
        return low
    root = math.exp(
        optimize.brentq(lambda x: math.log(total(math.exp(x)) / target), math.log(low), math.log(high), xtol=5e-5)
    )
    while total(root) > target:
        root *= 1 + 5e-5
    return float(root)


def _check_delta(delta: float) -> None:
    if not (isinstance(delta, float) and 0 < delta < 1):
        raise AccountingError(f"delta must lie in (0, 1), found {delta!r}; well below 1 / users, say 1e-5")


_Mechanism = tuple[float, float, int]  # noise multiplier, sampling rate, group size
_Composed = tuple[tuple[_Mechanism, int], ...]


def _canonical(events: Iterable[DpEvent]) -> _Composed:
    """Equal mechanisms merged, all Gaussians merged into one exactly, what costs nothing dropped."""
    counts: Counter[_Mechanism] = Counter()
    mu_squared = 0.0
    for event in events:
        if type(event) is GaussianEvent:
            sigma, rate, steps, group = event.noise_multiplier, 1.0, 1, 1
        elif type(event) is SampledGaussianEvent:
            sigma, rate, steps, group = event.noise_multiplier, event.sampling_rate, event.steps, 1
        elif type(event) is GroupSampledGaussianEvent:
            sigma, rate, steps, group = (
                event.noise_multiplier,
                event.sampling_rate,
                event.steps,
                event.group_size,
            )
        else:
            raise _unknown(event)
        if steps == 0 or rate == 0 or math.isinf(sigma):
            continue
        if sigma == 0:
            mu_squared = math.inf
        elif rate == 1:
            mu_squared += steps * (group / sigma) ** 2
        else:
            counts[float(sigma), float(rate), group] += steps
    if mu_squared > 0:
        counts[1 / math.sqrt(mu_squared), 1.0, 1] = 1
    return tuple(sorted(counts.items()))


@lru_cache(maxsize=4096)
def _epsilon(composed: _Composed, delta: float, accountant: str, relative_error: float) -> float:
    if not composed:
        return 0.0
    if any(sigma == 0 for (sigma, _, _), _ in composed):
        return math.inf
    if all(rate == 1 for (_, rate, _), _ in composed):
        return gaussian_epsilon(1 / composed[0][0][0], delta)
    loose = _rdp_epsilon(composed, delta)
    if accountant == "rdp" or loose > _RDP_ONLY_ABOVE:
        return loose
    error = max(relative_error * loose, 1e-4)
    return max(0.0, min(loose, max(_prv_epsilon(composed, delta, error, add) for add in (False, True))))


@lru_cache(maxsize=4096)
def _rdp_step(mechanism: _Mechanism) -> npt.NDArray[np.float64]:
    from opacus.accountants.analysis.rdp import compute_rdp

    sigma, rate, group = mechanism
    if group > 1:
        from privacy.loss_distributions import group_renyi

        return np.array([group_renyi(sigma, rate, group, alpha) for alpha in _ALPHAS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=list(_ALPHAS)), np.float64)


def _rdp_epsilon(composed: _Composed, delta: float) -> float:
    from opacus.accountants.analysis.rdp import get_privacy_spent

    total = sum((count * _rdp_step(mechanism) for mechanism, count in composed), np.zeros(len(_ALPHAS)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "optimal order is the largest alpha": still an upper bound
        eps, _ = get_privacy_spent(orders=list(_ALPHAS), rdp=total, delta=delta)
    return max(0.0, float(eps))


def _half_width(composed: _Composed, delta_error: float, eps_error: float) -> float:
    """Beyond this loss the total has mass below delta_error (Gopi et al. 2021, Remark 5.6, by RDP)."""
    total = sum(count for _, count in composed)
    whole = _rdp_epsilon(composed, delta_error / 4)
    each = [_rdp_epsilon(((mechanism, 1),), delta_error / (8 * total)) for mechanism, _ in composed]
    return max(whole, *each, eps_error) + 3


def _prv_epsilon(composed: _Composed, delta: float, eps_error: float, add: bool) -> float:
    """Upper bound by PRV composition in one direction of adjacency (Gopi et al. 2021, Thm 5.5)."""
    from opacus.accountants.analysis import prv

    from privacy.loss_distributions import SampledGaussianLoss

    delta_error = delta / 1000
    losses = [SampledGaussianLoss(sigma, rate, group, add) for (sigma, rate, group), _ in composed]
    counts = [count for _, count in composed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of RDP orders and of quadrature at the edge of the support
        half_width = _half_width(composed, delta_error, eps_error)
        mesh = eps_error / math.sqrt(sum(counts) * math.log(12 / delta_error) / 2)
        domain = prv.Domain.create_aligned(-half_width, half_width, mesh)
        parts = [
            prv.discretize(prv.TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max), domain)
            for loss in losses
        ]
        composed_loss = prv.compose_heterogeneous(parts, counts)
        _, _, upper = composed_loss.compute_epsilon(delta, delta_error, eps_error)
    return float(upper)

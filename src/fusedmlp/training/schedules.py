"""Learning-rate schedules: the rate of every step, computed on the host in float64.

A schedule is a pure function of the position in the training and of its past losses. It has no
state, so a resumed training gets the same rates, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

import numpy as np

from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.portable import half_cosine, inverse_powers, powers
from fusedmlp.scalars import real, store_reals, whole
from fusedmlp.training.functions import check_arguments, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp.types import Float64Vector


@dataclass(frozen=True, slots=True)
class Span:
    """The steps whose rates are computed, and what came before them.

    Parameters
    ----------
    first_step
        Steps taken before this span.
    n_steps
        Steps in the span, all of one epoch.
    steps_per_epoch, epochs
        Length of the whole training; cosine and one-cycle are shaped to it.
    losses
        Mean training loss of each finished epoch, oldest first.
    """

    first_step: int
    n_steps: int
    steps_per_epoch: int
    epochs: int
    losses: Sequence[float] = ()

    @property
    def epoch(self) -> int:
        """Epochs finished before this span."""
        return self.first_step // self.steps_per_epoch

    def steps(self) -> Float64Vector:
        """Return the steps taken before each step of the span: (n_steps,)."""
        return np.arange(self.first_step, self.first_step + self.n_steps, dtype=np.float64)

    def progress(self) -> Float64Vector:
        """Return the fraction of the training that precedes each step: (n_steps,) in [0, 1]."""
        last = max(1, self.steps_per_epoch * self.epochs - 1)
        return np.minimum(self.steps() / last, 1.0)


class Schedule(Protocol):
    """Computes learning rates from a base rate and a span."""

    def rates(self, lr: float, span: Span) -> Float64Vector:
        """Return the learning rate of each step of ``span``: (n_steps,) float64, all ≥ 0."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The base rate at every step."""

    def rates(self, lr: float, span: Span) -> Float64Vector:
        """See :meth:`Schedule.rates`."""
        return np.full(span.n_steps, lr)


@dataclass(frozen=True, slots=True)
class Step:
    """lr·factorⁿ, where n grows by one every ``every`` epochs.

    Parameters
    ----------
    every
        Epochs with the same rate, at least 1.
    factor
        In (0, 1].
    """

    every: int = 10
    factor: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", whole("every", self.every))
        store_reals(self, "factor")
        _check_factor(self.factor)

    def rates(self, lr: float, span: Span) -> Float64Vector:
        """See :meth:`Schedule.rates`."""
        return np.full(span.n_steps, lr * powers(self.factor, span.epoch // self.every, 1)[0])


@dataclass(frozen=True, slots=True)
class Exponential:
    """lr·factorᵉ in epoch e, from 0.

    Parameters
    ----------
    factor
        In (0, 1].
    """

    factor: float = 0.95

    def __post_init__(self) -> None:
        store_reals(self, "factor")
        _check_factor(self.factor)

    def rates(self, lr: float, span: Span) -> Float64Vector:
        """See :meth:`Schedule.rates`."""
        return np.full(span.n_steps, lr * powers(self.factor, span.epoch, 1)[0])


@dataclass(frozen=True, slots=True)
class Cosine:
    """Half a cosine from lr at the first step to 0 at the last (Loshchilov and Hutter, 2017)."""

    def rates(self, lr: float, span: Span) -> Float64Vector:
        """See :meth:`Schedule.rates`."""
        return lr * half_cosine(span.progress())


@dataclass(frozen=True, slots=True)
class InverseScaling:
    """lr / (t + 1)^power with t steps taken before.

    Parameters
    ----------
    power
        At least 0; the default is scikit-learn's.
    """

    power: float = 0.5

    def __post_init__(self) -> None:
        store_reals(self, "power")
        if not (math.isfinite(self.power) and self.power >= 0.0):
            raise InvalidInputError(f"power {self.power} is not a finite number of at least 0")

    def rates(self, lr: float, span: Span) -> Float64Vector:
        """See :meth:`Schedule.rates`."""
        return lr * inverse_powers(span.steps() + 1.0, self.power)


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Half a cosine from lr/25 up to lr over the first 30 %, then half of one down to lr/250,000.

    The policy is that of Smith and Topin (2019); shape and constants are PyTorch's.

    Parameters
    ----------
    rise
        Share of the steps until the rate is highest, in (0, 1).
    start_divisor, end_divisor
        The first rate is lr / ``start_divisor``, the last lr / ``end_divisor``; at least 1.
    """

    rise: float = 0.3
    start_divisor: float = 25.0
    end_divisor: float = 250_000.0

    def __post_init__(self) -> None:
        store_reals(self, "rise", "start_divisor", "end_divisor")
        if not 0.0 < self.rise < 1.0:
            raise InvalidInputError(f"rise {self.rise} is not a share in (0, 1)")
        for name in ("start_divisor", "end_divisor"):
            if not getattr(self, name) >= 1.0:
                raise InvalidInputError(f"{name} {getattr(self, name)} is not at least 1")

    def rates(self, lr: float, span: Span) -> Float64Vector:
        """See :meth:`Schedule.rates`."""
        progress = span.progress()
        up = _half_cosine(lr / self.start_divisor, lr, progress / self.rise)
        down = _half_cosine(lr, lr / self.end_divisor, (progress - self.rise) / (1.0 - self.rise))
        return np.where(progress < self.rise, up, down)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Keep lr while the training loss falls; lower it when it stalls.

    Defaults are scikit-learn's.

    Parameters
    ----------
    factor
        Multiplies the rate when the loss has stalled; in (0, 1].
    patience
        Successive epochs that fail to lower the best training loss before it counts as stalled.
    tolerance
        Least decrease of the best loss that counts.
    """

    factor: float = 0.2
    patience: int = 10
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        store_reals(self, "factor", "tolerance")
        _check_factor(self.factor)
        object.__setattr__(self, "patience", whole("patience", self.patience))

    def rates(self, lr: float, span: Span) -> Float64Vector:
        """See :meth:`Schedule.rates`."""
        best, stalled = math.inf, 0
        for loss in span.losses[: span.epoch]:
            stalled = stalled + 1 if loss > best - self.tolerance else 0
            best = min(best, loss)
            if stalled >= self.patience:
                lr, stalled = lr * self.factor, 0
        return np.full(span.n_steps, lr)


@dataclass(frozen=True, slots=True)
class EpochFunction:
    """The learning rate that a function returns for each epoch; the base rate has no effect.

    Parameters
    ----------
    function
        Takes the number of an epoch, from 0, and returns the rate of all its steps. Its result must
        depend on nothing else. A resumed training compares its name alone.
    """

    function: Callable[[int], float]

    def __post_init__(self) -> None:
        check_arguments("schedule", self.function, "the number of an epoch, from 0")

    def __repr__(self) -> str:
        return f"EpochFunction({name_of(self.function)})"

    def rates(self, lr: float, span: Span) -> Float64Vector:
        """See :meth:`Schedule.rates`."""
        rate = real(f"schedule {name_of(self.function)} returned", self.function(span.epoch))
        if not (math.isfinite(rate) and rate >= 0.0):
            raise InvalidInputError(
                f"schedule {name_of(self.function)} returned the learning rate {rate} for epoch "
                f"{span.epoch}: rates are finite and at least 0"
            )
        return np.full(span.n_steps, rate, dtype=np.float64)


ScheduleLike: TypeAlias = "Schedule | str | Callable[[int], float]"
"""A schedule, the name of one, or a function for :class:`EpochFunction`."""

_KINDS: Final[dict[str, type[Schedule]]] = {
    "constant": Constant,
    "step": Step,
    "exponential": Exponential,
    "cosine": Cosine,
    "inverse-scaling": InverseScaling,
    "one-cycle": OneCycle,
    "adaptive": Adaptive,
}
SCHEDULES: Final = tuple(_KINDS)


def make_schedule(name: str) -> Schedule:
    """Build the schedule ``name``, one of :data:`SCHEDULES`, with its defaults."""
    if name not in _KINDS:
        raise UnknownNameError.of("schedule", name, SCHEDULES)
    return _KINDS[name]()


def as_schedule(schedule: ScheduleLike) -> Schedule:
    """Return a schedule, given itself, by name with its defaults, or as a function of the epoch.

    Raises
    ------
    InvalidInputError
        It is none of these.
    """
    if isinstance(schedule, str):
        return make_schedule(schedule)
    if isinstance(schedule, type):
        raise InvalidInputError(f"schedule is the class {schedule.__name__}: give an object of it")
    if callable(getattr(schedule, "rates", None)):
        return cast("Schedule", schedule)
    if callable(schedule):
        return EpochFunction(schedule)
    raise InvalidInputError(
        f"schedule {schedule!r:.80} is no schedule: give one of fusedmlp.training.schedules, a "
        f"name of {', '.join(SCHEDULES)}, or a function that takes the number of an epoch"
    )


def _half_cosine(start: float, end: float, progress: Float64Vector) -> Float64Vector:
    return end + (start - end) * half_cosine(np.clip(progress, 0.0, 1.0))


def _check_factor(factor: float) -> None:
    if not 0.0 < factor <= 1.0:
        raise InvalidInputError(f"factor {factor} is not in (0, 1]")

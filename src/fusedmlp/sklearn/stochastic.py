"""What the solvers sgd and adam need beside the engine: the rate, and an epoch with its loss.

Everything here follows scikit-learn, so that with the same ``random_state`` the same batches are
seen in the same order at the same rates; schedules that it has not are those of
:mod:`fusedmlp.training.schedules`. When to stop is decided in curves.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from fusedmlp.backend import BatchMetrics
from fusedmlp.training.chunks import EpochChunks

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.backend import Data, Engine
    from fusedmlp.training.schedules import Schedule, Span
    from fusedmlp.types import Float64Vector, Inputs, IntArray

SMALLEST_RATE: Final = 1e-6
"""An adaptive rate is divided no further below this; scikit-learn's bound."""

DIVISOR: Final = 5.0
"""What an adaptive rate is divided by; scikit-learn's."""


@dataclass(slots=True)
class LearningRate:
    """The rate: scikit-learn's move between epochs only, a planned one within them too.

    Parameters
    ----------
    schedule
        ``constant``, ``invscaling``, ``adaptive`` or ``planned``.
    initial, power
        ``invscaling`` gives initial / (t + 1)^power after t rows.
    now
        Of the next step, or the last of a planned epoch.
    plan
        What gives the rates of a planned fit.
    """

    schedule: str
    initial: float
    power: float
    now: float = 0.0
    plan: Schedule | None = None

    def __post_init__(self) -> None:
        self.now = self.initial

    def rates(self, span: Span) -> Float64Vector:
        """Return the rate of each of an epoch's steps: (n_steps,)."""
        if self.plan is None:
            return np.full(span.n_steps, self.now)
        planned = self.plan.rates(self.initial, span)
        self.now = float(planned[-1])
        return planned

    def epoch_ended(self, rows_seen: int) -> None:
        """Move the rate after an epoch."""
        if self.schedule == "invscaling":
            self.now = self.initial / (rows_seen + 1) ** self.power

    @property
    def is_smallest(self) -> bool:
        """Whether an adaptive rate has been lowered as far as it goes."""
        return self.schedule == "adaptive" and self.now <= SMALLEST_RATE

    def lowered(self) -> bool:
        """Lower a rate that has stopped helping; False where training should end instead."""
        if self.schedule != "adaptive" or self.is_smallest:
            return False
        self.now /= DIVISOR
        return True


class HeldOut(NamedTuple):
    """The rows that early stopping watches.

    Parameters
    ----------
    rows
        (n,) row numbers of the data set.
    X
        (N, D), the whole data set.
    y, sample_weight
        (n,) or (n, K) as users gave them, and (n,) or None: of these rows alone.
    """

    rows: IntArray
    X: Inputs
    y: npt.NDArray[Any]
    sample_weight: npt.NDArray[Any] | None


class Epochs:
    """Epoch after epoch over the same rows.

    Parameters
    ----------
    engine, data
        The engine, loaded, and the data set staged on it.
    rows
        (n,) row numbers to train on.
    random_state
        Draws the order of each epoch; None for the order of ``rows``.
    alpha
        Strength of the L2 penalty. The engine has that of a whole batch.
    outputs
        What the loss is divided by: K for the squared error, else 1.
    """

    def __init__(
        self,
        engine: Engine,
        data: Data,
        rows: IntArray,
        random_state: np.random.RandomState | None,
        alpha: float,
        outputs: int,
    ) -> None:
        self._engine, self._data, self._rows = engine, data, rows
        self._random_state, self._alpha, self.outputs = random_state, alpha, outputs
        starts = np.arange(0, len(rows), engine.batch_size)
        self._sizes = np.diff(np.append(starts, len(rows)))
        self._slices = EpochChunks(engine, data)
        self._squares = self._sum_of_squares() if alpha else 0.0

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self._sizes)

    def run(self, rates: Float64Vector, told: Callable[[int], None]) -> BatchMetrics:
        """Train on every row once.

        Parameters
        ----------
        rates
            (n_steps,) learning rate of each batch.
        told
            Hears now and then of how many rows have been trained on.
        """
        if self._random_state is not None:
            chosen = np.arange(len(self._rows))
            self._random_state.shuffle(chosen)
            self._rows = self._rows[chosen]
        rows = self._rows
        if not self._alpha or self._sizes[-1] == self._engine.batch_size:
            return self._slices.train(rows, rates, told)
        whole = len(rows) - int(self._sizes[-1])
        parts = [self._slices.train(rows[:whole], rates[:-1], told)]
        if parts[0].first_non_finite() is None:
            parts.append(self._last_batch(rows[whole:], float(rates[-1])))
            told(len(rows))
        return BatchMetrics.joined(parts)

    def loss(self, sums: BatchMetrics) -> float:
        """Return the mean of an epoch's batches' losses, penalty included; once for each epoch.

        scikit-learn adds the penalty of the weights that each batch finds. Here Σ W² is known at
        both ends of the epoch, and taken to move evenly between them.
        """
        if len(sums.losses) < len(self._sizes):
            return float("nan")  # the epoch was not finished
        weights = np.where(sums.weights > 0.0, sums.weights, 1.0)
        loss = float(np.sum(sums.losses / weights * self._sizes)) / self.outputs
        if self._alpha:
            before, self._squares, n = self._squares, self._sum_of_squares(), len(self._sizes)
            with np.errstate(invalid="ignore", over="ignore"):  # where training has diverged
                squares = before + (self._squares - before) * np.arange(n) / n
                loss += 0.5 * self._alpha * float(np.sum(squares * self._sizes / weights))
        return loss / len(self._rows)

    def _sum_of_squares(self) -> float:
        return sum(float(np.vdot(W, W)) for W in self._engine.parameters().weights)

    def _last_batch(self, rows: IntArray, lr: float) -> BatchMetrics:
        """Take the step of a last batch that is smaller, and so has more of the penalty."""
        engine = self._engine
        sums, gradients = engine.loss_and_gradients(self._data, rows)
        weight = float(sums.weights[0])
        if weight > 0.0:
            missing = self._alpha / weight - engine.objective.l2
            for W, dW in zip(engine.parameters().weights, gradients.weights, strict=True):
                dW += missing * W
        if not all(np.isfinite(gradient).all() for gradient in gradients):
            return engine.train_epoch(self._data, rows, np.array([lr]))  # spoils the weights too
        engine.apply_gradients(gradients, lr)
        return sums

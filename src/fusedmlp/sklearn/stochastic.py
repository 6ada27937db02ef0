"""What the solvers sgd and adam need beside the engine: the rate, and an epoch with its loss.

Everything here follows scikit-learn, so that with the same ``random_state`` the same batches are
seen in the same order at the same rates. When to stop is decided in base.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from fusedmlp.backend import Data, Engine
    from fusedmlp.types import IntArray

SMALLEST_RATE: Final = 1e-6
"""An adaptive rate is divided no further below this; scikit-learn's bound."""

DIVISOR: Final = 5.0
"""What an adaptive rate is divided by; scikit-learn's."""


@dataclass(slots=True)
class LearningRate:
    """The rate, which moves between epochs only.

    Parameters
    ----------
    schedule
        ``constant``, ``invscaling`` or ``adaptive``.
    initial, power
        ``invscaling`` gives initial / (t + 1)^power after t rows.
    """

    schedule: str
    initial: float
    power: float
    now: float = 0.0

    def __post_init__(self) -> None:
        self.now = self.initial

    def epoch_ended(self, rows_seen: int) -> None:
        """Move the rate after an epoch."""
        if self.schedule == "invscaling":
            self.now = self.initial / (rows_seen + 1) ** self.power

    def lowered(self) -> bool:
        """Lower a rate that has stopped helping; False where training should end instead."""
        if self.schedule != "adaptive" or self.now <= SMALLEST_RATE:
            return False
        self.now /= DIVISOR
        return True


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
        Strength of the L2 penalty, for the loss that is reported.
    outputs
        What the loss is divided by: K for regression, else 1.
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
        self._random_state, self._alpha, self._outputs = random_state, alpha, outputs
        starts = np.arange(0, len(rows), engine.batch_size)
        self._sizes = np.diff(np.append(starts, len(rows)))

    def run(self, lr: float) -> float:
        """Train on every row once; return the mean of the batches' losses, penalty included.

        The penalty is that of the weights after the epoch; scikit-learn adds every batch's own.
        """
        if self._random_state is not None:
            chosen = np.arange(len(self._rows))
            self._random_state.shuffle(chosen)
            self._rows = self._rows[chosen]
        rates = np.full(len(self._sizes), lr)
        sums = self._engine.train_epoch(self._data, self._rows, rates)
        self._engine.synchronize()
        weights = np.where(sums.weights > 0.0, sums.weights, 1.0)
        loss = float(np.sum(sums.losses / weights * self._sizes)) / self._outputs
        if self._alpha:
            squares = sum(float(np.vdot(W, W)) for W in self._engine.parameters().weights)
            loss += 0.5 * self._alpha * squares * float(np.sum(self._sizes / weights))
        return loss / len(self._rows)

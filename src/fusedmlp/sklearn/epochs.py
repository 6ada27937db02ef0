"""Epochs as scikit-learn's MLP counts them: row order, L2 penalty of the last batch, mean loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import BatchMetrics
from fusedmlp.training.chunks import EpochChunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.backend import Data, Engine
    from fusedmlp.training.loop import RowOrder
    from fusedmlp.types import Float64Vector, IntArray


def row_order(rows: IntArray, random_state: np.random.RandomState | None) -> RowOrder:
    """Return scikit-learn's row order: each epoch shuffles the order of the one before.

    Parameters
    ----------
    rows
        (n,) row numbers to train on.
    random_state
        Generator of the shuffles; None to keep the order of ``rows``.
    """

    def order(_epoch: int) -> IntArray:
        nonlocal rows
        if random_state is not None:
            chosen = np.arange(len(rows))
            random_state.shuffle(chosen)
            rows = rows[chosen]
        return rows

    return order


class PenalisedEpochs(EpochChunks):
    """Trains epochs and computes their loss, both with scikit-learn's L2 penalty.

    scikit-learn divides α by the number of rows of each batch. The engine has one strength, that
    of a whole batch, so a smaller last batch is trained with gradients that are corrected here.

    Parameters
    ----------
    engine, data
        The engine, with a loaded state, and the labelled data set staged on it.
    n_rows
        Rows of one epoch.
    alpha
        Strength α of the L2 penalty.
    """

    def __init__(self, engine: Engine, data: Data, n_rows: int, alpha: float) -> None:
        super().__init__(engine, data)
        self._alpha = alpha
        starts = np.arange(0, n_rows, engine.batch_size)
        self._sizes = np.diff(np.append(starts, n_rows))
        # The squared error is the mean over the outputs.
        self.loss_divisor = engine.network.n_outputs if engine.network.output == "identity" else 1

    def train(
        self, order: IntArray, rates: Float64Vector, on_progress: Callable[[int], None]
    ) -> BatchMetrics:
        """Train on every row once; see :meth:`fusedmlp.training.chunks.EpochChunks.train`."""
        if not self._alpha or self._sizes[-1] == self.engine.batch_size:
            return super().train(order, rates, on_progress)
        whole = len(order) - int(self._sizes[-1])
        parts = [super().train(order[:whole], rates[:-1], on_progress)]
        if parts[0].first_non_finite() is None:
            parts.append(self._train_last_batch(order[whole:], float(rates[-1])))
            on_progress(len(order))
        return BatchMetrics.joined(parts)

    def mean_loss(self, metrics: BatchMetrics) -> float:
        """Return the mean of the batches' losses, each with the penalty of its own weights."""
        if len(metrics.losses) < len(self._sizes):
            return float("nan")  # the epoch was cut short by a non-finite loss
        weights = np.where(metrics.weights > 0.0, metrics.weights, 1.0)
        loss = float(np.sum(metrics.losses / weights * self._sizes)) / self.loss_divisor
        if metrics.squares is not None:
            with np.errstate(invalid="ignore", over="ignore"):  # after divergence
                loss += 0.5 * self._alpha * float(np.sum(metrics.squares * self._sizes / weights))
        return loss / int(self._sizes.sum())

    def _train_last_batch(self, rows: IntArray, lr: float) -> BatchMetrics:
        """Take the step of a last batch that is smaller and has a larger penalty per row."""
        engine = self.engine
        metrics, gradients = engine.loss_and_gradients(self._data, rows)
        weight = float(metrics.weights[0])
        if weight > 0.0:
            missing = self._alpha / weight - engine.objective.l2
            for W, dW in zip(engine.parameters().weights, gradients.weights, strict=True):
                dW += missing * W
        if not all(np.isfinite(gradient).all() for gradient in gradients):
            # apply_gradients() refuses these; the weights become non-finite, as they should.
            return engine.train_epoch(self._data, rows, np.array([lr]))
        engine.apply_gradients(gradients, lr)
        return metrics

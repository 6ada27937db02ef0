"""One epoch in several engine calls, each some tenths of a second long.

Between two calls progress is reported and Ctrl-C is handled. The results do not depend on where
an epoch is cut.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fusedmlp.backend import BatchMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.backend import Data, Engine
    from fusedmlp.types import Float64Vector, IntArray

CHUNK_SECONDS: Final = 0.2
"""Target length of one engine call."""

FIRST_STEPS: Final = 16
"""Steps of the first call, before the time of a step is known."""


class EpochChunks:
    """Trains epochs in calls of about :data:`CHUNK_SECONDS`.

    Parameters
    ----------
    engine
        The engine, with a loaded state.
    data
        A labelled data set that was staged on ``engine``.
    """

    def __init__(self, engine: Engine, data: Data) -> None:
        self.engine, self._data = engine, data
        self._steps_per_call = FIRST_STEPS

    def train(
        self, order: IntArray, rates: Float64Vector, on_progress: Callable[[int], None]
    ) -> BatchMetrics:
        """Train once on the rows of ``order``, or up to the first call with a non-finite loss.

        Parameters
        ----------
        order
            (n,) row numbers.
        rates
            (n_batches,) learning rate of each step.
        on_progress
            Called after each engine call with the number of rows trained on so far.
        """
        parts: list[BatchMetrics] = []
        step, batch, steps = 0, self.engine.batch_size, len(rates)
        while step < steps:
            stop = min(step + self._steps_per_call, steps)
            start = time.perf_counter()
            rows = order[step * batch : stop * batch]
            parts.append(self.engine.train_epoch(self._data, rows, rates[step:stop]))
            self.engine.synchronize()
            per_step = (time.perf_counter() - start) / (stop - step)
            self._steps_per_call = max(1, int(CHUNK_SECONDS / max(per_step, 1e-7)))
            step = stop
            if parts[-1].first_non_finite() is not None:
                break
            on_progress(min(step * batch, len(order)))
        return BatchMetrics.joined(parts)

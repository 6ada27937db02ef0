"""An epoch in several calls of the engine, each some tenths of a second long.

Between calls progress moves and Ctrl-C is served; the bits do not depend on where an epoch is cut.
What an epoch is, and what follows it, is decided by loop.py and by the estimators.
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
"""Aim for the length of one engine call."""

FIRST_STEPS: Final = 16
"""Steps of the first call, before it is known how long a step takes."""


class EpochChunks:
    """Trains epoch after epoch in calls of about :data:`CHUNK_SECONDS`.

    Parameters
    ----------
    engine, data
        The engine, loaded, and the data set staged on it.
    """

    def __init__(self, engine: Engine, data: Data) -> None:
        self._engine, self._data = engine, data
        self._steps_per_call = FIRST_STEPS

    def train(
        self, order: IntArray, lrs: Float64Vector, told: Callable[[int], None]
    ) -> BatchMetrics:
        """Train on the rows of ``order`` once, or up to the first call with a non-finite loss.

        Parameters
        ----------
        order, lrs
            As :meth:`fusedmlp.backend.Engine.train_epoch` takes them.
        told
            Called after each call with the number of rows trained on so far.
        """
        parts: list[BatchMetrics] = []
        step, batch, steps = 0, self._engine.batch_size, len(lrs)
        while step < steps:
            stop = min(step + self._steps_per_call, steps)
            began = time.perf_counter()
            rows = order[step * batch : stop * batch]
            parts.append(self._engine.train_epoch(self._data, rows, lrs[step:stop]))
            self._engine.synchronize()
            per_step = (time.perf_counter() - began) / (stop - step)
            self._steps_per_call = max(1, int(CHUNK_SECONDS / max(per_step, 1e-7)))
            step = stop
            if parts[-1].first_non_finite() is not None:
                break
            told(min(step * batch, len(order)))
        return BatchMetrics.joined(parts)

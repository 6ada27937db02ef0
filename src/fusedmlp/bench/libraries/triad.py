"""How many bytes this machine can move: STREAM's triad, a ← b + s·c (McCalpin, 1995).

Not a benchmark of a library. Every thread has arrays of its own; a small set is run through again
and again, so that a thread's start is nothing against it. Three numbers are counted for each
element, two read and one written, as STREAM does: that a store may first fetch its line is not.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, cast

import numba
import numpy as np

from fusedmlp.bench.contract import Peer
from fusedmlp.bench.work import TRIAD_ARRAYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray

MOVED: Final = 1_000_000_000
"""Bytes in one call at least: some tens of milliseconds."""


def _triad(a: FloatArray, b: FloatArray, c: FloatArray, s: FloatArray) -> None:
    for turn in range(s.size):
        t = s[turn]  # another number in every turn: no turn can be left out
        for i in range(a.size):
            a[i] = b[i] + t * c[i]


class Triad(Peer):
    """The triad on as many threads as asked for."""

    packages = ("numba", "llvmlite")
    counts = "bytes"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        # Numba's own type does not know nogil.
        njit = cast("Callable[..., Callable[..., Callable[..., None]]]", numba.njit)
        self._run = njit(nogil=True, fastmath=True)(_triad)

    def limit(self, task: Task) -> Callable[[], float]:
        """Allocate ``task.rows`` numbers for each array, over all threads; return the loop."""
        run = self._run
        each = max(task.rows // self.threads, 1)
        moved = TRIAD_ARRAYS * each * np.dtype(task.dtype).itemsize
        repeats = max(1, -(-MOVED // (moved * self.threads)))
        factors = np.arange(repeats, dtype=task.dtype)
        arrays = [
            tuple(np.full(each, value, task.dtype) for value in (0.0, 1.0, 2.0))
            for _ in range(self.threads)
        ]

        def call() -> float:
            threads = [threading.Thread(target=run, args=(*mine, factors)) for mine in arrays]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return float(self.threads * moved * repeats)

        return call

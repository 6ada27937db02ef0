"""Data sets larger than the device's free memory: chunks of rows that go up as they are used.

The inputs stay on the host, where they may be a mapped file. A call's rows are cut into chunks of
whole batches; while the device computes on one, a thread gathers the next into pinned memory, and
a second stream copies it. The kernels see the same numbers in the same order as in a data set that
is all on the device, so the bits are the same. Targets and weights are small, and are all there.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_cupy.kernels import Batch

if TYPE_CHECKING:
    from fusedmlp.types import DenseInputs, IntArray
    from fusedmlp_cupy.device import CupyDevice
    from fusedmlp_cupy.programs import DeviceArray

CHUNK_BYTES: Final = 64 * 2**20
"""Most bytes of a chunk, or one batch where that is more; there are two, here and on the device."""

CHUNK_SHARE: Final = 8
"""A chunk takes at most one part in so many of the device's free memory."""

ROW_BYTES: Final = 32
"""Beside its data set a call keeps on the device, for each row: its number, loss and hit."""


def fits(device: CupyDevice, n_bytes: int, rows: int) -> bool:
    """Tell whether a data set of so many bytes can be on the device all at once."""
    return n_bytes + ROW_BYTES * rows <= device.free_bytes()


class Chunks:
    """The inputs of one call, chunk by chunk.

    Parameters
    ----------
    x
        (N, D) checked inputs on the host.
    rows
        (n,) row numbers, or None for the data set's own order.
    n, size
        Rows in all and in each batch but the last.

    Attributes
    ----------
    batches
        Of a chunk.

    Raises
    ------
    DeviceMemoryError
        Two chunks of one batch each do not fit.
    """

    def __init__(
        self, device: CupyDevice, x: DenseInputs, rows: IntArray | None, n: int, size: int
    ) -> None:
        self._x, self._rows, self._n = x, rows, n
        budget = min(CHUNK_BYTES, device.free_bytes() // CHUNK_SHARE)
        batch_bytes = x.itemsize * int(x.shape[1]) * size
        self.batches = max(1, budget // max(1, batch_bytes))
        self._chunk = self.batches * size
        shape = (min(self._chunk, n), int(x.shape[1]))
        n_slots = 1 if self._chunk >= n else 2
        self._slots = [device.slot(shape, x.dtype) for _ in range(n_slots)]
        self._gatherer = ThreadPoolExecutor(1, "fusedmlp-gather")
        self._current = -1
        self._next: Future[int] = self._gatherer.submit(self._gather, 0)

    def of(self, batch: Batch) -> tuple[DeviceArray, Batch]:
        """Return the inputs that hold a batch, and where in them it is; batches come in order."""
        chunk = batch.first // self._chunk
        if chunk != self._current:
            self._advance(chunk)
        slot = self._slots[chunk % len(self._slots)]
        return slot.array, Batch(None, batch.first % self._chunk, batch.number, batch.size)

    def _advance(self, chunk: int) -> None:
        """Send the chunk that has been gathered, and have the next one gathered meanwhile."""
        if self._current >= 0:
            self._slots[self._current % len(self._slots)].release()
        rows = self._next.result()
        self._slots[chunk % len(self._slots)].send(rows)
        self._current = chunk
        if (chunk + 1) * self._chunk < self._n:
            self._next = self._gatherer.submit(self._gather, chunk + 1)

    def _gather(self, chunk: int) -> int:
        """Fill pinned memory with a chunk; return its rows. Runs beside the calling thread."""
        slot = self._slots[chunk % len(self._slots)]
        slot.await_sent()
        first = chunk * self._chunk
        end = min(first + self._chunk, self._n)
        into = slot.host[: end - first]
        if self._rows is None:
            np.copyto(into, self._x[first:end])
        else:
            # The rows have been checked; any other mode would gather into a copy first.
            np.take(self._x, self._rows[first:end], axis=0, out=into, mode="clip")
        return end - first

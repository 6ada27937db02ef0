"""Data sets larger than the device's free memory: chunks of rows are uploaded as they are used.

The inputs stay on the host, where they may be a mapped file. A call's rows are divided into chunks
of whole batches. While the device computes on one chunk, a thread gathers the next into pinned
memory, and a second stream copies it. The kernels get the same numbers in the same order as from a
data set on the device, so the bits are the same. Targets and weights are small and on the device.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_cupy.kernels.arguments import Batch

if TYPE_CHECKING:
    from fusedmlp.types import DenseInputs, IntArray
    from fusedmlp_cupy.runtime.device import CupyDevice
    from fusedmlp_cupy.runtime.types import DeviceArray
    from fusedmlp_cupy.tuning import Tuning

ROW_BYTES: Final = 32
"""Bytes that a call keeps on the device for each row: its number, loss and hit."""


def fits(device: CupyDevice, n_bytes: int, rows: int) -> bool:
    """Tell whether a data set of so many bytes fits on the device."""
    return n_bytes + ROW_BYTES * rows <= device.free_bytes()


class InputChunks:
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
        Batches in a chunk.

    Raises
    ------
    DeviceMemoryError
        Two chunks of one batch each do not fit.
    """

    def __init__(
        self,
        device: CupyDevice,
        tuning: Tuning,
        x: DenseInputs,
        rows: IntArray | None,
        n: int,
        size: int,
    ) -> None:
        self._x, self._rows, self._n = x, rows, n
        budget = min(tuning.chunk_bytes, device.free_bytes() // tuning.chunk_share)
        batch_bytes = x.itemsize * int(x.shape[1]) * size
        self.batches = max(1, budget // max(1, batch_bytes))
        self._chunk_rows = self.batches * size
        shape = (min(self._chunk_rows, n), int(x.shape[1]))
        n_buffers = 1 if self._chunk_rows >= n else 2
        self._buffers = [device.transfer_buffer(shape, x.dtype) for _ in range(n_buffers)]
        self._executor = ThreadPoolExecutor(1, "fusedmlp-gather")
        self._current = -1
        self._next: Future[int] = self._executor.submit(self._gather, 0)

    def locate(self, batch: Batch) -> tuple[DeviceArray, Batch]:
        """Return the chunk that holds a batch, and the batch within it; batches come in order."""
        chunk = batch.first // self._chunk_rows
        if chunk != self._current:
            self._advance(chunk)
        array = self._buffers[chunk % len(self._buffers)].array
        return array, Batch(None, batch.first % self._chunk_rows, batch.number, batch.size)

    def _advance(self, chunk: int) -> None:
        """Send the chunk that has been gathered, and start gathering the next one."""
        if self._current >= 0:
            self._buffers[self._current % len(self._buffers)].release()
        rows = self._next.result()
        self._buffers[chunk % len(self._buffers)].send(rows)
        self._current = chunk
        if (chunk + 1) * self._chunk_rows < self._n:
            self._next = self._executor.submit(self._gather, chunk + 1)

    def _gather(self, chunk: int) -> int:
        """Fill pinned memory with a chunk, on the executor's thread; return its rows."""
        buffer = self._buffers[chunk % len(self._buffers)]
        buffer.await_sent()
        first = chunk * self._chunk_rows
        end = min(first + self._chunk_rows, self._n)
        into = buffer.host[: end - first]
        if self._rows is None:
            np.copyto(into, self._x[first:end])
        else:
            # The rows have been checked; any other mode would gather into a copy first.
            np.take(self._x, self._rows[first:end], axis=0, out=into, mode="clip")
        return end - first

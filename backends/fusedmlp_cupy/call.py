"""One call of the engine: what its batches share on the device, and the sums read at its end.

A call is an epoch or a slice of one, an evaluation, or a single batch. Row numbers, the steps of
the dropout masks and the batches' weights go up once before it; the rows' losses stay on the
device, and the batches' sums are read once after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import BatchMetrics
from fusedmlp_cupy import kernels
from fusedmlp_cupy.kernels import Batch, Dropout, Targets
from fusedmlp_cupy.streaming import Chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedmlp.types import IntArray
    from fusedmlp_cupy.buffers import Buffers
    from fusedmlp_cupy.data import CupyData
    from fusedmlp_cupy.kernels import Inputs
    from fusedmlp_cupy.programs import DeviceArray, Program


@dataclass(frozen=True, slots=True)
class Masks:
    """What the dropout masks of a call depend on; no units are silenced where ``rate`` is 0."""

    seed: int
    first_step: int
    n_hidden: int
    rate: float


@dataclass(frozen=True, slots=True)
class Call:
    """What the batches of one call share.

    Parameters
    ----------
    buffers
        What keeps the call's arrays.
    inputs
        Those of the data set, or where they come from chunk by chunk.
    rows
        (n,) row numbers, or None for the data set's own order.
    n, size
        Rows in all and in each batch but the last.
    targets
        See :class:`fusedmlp_cupy.kernels.Targets`.
    dropout
        One entry a hidden layer, or none where no unit is silenced.
    sums
        (2, n_batches): where the batches' sums go.
    """

    buffers: Buffers
    inputs: Inputs | Chunks
    rows: DeviceArray | None
    n: int
    size: int
    targets: Targets
    dropout: tuple[Dropout, ...]
    sums: DeviceArray

    @property
    def is_streamed(self) -> bool:
        """Whether the inputs come chunk by chunk, so that each batch has its own place."""
        return isinstance(self.inputs, Chunks)

    def batches(self) -> Iterator[Batch]:
        """Cut the call into batches."""
        for number, first in enumerate(range(0, self.n, self.size)):
            yield Batch(self.rows, first, number, min(self.size, self.n - first))

    def side_by_side(self, number: int) -> int:
        """Count the batches from ``number`` on whose inputs can be gathered at once."""
        if isinstance(self.inputs, Chunks):
            return self.inputs.batches - number % self.inputs.batches
        return -(-self.n // self.size) - number

    def gather(self, program: Program, batch: Batch, out: DeviceArray) -> None:
        """Out (B, D) = the inputs of a batch, or of several as one; they come in their order."""
        if isinstance(self.inputs, Chunks):
            kernels.gather_rows(program, *self.inputs.of(batch), out)
        else:
            kernels.gather_rows(program, self.inputs, batch, out)

    def dropout_of(self, layer: int) -> Dropout | None:
        """Return the masks of a hidden layer."""
        return self.dropout[layer] if self.dropout else None

    def finish(self, program: Program) -> BatchMetrics:
        """Sum the rows' losses batch by batch and read the sums: the one wait of a call."""
        n_batches = self.sums.shape[1]
        kernels.batch_sums(program, self.targets, self.n, self.size, self.sums)
        losses, correct = self.buffers.device.download(self.sums)
        if self.targets.weights is not None:
            return BatchMetrics(losses, correct, self.buffers.device.download(self.targets.weights))
        counts = np.full(n_batches, self.size, np.float64)
        counts[-1] = self.n - (n_batches - 1) * self.size
        return BatchMetrics(losses, correct, counts)


def begin(
    buffers: Buffers,
    program: Program,
    data: CupyData,
    rows: IntArray | None,
    size: int,
    masks: Masks,
    *,
    mean: bool,
) -> Call:
    """Put on the device what the batches of a call need.

    Parameters
    ----------
    rows
        (n,) checked row numbers, or None for the whole data set in its own order.
    size
        Rows of each batch but the last.
    mean
        Whether the batch's delta is divided by its weight.
    """
    n = data.rows if rows is None else len(rows)
    n_batches = -(-n // size)
    assert data.y is not None
    on_device = None if rows is None else buffers.upload("rows", rows, by_row=True)
    weights = None
    if data.w is not None:
        weights = buffers.take("weights", (n_batches,), np.float64)
        kernels.batch_weights(program, data.w, on_device, n, size, weights)
    losses = buffers.take("losses", (n,), np.float64, by_row=True)
    correct = buffers.take("correct", (n,), np.float64, by_row=True)
    targets = Targets(data.y, data.w, mean, weights, losses, correct)
    dropout: tuple[Dropout, ...] = ()
    if masks.rate:
        steps = np.arange(masks.first_step, masks.first_step + n_batches, dtype=np.uint64)
        words = buffers.upload("steps", (steps % 2**32).astype(np.uint32))
        dropout = tuple(
            Dropout(words, layer, masks.seed, masks.rate) for layer in range(masks.n_hidden)
        )
    sums = buffers.take("sums", (2, n_batches), np.float64, each=2)
    inputs: Inputs | Chunks
    if isinstance(data.x, np.ndarray):
        inputs = Chunks(buffers.device, data.x, rows, n, size)
    else:
        inputs = data.x
    return Call(buffers, inputs, on_device, n, size, targets, dropout, sums)

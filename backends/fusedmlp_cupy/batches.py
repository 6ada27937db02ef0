"""The batches of one call: what they share on the device, and their sums, read at its end.

A call is an epoch or a slice of one, an evaluation, or a single batch. Row numbers, dropout steps
and batch weights are uploaded once before it. The rows' losses stay on the device, and the batches'
sums are read once after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import BatchMetrics
from fusedmlp_cupy.kernels import launches
from fusedmlp_cupy.kernels.arguments import Batch, Dropout, Targets
from fusedmlp_cupy.streaming import InputChunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedmlp.types import IntArray
    from fusedmlp_cupy.data import CupyData
    from fusedmlp_cupy.kernels.arguments import Inputs
    from fusedmlp_cupy.runtime.buffers import Buffers
    from fusedmlp_cupy.runtime.types import DeviceArray, Program
    from fusedmlp_cupy.training.context import Context


@dataclass(frozen=True, slots=True)
class DropoutSettings:
    """What determines the dropout masks of a call; without dropout ``rate`` is 0."""

    seed: int
    first_step: int
    n_hidden: int
    rate: float

    def upload(self, buffers: Buffers, n_batches: int) -> tuple[Dropout, ...]:
        """Upload the steps before each batch; return one entry a hidden layer, or none."""
        if not self.rate:
            return ()
        steps = np.arange(self.first_step, self.first_step + n_batches, dtype=np.uint64)
        words = buffers.upload("steps", (steps % 2**32).astype(np.uint32))
        return tuple(Dropout(words, layer, self.seed, self.rate) for layer in range(self.n_hidden))


@dataclass(frozen=True, slots=True)
class BatchSequence:
    """The batches of one call.

    Parameters
    ----------
    buffers
        The arrays of the call.
    inputs
        Inputs of the data set, or its chunks where it is streamed.
    rows
        (n,) row numbers, or None for the data set's own order.
    n, size
        Rows in all and in each batch but the last.
    targets
        See :class:`fusedmlp_cupy.kernels.arguments.Targets`.
    dropout
        One entry a hidden layer, or none without dropout.
    sums
        (3, n_batches): sums of losses and of hits, and Σ W² where asked for.
    squares
        (n_batches, rows): Σ w² of each row of the weights, all layers' in turn, before a batch's
        step; None where not asked for.
    """

    buffers: Buffers
    inputs: Inputs | InputChunks
    rows: DeviceArray | None
    n: int
    size: int
    targets: Targets
    dropout: tuple[Dropout, ...]
    sums: DeviceArray
    squares: DeviceArray | None

    @classmethod
    def upload(
        cls,
        context: Context,
        buffers: Buffers,
        data: CupyData,
        rows: IntArray | None,
        size: int,
        dropout: DropoutSettings,
        *,
        squared_rows: int = 0,
    ) -> BatchSequence:
        """Upload what the batches of a call share.

        Parameters
        ----------
        buffers
            Arrays for the call.
        rows
            (n,) checked row numbers, or None for the whole data set in its own order.
        size
            Rows of each batch but the last.
        squared_rows
            Rows of all weights, whose squares are summed; 0 where not asked for.
        """
        n = data.rows if rows is None else len(rows)
        n_batches = -(-n // size)
        assert data.y is not None
        rows_there = None if rows is None else buffers.upload("rows", rows, by_row=True)
        weights = None
        if data.w is not None:
            weights = buffers.take("weights", (n_batches,), np.float64)
            launches.batch_weights(context.program, data.w, rows_there, n, size, weights)
        losses = buffers.take("losses", (n,), np.float64, by_row=True)
        correct = buffers.take("correct", (n,), np.float64, by_row=True)
        mean = context.objective.reduction == "mean"
        targets = Targets(data.y, data.w, mean, weights, losses, correct)
        masks = dropout.upload(buffers, n_batches)
        sums = buffers.take("sums", (3, n_batches), np.float64, each=3)
        squares = None
        if squared_rows:
            shape = n_batches, squared_rows
            squares = buffers.take("squares", shape, np.float64, each=squared_rows)
        inputs: Inputs | InputChunks
        if isinstance(data.x, np.ndarray):
            inputs = InputChunks(context.device, context.tuning, data.x, rows, n, size)
        else:
            inputs = data.x
        return cls(buffers, inputs, rows_there, n, size, targets, masks, sums, squares)

    @property
    def is_streamed(self) -> bool:
        """Whether the inputs come chunk by chunk, so that batches have no lasting address."""
        return isinstance(self.inputs, InputChunks)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the batches in order."""
        for number, first in enumerate(range(0, self.n, self.size)):
            yield Batch(self.rows, first, number, min(self.size, self.n - first))

    def contiguous(self, number: int) -> int:
        """Count the batches from ``number`` on whose inputs one launch can gather."""
        if isinstance(self.inputs, InputChunks):
            return self.inputs.batches - number % self.inputs.batches
        return -(-self.n // self.size) - number

    def gather(self, program: Program, batch: Batch, out: DeviceArray) -> None:
        """Out (B, D) = the inputs of one batch, or of several batches as one, in order."""
        if isinstance(self.inputs, InputChunks):
            launches.gather_rows(program, *self.inputs.locate(batch), out)
        else:
            launches.gather_rows(program, self.inputs, batch, out)

    def dropout_of(self, layer: int) -> Dropout | None:
        """Return the masks of a hidden layer."""
        return self.dropout[layer] if self.dropout else None

    def square_weights(
        self, program: Program, weights: tuple[DeviceArray, ...], batch: Batch
    ) -> None:
        """Queue the sums of the rows of all weights before a batch's step, where asked for."""
        if self.squares is None:
            return
        at = 0
        for W in weights:
            launches.weight_squares(program, W, batch, at, self.squares)
            at += W.shape[0]

    def finish(self, program: Program) -> BatchMetrics:
        """Sum the rows' losses batch by batch and read the sums: the only wait of a call."""
        n_batches = self.sums.shape[1]
        launches.batch_sums(program, self.targets, self.n, self.size, self.sums)
        if self.squares is not None:
            launches.sum_squares(program, self.squares, self.sums[2:3])
        losses, correct, squares = self.buffers.device.download(self.sums)
        if self.targets.weights is not None:
            weights = self.buffers.device.download(self.targets.weights)
        else:
            weights = np.full(n_batches, self.size, np.float64)
            weights[-1] = self.n - (n_batches - 1) * self.size
        return BatchMetrics(losses, correct, weights, None if self.squares is None else squares)

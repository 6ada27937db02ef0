"""The training steps of a call, queued eagerly, in CUDA graphs or in the persistent kernel.

propagation.py and updates.py say what a step computes, execution.py which mode is used.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_cupy.kernels import launches, products
from fusedmlp_cupy.kernels.arguments import Batch
from fusedmlp_cupy.messages import one_line
from fusedmlp_cupy.training.execution import GraphCache
from fusedmlp_cupy.training.gathering import GatheredRows

if TYPE_CHECKING:
    from fusedmlp_cupy.batches import BatchSequence
    from fusedmlp_cupy.data import CupyData
    from fusedmlp_cupy.runtime.cublas import CublasHandle
    from fusedmlp_cupy.runtime.types import DeviceArray
    from fusedmlp_cupy.training.context import Context
    from fusedmlp_cupy.training.execution import Execution
    from fusedmlp_cupy.training.parameters import ParameterArrays
    from fusedmlp_cupy.training.persistent import PersistentTraining
    from fusedmlp_cupy.training.propagation import Propagation
    from fusedmlp_cupy.training.updates import Updates

ALIGNMENT: Final = 256
"""CuPy's arrays begin at multiples of so many bytes, at least."""


def capturable_cublas(context: Context, execution: Execution) -> CublasHandle | None:
    """Create the cuBLAS handle that graphs need, unless all of a network's products are small."""
    device, B = context.device, context.batch_size
    small = all(context.tuning.is_small(B, D, H) for D, H in context.network.layer_shapes)
    if execution.mode != "graph" or (small and not device.tf32):
        return None
    try:
        return device.cublas_handle()
    except (OSError, AttributeError, RuntimeError) as error:
        execution.fall_back_to_eager(f"cuBLAS gives no handle for capturing: {one_line(error)}")
        return None


def gathered_steps(context: Context, *, fused: bool) -> int:
    """Return the steps whose rows one launch gathers.

    cuBLAS may choose its kernel, and so the order of sums, by the alignment of its operands: where
    it multiplies the inputs, each batch must be aligned as whole arrays are, or is gathered alone.

    Parameters
    ----------
    fused
        Whether products.cu computes small products.
    """
    tuning, B = context.tuning, context.batch_size
    D, H = context.network.layer_shapes[0]
    batch_bytes = B * D * np.dtype(context.dtype).itemsize
    if batch_bytes % ALIGNMENT and not (fused and tuning.is_small(B, D, H)):
        return 1
    return max(1, min(tuning.group_steps, tuning.gather_ahead_bytes // batch_bytes))


class TrainingSteps:
    """The steps of one engine.

    Parameters
    ----------
    blas
        The handle whose products are captured.
    persistent
        The persistent kernel, where steps are run in it.
    """

    def __init__(
        self,
        context: Context,
        parameters: ParameterArrays,
        propagation: Propagation,
        updates: Updates,
        execution: Execution,
        blas: CublasHandle | None,
        persistent: PersistentTraining | None,
    ) -> None:
        self._context, self._parameters = context, parameters
        self._propagation, self._updates = propagation, updates
        self._graphs = GraphCache(context.device, blas, execution)
        self._persistent = persistent
        self._cursor = context.device.empty((2,), np.int64)
        layers, shapes = propagation.layers, context.network.layer_shapes
        ahead = gathered_steps(context, fused=layers.fused)
        # Of several steps; the propagation has the rows that a step gathers alone.
        self._gathered = GatheredRows(context.buffers, shapes[0][0], context.dtype, ahead)
        can_fuse = layers.can_fuse_updates(context.batch_size, shapes)
        self._fused_updates = updates.is_plain_sgd and can_fuse

    @property
    def compile_seconds(self) -> float:
        """Time that compiling the persistent kernel took."""
        return self._persistent.compile_seconds if self._persistent else 0.0

    def run(self, data: CupyData, sequence: BatchSequence, rates: DeviceArray) -> None:
        """Queue all steps of a call."""
        if self._persistent is not None:
            self._persistent.train(sequence, rates)
        elif self._context.program.strict or sequence.is_streamed:
            for batch in sequence:
                self._take_step(batch, sequence, rates)
        else:
            self._run_groups(data, sequence, rates)

    def _run_groups(self, data: CupyData, sequence: BatchSequence, rates: DeviceArray) -> None:
        """Run the steps in groups that another call can repeat.

        What a group queues does not depend on its place in the call: the cursor has that.
        """
        group_steps, size = self._context.tuning.group_steps, sequence.size
        n_full, rest = divmod(sequence.n, size)
        n_groups, n_single = divmod(n_full, group_steps)
        if n_groups:
            self._gathered.reserve(group_steps, size)
        launches.advance_cursor(self._context.program, self._cursor, 0, 0, restart=True)
        self._graphs.forget_unless(sequence.buffers.generation)
        groups = [(group_steps, size)] * n_groups + [(1, size)] * n_single
        for n_steps, rows in groups + [(1, rest)] * (rest > 0):
            group = partial(self._queue_group, n_steps, rows, sequence, rates)
            self._graphs.run(data, (n_steps, rows), group)

    def _queue_group(
        self, n_steps: int, size: int, sequence: BatchSequence, rates: DeviceArray
    ) -> None:
        """Queue steps of so many rows each, relative to the cursor, and advance it.

        One launch gathers the rows of all steps, or of as many as memory allows.
        """
        for first in range(0, n_steps, self._gathered.max_batches):
            n = min(self._gathered.max_batches, n_steps - first)
            ahead = self._gather_ahead(first, n, size, sequence) if n > 1 else None
            for i, number in enumerate(range(first, first + n)):
                batch = Batch(sequence.rows, number * size, number, size, self._cursor)
                x = None if ahead is None else ahead[i * size : (i + 1) * size]
                self._take_step(batch, sequence, rates, x)
        program = self._context.program
        launches.advance_cursor(program, self._cursor, n_steps, n_steps * size)

    def _gather_ahead(
        self, first: int, n_steps: int, size: int, sequence: BatchSequence
    ) -> DeviceArray:
        """Queue the gathering of several steps' rows, relative to the cursor."""
        rows = Batch(sequence.rows, first * size, first, n_steps * size, self._cursor)
        x = self._gathered.rows(rows.size)
        sequence.gather(self._context.program, rows, x)
        return x

    def _take_step(
        self,
        batch: Batch,
        sequence: BatchSequence,
        rates: DeviceArray,
        x: DeviceArray | None = None,
    ) -> None:
        """Queue one step: gradients and update, in one kernel for plain SGD on small products.

        Parameters
        ----------
        x
            (B, D) inputs where they have been gathered.
        """
        own, l2 = self._parameters, self._context.objective.l2
        for layer, delta, a in self._propagation.backward(batch, sequence, x):
            if self._fused_updates:
                program, W, b = self._context.program, own.W[layer], own.b[layer]
                products.sgd_gradients(program, a, delta, W, b, rates, batch, l2)
            else:
                self._propagation.layers.gradients(a, delta, own.dW[layer], own.db[layer])
        if not self._fused_updates:
            self._updates.take_step(rates, batch, l2=l2)

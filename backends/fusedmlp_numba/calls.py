"""Calls of compiled code: the record of a call, how many workers it is worth, and their start.

The engine says what is done with which rows, compiled code does it; workers.py starts the threads.
Arguments are not checked here.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from fusedmlp_numba.constants import (
    EVALUATE,
    FORWARD,
    FORWARD_ROWS,
    GRADIENTS,
    PACK,
    TRAIN,
    is_narrow,
)
from fusedmlp_numba.data import DescriptorRecord
from fusedmlp_numba.functions import APPLY, NARROW, RUN
from fusedmlp_numba.layout import address
from fusedmlp_numba.records import KERNEL_ARGUMENTS, KernelArguments, as_record
from fusedmlp_numba.small_batch import PreparedCall
from fusedmlp_numba.workers import run_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.network import Network
    from fusedmlp.types import Float64Array, Float64Vector, FloatArray, FloatDtype, IntArray
    from fusedmlp_numba.buffers import Buffers
    from fusedmlp_numba.data import DataDescriptor

MAX_INFERENCE_PARTS: Final = 16
"""Most times FORWARD_ROWS that forward and evaluate process at once, one for each worker: every
layer has room for all of them."""

WORKER_FLOPS: Final = 2.0**20
"""FLOPs of one step that are worth another worker: some ten microseconds, a few barriers."""

WORKER_INPUTS: Final = 2**22
"""Inputs to be packed that are worth another thread: about a millisecond."""

CALL_FLOPS: Final = 2.0**27
"""FLOPs of one call that are worth starting threads, which takes some hundred microseconds."""

FIRST: Final = ctypes.c_int64(0)
"""Index of the first worker, in C's type, which saves its conversion."""

Schedule: TypeAlias = "tuple[Float64Vector, Float64Array]"
"""Learning rates (n,) of batches, and Adam's numbers (n, 3)."""

UNTRAINED: Final[Schedule] = np.zeros(1), np.ones((1, 3))
"""The schedule of calls that do not update."""


def inference_parts(threads: int) -> int:
    """Return how many workers of an engine take FORWARD_ROWS rows each in inference."""
    return min(threads, MAX_INFERENCE_PARTS)


class Pass(NamedTuple):
    """One call of compiled code over all batches of ``order``.

    Parameters
    ----------
    task, data
        TRAIN, … of constants.py, and the data set.
    order, batch
        Row numbers (n,), and how many of them are one batch.
    first_step
        Steps that the optimizer has taken before; dropout masks depend on it.
    schedule
        The optimizer's numbers for each batch.
    sums, outputs
        Where sums (parts, SUMS) and outputs (n, K) are written; None where the task has none.
    """

    task: int
    data: DescriptorRecord
    order: IntArray
    batch: int
    first_step: int = 0
    schedule: Schedule = UNTRAINED
    sums: Float64Array | None = None
    outputs: FloatArray | None = None


class CallRunner:
    """Runs compiled code on the buffers of one engine, on up to ``threads`` threads.

    Attributes
    ----------
    compile_seconds
        Seconds that compiling or loading the functions has taken so far.
    """

    def __init__(self, network: Network, dtype: FloatDtype, buffers: Buffers, threads: int) -> None:
        self._network, self._dtype = network, dtype
        self._buffers, self._threads = buffers, threads
        self._parts = inference_parts(threads)
        forward = sum(2 * fan_in * fan_out for fan_in, fan_out in network.layer_shapes)
        self._flops_per_row = {
            TRAIN: network.flops_per_row,
            GRADIENTS: network.flops_per_row,
            EVALUATE: forward,
            FORWARD: forward,
        }
        self.compile_seconds = RUN[dtype].compile()
        self._function = RUN[dtype].function
        self._narrow_function: Callable[..., object] | None = None
        if is_narrow(network):
            self.compile_seconds += NARROW[dtype].compile()
            self._narrow_function = NARROW[dtype].function

    def run(self, work: Pass) -> None:
        """Run a call on as many workers as the work is worth.

        In inference, each of up to MAX_INFERENCE_PARTS workers takes ``batch`` rows at a time.
        """
        self._buffers.reserve(work.data.descriptor)
        trains = work.task in (TRAIN, GRADIENTS)
        if trains and self._narrow_function is not None and not work.data.descriptor.sparse:
            arguments = self._arguments(work, 1)  # named, so that its memory outlives the call
            self._narrow_function(address(arguments), FIRST)
            return
        workers = self._workers(work.task, len(work.order), work.batch)
        if not trains:
            work = work._replace(batch=work.batch * min(workers, self._parts))
        arguments = self._arguments(work, workers)
        self._start(address(arguments), workers)

    def prepare(
        self, descriptor: DataDescriptor, order: IntArray, outputs: FloatArray
    ) -> PreparedCall:
        """Describe the call that predicts a few rows, and reserve memory for them."""
        inputs, workers = DescriptorRecord(), self._workers(FORWARD, len(order), FORWARD_ROWS)
        inputs.write(descriptor)
        self._buffers.reserve(descriptor)
        record = self._arguments(
            Pass(FORWARD, inputs, order, FORWARD_ROWS, outputs=outputs), workers
        )
        record["check_finite"] = True
        return PreparedCall(record, ctypes.c_int64(address(record)), workers, inputs)

    def run_prepared(self, call: PreparedCall) -> None:
        """Run a call of :meth:`prepare`, with the inputs that its memory has now."""
        self._start(call.address, call.workers)

    def pack(self, descriptor: DataDescriptor, rows: int) -> None:
        """Count a dense data set's nonzero inputs, or pack them: see inputs.pack_data.

        The workers use no barrier, so that data may be staged while another thread trains.
        """
        data, order = DescriptorRecord(), np.arange(rows)
        data.write(descriptor)
        workers = max(1, min(self._threads, int(rows * self._network.n_inputs / WORKER_INPUTS)))
        arguments = self._arguments(Pass(PACK, data, order, 1), workers)
        self._start(address(arguments), workers, uses_barrier=False)

    def apply(self, lr: float, corrections: Float64Array) -> None:
        """Take one step along the gradients in the buffers, with Adam's numbers (3,)."""
        self.compile_seconds += APPLY[self._dtype].compile()
        APPLY[self._dtype].function(self._buffers.context_address, lr, address(corrections))

    def _arguments(self, work: Pass, workers: int) -> npt.NDArray[np.void]:
        """Write the arguments of a call; its data and arrays must live until it has ended."""
        lr, corrections = work.schedule
        arguments = KernelArguments(
            context=self._buffers.context_address,
            data=work.data.address,
            workers=workers,
            task=work.task,
            order=address(work.order),
            rows=len(work.order),
            batch=work.batch,
            first_step=work.first_step,
            lr=address(lr),
            corrections=address(corrections),
            rates=len(lr),
            sums=address(work.sums),
            parts=0 if work.sums is None else len(work.sums),
            outputs=address(work.outputs),
            check_finite=False,
        )
        return as_record(arguments, KERNEL_ARGUMENTS)

    def _start(
        self, arguments: int | ctypes.c_int64, workers: int, *, uses_barrier: bool = True
    ) -> None:
        """Run the call whose arguments are at an address; reset the barrier where it is used."""
        if workers == 1:
            self._function(arguments, FIRST)
            return
        if uses_barrier:
            self._buffers.barrier[:] = 0
        work = functools.partial(self._function, arguments)
        run_workers(work, workers, self._buffers.barrier)

    def _workers(self, task: int, rows: int, batch: int) -> int:
        """Return how many workers are worth their start for batches of some rows."""
        flops = self._flops_per_row[task]
        if flops * rows < CALL_FLOPS:
            return 1
        if task in (EVALUATE, FORWARD):
            batch *= self._parts
        return max(1, min(self._threads, int(flops * min(rows, batch) / WORKER_FLOPS)))

"""The Numba engine: owns the buffers, and passes whole calls to compiled code.

It validates arguments, describes calls, and decides how many threads a call is worth; workers.py
starts them. Arithmetic is in network/. There is no global state: engines may train in several
Python threads at once.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from fusedmlp.backend import BatchMetrics, Data, Engine, State, keep_threshold
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Parameters
from fusedmlp.optimizers import SGD, UPDATE_FORMULAS, Adam
from fusedmlp.validation import (
    HostData,
    check_rates,
    check_rows,
    validate_data,
    validate_inputs,
    validate_state,
)
from fusedmlp_numba.buffers import Buffers
from fusedmlp_numba.constants import (
    EVALUATE,
    FORWARD,
    FORWARD_ROWS,
    GRADIENTS,
    PACK,
    SUMS,
    TRAIN,
    is_narrow,
)
from fusedmlp_numba.data import (
    SEARCH_COST_FORWARD,
    DescriptorRecord,
    NumbaData,
    describe_data,
    skips_zeros,
    stage,
)
from fusedmlp_numba.functions import APPLY, NARROW, RUN
from fusedmlp_numba.layout import address, pack, unpack
from fusedmlp_numba.records import KERNEL_ARGUMENTS, KernelArguments, Settings, as_record
from fusedmlp_numba.small_batch import PreparedCall, SmallBatchPredictor
from fusedmlp_numba.workers import run_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.backend import EngineSpec
    from fusedmlp.types import (
        Float64Array,
        Float64Vector,
        FloatArray,
        Inputs,
        IntArray,
    )
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.small_batch import PredictionBuffer

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


class Pass(NamedTuple):
    """One call of compiled code over all batches of ``order``.

    Parameters
    ----------
    task, data
        TRAIN, … of constants.py, and the data set.
    order, batch
        Row numbers (n,), and how many of them are one batch.
    schedule
        The optimizer's numbers for each batch.
    sums, outputs
        Where sums (parts, SUMS) and outputs (n, K) are written; None where the task has none.
    """

    task: int
    data: DescriptorRecord
    order: IntArray
    batch: int
    schedule: Schedule = UNTRAINED
    sums: Float64Array | None = None
    outputs: FloatArray | None = None


class NumbaEngine(Engine):
    """One network in host memory, in panels."""

    def __init__(
        self,
        spec: EngineSpec,
        *,
        threads: int,
    ) -> None:
        super().__init__(spec)
        network, optimizer, dtype = spec.network, spec.optimizer, spec.dtype
        self._threads = threads

        self._parts = min(threads, MAX_INFERENCE_PARTS)
        most_rows = max(spec.batch_size, FORWARD_ROWS * self._parts)
        settings = _settings(spec)
        slots = len(optimizer.slots)
        self._buffers = Buffers(network, dtype, most_rows, slots, threads, settings)
        self._first_units = int(self._buffers.layout.widths[1])
        self._form = network.n_inputs, network.n_outputs, network.output, str(dtype)
        forward = sum(2 * fan_in * fan_out for fan_in, fan_out in network.layer_shapes)
        self._flops_per_row = {
            TRAIN: network.flops_per_row,
            GRADIENTS: network.flops_per_row,
            EVALUATE: forward,
            FORWARD: forward,
        }
        self._inputs, self._row_numbers = DescriptorRecord(), np.arange(most_rows)
        self._small_batches = SmallBatchPredictor(self._form, self._first_units, self._prepare_call)
        self._step = 0
        self._compile_seconds = RUN[dtype].compile()
        self._run_function = RUN[dtype].function
        self._narrow_function: Callable[..., object] | None = None
        if is_narrow(network):
            self._compile_seconds += NARROW[dtype].compile()
            self._narrow_function = NARROW[dtype].function

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`."""
        return self._compile_seconds

    def load(self, state: State) -> None:
        """See :meth:`fusedmlp.backend.Engine.load`."""
        validate_state(state, self.network, self.optimizer)
        pack(state.parameters, self._buffers.layout, self._buffers.theta)
        for slot, flat in zip(state.slots, self._buffers.slots, strict=True):
            pack(slot, self._buffers.layout, flat)
        self._step = state.step

    def parameters(self) -> Parameters:
        """See :meth:`fusedmlp.backend.Engine.parameters`."""
        return unpack(self._buffers.theta, self._buffers.layout)

    def state(self) -> State:
        """See :meth:`fusedmlp.backend.Engine.state`."""
        slots = tuple(unpack(flat, self._buffers.layout) for flat in self._buffers.slots)
        return State(self.parameters(), slots, self._step)

    def stage(
        self,
        x: Inputs,
        y: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> NumbaData:
        """See :meth:`fusedmlp.backend.Engine.stage`."""
        host = validate_data(x, y, sample_weight, self.network, self.dtype)
        return stage(host, self._form, self._first_units, self._pack)

    def forward(self, x: Inputs) -> FloatArray:
        """See :meth:`fusedmlp.backend.Engine.forward`."""
        buffer = self._small_batches.copy_unchecked(x)
        if buffer is not None:
            outputs = self._forward_small_batch(buffer)
            # NaN marks an input that is not finite, which is named below, or is the true result.
            if not (outputs.size and math.isnan(outputs.item(0))):
                return outputs
        inputs = validate_inputs(x, self.network, self.dtype)
        if self._small_batches.fits(inputs):
            return self._forward_small_batch(self._small_batches.copy(inputs))
        n_rows = inputs.shape[0]
        outputs = np.empty((n_rows, self.network.n_outputs), self.dtype)
        if len(self._row_numbers) < n_rows:
            self._row_numbers = np.arange(n_rows)
        sparse = skips_zeros(inputs, self._first_units, SEARCH_COST_FORWARD)
        descriptor, _ = describe_data(HostData(inputs, None, None), self._form, sparse=sparse)
        self._inputs.write(descriptor)
        order = self._row_numbers[:n_rows]
        self._run(Pass(FORWARD, self._inputs, order, FORWARD_ROWS, outputs=outputs))
        return outputs

    def _forward_small_batch(self, buffer: PredictionBuffer) -> FloatArray:
        call = buffer.call()
        self._start(call.address, call.workers)
        return buffer.outputs.copy()

    def _prepare_call(
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

    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.evaluate`."""
        own = self._own(data, labelled=True)
        rows = np.arange(own.rows) if rows is None else check_rows(rows, own.rows)
        return self._summed(EVALUATE, own, rows, FORWARD_ROWS)

    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[BatchMetrics, Parameters]:
        """See :meth:`fusedmlp.backend.Engine.loss_and_gradients`."""
        own = self._own(data, labelled=True)
        rows = check_rows(rows, own.rows)
        if len(rows) > self.batch_size:
            raise InvalidInputError(
                f"{len(rows)} rows are more than the engine's batch size {self.batch_size}"
            )
        sums = self._summed(GRADIENTS, own, rows, self.batch_size)
        return sums, unpack(self._buffers.gradient, self._buffers.layout)

    def apply_gradients(self, gradients: Parameters, lr: float) -> None:
        """See :meth:`fusedmlp.backend.Engine.apply_gradients`."""
        gradients.check(self.network)
        (rate,) = check_rates([lr], 1)
        pack(gradients, self._buffers.layout, self._buffers.gradient)
        (corrections,) = self._corrections(1)
        self._compile_seconds += APPLY[self.dtype].compile()
        APPLY[self.dtype].function(self._buffers.context_address, float(rate), address(corrections))
        self._step += 1

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.train_epoch`."""
        own = self._own(data, labelled=True)
        order = check_rows(order, own.rows)
        n_batches = -(-len(order) // self.batch_size)
        schedule = check_rates(lr, n_batches), self._corrections(n_batches)
        sums = self._summed(TRAIN, own, order, self.batch_size, schedule)
        self._step += n_batches
        return sums

    def synchronize(self) -> None:
        """See :meth:`fusedmlp.backend.Engine.synchronize`; every call ends with its work done."""

    def _summed(
        self,
        task: int,
        data: NumbaData,
        order: IntArray,
        batch: int,
        schedule: Schedule = UNTRAINED,
    ) -> BatchMetrics:
        """Do a task with every batch of ``order``; return the sums of every ``batch`` rows."""
        sums = np.empty((-(-len(order) // batch), SUMS))
        self._run(Pass(task, data.record, order, batch, schedule, sums))
        losses, correct, weights, squares = sums.T.copy()
        has_squares = self.spec.sums_squares and task != EVALUATE
        return BatchMetrics(losses, correct, weights, squares if has_squares else None)

    def _run(self, work: Pass) -> None:
        """Run compiled code on as many workers as the work is worth.

        In inference, each of up to MAX_INFERENCE_PARTS workers takes ``batch`` rows at a time.
        """
        self._buffers.reserve(work.data.descriptor)
        trains = work.task in (TRAIN, GRADIENTS)
        if trains and self._narrow_function is not None and not work.data.descriptor.sparse:
            self._narrow_function(address(self._arguments(work, 1)), FIRST)
            return
        workers = self._workers(work.task, len(work.order), work.batch)
        if not trains:
            work = work._replace(batch=work.batch * min(workers, self._parts))
        arguments = self._arguments(work, workers)
        self._start(address(arguments), workers)

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
            first_step=self._step,
            lr=address(lr),
            corrections=address(corrections),
            rates=len(lr),
            sums=address(work.sums),
            parts=0 if work.sums is None else len(work.sums),
            outputs=address(work.outputs),
            check_finite=False,
        )
        return as_record(arguments, KERNEL_ARGUMENTS)

    def _pack(self, descriptor: DataDescriptor, rows: int) -> None:
        """Count a dense data set's nonzero inputs, or pack them: see inputs.pack_data.

        The workers use no barrier, so that data may be staged while another thread trains.
        """
        data, order = DescriptorRecord(), np.arange(rows)
        data.write(descriptor)
        workers = max(1, min(self._threads, int(rows * self.network.n_inputs / WORKER_INPUTS)))
        arguments = self._arguments(Pass(PACK, data, order, 1), workers)
        self._start(address(arguments), workers, uses_barrier=False)

    def _start(
        self, arguments: int | ctypes.c_int64, workers: int, *, uses_barrier: bool = True
    ) -> None:
        """Run the call whose arguments are at an address; reset the barrier where it is used."""
        if workers == 1:
            self._run_function(arguments, FIRST)
            return
        if uses_barrier:
            self._buffers.barrier[:] = 0
        work = functools.partial(self._run_function, arguments)
        run_workers(work, workers, self._buffers.barrier)

    def _workers(self, task: int, rows: int, batch: int) -> int:
        flops = self._flops_per_row[task]
        if flops * rows < CALL_FLOPS:
            return 1
        if task in (EVALUATE, FORWARD):
            batch *= self._parts
        return max(1, min(self._threads, int(flops * min(rows, batch) / WORKER_FLOPS)))

    def _corrections(self, n_steps: int) -> Float64Array:
        """Adam's bias corrections and ε for each step; ones for the other optimizers."""
        if not isinstance(self.optimizer, Adam):
            return np.ones((n_steps, 3))
        corrections = self.optimizer.bias_corrections(self._step, n_steps)
        return np.column_stack([corrections, self.optimizer.epsilons(self._step, n_steps)])

    def _own(self, data: Data, *, labelled: bool) -> NumbaData:
        if not isinstance(data, NumbaData):
            raise InvalidInputError(
                f"data was staged by another backend ({type(data).__name__}): "
                "call this engine's stage()"
            )
        if data.form != self._form:
            raise InvalidInputError(
                f"data was staged for (inputs, outputs, output, dtype) {data.form}, this engine "
                f"has {self._form}: call this engine's stage()"
            )
        if labelled and not data.labelled:
            raise InvalidInputError("this data was staged without targets: pass y to stage()")
        return data


def _settings(spec: EngineSpec) -> Settings:
    """Translate the settings for compiled code."""
    network, optimizer, objective = spec.network, spec.optimizer, spec.objective
    sgd = optimizer if isinstance(optimizer, SGD) else None
    moments = None if isinstance(optimizer, SGD) else optimizer
    return Settings(
        hidden=HIDDEN_ACTIVATIONS.index(network.hidden),
        output=OUTPUTS.index(network.output),
        optimizer=UPDATE_FORMULAS.index(optimizer.kernel),
        mean=objective.reduction == "mean",
        l2=float(objective.l2),
        sums_squares=spec.sums_squares,
        keep=1.0 - network.dropout,
        threshold=np.uint64(keep_threshold(network.dropout)),
        seed=np.uint64(spec.seed),
        momentum=float(sgd.momentum) if sgd else 0.0,
        beta1=float(moments.beta1) if moments else 0.0,
        beta2=float(moments.beta2) if moments else 0.0,
        decay=float(moments.weight_decay) if moments else 0.0,
    )

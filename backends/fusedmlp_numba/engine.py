"""The Numba engine: owns the buffers, and hands whole calls to the compiled code of steps.py.

Nothing is computed here but layouts and argument checks. How many threads a call is worth is
decided here; workers.py starts them. There is no global state: engines may train in several Python
threads at once.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fusedmlp.backend import BatchMetrics, Data, Engine, State, keep_threshold
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Parameters
from fusedmlp.optimizers import SGD
from fusedmlp.validation import (
    HostData,
    check_rates,
    check_rows,
    validate_data,
    validate_inputs,
    validate_state,
)
from fusedmlp_numba.buffers import Buffers
from fusedmlp_numba.fewrows import FewCall, FewRows
from fusedmlp_numba.layout import CALL, PLANS, Call, address, as_record, pack, unpack
from fusedmlp_numba.native import Code, Native
from fusedmlp_numba.sizes import (
    APPLY_ARGUMENTS,
    EVALUATE,
    FORWARD,
    FORWARD_ROWS,
    GRADIENTS,
    OPTIMIZER_KERNELS,
    PACK,
    RUN_ARGUMENTS,
    TRAIN,
    is_narrow,
)
from fusedmlp_numba.sources import (
    FINDING_AGAIN,
    Description,
    NumbaData,
    describe,
    skips_zeros,
    stage,
)
from fusedmlp_numba.workers import run_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.network import Network, Objective
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import (
        Float64Array,
        Float64Vector,
        FloatArray,
        FloatDtype,
        Inputs,
        IntArray,
    )
    from fusedmlp_numba.fewrows import Place
    from fusedmlp_numba.sources import Source

MOST_PARTS: Final = 16
"""How many times FORWARD_ROWS forward and evaluate take at most at a time, one for each worker:
every layer has room for all of them."""

WORKER_FLOPS: Final = 2.0**20
"""Work of one step that is worth another worker: some ten microseconds, a few barriers."""

WORKER_INPUTS: Final = 2**22
"""Inputs to be packed that are worth another thread: about a millisecond."""

CALL_FLOPS: Final = 2.0**27
"""Work of one call that is worth starting threads, which takes some hundred microseconds."""


FIRST: Final = ctypes.c_int64(0)
"""The first worker's number: what is of C's type already costs nothing to convert."""

Schedule: TypeAlias = "tuple[Float64Vector, Float64Array]"
"""Learning rates (n,) of batches, and Adam's scalars (n, 3)."""

UNTRAINED: Final[Schedule] = np.zeros(1), np.ones((1, 3))
"""The schedule of calls that do not update."""


def _run_code(dtype: FloatDtype) -> Code:
    from fusedmlp_numba import steps  # with Numba, a second

    return steps.run(dtype)


def _narrow_code(dtype: FloatDtype) -> Code:
    from fusedmlp_numba import steps

    return steps.run_narrow(dtype)


def _apply_code(dtype: FloatDtype) -> Code:
    from fusedmlp_numba import steps

    return steps.apply(dtype)


RUN: Final = {
    dtype: Native(f"run_{dtype}", RUN_ARGUMENTS, functools.partial(_run_code, dtype))
    for dtype in PLANS
}
NARROW: Final = {
    dtype: Native(f"narrow_{dtype}", RUN_ARGUMENTS, functools.partial(_narrow_code, dtype))
    for dtype in PLANS
}
APPLY: Final = {
    dtype: Native(f"apply_{dtype}", APPLY_ARGUMENTS, functools.partial(_apply_code, dtype))
    for dtype in PLANS
}
"""The functions of steps.py for each floating type; the last two are compiled when first needed."""


class NumbaEngine(Engine):
    """One network in host memory, in panels."""

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        objective: Objective,
        *,
        batch_size: int,
        dtype: FloatDtype,
        seed: int,
        threads: int,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.objective = objective
        self.batch_size = batch_size
        self.dtype = dtype
        self.seed = seed
        self._threads = threads

        self._parts = min(threads, MOST_PARTS)
        room = max(batch_size, FORWARD_ROWS * self._parts)
        rules = _rules(network, optimizer, objective, seed)
        slots = len(optimizer.slots)
        self._buffers = Buffers(network, dtype, room, slots, threads, rules)
        self._first_units = int(self._buffers.shape.widths[1])
        self._form = network.n_inputs, network.n_outputs, network.output, str(dtype)
        forward = sum(2 * fan_in * fan_out for fan_in, fan_out in network.layer_shapes)
        self._flops_per_row = {
            TRAIN: network.flops_per_row,
            GRADIENTS: network.flops_per_row,
            EVALUATE: forward,
            FORWARD: forward,
        }
        self._inputs, self._row_numbers = Description(), np.arange(room)
        self._few_rows = FewRows(self._form, self._first_units, self._few_call)
        self._step = 0
        self._compile_seconds = RUN[dtype].compile()
        self._entry = RUN[dtype].function
        self._narrow_entry: Callable[..., object] | None = None
        if is_narrow(network):
            self._compile_seconds += NARROW[dtype].compile()
            self._narrow_entry = NARROW[dtype].function

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`."""
        return self._compile_seconds

    def load(self, state: State) -> None:
        """See :meth:`fusedmlp.backend.Engine.load`."""
        validate_state(state, self.network, self.optimizer)
        pack(state.parameters, self._buffers.shape, self._buffers.theta)
        for slot, flat in zip(state.slots, self._buffers.slots, strict=True):
            pack(slot, self._buffers.shape, flat)
        self._step = state.step

    def parameters(self) -> Parameters:
        """See :meth:`fusedmlp.backend.Engine.parameters`."""
        return unpack(self._buffers.theta, self._buffers.shape)

    def state(self) -> State:
        """See :meth:`fusedmlp.backend.Engine.state`."""
        slots = tuple(unpack(flat, self._buffers.shape) for flat in self._buffers.slots)
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
        place = self._few_rows.take(x)
        if place is not None:
            outputs = self._forward_few(place)
            # NaN is an input that is not finite, which is named below, or the network's own result.
            if not (outputs.size and math.isnan(outputs.item(0))):
                return outputs
        inputs = validate_inputs(x, self.network, self.dtype)
        if self._few_rows.fits(inputs):
            return self._forward_few(self._few_rows.copy(inputs))
        n_rows = inputs.shape[0]
        outputs = np.empty((n_rows, self.network.n_outputs), self.dtype)
        if len(self._row_numbers) < n_rows:
            self._row_numbers = np.arange(n_rows)
        sparse = skips_zeros(inputs, self._first_units, FINDING_AGAIN)
        source, _ = describe(HostData(inputs, None, None), self._form, sparse=sparse)
        self._inputs.write(source)
        self._do(FORWARD, self._inputs, self._row_numbers[:n_rows], FORWARD_ROWS, outputs=outputs)
        return outputs

    def _forward_few(self, place: Place) -> FloatArray:
        call = place.call()
        self._start(call.address, call.workers)
        return place.outputs.copy()

    def _few_call(self, source: Source, order: IntArray, outputs: FloatArray) -> FewCall:
        """Describe the call that predicts a few rows, and make room for them."""
        inputs, workers = Description(), self._workers(FORWARD, len(order), FORWARD_ROWS)
        inputs.write(source)
        self._buffers.reserve(source)
        record = self._call(FORWARD, inputs, order, FORWARD_ROWS, workers, outputs=outputs)
        record["checks"] = True
        return FewCall(record, ctypes.c_int64(address(record)), workers, inputs)

    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.evaluate`."""
        own = self._own(data, labelled=True)
        rows = np.arange(own.rows) if rows is None else check_rows(rows, own.rows)
        return self._run(EVALUATE, own, rows, FORWARD_ROWS)

    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[BatchMetrics, Parameters]:
        """See :meth:`fusedmlp.backend.Engine.loss_and_gradients`."""
        own = self._own(data, labelled=True)
        rows = check_rows(rows, own.rows)
        if len(rows) > self.batch_size:
            raise InvalidInputError(
                f"{len(rows)} rows are more than the engine's batch size {self.batch_size}"
            )
        sums = self._run(GRADIENTS, own, rows, self.batch_size)
        return sums, unpack(self._buffers.gradient, self._buffers.shape)

    def apply_gradients(self, gradients: Parameters, lr: float) -> None:
        """See :meth:`fusedmlp.backend.Engine.apply_gradients`."""
        gradients.check(self.network)
        (rate,) = check_rates([lr], 1)
        pack(gradients, self._buffers.shape, self._buffers.gradient)
        (corrections,) = self._corrections(1)
        self._compile_seconds += APPLY[self.dtype].compile()
        APPLY[self.dtype].function(self._buffers.plan_address, float(rate), address(corrections))
        self._step += 1

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.train_epoch`."""
        own = self._own(data, labelled=True)
        order = check_rows(order, own.rows)
        n_batches = -(-len(order) // self.batch_size)
        schedule = check_rates(lr, n_batches), self._corrections(n_batches)
        sums = self._run(TRAIN, own, order, self.batch_size, schedule)
        self._step += n_batches
        return sums

    def synchronize(self) -> None:
        """See :meth:`fusedmlp.backend.Engine.synchronize`; every call ends with its work done."""

    def _run(
        self,
        task: int,
        data: NumbaData,
        order: IntArray,
        batch: int,
        schedule: Schedule = UNTRAINED,
    ) -> BatchMetrics:
        """Do a task with every batch of ``order``; return the sums of every ``batch`` rows."""
        sums = np.empty((-(-len(order) // batch), 3))
        self._do(task, data.description, order, batch, schedule, sums)
        losses, correct, weights = sums.T.copy()
        return BatchMetrics(losses, correct, weights)

    def _do(
        self,
        task: int,
        data: Description,
        order: IntArray,
        batch: int,
        schedule: Schedule = UNTRAINED,
        sums: Float64Array | None = None,
        outputs: FloatArray | None = None,
    ) -> None:
        """Run the compiled code, on as many workers as it is worth; see steps.py.

        Where nothing is trained, each of up to MOST_PARTS takes ``batch`` rows at a time.
        """
        self._buffers.reserve(data.source)
        trains = task in (TRAIN, GRADIENTS)
        if trains and self._narrow_entry is not None and not data.source.sparse:
            call = self._call(task, data, order, batch, 1, schedule, sums)
            self._narrow_entry(address(call), FIRST)
            return
        workers = self._workers(task, len(order), batch)
        if not trains:
            batch *= min(workers, self._parts)
        call = self._call(task, data, order, batch, workers, schedule, sums, outputs)
        self._start(address(call), workers)

    def _call(
        self,
        task: int,
        data: Description,
        order: IntArray,
        batch: int,
        workers: int,
        schedule: Schedule = UNTRAINED,
        sums: Float64Array | None = None,
        outputs: FloatArray | None = None,
    ) -> npt.NDArray[np.void]:
        """Describe a call; data and arrays must live until it is over."""
        lr, corrections = schedule
        call = Call(
            plan=self._buffers.plan_address,
            source=data.address,
            workers=workers,
            task=task,
            order=address(order),
            rows=len(order),
            batch=batch,
            first_step=self._step,
            lr=address(lr),
            corrections=address(corrections),
            rates=len(lr),
            sums=address(sums),
            parts=0 if sums is None else len(sums),
            outputs=address(outputs),
            checks=False,
        )
        return as_record(call, CALL)

    def _pack(self, source: Source, rows: int) -> None:
        """Count a dense data set's nonzero inputs, or pack them: see gathering.pack_data.

        Nobody waits at a barrier here, so that data may be staged while another thread trains.
        """
        data, order = Description(), np.arange(rows)
        data.write(source)
        workers = max(1, min(self._threads, int(rows * self.network.n_inputs / WORKER_INPUTS)))
        call = self._call(PACK, data, order, 1, workers)
        self._start(address(call), workers, meet=False)

    def _start(self, call: int | ctypes.c_int64, workers: int, *, meet: bool = True) -> None:
        """Run the call at an address; where its workers ``meet``, their barrier is made ready."""
        if workers == 1:
            self._entry(call, FIRST)
            return
        if meet:
            self._buffers.sync[:] = 0
        run_workers(functools.partial(self._entry, call), workers, self._buffers.sync)

    def _workers(self, task: int, rows: int, batch: int) -> int:
        flops = self._flops_per_row[task]
        if flops * rows < CALL_FLOPS:
            return 1
        if task in (EVALUATE, FORWARD):
            batch *= self._parts
        return max(1, min(self._threads, int(flops * min(rows, batch) / WORKER_FLOPS)))

    def _corrections(self, n_steps: int) -> Float64Array:
        """Adam's bias corrections and ε for each step; ones for the other optimizers."""
        if isinstance(self.optimizer, SGD):
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


def _rules(
    network: Network, optimizer: Optimizer, objective: Objective, seed: int
) -> dict[str, Any]:
    """Translate the settings into a Plan's fields."""
    sgd = optimizer if isinstance(optimizer, SGD) else None
    adam = None if isinstance(optimizer, SGD) else optimizer
    return {
        "hidden": HIDDEN_ACTIVATIONS.index(network.hidden),
        "output": OUTPUTS.index(network.output),
        "optimizer": OPTIMIZER_KERNELS.index(optimizer.kernel),
        "mean": objective.reduction == "mean",
        "l2": float(objective.l2),
        "keep": 1.0 - network.dropout,
        "threshold": np.uint64(keep_threshold(network.dropout)),
        "seed": np.uint64(seed),
        "momentum": float(sgd.momentum) if sgd else 0.0,
        "beta1": float(adam.beta1) if adam else 0.0,
        "beta2": float(adam.beta2) if adam else 0.0,
        "decay": float(adam.weight_decay) if adam else 0.0,
    }

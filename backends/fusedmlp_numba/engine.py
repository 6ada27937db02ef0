"""The Numba engine: validates arguments, owns the buffers, and has calls.py run compiled code.

Arithmetic is in network/. There is no global state: engines may train in several Python threads at
once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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
from fusedmlp_numba.calls import UNTRAINED, CallRunner, Pass, Schedule, inference_parts
from fusedmlp_numba.constants import EVALUATE, FORWARD, FORWARD_ROWS, GRADIENTS, SUMS, TRAIN
from fusedmlp_numba.data import (
    SEARCH_COST_FORWARD,
    DescriptorRecord,
    NumbaData,
    describe_data,
    skips_zeros,
    stage,
)
from fusedmlp_numba.layout import pack, unpack
from fusedmlp_numba.records import Settings
from fusedmlp_numba.small_batch import SmallBatchPredictor

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.backend import EngineSpec
    from fusedmlp.types import Float64Array, Float64Vector, FloatArray, Inputs, IntArray
    from fusedmlp_numba.small_batch import PredictionBuffer


class NumbaEngine(Engine):
    """One network in host memory, in panels."""

    def __init__(self, spec: EngineSpec, *, threads: int) -> None:
        super().__init__(spec)
        network, dtype = spec.network, spec.dtype
        most_rows = max(spec.batch_size, FORWARD_ROWS * inference_parts(threads))
        slots = len(spec.optimizer.slots)
        self._buffers = Buffers(network, dtype, most_rows, slots, threads, _settings(spec))
        self._calls = CallRunner(network, dtype, self._buffers, threads)
        self._first_units = int(self._buffers.layout.widths[1])
        self._form = network.n_inputs, network.n_outputs, network.output, str(dtype)
        self._inputs, self._row_numbers = DescriptorRecord(), np.arange(most_rows)
        self._small_batches = SmallBatchPredictor(
            self._form, self._first_units, self._calls.prepare
        )
        self._step = 0

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`."""
        return self._calls.compile_seconds

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
        return stage(host, self._form, self._first_units, self._calls.pack)

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
        self._calls.run(Pass(FORWARD, self._inputs, order, FORWARD_ROWS, outputs=outputs))
        return outputs

    def _forward_small_batch(self, buffer: PredictionBuffer) -> FloatArray:
        self._calls.run_prepared(buffer.call())
        return buffer.outputs.copy()

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
        self._calls.apply(float(rate), corrections)
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
        self._calls.run(Pass(task, data.record, order, batch, self._step, schedule, sums))
        losses, correct, weights, squares = sums.T.copy()
        has_squares = self.spec.sums_squares and task != EVALUATE
        return BatchMetrics(losses, correct, weights, squares if has_squares else None)

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

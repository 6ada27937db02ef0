"""The CuPy engine: forward, backward and update of a whole network on one GPU.

Structure and names follow the reference engine. Parameters, data and all buffers live on
the device. An epoch queues its kernels without waiting for any: order, rates and dropout steps are
uploaded once before it, and the batches' sums are read once after it. propagation.py says what a
batch queues, steps.py how steps are run, kernels/ how a kernel is launched. Strict mode has the
same kernels with rounded arithmetic, always launched one by one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from fusedmlp.backend import BatchMetrics, Data, Engine, State
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import on_device
from fusedmlp.reference.arithmetic import evaluation_rows
from fusedmlp.validation import (
    check_rates,
    check_rows,
    check_rows_exist,
    is_sparse,
    validate_data,
    validate_inputs,
    validate_sample_weight,
    validate_state,
    validate_targets,
)
from fusedmlp_cupy.batches import BatchSequence, DropoutSettings
from fusedmlp_cupy.data import CupyData, upload, upload_inputs, with_targets
from fusedmlp_cupy.device_inputs import validate_device_inputs
from fusedmlp_cupy.kernels import launches
from fusedmlp_cupy.kernels.arguments import Batch
from fusedmlp_cupy.runtime.buffers import Buffers
from fusedmlp_cupy.training.context import Context
from fusedmlp_cupy.training.layers import LayerOperations
from fusedmlp_cupy.training.parameters import ParameterArrays
from fusedmlp_cupy.training.persistent import build_persistent
from fusedmlp_cupy.training.propagation import Propagation
from fusedmlp_cupy.training.steps import TrainingSteps, capturable_cublas
from fusedmlp_cupy.training.updates import Updates

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.backend import EngineSpec
    from fusedmlp.interop import ForeignArray
    from fusedmlp.network import Parameters
    from fusedmlp.types import Float64Vector, FloatArray, Inputs, IntArray
    from fusedmlp_cupy.runtime.device import CupyDevice
    from fusedmlp_cupy.runtime.types import DeviceArray
    from fusedmlp_cupy.training.execution import Execution
    from fusedmlp_cupy.training.layers import Multiply
    from fusedmlp_cupy.tuning import Tuning


class CupyEngine(Engine):
    """One network in device memory.

    Parameters
    ----------
    strict
        Use the arithmetic of :mod:`fusedmlp.reference.arithmetic`.
    execution
        How steps are run. The engine writes a fallback there.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        device: CupyDevice,
        strict: bool,
        execution: Execution,
        tuning: Tuning,
    ) -> None:
        super().__init__(spec)
        network, optimizer, objective = spec.network, spec.optimizer, spec.objective
        batch_size, dtype = spec.batch_size, spec.dtype
        self._device = device
        self._step = 0

        with device.active():
            program = device.program(dtype, strict=strict)
            self._context = context = Context(
                device=device,
                program=program,
                buffers=Buffers(device),
                network=network,
                objective=objective,
                batch_size=batch_size,
                dtype=dtype,
                tuning=tuning,
            )
            self._parameters = own = ParameterArrays(device, network, len(optimizer.slots), dtype)
            self._updates = Updates(context, own, optimizer)
            blas = capturable_cublas(context, execution)
            multiply: Multiply = blas.product if blas else device.product
            if strict:
                multiply = partial(launches.strict_product, program)
            fused = not strict and not device.tf32
            layers = LayerOperations(program, network.hidden, multiply, fused, tuning)
            self._propagation = Propagation(context, own, layers)
            persistent = None
            if execution.mode == "persistent":
                persistent = build_persistent(context, own, self._updates)
                execution.reason = f"asked for: {persistent.plan}"
            self._training = TrainingSteps(
                context, own, self._propagation, self._updates, execution, blas, persistent
            )

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`."""
        return self._context.program.seconds + self._training.compile_seconds

    def load(self, state: State) -> None:
        """See :meth:`fusedmlp.backend.Engine.load`."""
        validate_state(state, self.network, self.optimizer)
        own, parts = self._parameters, (state.parameters, *state.slots)
        with self._device.active():
            for flat, part in zip((own.theta, *own.slots), parts, strict=True):
                own.write(flat, part)
        self._step = state.step

    def parameters(self) -> Parameters:
        """See :meth:`fusedmlp.backend.Engine.parameters`."""
        return self._read(self._parameters.theta)

    def state(self) -> State:
        """See :meth:`fusedmlp.backend.Engine.state`."""
        slots = tuple(self._read(slot) for slot in self._parameters.slots)
        return State(self.parameters(), slots, self._step)

    def stage(
        self,
        x: Inputs,
        y: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> CupyData:
        """See :meth:`fusedmlp.backend.Engine.stage`.

        Raises
        ------
        DeviceMemoryError
            A sparse data set, or the targets, do not fit into the device's free memory. Dense
            inputs need not: see streaming.py.
        """
        if not on_device(x) or is_sparse(x):
            host = validate_data(x, y, sample_weight, self.network, self.dtype)
            with self._device.active():
                return upload(self._device, host)
        self._device.await_caller()
        with self._device.active():
            inputs = validate_device_inputs(self._device, x, self.network, self.dtype)
            check_rows_exist(inputs.shape)
            n = inputs.shape[0]
            targets = None if y is None else validate_targets(y, n, self.network, self.dtype)
            weights = None
            if sample_weight is not None:
                weights = validate_sample_weight(sample_weight, n, self.dtype)
            return with_targets(self._device, inputs, n, targets, weights)

    def forward(self, x: Inputs) -> FloatArray:
        """See :meth:`fusedmlp.backend.Engine.forward`; a CuPy array for inputs on the device."""
        if on_device(x) and not is_sparse(x):
            return self._forward_on_device(x)
        inputs = validate_inputs(x, self.network, self.dtype)
        n = int(inputs.shape[0])
        outputs: FloatArray = np.empty((n, self.network.n_outputs), self.dtype)
        with self._device.active():
            size, buffers = self._evaluation_buffers(n)
            for start in range(0, n, size):
                batch = Batch(None, 0, 0, min(size, n - start))
                a = [buffer[: batch.size] for buffer in buffers]
                piece = upload_inputs(self._device, inputs[start : start + batch.size])
                launches.gather_rows(self._context.program, piece, batch, a[0])
                self._propagation.outputs(a, batch)
                outputs[start : start + batch.size] = self._device.download(a[-1])
        return outputs

    def _forward_on_device(self, x: ForeignArray) -> FloatArray:
        """Compute the outputs of inputs on the device, as an array on the device."""
        self._device.await_caller()
        with self._device.active():
            inputs = validate_device_inputs(self._device, x, self.network, self.dtype)
            n = inputs.shape[0]
            outputs = self._device.empty((n, self.network.n_outputs), self.dtype)
            size, buffers = self._evaluation_buffers(n)
            for start in range(0, n, size):
                batch = Batch(None, start, 0, min(size, n - start))
                a = [buffer[: batch.size] for buffer in buffers[:-1]]
                a.append(outputs[start : start + batch.size])
                launches.gather_rows(self._context.program, inputs, batch, a[0])
                self._propagation.outputs(a, batch)
            self._device.synchronize()  # the caller may use another stream
        return cast("FloatArray", outputs)  # the contract's type; a CuPy array has its interface

    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.evaluate`."""
        own = self._own(data)
        rows = None if rows is None else check_rows(rows, own.rows)
        with self._device.active():
            size, buffers = self._evaluation_buffers(own.rows if rows is None else len(rows))
            sequence = self._upload(own, rows, size, training=False)
            for batch in sequence:
                a = [buffer[: batch.size] for buffer in buffers]
                self._propagation.losses(a, batch, sequence)
            return sequence.finish(self._context.program)

    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[BatchMetrics, Parameters]:
        """See :meth:`fusedmlp.backend.Engine.loss_and_gradients`."""
        own = self._own(data)
        rows = check_rows(rows, own.rows)
        if len(rows) > self.batch_size:
            raise InvalidInputError(
                f"{len(rows)} rows are more than the engine's batch size {self.batch_size}"
            )
        arrays, program, l2 = self._parameters, self._context.program, self.objective.l2
        with self._device.active():
            sequence = self._upload(own, rows, len(rows))
            for batch in sequence:
                for layer, delta, a in self._propagation.backward(batch, sequence):
                    dW, db = arrays.dW[layer], arrays.db[layer]
                    self._propagation.layers.gradients(a, delta, dW, db)
            if l2:
                n_weights = arrays.layout.n_weights
                launches.l2_gradient(program, arrays.gradient, arrays.theta, n_weights, l2)
            return sequence.finish(program), self._read(arrays.gradient)

    def apply_gradients(self, gradients: Parameters, lr: float) -> None:
        """See :meth:`fusedmlp.backend.Engine.apply_gradients`."""
        gradients.check(self.network)
        rates = check_rates([lr], 1)
        with self._device.active():
            self._parameters.write(self._parameters.gradient, gradients)
            uploaded = self._updates.upload_rates(rates, self._step)
            self._updates.take_step(uploaded, Batch(None, 0, 0, 0), l2=0.0)
        self._step += 1

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.train_epoch`."""
        own = self._own(data)
        order = check_rows(order, own.rows)
        lr = check_rates(lr, -(-len(order) // self.batch_size))
        with self._device.active():
            self._context.buffers.reserve(max(own.rows, len(order)), self.batch_size)
            sequence = self._upload(own, order, self.batch_size)
            rates = self._updates.upload_rates(lr, self._step)
            self._training.run(own, sequence, rates)
            self._step += len(lr)
            return sequence.finish(self._context.program)

    def synchronize(self) -> None:
        """See :meth:`fusedmlp.backend.Engine.synchronize`."""
        with self._device.active():
            self._device.synchronize()

    def _upload(
        self, data: CupyData, rows: IntArray | None, size: int, *, training: bool = True
    ) -> BatchSequence:
        """Upload what the batches of a call share."""
        rate = self.network.dropout if training else 0.0
        dropout = DropoutSettings(self.seed, self._step, self.network.n_layers - 1, rate)
        buffers = self._context.buffers if training else Buffers(self._device)
        squared = sum(self.network.sizes[:-1]) if training and self.spec.sums_squares else 0
        return BatchSequence.upload(
            self._context, buffers, data, rows, size, dropout, squared_rows=squared
        )

    def _evaluation_buffers(self, n: int) -> tuple[int, list[DeviceArray]]:
        """Return the rows to take at a time, and buffers for them."""
        strict = self._context.program.strict
        most = evaluation_rows(self.batch_size) if strict else self._context.tuning.forward_rows
        size = min(max(self.batch_size, most), max(n, 1))
        own = self._propagation
        return size, own.a if size == self.batch_size else own.activation_buffers(size)

    def _read(self, flat: DeviceArray) -> Parameters:
        with self._device.active():
            return self._parameters.read(flat)

    def _own(self, data: Data) -> CupyData:
        if not isinstance(data, CupyData):
            raise InvalidInputError(
                f"data was staged by another backend ({type(data).__name__}): "
                "call this engine's stage()"
            )
        if data.device != self._device.number:
            raise InvalidInputError(
                f"data was staged on device {data.device}, this engine runs on device "
                f"{self._device.number}: call this engine's stage()"
            )
        if not data.labelled:
            raise InvalidInputError("this data was staged without targets: pass y to stage()")
        return data

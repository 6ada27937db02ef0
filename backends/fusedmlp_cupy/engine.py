"""The CuPy engine: forward, backward and update of a whole network on one GPU.

The structure and the names are those of the NumPy engine. What differs: parameters, data and
every buffer live on the device; an epoch queues its kernels without waiting for any, with order,
rates and steps uploaded once before it and the batches' sums read once after it. What a batch
queues is in passes.py, how a call's steps are run in steps.py, how a kernel is launched in
kernels.py, its formula in kernels.cu, CuPy's own calls in device.py.
Strict mode launches the kernels of strict.cu instead, by the same names, one after another.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, cast

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
from fusedmlp_cupy import kernels, products
from fusedmlp_cupy.adopting import adopt_inputs
from fusedmlp_cupy.buffers import Buffers
from fusedmlp_cupy.call import Call, Masks, begin
from fusedmlp_cupy.data import CupyData, upload, upload_inputs, with_targets
from fusedmlp_cupy.kernels import Batch
from fusedmlp_cupy.launching import Launching
from fusedmlp_cupy.layers import Layers
from fusedmlp_cupy.layout import Layout
from fusedmlp_cupy.passes import Passes
from fusedmlp_cupy.persistent import Persistent
from fusedmlp_cupy.steps import Steps, own_handle, persistent_kernel
from fusedmlp_cupy.updates import Updates

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.interop import ForeignArray
    from fusedmlp.network import Network, Objective, Parameters
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Vector, FloatArray, FloatDtype, Inputs, IntArray
    from fusedmlp_cupy.cooperative import CooperativeKernel
    from fusedmlp_cupy.device import CupyDevice
    from fusedmlp_cupy.persistent import Plan
    from fusedmlp_cupy.programs import DeviceArray

FORWARD_ROWS: Final = 4096
"""Rows that forward and evaluate take at a time, or the batch size where that is larger."""


class CupyEngine(Engine):
    """One network in device memory.

    Parameters
    ----------
    strict
        Use the arithmetic of :mod:`fusedmlp.reference.arithmetic`, launch by launch.
    launching
        How steps are to be run, and where the engine says how they are; kernel by kernel where
        None.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        objective: Objective,
        *,
        batch_size: int,
        dtype: FloatDtype,
        seed: int,
        device: CupyDevice,
        strict: bool = False,
        launching: Launching | None = None,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.objective = objective
        self.batch_size = batch_size
        self.dtype = dtype
        self.seed = seed
        self._device = device
        self._strict = strict
        self._layout = Layout.of(network)
        self._step = 0
        launching = launching or Launching("eager", "eager", "asked for")

        zeros = np.zeros(self._layout.size, dtype)
        with device.active():
            names = kernels.STRICT_KERNELS if strict else (*kernels.KERNELS, *products.PRODUCTS)
            self._program = program = device.program(dtype, names, strict=strict)
            self._theta = device.upload(zeros)
            self._gradient = device.upload(zeros)
            self._slots = tuple(device.upload(zeros) for _ in optimizer.slots)
            self._buffers = Buffers(device)
            found = persistent_kernel(device, network, batch_size, dtype, launching)
            blas = own_handle(device, network, batch_size, launching)
            multiply = partial(kernels.product, program) if strict else device.product
            layers = Layers(
                program,
                network.hidden,
                blas.product if blas else multiply,
                own=not strict and not device.tf32,
            )
            self._passes = Passes(
                device,
                program,
                network,
                layers,
                *self._layout.views(self._theta),
                batch_size=batch_size,
                dtype=dtype,
            )
            self._updates = Updates(
                optimizer,
                program,
                self._buffers,
                self._theta,
                self._gradient,
                self._slots,
                self._layout.n_weights,
            )
            self._dW, self._db = self._layout.views(self._gradient)
            self._steps = Steps(
                device,
                self._buffers,
                program,
                self._passes,
                self._updates,
                (self._dW, self._db),
                launching,
                blas,
                self._persistent(*found) if found else None,
                l2=objective.l2,
                batch_size=batch_size,
                strict=strict,
            )

    def _persistent(self, kernel: CooperativeKernel, plan: Plan) -> Persistent:
        """Give the persistent kernel what it works on."""
        return Persistent(
            kernel,
            plan,
            self._program,
            self._buffers,
            network=self.network,
            objective=self.objective,
            layout=self._layout,
            theta=self._theta,
            slots=self._slots,
            step=self.optimizer.kernel,
            constants=self._updates.constants(self.objective.l2),
        )

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`."""
        return self._program.seconds + self._steps.compile_seconds

    def load(self, state: State) -> None:
        """See :meth:`fusedmlp.backend.Engine.load`."""
        validate_state(state, self.network, self.optimizer)
        with self._device.active():
            parts = (state.parameters, *state.slots)
            for array, part in zip((self._theta, *self._slots), parts, strict=True):
                self._device.copy_in(array, self._layout.pack(part, self.dtype))
        self._step = state.step

    def parameters(self) -> Parameters:
        """See :meth:`fusedmlp.backend.Engine.parameters`."""
        return self._read(self._theta)

    def state(self) -> State:
        """See :meth:`fusedmlp.backend.Engine.state`."""
        return State(self.parameters(), tuple(self._read(slot) for slot in self._slots), self._step)

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
            inputs = adopt_inputs(self._device, x, self.network, self.dtype)
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
            return self._forward_there(x)
        inputs = validate_inputs(x, self.network, self.dtype)
        n = int(inputs.shape[0])
        outputs: FloatArray = np.empty((n, self.network.n_outputs), self.dtype)
        with self._device.active():
            size, buffers = self._evaluation_buffers(n)
            for start in range(0, n, size):
                batch = Batch(None, 0, 0, min(size, n - start))
                a = [buffer[: batch.size] for buffer in buffers]
                piece = upload_inputs(self._device, inputs[start : start + batch.size])
                kernels.gather_rows(self._program, piece, batch, a[0])
                self._passes.outputs(a, batch)
                outputs[start : start + batch.size] = self._device.download(a[-1])
        return outputs

    def _forward_there(self, x: ForeignArray) -> FloatArray:
        """Compute the outputs of inputs on the device, and leave them there."""
        self._device.await_caller()
        with self._device.active():
            inputs = adopt_inputs(self._device, x, self.network, self.dtype)
            n = inputs.shape[0]
            outputs = self._device.empty((n, self.network.n_outputs), self.dtype)
            size, buffers = self._evaluation_buffers(n)
            for start in range(0, n, size):
                batch = Batch(None, start, 0, min(size, n - start))
                a = [buffer[: batch.size] for buffer in buffers[:-1]]
                a.append(outputs[start : start + batch.size])
                kernels.gather_rows(self._program, inputs, batch, a[0])
                self._passes.outputs(a, batch)
            self._device.synchronize()  # the caller may go on in a stream of its own
        return cast("FloatArray", outputs)  # in all that a caller does with it

    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.evaluate`."""
        own = self._own(data)
        rows = None if rows is None else check_rows(rows, own.rows)
        with self._device.active():
            size, buffers = self._evaluation_buffers(own.rows if rows is None else len(rows))
            call = self._begin(own, rows, size, training=False)
            for batch in call.batches():
                a = [buffer[: batch.size] for buffer in buffers]
                self._passes.compare(a, batch, call)
            return call.finish(self._program)

    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[BatchMetrics, Parameters]:
        """See :meth:`fusedmlp.backend.Engine.loss_and_gradients`."""
        own = self._own(data)
        rows = check_rows(rows, own.rows)
        if len(rows) > self.batch_size:
            raise InvalidInputError(
                f"{len(rows)} rows are more than the engine's batch size {self.batch_size}"
            )
        with self._device.active():
            call = self._begin(own, rows, len(rows))
            for batch in call.batches():
                for layer, delta, a in self._passes.backward(batch, call):
                    self._passes.layers.gradients(a, delta, self._dW[layer], self._db[layer])
            if self.objective.l2:
                kernels.l2_gradient(
                    self._program,
                    self._gradient,
                    self._theta,
                    self._layout.n_weights,
                    self.objective.l2,
                )
            return call.finish(self._program), self._read(self._gradient)

    def apply_gradients(self, gradients: Parameters, lr: float) -> None:
        """See :meth:`fusedmlp.backend.Engine.apply_gradients`."""
        gradients.check(self.network)
        rates = check_rates([lr], 1)
        with self._device.active():
            self._device.copy_in(self._gradient, self._layout.pack(gradients, self.dtype))
            rates_there = self._updates.upload_rates(rates, self._step)
            self._updates.take_step(rates_there, Batch(None, 0, 0, 0), l2=0.0)
        self._step += 1

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.train_epoch`."""
        own = self._own(data)
        order = check_rows(order, own.rows)
        lr = check_rates(lr, -(-len(order) // self.batch_size))
        with self._device.active():
            self._buffers.reserve(max(own.rows, len(order)), self.batch_size)
            call = self._begin(own, order, self.batch_size)
            rates = self._updates.upload_rates(lr, self._step)
            self._steps.run(own, call, rates)
            self._step += len(lr)
            return call.finish(self._program)

    def synchronize(self) -> None:
        """See :meth:`fusedmlp.backend.Engine.synchronize`."""
        with self._device.active():
            self._device.synchronize()

    def _begin(
        self, data: CupyData, rows: IntArray | None, size: int, *, training: bool = True
    ) -> Call:
        """Put on the device what the batches of a call need."""
        dropout = self.network.dropout if training else 0.0
        masks = Masks(self.seed, self._step, self.network.n_layers - 1, dropout)
        mean = self.objective.reduction == "mean"
        buffers = self._buffers if training else Buffers(self._device)
        return begin(buffers, self._program, data, rows, size, masks, mean=mean)

    def _evaluation_buffers(self, n: int) -> tuple[int, list[DeviceArray]]:
        """Rows to take at a time, and buffers that hold them."""
        most = evaluation_rows(self.batch_size) if self._strict else FORWARD_ROWS
        size = min(max(self.batch_size, most), max(n, 1))
        passes = self._passes
        return size, passes.a if size == self.batch_size else passes.activation_buffers(size)

    def _read(self, flat: DeviceArray) -> Parameters:
        with self._device.active():
            return self._layout.unpack(self._device.download(flat))

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

"""The CuPy engine: forward, backward and update of a whole network on one GPU.

The structure and the names are those of the NumPy engine. What differs: parameters, data and
every buffer live on the device; an epoch queues its kernels without waiting for any, with order,
rates and steps uploaded once before it and the batches' sums read once after it. How a kernel is
launched is in kernels.py, its formula in kernels.cu, CuPy's own calls are in device.py. Strict mode
launches the kernels of strict.cu instead, by the same names, and multiplies by one of them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np

from fusedmlp.backend import Data, Engine, State, Sums
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import on_device
from fusedmlp.optimizers import SGD
from fusedmlp.staging import (
    check_rates,
    check_rows,
    check_rows_exist,
    is_sparse,
    prepare,
    prepare_inputs,
    prepare_state,
    prepare_targets,
    prepare_weights,
)
from fusedmlp.strict import evaluation_rows
from fusedmlp_cupy import kernels
from fusedmlp_cupy.adopting import adopt_inputs
from fusedmlp_cupy.call import Call, Masks, begin
from fusedmlp_cupy.data import CupyData, upload, upload_inputs, with_targets
from fusedmlp_cupy.kernels import Batch
from fusedmlp_cupy.layout import Layout

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.interop import ForeignArray
    from fusedmlp.network import Network, Objective, Parameters
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Vector, FloatArray, FloatDtype, Inputs, IntArray
    from fusedmlp_cupy.device import CupyDevice, DeviceArray

FORWARD_ROWS: Final = 4096
"""Rows that forward and evaluate take at a time, or the batch size where that is larger."""


class CupyEngine(Engine):
    """One network in device memory; ``strict`` means the arithmetic of :mod:`fusedmlp.strict`."""

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

        zeros = np.zeros(self._layout.size, dtype)
        with device.active():
            names = kernels.STRICT_KERNELS if strict else tuple(kernels.KERNELS)
            self._program = device.program(dtype, names, strict=strict)
            self._theta = device.upload(zeros)
            self._gradient = device.upload(zeros)
            self._slots = tuple(device.upload(zeros) for _ in optimizer.slots)
            self._a = self._activation_buffers(batch_size)
            self._delta = [device.empty((batch_size, H), dtype) for H in network.sizes[1:-1]]
        self._weights, self._biases = self._layout.views(self._theta)
        self._dW, self._db = self._layout.views(self._gradient)

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`."""
        return self._program.seconds

    def load(self, state: State) -> None:
        """See :meth:`fusedmlp.backend.Engine.load`."""
        prepare_state(state, self.network, self.optimizer)
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
            host = prepare(x, y, sample_weight, self.network, self.dtype)
            with self._device.active():
                return upload(self._device, host)
        self._device.await_caller()
        with self._device.active():
            inputs = adopt_inputs(self._device, x, self.network, self.dtype)
            check_rows_exist(inputs.shape)
            n = inputs.shape[0]
            targets = None if y is None else prepare_targets(y, n, self.network, self.dtype)
            weights = None
            if sample_weight is not None:
                weights = prepare_weights(sample_weight, n, self.dtype)
            return with_targets(self._device, inputs, n, targets, weights)

    def forward(self, x: Inputs) -> FloatArray:
        """See :meth:`fusedmlp.backend.Engine.forward`; a CuPy array for inputs on the device."""
        if on_device(x) and not is_sparse(x):
            return self._forward_there(x)
        inputs = prepare_inputs(x, self.network, self.dtype)
        n = int(inputs.shape[0])
        outputs: FloatArray = np.empty((n, self.network.n_outputs), self.dtype)
        with self._device.active():
            size, buffers = self._evaluation_buffers(n)
            for start in range(0, n, size):
                batch = Batch(None, 0, 0, min(size, n - start))
                a = [buffer[: batch.size] for buffer in buffers]
                piece = upload_inputs(self._device, inputs[start : start + batch.size])
                kernels.gather_rows(self._program, piece, batch, a[0])
                self._outputs(a, batch)
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
                self._outputs(a, batch)
            self._device.synchronize()  # the caller may go on in a stream of its own
        return cast("FloatArray", outputs)  # in all that a caller does with it

    def _outputs(self, a: list[DeviceArray], batch: Batch) -> None:
        """Fill a behind a[0]; a[L] becomes the network's outputs."""
        self._logits(a, batch, None)
        b, output = self._biases[-1], self.network.output
        kernels.output_activation(self._program, a[-1], b, output)

    def evaluate(self, data: Data, rows: IntArray | None = None) -> Sums:
        """See :meth:`fusedmlp.backend.Engine.evaluate`."""
        own = self._own(data)
        rows = None if rows is None else check_rows(rows, own.rows)
        with self._device.active():
            size, buffers = self._evaluation_buffers(own.rows if rows is None else len(rows))
            call = self._begin(own, rows, size, training=False)
            for batch in call.batches():
                a = [buffer[: batch.size] for buffer in buffers]
                call.gather(self._program, batch, a[0])
                self._logits(a, batch, None)
                self._output_delta(a[-1], batch, call)
            return call.finish(self._program)

    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[Sums, Parameters]:
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
                self._backward(batch, call)
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
            self._update(self._upload_rates(rates), 0, l2=0.0)

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> Sums:
        """See :meth:`fusedmlp.backend.Engine.train_epoch`."""
        own = self._own(data)
        order = check_rows(order, own.rows)
        lr = check_rates(lr, -(-len(order) // self.batch_size))
        with self._device.active():
            call = self._begin(own, order, self.batch_size)
            rates = self._upload_rates(lr)
            for batch in call.batches():
                self._backward(batch, call)
                self._update(rates, batch.number, l2=self.objective.l2)
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
        return begin(self._device, self._program, data, rows, size, masks, mean=mean)

    def _logits(self, a: list[DeviceArray], batch: Batch, call: Call | None) -> None:
        """Fill a behind a[0] = x[rows]: a[l + 1] = f(a[l]·W[l] + b[l]), a[L] = a[L − 1]·W[L − 1].

        The last bias is left to the output kernels, as the activation's bias is to theirs.
        """
        last = self.network.n_layers - 1
        for layer, (W, b) in enumerate(zip(self._weights, self._biases, strict=True)):
            z = a[layer + 1]
            self._product(a[layer], W, z)
            if layer < last:
                dropout = call.dropout_of(layer) if call else None
                kernels.bias_activation(self._program, z, b, self.network.hidden, batch, dropout)

    def _backward(self, batch: Batch, call: Call) -> None:
        """Fill the gradients for one batch, without the L2 term.

        delta[L] = (ŷ − y)·w·scale;  dW[l] = a[l]ᵀ·delta[l + 1];  db[l] = 1ᵀ·delta[l + 1];
        delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]).
        """
        a = [buffer[: batch.size] for buffer in self._a]
        call.gather(self._program, batch, a[0])
        self._logits(a, batch, call)
        delta = a[-1]
        self._output_delta(delta, batch, call)
        for layer in reversed(range(self.network.n_layers)):
            self._product(a[layer], delta, self._dW[layer], transposed="a")
            kernels.bias_gradient(self._program, delta, self._db[layer])
            if layer == 0:
                break
            below = self._delta[layer - 1][: batch.size]
            self._product(delta, self._weights[layer], below, transposed="b")
            dropout = call.dropout_of(layer - 1)
            kernels.hidden_delta(
                self._program, below, a[layer], self.network.hidden, batch, dropout
            )
            delta = below

    def _product(
        self,
        a: DeviceArray,
        b: DeviceArray,
        out: DeviceArray,
        *,
        transposed: Literal["", "a", "b"] = "",
    ) -> None:
        """Out = a·b, aᵀ·b or a·bᵀ."""
        if self._strict:
            kernels.product(self._program, a, b, out, transposed)
        else:
            a, b = a.T if transposed == "a" else a, b.T if transposed == "b" else b
            self._device.product(a, b, out)

    def _output_delta(self, z: DeviceArray, batch: Batch, call: Call) -> None:
        """Turn the last product into the output delta; note the rows' losses."""
        b, output = self._biases[-1], self.network.output
        kernels.output_delta(self._program, z, b, output, batch, call.targets)

    def _update(self, rates: DeviceArray, number: int, *, l2: float) -> None:
        """Take one optimizer step along the gradients, at the rates of batch ``number``."""
        optimizer = self.optimizer
        constants: tuple[float, ...] = (l2,)
        if not isinstance(optimizer, SGD):
            beta1, beta2 = optimizer.beta1, optimizer.beta2
            constants = (l2, beta1, beta2, 1.0 - beta1, 1.0 - beta2)
        elif optimizer.momentum:
            constants = (l2, optimizer.momentum)
        kernels.update(
            self._program,
            optimizer.kernel,
            (self._theta, self._gradient, *self._slots),
            self._layout.n_weights,
            rates,
            number,
            constants,
        )
        self._step += 1

    def _upload_rates(self, lr: Float64Vector) -> DeviceArray:
        """Compute the scalars of each coming step in float64: columns as in kernels.cu."""
        columns = np.zeros((len(lr), kernels.RATE_COLUMNS))
        columns[:, 0] = lr
        if not isinstance(self.optimizer, SGD):
            corrections = self.optimizer.bias_corrections(self._step, len(lr))
            columns[:, 1] = lr / corrections[:, 0]
            columns[:, 2] = corrections[:, 1]
            columns[:, 3] = 1.0 - lr * self.optimizer.weight_decay
            columns[:, 4] = self.optimizer.epsilons(self._step, len(lr))
        return self._device.upload(columns.astype(self.dtype))

    def _activation_buffers(self, rows: int) -> list[DeviceArray]:
        """One (rows, width) array for the inputs and for each layer's activation."""
        return [self._device.empty((rows, width), self.dtype) for width in self.network.sizes]

    def _evaluation_buffers(self, n: int) -> tuple[int, list[DeviceArray]]:
        """Rows to take at a time, and buffers that hold them."""
        most = evaluation_rows(self.batch_size) if self._strict else FORWARD_ROWS
        size = min(max(self.batch_size, most), max(n, 1))
        return size, self._a if size == self.batch_size else self._activation_buffers(size)

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

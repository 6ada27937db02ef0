"""The CuPy engine: forward, backward and update of a whole network on one GPU.

The structure and the names are those of the NumPy engine. What differs: parameters, data and
every buffer live on the device; an epoch queues its kernels without waiting for any, with order,
rates and steps uploaded once before it and the batches' sums read once after it. How a kernel is
launched is in kernels.py, its formula in kernels.cu, a layer's operations are in layers.py, CuPy's
own calls in device.py. An epoch's steps are groups of launches, which launching.py runs or replays.
Strict mode launches the kernels of strict.cu instead, by the same names, one after another.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from fusedmlp.backend import Data, Engine, State, Sums
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import on_device
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
from fusedmlp_cupy import kernels, persistent, products
from fusedmlp_cupy.adopting import adopt_inputs
from fusedmlp_cupy.buffers import Buffers
from fusedmlp_cupy.call import Call, Masks, begin
from fusedmlp_cupy.data import CupyData, upload, upload_inputs, with_targets
from fusedmlp_cupy.kernels import Batch
from fusedmlp_cupy.launching import GROUP_STEPS, Graphs, Launching, one_line
from fusedmlp_cupy.layers import Layers
from fusedmlp_cupy.layout import Layout
from fusedmlp_cupy.persistent import Persistent
from fusedmlp_cupy.products import is_small
from fusedmlp_cupy.updates import Updates

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from fusedmlp.interop import ForeignArray
    from fusedmlp.network import Network, Objective, Parameters
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Vector, FloatArray, FloatDtype, Inputs, IntArray
    from fusedmlp_cupy.cublas import Cublas
    from fusedmlp_cupy.device import CupyDevice
    from fusedmlp_cupy.programs import DeviceArray

FORWARD_ROWS: Final = 4096
"""Rows that forward and evaluate take at a time, or the batch size where that is larger."""


class CupyEngine(Engine):
    """One network in device memory.

    Parameters
    ----------
    strict
        Use the arithmetic of :mod:`fusedmlp.strict`, launch by launch.
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

        zeros = np.zeros(self._layout.size, dtype)
        with device.active():
            names = kernels.STRICT_KERNELS if strict else (*kernels.KERNELS, *products.PRODUCTS)
            self._program = device.program(dtype, names, strict=strict)
            self._theta = device.upload(zeros)
            self._gradient = device.upload(zeros)
            self._slots = tuple(device.upload(zeros) for _ in optimizer.slots)
            self._a = self._activation_buffers(batch_size)
            self._delta = [device.empty((batch_size, H), dtype) for H in network.sizes[1:-1]]
            self._cursor = device.empty((2,), np.int64)
            self._buffers = Buffers(device)
            blas = self._plan(launching or Launching("eager", "eager", "asked for"))
            self._updates = Updates(
                optimizer,
                self._program,
                self._buffers,
                self._theta,
                self._gradient,
                self._slots,
                self._layout.n_weights,
            )
            self._persistent = self._build_persistent()
        self._weights, self._biases = self._layout.views(self._theta)
        self._dW, self._db = self._layout.views(self._gradient)
        multiply = partial(kernels.product, self._program) if strict else device.product
        self._layers = Layers(
            self._program,
            network.hidden,
            blas.product if blas else multiply,
            own=not strict and not device.tf32,
        )
        self._descends = self._updates.is_plain and self._layers.can_descend(
            batch_size, network.layer_shapes
        )

    def _plan(self, launching: Launching) -> Cublas | None:
        """Prepare the way that steps are to be run in; return a handle of our own for products.

        A network whose products are all small needs none.
        """
        blas = None
        B = self.batch_size
        shapes = self.network.layer_shapes
        large = self._device.tf32 or not all(is_small(B, D, H) for D, H in shapes)
        if launching.used == "graph" and large:
            try:
                blas = self._device.cublas()
            except (OSError, AttributeError, RuntimeError) as error:
                why = f"cuBLAS gives no handle for recording: {one_line(error)}"
                launching.fall_back("eager", why)
        self._launching = launching
        self._graphs = Graphs(self._device, blas, launching)
        return blas

    def _build_persistent(self) -> Persistent | None:
        """Build the persistent kernel, where steps are to be run in it and it can be had."""
        launching, network, device = self._launching, self.network, self._device
        if launching.used != "persistent":
            return None
        plan = persistent.choose(network, self.batch_size, self.dtype, device.limits())
        if isinstance(plan, str):
            launching.fall_back("graph", plan)
            return None
        try:
            kernel = persistent.build(device, self.dtype, plan)
        except RuntimeError as error:
            launching.fall_back("graph", one_line(error))
            return None
        return Persistent(
            kernel,
            plan,
            self._program,
            self._buffers,
            network=network,
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
        more = self._persistent.compile_seconds if self._persistent else 0.0
        return self._program.seconds + more

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
                for layer, delta, a in self._backward(batch, call):
                    self._layers.gradients(a, delta, self._dW[layer], self._db[layer])
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

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> Sums:
        """See :meth:`fusedmlp.backend.Engine.train_epoch`."""
        own = self._own(data)
        order = check_rows(order, own.rows)
        lr = check_rates(lr, -(-len(order) // self.batch_size))
        with self._device.active():
            self._buffers.reserve(max(own.rows, len(order)), self.batch_size)
            call = self._begin(own, order, self.batch_size)
            rates = self._updates.upload_rates(lr, self._step)
            if not self._train_persistently(call, rates):
                if self._strict or call.is_streamed:
                    for batch in call.batches():
                        self._take_step(batch, call, rates)
                else:
                    self._train_in_groups(own, call, rates)
            self._step += len(lr)
            return call.finish(self._program)

    def _train_persistently(self, call: Call, rates: DeviceArray) -> bool:
        """Run the steps of a call in the persistent kernel, if there is one that runs."""
        if self._persistent is None:
            return False
        try:
            self._persistent.train(call, rates)
        except RuntimeError as error:
            if self._persistent.has_run:
                raise
            self._persistent = None
            self._launching.fall_back(
                "graph", f"the persistent kernel is refused: {one_line(error)}"
            )
            return False
        return True

    def _train_in_groups(self, data: CupyData, call: Call, rates: DeviceArray) -> None:
        """Run the steps of a call in groups that another call can repeat.

        Nothing that a group queues depends on where in the call it is: the cursor does.
        """
        kernels.advance_cursor(self._program, self._cursor, 0, 0, restart=True)
        self._graphs.forget_unless(self._buffers.generation)
        n_full, rest = divmod(call.n, call.size)
        n_groups, n_single = divmod(n_full, GROUP_STEPS)
        groups = [(GROUP_STEPS, call.size)] * n_groups + [(1, call.size)] * n_single
        for n_steps, size in groups + [(1, rest)] * (rest > 0):
            group = partial(self._queue_group, n_steps, size, call, rates)
            self._graphs.run(data, (n_steps, size), group)

    def _queue_group(self, n_steps: int, size: int, call: Call, rates: DeviceArray) -> None:
        """Queue steps of so many rows each, counted from the cursor, and move it on."""
        for number in range(n_steps):
            batch = Batch(call.rows, number * size, number, size, self._cursor)
            self._take_step(batch, call, rates)
        kernels.advance_cursor(self._program, self._cursor, n_steps, n_steps * size)

    def _take_step(self, batch: Batch, call: Call, rates: DeviceArray) -> None:
        """Queue one step: gradients and update, at once for plain SGD on small products."""
        l2 = self.objective.l2
        for layer, delta, a in self._backward(batch, call):
            if self._descends:
                W, b = self._weights[layer], self._biases[layer]
                products.sgd_gradients(self._program, a, delta, W, b, rates, batch, l2)
            else:
                self._layers.gradients(a, delta, self._dW[layer], self._db[layer])
        if not self._descends:
            self._updates.take_step(rates, batch, l2=l2)

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

    def _logits(self, a: list[DeviceArray], batch: Batch, call: Call | None) -> None:
        """Fill a behind a[0] = x[rows]: a[l + 1] = f(a[l]·W[l] + b[l]), a[L] = a[L − 1]·W[L − 1].

        The last bias is left to the output kernels, as the activation's bias is to theirs.
        """
        last = self.network.n_layers - 1
        for layer, (W, b) in enumerate(zip(self._weights, self._biases, strict=True)):
            if layer == last:
                self._layers.logits(a[layer], W, a[layer + 1])
            else:
                dropout = call.dropout_of(layer) if call else None
                self._layers.activations(a[layer], W, b, a[layer + 1], batch, dropout)

    def _backward(self, batch: Batch, call: Call) -> Iterator[tuple[int, DeviceArray, DeviceArray]]:
        """Go forward and back; yield each layer with its delta and its inputs, the last first.

        Its gradients are dW[l] = a[l]ᵀ·delta[l + 1] and db[l] = 1ᵀ·delta[l + 1]. When a layer is
        yielded, delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]) has been queued, so W[l] may change.
        """
        a = [buffer[: batch.size] for buffer in self._a]
        call.gather(self._program, batch, a[0])
        self._logits(a, batch, call)
        delta = a[-1]
        self._output_delta(delta, batch, call)
        for layer in reversed(range(self.network.n_layers)):
            above = delta
            if layer:
                delta = self._delta[layer - 1][: batch.size]
                dropout = call.dropout_of(layer - 1)
                self._layers.below(above, self._weights[layer], a[layer], delta, batch, dropout)
            yield layer, above, a[layer]

    def _output_delta(self, z: DeviceArray, batch: Batch, call: Call) -> None:
        """Turn the last product into the output delta; note the rows' losses."""
        b, output = self._biases[-1], self.network.output
        kernels.output_delta(self._program, z, b, output, batch, call.targets)

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

"""The strict Numba engine: the structure of the NumPy engine, over the loops in strict_kernels.py.

It shares no arithmetic with NumbaEngine: that one's layouts and threads exist to change the order
of sums. One thread computes; nothing here is written for speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.backend import BatchMetrics, Data, Engine, State, keep_threshold
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Parameters, zeros
from fusedmlp.optimizers import SGD
from fusedmlp.reference.arithmetic import CONSTANTS, evaluation_rows
from fusedmlp.validation import (
    HostData,
    check_rates,
    check_rows,
    is_sparse,
    prepare,
    prepare_inputs,
    prepare_state,
)
from fusedmlp_numba import strict_kernels as kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from fusedmlp.network import Network, Objective, Output
    from fusedmlp.optimizers import Adam, Optimizer
    from fusedmlp.types import Float64Vector, FloatArray, FloatDtype, Inputs, IntArray
    from fusedmlp_numba.compiler.jit import Entry

PIXEL_MAX: Final = 255

OUTPUT_KERNELS: Final[dict[Output, Entry]] = {
    "softmax": kernels.softmax_cross_entropy,
    "sigmoid": kernels.sigmoid_cross_entropy,
    "identity": kernels.squared_error,
    "exp": kernels.poisson_deviance,
}


@dataclass
class StrictData(Data):
    """A staged data set: the checked host arrays themselves."""

    host: HostData

    def __post_init__(self) -> None:
        self.rows = self.host.rows
        self.labelled = self.host.y is not None


class StrictEngine(Engine):
    """One network in host memory, with the arithmetic of :mod:`fusedmlp.reference.arithmetic`."""

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        objective: Objective,
        *,
        batch_size: int,
        dtype: FloatDtype,
        seed: int,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.objective = objective
        self.batch_size = batch_size
        self.dtype = dtype
        self.seed = seed
        self._real = np.float32 if dtype == "float32" else np.float64
        self._constants = CONSTANTS[dtype]
        self._hidden = HIDDEN_ACTIVATIONS.index(network.hidden)

        self._a = self._activation_buffers(batch_size)
        self._delta = [np.empty((batch_size, H), dtype) for H in network.sizes[1:-1]]
        self._kept = [np.empty((batch_size, H), np.bool_) for H in network.sizes[1:-1]]
        self._compile_seconds = 0.0
        self._reset()
        self._compile()
        self._reset()

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`."""
        return self._compile_seconds

    def load(self, state: State) -> None:
        """See :meth:`fusedmlp.backend.Engine.load`."""
        prepare_state(state, self.network, self.optimizer)
        self._theta = state.parameters.copy(self.dtype)
        self._slots = tuple(slot.copy(self.dtype) for slot in state.slots)
        self._step = state.step

    def parameters(self) -> Parameters:
        """See :meth:`fusedmlp.backend.Engine.parameters`."""
        return self._theta.copy()

    def state(self) -> State:
        """See :meth:`fusedmlp.backend.Engine.state`."""
        return State(self.parameters(), tuple(slot.copy() for slot in self._slots), self._step)

    def stage(
        self,
        x: Inputs,
        y: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> StrictData:
        """See :meth:`fusedmlp.backend.Engine.stage`."""
        return StrictData(prepare(x, y, sample_weight, self.network, self.dtype))

    def forward(self, x: Inputs) -> FloatArray:
        """See :meth:`fusedmlp.backend.Engine.forward`."""
        inputs = prepare_inputs(x, self.network, self.dtype)
        outputs = np.empty((int(inputs.shape[0]), self.network.n_outputs), self.dtype)
        output = OUTPUTS.index(self.network.output)
        for start, stop, a in self._evaluation_batches(len(outputs)):
            gather_rows(inputs, np.arange(start, stop), a[0])
            self._logits(a)
            self._run(
                kernels.output_activation, a[-1], self._theta.biases[-1], output, self._constants
            )
            outputs[start:stop] = a[-1]
        return outputs

    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.evaluate`."""
        host = self._own(data)
        rows = np.arange(host.rows) if rows is None else check_rows(rows, host.rows)
        parts = []
        for start, stop, a in self._evaluation_batches(len(rows)):
            gather_rows(host.x, rows[start:stop], a[0])
            self._logits(a)
            parts.append(self._output_delta(a[-1], host, rows[start:stop]))
        return _sums(parts)

    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[BatchMetrics, Parameters]:
        """See :meth:`fusedmlp.backend.Engine.loss_and_gradients`."""
        host = self._own(data)
        rows = check_rows(rows, host.rows)
        if len(rows) > self.batch_size:
            raise InvalidInputError(
                f"{len(rows)} rows are more than the engine's batch size {self.batch_size}"
            )
        return _sums([self._backward(host, rows)]), self._gradients.copy()

    def apply_gradients(self, gradients: Parameters, lr: float) -> None:
        """See :meth:`fusedmlp.backend.Engine.apply_gradients`."""
        gradients.check(self.network)
        (rate,) = check_rates([lr], 1)
        self._gradients = gradients.copy(self.dtype)
        self._update(float(rate))

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.train_epoch`."""
        host = self._own(data)
        order = check_rows(order, host.rows)
        starts = range(0, len(order), self.batch_size)
        lr = check_rates(lr, len(starts))
        parts = []
        for start, rate in zip(starts, lr.tolist(), strict=True):
            parts.append(self._backward(host, order[start : start + self.batch_size]))
            self._update(rate)
        return _sums(parts)

    def synchronize(self) -> None:
        """See :meth:`fusedmlp.backend.Engine.synchronize`; every call ends with its work done."""

    def _logits(self, a: list[FloatArray], *, training: bool = False) -> None:
        """Fill a[1:] from a[0]: a[l + 1] = f(a[l]·W[l] + b[l]), and a[L] = a[L − 1]·W[L − 1]."""
        dropout, last = self.network.dropout, self.network.n_layers - 1
        for layer, (W, b) in enumerate(zip(self._theta.weights, self._theta.biases, strict=True)):
            z = a[layer + 1]
            self._run(kernels.product, a[layer], W, z)
            if layer == last:
                return
            self._run(kernels.bias_activation, z, b, self._hidden, self._constants)
            if training and dropout:
                kept = self._kept[layer][: len(z)]
                words = self.seed, self._step % 2**32, layer, keep_threshold(dropout)
                self._run(kernels.dropout_mask, kept, *map(np.uint64, words))
                scale = self._real(1.0 / (1.0 - dropout))
                self._run(kernels.masked, z, kept, scale, self._constants)

    def _backward(self, host: HostData, rows: IntArray) -> Float64Vector:
        """Fill the gradients for one batch; return loss, correct and weight sums.

        delta[L] = ŷ − y;  dW[l] = a[l]ᵀ·delta[l + 1];  db[l] = 1ᵀ·delta[l + 1];
        delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]).
        """
        a = [buffer[: len(rows)] for buffer in self._a]
        gather_rows(host.x, rows, a[0])
        self._logits(a, training=True)
        delta = a[-1]
        sums = self._output_delta(delta, host, rows)
        weight = float(sums[kernels.WEIGHT])
        if self.objective.reduction == "mean":
            self._run(kernels.scaled, delta, self._real(1.0 / weight if weight else 0.0))

        weights, l2, dropout = self._theta.weights, self.objective.l2, self.network.dropout
        for layer in reversed(range(self.network.n_layers)):
            dW, db = self._gradients.weights[layer], self._gradients.biases[layer]
            self._run(kernels.product, a[layer].T, delta, dW)
            self._run(kernels.bias_gradient, delta, db)
            if l2:
                flat = dW.reshape(-1), weights[layer].reshape(-1)
                self._run(kernels.l2_gradient, *flat, self._real(l2))
            if layer == 0:
                break
            below = self._delta[layer - 1][: len(rows)]
            self._run(kernels.product, delta, weights[layer].T, below)
            if dropout:
                kept, scale = self._kept[layer - 1][: len(rows)], self._real(1.0 / (1.0 - dropout))
                self._run(kernels.masked, below, kept, scale, self._constants)
                self._run(kernels.scaled, a[layer], self._real(1.0 - dropout))
            self._run(kernels.hidden_delta, below, a[layer], self._hidden, self._constants)
            delta = below
        return sums

    def _output_delta(self, z: FloatArray, host: HostData, rows: IntArray) -> Float64Vector:
        """Turn the last product into the unscaled output delta; return the batch's sums (3,)."""
        assert host.y is not None
        w = np.ones(len(rows), self.dtype)
        if host.sample_weight is not None:
            w = host.sample_weight[rows]
        sums = np.empty(3)
        self._run(
            OUTPUT_KERNELS[self.network.output],
            z,
            self._theta.biases[-1],
            host.y[rows],
            w,
            sums,
            self._constants,
            CONSTANTS["float64"],
        )
        return sums

    def _update(self, lr: float) -> None:
        """Take one optimizer step along the gradients."""
        optimizer, real = self.optimizer, self._real
        for arrays in zip(self._theta, self._gradients, *self._slots, strict=True):
            flat = [array.reshape(-1) for array in arrays]
            if not isinstance(optimizer, SGD):
                decay = optimizer.weight_decay if arrays[0].ndim == 2 else 0.0
                self._run(kernels.adam, *flat, *map(real, self._adam_scalars(optimizer, lr, decay)))
            elif not optimizer.momentum:
                self._run(kernels.sgd, *flat, real(lr))
            else:
                entry = kernels.nesterov if optimizer.nesterov else kernels.momentum
                self._run(entry, *flat, real(lr), real(optimizer.momentum))
        self._step += 1

    def _adam_scalars(self, optimizer: Adam, lr: float, decay: float) -> tuple[float, ...]:
        """Return what the kernel is told of this step, computed in float64, in its order."""
        beta1, beta2 = optimizer.beta1, optimizer.beta2
        c1, c2 = optimizer.bias_corrections(self._step, 1)[0].tolist()
        (eps,) = optimizer.epsilons(self._step, 1).tolist()
        return beta1, beta2, 1.0 - beta1, 1.0 - beta2, lr / c1, c2, 1.0 - lr * decay, eps

    def _reset(self) -> None:
        self._theta = zeros(self.network, self.dtype)
        self._gradients = zeros(self.network, self.dtype)
        self._slots = tuple(zeros(self.network, self.dtype) for _ in self.optimizer.slots)
        self._step = 0

    def _compile(self) -> None:
        """Take a step and predict on rows of zeros, so that no later call waits for a compiler."""
        n, K = min(self.batch_size, 2), self.network.n_outputs
        x = np.zeros((n, self.network.n_inputs), self.dtype)
        y = np.zeros(n, np.int64) if self.network.output == "softmax" else np.zeros((n, K))
        self._backward(prepare(x, y, None, self.network, self.dtype), np.arange(n))
        self._update(0.0)
        self.forward(x)

    def _run(self, entry: Entry, *arguments: object) -> None:
        self._compile_seconds += entry.compile(*arguments)
        entry(*arguments)

    def _activation_buffers(self, rows: int) -> list[FloatArray]:
        """One (rows, width) array for the inputs and for each layer's activation."""
        return [np.empty((rows, width), self.dtype) for width in self.network.sizes]

    def _evaluation_batches(self, n_rows: int) -> Iterator[tuple[int, int, list[FloatArray]]]:
        """Yield the bounds of consecutive batches with buffers that fit them."""
        size = min(evaluation_rows(self.batch_size), max(n_rows, 1))
        buffers = self._activation_buffers(size)
        for start in range(0, n_rows, size):
            stop = min(start + size, n_rows)
            yield start, stop, [buffer[: stop - start] for buffer in buffers]

    def _own(self, data: Data) -> HostData:
        if not isinstance(data, StrictData):
            raise InvalidInputError(
                f"data was staged by another backend ({type(data).__name__}): "
                "call this engine's stage()"
            )
        if not data.labelled:
            raise InvalidInputError("this data was staged without targets: pass y to stage()")
        return data.host


def gather_rows(x: Inputs, rows: IntArray, out: FloatArray) -> None:
    """Out (B, D) = x[rows] in out's dtype; uint8 pixels become x / 255, CSR rows become dense."""
    if is_sparse(x):
        out[...] = x[rows].toarray()
    elif x.dtype == np.uint8:
        np.divide(x[rows], out.dtype.type(PIXEL_MAX), out=out, dtype=out.dtype, casting="unsafe")
    else:
        out[...] = x[rows]


def _sums(parts: list[Float64Vector]) -> BatchMetrics:
    losses, correct, weights = np.array(parts).T.copy()
    return BatchMetrics(losses, correct, weights)

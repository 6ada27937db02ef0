"""The NumPy engine: forward, backward and update of a whole network, written as the formulas are.

Every buffer is allocated once. Nothing here is compiled or threaded by hand; the matrix products
run on NumPy's BLAS. The formulas of single operations are in kernels.py; strict mode exchanges
those of them that are in strict.py.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from fusedmlp.backend import BatchMetrics, Data, Engine, State
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import Parameters, zeros
from fusedmlp.optimizers import SGD
from fusedmlp.reference.arithmetic import evaluation_rows
from fusedmlp.validation import (
    HostData,
    check_rates,
    check_rows,
    prepare,
    prepare_inputs,
    prepare_state,
)
from fusedmlp_numpy import kernels
from fusedmlp_numpy import strict as strict_kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt
    from threadpoolctl import ThreadpoolController

    from fusedmlp.network import HiddenActivation, Network, Objective, Output
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Vector, FloatArray, FloatDtype, Inputs, IntArray


def blas_controller() -> ThreadpoolController:
    """Find NumPy's BLAS, to limit its threads; only who gives a number of threads needs it."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class Operations(Protocol):
    """The kernels that strict mode exchanges: what kernels.py and strict.py both have."""

    def product(self, a: FloatArray, b: FloatArray, out: FloatArray) -> None:
        """Out = a·b."""

    def bias_gradient(self, delta: FloatArray, db: FloatArray) -> None:
        """Db = 1ᵀ·delta."""

    def batch_weight(self, w: FloatArray) -> float:
        """Σ w."""

    def bias_activation(self, z: FloatArray, b: FloatArray, activation: HiddenActivation) -> None:
        """Z ← f(z + b)."""

    def output_activation(self, z: FloatArray, output: Output) -> None:
        """Z ← ŷ."""


OUTPUT_KERNELS: Final = {
    "softmax": "softmax_cross_entropy",
    "sigmoid": "sigmoid_cross_entropy",
    "identity": "squared_error",
    "exp": "poisson_deviance",
}
"""Names of the kernels of the outputs, which both have too."""

FORWARD_ROWS: Final = 1024
"""Rows that forward and evaluate take at a time, or the batch size where that is larger."""


@dataclass
class NumpyData(Data):
    """A staged data set: the checked host arrays themselves."""

    host: HostData

    def __post_init__(self) -> None:
        self.rows = self.host.rows
        self.labelled = self.host.y is not None


class NumpyEngine(Engine):
    """One network in host memory; ``strict`` selects :mod:`fusedmlp.reference.arithmetic`."""

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        objective: Objective,
        *,
        batch_size: int,
        dtype: FloatDtype,
        seed: int,
        threads: int | None,
        strict: bool = False,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.objective = objective
        self.batch_size = batch_size
        self.dtype = dtype
        self.seed = seed
        self._threads = threads
        self._blas = None if threads is None else blas_controller()
        self._strict = strict
        self._operations: Operations = strict_kernels if strict else kernels

        self._theta = zeros(network, dtype)
        self._gradients = zeros(network, dtype)
        self._slots = tuple(zeros(network, dtype) for _ in optimizer.slots)
        self._scratch = zeros(network, dtype)
        self._step = 0

        self._a = self._activation_buffers(batch_size)
        self._delta = [np.empty((batch_size, H), dtype) for H in network.sizes[1:-1]]
        self._kept = [np.empty((batch_size, H), np.bool_) for H in network.sizes[1:-1]]

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`; nothing is compiled here."""
        return 0.0

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
    ) -> NumpyData:
        """See :meth:`fusedmlp.backend.Engine.stage`."""
        return NumpyData(prepare(x, y, sample_weight, self.network, self.dtype))

    def forward(self, x: Inputs) -> FloatArray:
        """See :meth:`fusedmlp.backend.Engine.forward`."""
        inputs = prepare_inputs(x, self.network, self.dtype)
        n_rows = int(inputs.shape[0])
        outputs = np.empty((n_rows, self.network.n_outputs), self.dtype)
        with self._arithmetic():
            for start, stop, a in self._evaluation_batches(n_rows):
                kernels.gather_rows(inputs, np.arange(start, stop), a[0])
                self._logits(a)
                a[-1] += self._theta.biases[-1]
                self._operations.output_activation(a[-1], self.network.output)
                outputs[start:stop] = a[-1]
        return outputs

    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.evaluate`."""
        host = self._own(data, labelled=True)
        rows = np.arange(host.rows) if rows is None else check_rows(rows, host.rows)
        parts = []
        with self._arithmetic():
            for start, stop, a in self._evaluation_batches(len(rows)):
                kernels.gather_rows(host.x, rows[start:stop], a[0])
                self._logits(a)
                parts.append(self._output_delta(a[-1], host, rows[start:stop]))
        return _sums(parts)

    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[BatchMetrics, Parameters]:
        """See :meth:`fusedmlp.backend.Engine.loss_and_gradients`."""
        host = self._own(data, labelled=True)
        rows = check_rows(rows, host.rows)
        if len(rows) > self.batch_size:
            raise InvalidInputError(
                f"{len(rows)} rows are more than the engine's batch size {self.batch_size}"
            )
        with self._arithmetic():
            sums = self._backward(host, rows)
        return _sums([sums]), self._gradients.copy()

    def apply_gradients(self, gradients: Parameters, lr: float) -> None:
        """See :meth:`fusedmlp.backend.Engine.apply_gradients`."""
        gradients.check(self.network)
        (rate,) = check_rates([lr], 1)
        self._gradients = gradients.copy(self.dtype)
        with self._arithmetic():
            self._update(float(rate))

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.train_epoch`."""
        host = self._own(data, labelled=True)
        order = check_rows(order, host.rows)
        starts = range(0, len(order), self.batch_size)
        lr = check_rates(lr, len(starts))
        # Plain SGD has its rate folded into the output delta, which is smaller than the weights.
        folds = self.optimizer.kernel == "sgd" and not self._strict
        parts = []
        with self._arithmetic():
            for start, rate in zip(starts, lr.tolist(), strict=True):
                rows = order[start : start + self.batch_size]
                parts.append(self._backward(host, rows, rate if folds else 1.0))
                self._update(1.0 if folds else rate)
        return _sums(parts)

    def synchronize(self) -> None:
        """See :meth:`fusedmlp.backend.Engine.synchronize`; NumPy never runs ahead."""

    def _logits(self, a: list[FloatArray], *, training: bool = False) -> None:
        """Fill a[1:] from a[0]: a[l + 1] = f(a[l]·W[l] + b[l]), and a[L] = a[L − 1]·W[L − 1].

        The last bias is left to the output kernels, as the activation's bias is to theirs.
        """
        hidden, dropout = self.network.hidden, self.network.dropout
        last = self.network.n_layers - 1
        for layer, (W, b) in enumerate(zip(self._theta.weights, self._theta.biases, strict=True)):
            self._operations.product(a[layer], W, a[layer + 1])
            if layer == last:
                return
            self._operations.bias_activation(a[layer + 1], b, hidden)
            if training and dropout:
                kept = self._kept[layer][: len(a[0])]
                kernels.dropout_mask(kept, self.seed, self._step, layer, dropout)
                a[layer + 1] *= kept
                a[layer + 1] *= 1.0 / (1.0 - dropout)

    def _backward(
        self, host: HostData, rows: IntArray, rate: float = 1.0
    ) -> tuple[float, float, float]:
        """Fill the gradients for one batch, times ``rate``; return loss, correct and weight sums.

        delta[L] = ŷ − y;  dW[l] = a[l]ᵀ·delta[l + 1];  db[l] = 1ᵀ·delta[l + 1];
        delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]).
        """
        a = [buffer[: len(rows)] for buffer in self._a]
        kernels.gather_rows(host.x, rows, a[0])
        self._logits(a, training=True)
        delta = a[-1]
        loss, correct, weight = self._output_delta(delta, host, rows)
        if self.objective.reduction == "mean":
            delta *= rate / weight if weight else 0.0
        elif rate != 1.0:
            delta *= rate

        weights, l2, dropout = self._theta.weights, self.objective.l2, self.network.dropout
        for layer in reversed(range(self.network.n_layers)):
            dW, db = self._gradients.weights[layer], self._gradients.biases[layer]
            self._operations.product(a[layer].T, delta, dW)
            self._operations.bias_gradient(delta, db)
            if l2:
                dW += rate * l2 * weights[layer]
            if layer == 0:
                break
            below = self._delta[layer - 1][: len(rows)]
            self._operations.product(delta, weights[layer].T, below)
            if dropout:
                # a holds f(z)/(1 − p) where kept; where silenced, the mask makes delta 0.
                below *= self._kept[layer - 1][: len(rows)]
                below *= 1.0 / (1.0 - dropout)
                a[layer] *= 1.0 - dropout
            kernels.hidden_delta(below, a[layer], self.network.hidden)
            delta = below
        return loss, correct, weight

    def _output_delta(
        self, z: FloatArray, host: HostData, rows: IntArray
    ) -> tuple[float, float, float]:
        """Turn the last product into the unscaled output delta; return the batch's sums."""
        assert host.y is not None
        w = None if host.sample_weight is None else host.sample_weight[rows]
        name = OUTPUT_KERNELS[self.network.output]
        kernel: Callable[..., tuple[float, float]] = getattr(self._operations, name)
        loss, correct = kernel(z, self._theta.biases[-1], host.y[rows], w)
        weight = float(len(rows)) if w is None else self._operations.batch_weight(w)
        return loss, correct, weight

    def _update(self, lr: float) -> None:
        """Take one optimizer step along the gradients, which are used up."""
        optimizer = self.optimizer
        arrays = zip(self._theta, self._gradients, *self._slots, strict=True)
        if isinstance(optimizer, SGD):
            for theta, gradient, *slots in arrays:
                if not slots:
                    kernels.sgd(theta, gradient, lr)
                elif optimizer.nesterov:
                    kernels.nesterov(theta, gradient, slots[0], lr, optimizer.momentum)
                else:
                    kernels.momentum(theta, gradient, slots[0], lr, optimizer.momentum)
        else:
            c1, c2 = optimizer.bias_corrections(self._step, 1)[0]
            (eps,) = optimizer.epsilons(self._step, 1)
            for (theta, gradient, m, v), scratch in zip(arrays, self._scratch, strict=True):
                kernels.adam(
                    theta,
                    gradient,
                    m,
                    v,
                    lr,
                    optimizer.beta1,
                    optimizer.beta2,
                    float(eps),
                    (float(c1), float(c2)),
                    optimizer.weight_decay if theta.ndim == 2 else 0.0,
                    scratch,
                )
        self._step += 1

    def _activation_buffers(self, rows: int) -> list[FloatArray]:
        """One (rows, width) array for the inputs and for each layer's activation."""
        return [np.empty((rows, width), self.dtype) for width in self.network.sizes]

    def _evaluation_batches(self, n_rows: int) -> Iterator[tuple[int, int, list[FloatArray]]]:
        """Yield the bounds of consecutive batches with buffers that fit them."""
        most = evaluation_rows(self.batch_size) if self._strict else FORWARD_ROWS
        size = min(max(self.batch_size, most), max(n_rows, 1))
        buffers = self._a if size == self.batch_size else self._activation_buffers(size)
        for start in range(0, n_rows, size):
            stop = min(start + size, n_rows)
            yield start, stop, [buffer[: stop - start] for buffer in buffers]

    def _own(self, data: Data, *, labelled: bool) -> HostData:
        if not isinstance(data, NumpyData):
            raise InvalidInputError(
                f"data was staged by another backend ({type(data).__name__}): "
                "call this engine's stage()"
            )
        if labelled and not data.labelled:
            raise InvalidInputError("this data was staged without targets: pass y to stage()")
        return data.host

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Let e⁻ᶻ overflow to ∞ as the formulas intend, and hold BLAS to the threads asked for."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            if self._blas is None:
                yield
            else:
                with self._blas.limit(limits=self._threads):
                    yield


def _sums(parts: list[tuple[float, float, float]]) -> BatchMetrics:
    losses, correct, weights = np.array(parts, dtype=np.float64).T.copy()
    return BatchMetrics(losses, correct, weights)

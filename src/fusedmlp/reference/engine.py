"""The reference engine: forward pass, backward pass and update of a network.

All training buffers are allocated once. Activations, losses and updates are in the other files of
this package; sums, products and elementary functions are a parameter, :class:`Operations`.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from fusedmlp.backend import BatchMetrics, Data, Engine, State
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import Parameters, zeros
from fusedmlp.reference.activations import bias_activation, hidden_delta
from fusedmlp.reference.arithmetic import evaluation_rows
from fusedmlp.reference.dropout import Mask
from fusedmlp.reference.outputs import LOSSES, output_activation
from fusedmlp.reference.updates import Arrays, take_step
from fusedmlp.validation import (
    HostData,
    check_rates,
    check_rows,
    is_sparse,
    validate_data,
    validate_inputs,
    validate_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from fusedmlp.backend import EngineSpec
    from fusedmlp.reference.operations import LeftOperand, Operations
    from fusedmlp.types import Float64Vector, FloatArray, Inputs, IntArray

PIXEL_MAX: Final = 255

SPARSE_SHARE: Final = 1 / 16
"""Largest share of stored values of a CSR data set whose batches are multiplied as they are. Fuller
ones become dense: the BLAS is faster then, and they take at most so many times the memory."""


@dataclass
class ReferenceData(Data):
    """A staged data set: the validated host arrays."""

    host: HostData

    def __post_init__(self) -> None:
        self.rows = self.host.rows
        self.labelled = self.host.y is not None


class ReferenceEngine(Engine):
    """One network in host memory.

    Parameters
    ----------
    operations
        Sums, products and elementary functions of the formulas.
    threads
        Returns a context that limits the threads of the operations.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        operations: Operations,
        threads: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__(spec)
        network, optimizer = spec.network, spec.optimizer
        batch_size, dtype = spec.batch_size, spec.dtype
        self._operations = operations
        self._limited_threads = threads

        self._theta = zeros(network, dtype)
        self._gradients = zeros(network, dtype)
        self._slots = tuple(zeros(network, dtype) for _ in optimizer.slots)
        self._scratch = zeros(network, dtype)
        self._step = 0

        self._inputs: FloatArray = np.empty((0, network.n_inputs), dtype)
        self._a = self._activation_buffers(batch_size)
        self._delta = [np.empty((batch_size, H), dtype) for H in network.sizes[1:-1]]
        self._kept = [np.empty((batch_size, H), np.bool_) for H in network.sizes[1:-1]]
        kept_z = network.sizes[1:-1] if network.keeps_z else ()
        self._z = [np.empty((batch_size, H), dtype) for H in kept_z]
        if operations.compiles:
            self._compile()

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`; only operations may be compiled."""
        return self._operations.compile_seconds

    def load(self, state: State) -> None:
        """See :meth:`fusedmlp.backend.Engine.load`."""
        validate_state(state, self.network, self.optimizer)
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
    ) -> ReferenceData:
        """See :meth:`fusedmlp.backend.Engine.stage`."""
        return ReferenceData(validate_data(x, y, sample_weight, self.network, self.dtype))

    def forward(self, x: Inputs) -> FloatArray:
        """See :meth:`fusedmlp.backend.Engine.forward`."""
        inputs = validate_inputs(x, self.network, self.dtype)
        n_rows = int(inputs.shape[0])
        outputs = np.empty((n_rows, self.network.n_outputs), self.dtype)
        with self._arithmetic():
            for start, stop, a in self._evaluation_batches(n_rows):
                self._logits(self._gather(inputs, np.arange(start, stop)), a)
                a[-1] += self._theta.biases[-1]
                output_activation(self._operations, a[-1], self.network.output)
                outputs[start:stop] = a[-1]
        return outputs

    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        """See :meth:`fusedmlp.backend.Engine.evaluate`."""
        host = self._own(data, labelled=True)
        rows = np.arange(host.rows) if rows is None else check_rows(rows, host.rows)
        parts = []
        with self._arithmetic():
            for start, stop, a in self._evaluation_batches(len(rows)):
                self._logits(self._gather(host.x, rows[start:stop]), a)
                parts.append(self._output_delta(a[-1], host, rows[start:stop]))
        return _metrics(parts)

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
            squares = self._sum_squares()
        return _metrics([sums], squares), self._gradients.copy()

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
        folds = self.optimizer.kernel == "sgd" and self._operations.folds_rate
        parts: list[tuple[float, float, float]] = []
        squares: list[float] = []
        with self._arithmetic():
            for start, rate in zip(starts, lr.tolist(), strict=True):
                rows = order[start : start + self.batch_size]
                parts.append(self._backward(host, rows, rate if folds else 1.0))
                squares += self._sum_squares()
                self._update(1.0 if folds else rate)
        return _metrics(parts, squares)

    def synchronize(self) -> None:
        """See :meth:`fusedmlp.backend.Engine.synchronize`; all calls are synchronous."""

    def _compile(self) -> None:
        """Compute one batch of zeros, so that the operations are compiled now."""
        n, K = min(self.batch_size, 2), self.network.n_outputs
        x = np.zeros((n, self.network.n_inputs), self.dtype)
        y = np.zeros(n, np.int64) if self.network.output == "softmax" else np.zeros((n, K))
        self.loss_and_gradients(self.stage(x, y), np.arange(n))
        self.forward(x)

    def _gather(self, x: Inputs, rows: IntArray) -> LeftOperand:
        """Return a[0] = x[rows] in the engine's dtype: dense, or CSR where most of x is zeros."""
        most = SPARSE_SHARE * x.shape[0] * x.shape[1] if self._operations.takes_sparse else 0
        if is_sparse(x) and x.nnz < most:
            return x[rows].astype(self.dtype, copy=False)
        if len(self._inputs) < len(rows):
            self._inputs = np.empty((len(rows), self.network.n_inputs), self.dtype)
        out = self._inputs[: len(rows)]
        gather_rows(x, rows, out)
        return out

    def _logits(self, x: LeftOperand, a: list[FloatArray], *, training: bool = False) -> None:
        """Fill a from x: a[l + 1] = f(a[l]·W[l] + b[l]), and a[L] = a[L − 1]·W[L − 1].

        a[0] is x, and the list begins with a[1]. The last bias is added by the loss function, as
        the other biases are by the activations.
        """
        hidden, dropout = self.network.hidden, self.network.dropout
        last, below = self.network.n_layers - 1, x
        for layer, (W, b) in enumerate(zip(self._theta.weights, self._theta.biases, strict=True)):
            above = a[layer]
            self._operations.product(below, W, above)
            if layer == last:
                return
            keep = self._z[layer][: len(above)] if training and self._z else None
            bias_activation(self._operations, above, b, hidden, keep)
            if training and dropout:
                kept = self._kept[layer][: len(above)]
                mask = Mask(kept, self.seed, self._step, layer, dropout)
                self._operations.dropout_mask(mask)
                above *= kept
                above *= 1.0 / (1.0 - dropout)
            below = above

    def _backward(
        self, host: HostData, rows: IntArray, rate: float = 1.0
    ) -> tuple[float, float, float]:
        """Fill the gradients for one batch, times ``rate``; return loss, correct and weight sums.

        delta[L] = ŷ − y;  dW[l] = a[l]ᵀ·delta[l + 1];  db[l] = 1ᵀ·delta[l + 1];
        delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]).
        """
        x, a = self._gather(host.x, rows), [buffer[: len(rows)] for buffer in self._a]
        self._logits(x, a, training=True)
        delta = a[-1]
        loss, correct, weight = self._output_delta(delta, host, rows)
        if self.objective.reduction == "mean":
            delta *= rate / weight if weight else 0.0
        elif rate != 1.0:
            delta *= rate

        weights, l2, dropout = self._theta.weights, self.objective.l2, self.network.dropout
        for layer in reversed(range(self.network.n_layers)):
            dW, db = self._gradients.weights[layer], self._gradients.biases[layer]
            f = a[layer - 1] if layer else x
            self._operations.product(f.T, delta, dW)
            self._operations.sum_rows(delta, db)
            if l2:
                dW += rate * l2 * weights[layer]
            if layer == 0:
                break
            below = self._delta[layer - 1][: len(rows)]
            self._operations.product(delta, weights[layer].T, below)
            if dropout:
                # a is f(z)/(1 − p) for kept units; for dropped units, the mask sets delta to 0.
                below *= self._kept[layer - 1][: len(rows)]
                below *= 1.0 / (1.0 - dropout)
                a[layer - 1] *= 1.0 - dropout
            saved = self._z[layer - 1][: len(rows)] if self._z else a[layer - 1]
            hidden_delta(self._operations, below, saved, self.network.hidden)
            delta = below
        return loss, correct, weight

    def _output_delta(
        self, z: FloatArray, host: HostData, rows: IntArray
    ) -> tuple[float, float, float]:
        """Replace the last product by the unscaled output delta; return the batch's sums."""
        assert host.y is not None
        w = None if host.sample_weight is None else host.sample_weight[rows]
        loss_of = LOSSES[self.network.output]
        loss, correct = loss_of(self._operations, z, self._theta.biases[-1], host.y[rows], w)
        weight = float(len(rows)) if w is None else self._operations.total(w)
        return loss, correct, weight

    def _sum_squares(self) -> list[float]:
        """Return Σ W² over all weights, for :class:`BatchMetrics`; [] where not asked for."""
        if not self.spec.sums_squares:
            return []
        rows = [self._operations.squared_norms(W) for W in self._theta.weights]
        return [self._operations.total(np.concatenate(rows))]

    def _update(self, lr: float) -> None:
        """Take one optimizer step with the gradients, which are overwritten."""
        every = zip(self._theta, self._gradients, self._scratch, *self._slots, strict=True)
        for theta, gradient, scratch, *slots in every:
            take_step(self.optimizer, Arrays(theta, gradient, slots, scratch), lr, self._step)
        self._step += 1

    def _activation_buffers(self, rows: int) -> list[FloatArray]:
        """Return a (rows, width) array for each layer's activation."""
        return [np.empty((rows, width), self.dtype) for width in self.network.sizes[1:]]

    def _evaluation_batches(self, n_rows: int) -> Iterator[tuple[int, int, list[FloatArray]]]:
        """Yield the bounds of consecutive batches, with buffers of their sizes."""
        size = min(evaluation_rows(self.batch_size), max(n_rows, 1))
        buffers = self._a if size == self.batch_size else self._activation_buffers(size)
        for start in range(0, n_rows, size):
            stop = min(start + size, n_rows)
            yield start, stop, [buffer[: stop - start] for buffer in buffers]

    def _own(self, data: Data, *, labelled: bool) -> HostData:
        if not isinstance(data, ReferenceData):
            raise InvalidInputError(
                f"data was staged by another backend ({type(data).__name__}): "
                "call this engine's stage()"
            )
        if labelled and not data.labelled:
            raise InvalidInputError("this data was staged without targets: pass y to stage()")
        return data.host

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Suppress warnings for e⁻ᶻ = ∞, which the formulas expect, and limit the threads."""
        quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
        with quiet, self._limited_threads():
            yield


def gather_rows(x: Inputs, rows: IntArray, out: FloatArray) -> None:
    """Compute out = x[rows] in the dtype of out: uint8 as x / 255, CSR rows as dense rows.

    Parameters
    ----------
    x
        (N, D) validated inputs.
    rows
        (B,) row indices.
    out
        (B, D).
    """
    if is_sparse(x):
        out[...] = x[rows].toarray()
    elif x.dtype == np.uint8:
        np.divide(x[rows], out.dtype.type(PIXEL_MAX), out=out, dtype=out.dtype, casting="unsafe")
    elif x.dtype == out.dtype:
        # mode="clip" makes take write into out without a buffer; the rows are already validated.
        np.take(cast("FloatArray", x), rows, axis=0, out=out, mode="clip")
    else:
        out[...] = x[rows]


def _metrics(
    parts: list[tuple[float, float, float]], squares: list[float] | None = None
) -> BatchMetrics:
    losses, correct, weights = np.array(parts, dtype=np.float64).T.copy()
    return BatchMetrics(losses, correct, weights, np.array(squares) if squares else None)

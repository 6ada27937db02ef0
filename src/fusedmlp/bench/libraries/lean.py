"""How fast NumPy can be: the whole step in place, in buffers that are made once.

The lines of benchmarks/lean_numpy.py for any depth, both activations, both optimizers and
dropout. Not an engine: nothing is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.bench.contract import Outcome, Peer, Predict, Training
from fusedmlp.optimizers import Adam

if TYPE_CHECKING:
    from fusedmlp.bench.material import Material
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray, IntArray


def sigmoid_in_place(z: FloatArray) -> None:
    np.negative(z, out=z)
    np.exp(z, out=z)
    z += 1
    np.reciprocal(z, out=z)


def softmax_in_place(z: FloatArray) -> None:
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)


class _Training(Training):
    def __init__(self, task: Task, material: Material) -> None:
        self._task, self.exact = task, not task.dropout
        self._x, self._y = material.floats(task.dtype), material.y
        start = material.start.copy(task.dtype)
        self._W, self._b = list(start.weights), list(start.biases)
        self._gradients = [np.empty_like(a) for a in start]
        self._scratch = [np.empty_like(a) for a in start]
        self._m, self._v = ([np.zeros_like(a) for a in start] for _ in range(2))
        B = task.batch_size
        self._a = [np.empty((B, width), task.dtype) for width in task.sizes]
        self._delta = [np.empty((B, width), task.dtype) for width in task.sizes[1:-1]]
        self._masks = [np.empty_like(delta) for delta in self._delta]
        self._each, self._rng, self._t = np.arange(B), np.random.default_rng(1), 0

    def epoch(self, order: IntArray) -> Outcome:
        loss, correct, B = 0.0, 0, self._task.batch_size
        for start in range(0, len(order), B):
            rows = order[start : start + B]
            if self._task.is_full_batch:
                x, labels = self._x, self._y
            else:
                labels, x = self._y[rows], self._a[0][: len(rows)]
                np.take(self._x, rows, axis=0, out=x, mode="clip")
            found = self._step(x, labels)
            loss, correct = loss + found[0], correct + found[1]
        return Outcome(loss / len(order), correct / len(order))

    def weights(self) -> list[FloatArray]:
        return [a for pair in zip(self._W, self._b, strict=True) for a in pair]

    def _step(self, x: FloatArray, labels: IntArray) -> tuple[float, int]:
        B, last = len(labels), len(self._W) - 1
        inputs = x
        activations = [x]
        for layer, (W, b) in enumerate(zip(self._W, self._b, strict=True)):
            a = self._a[layer + 1][:B]
            np.matmul(inputs, W, out=a)
            a += b
            if layer < last:
                self._activate(a)
                self._drop(layer, a)
            activations.append(a)
            inputs = a
        softmax_in_place(inputs)
        each = self._each[:B]
        loss = -float(np.log(inputs[each, labels]).sum())
        correct = int(np.count_nonzero(inputs.argmax(axis=1) == labels))
        inputs[each, labels] -= 1
        inputs /= B
        delta = inputs
        for layer in range(last, -1, -1):
            np.matmul(activations[layer].T, delta, out=self._gradients[2 * layer])
            delta.sum(axis=0, out=self._gradients[2 * layer + 1])
            if layer:
                below = self._delta[layer - 1][:B]
                np.matmul(delta, self._W[layer].T, out=below)
                self._derive(layer, activations[layer], below)
                delta = below
        self._update()
        return loss, correct

    def _activate(self, z: FloatArray) -> None:
        if self._task.hidden == "relu":
            np.maximum(z, 0, out=z)
        else:
            sigmoid_in_place(z)

    def _drop(self, layer: int, a: FloatArray) -> None:
        rate = self._task.dropout
        if not rate:
            return
        mask = self._masks[layer][: len(a)]
        self._rng.random(dtype=mask.dtype, out=mask)
        np.less(mask, 1 - rate, out=mask, casting="unsafe")
        mask *= 1 / (1 - rate)
        a *= mask

    def _derive(self, layer: int, a: FloatArray, delta: FloatArray) -> None:
        """Turn the gradient by a layer's outputs into that by its inputs; ``a`` is used up."""
        rate = self._task.dropout
        if self._task.hidden == "relu":
            delta *= a > 0
            if rate:
                delta *= 1 / (1 - rate)
            return
        # With a mask m = 0 or 1/(1 − rate), a is m·σ: m·σ·(1 − σ) is a·(1 − a·(1 − rate)).
        delta *= a
        a *= rate - 1
        a += 1
        delta *= a

    def _update(self) -> None:
        task, arrays = self._task, self.weights()
        if task.optimizer == "sgd":
            for a, g in zip(arrays, self._gradients, strict=True):
                g *= task.lr
                a -= g
            return
        adam = Adam(task.lr)
        self._t += 1
        first, second = 1 - adam.beta1**self._t, 1 - adam.beta2**self._t
        step, eps = task.lr * second**0.5 / first, adam.eps * second**0.5
        for a, g, m, v, s in zip(
            arrays, self._gradients, self._m, self._v, self._scratch, strict=True
        ):
            np.multiply(g, 1 - adam.beta1, out=s)
            m *= adam.beta1
            m += s
            np.square(g, out=s)
            s *= 1 - adam.beta2
            v *= adam.beta2
            v += s
            np.sqrt(v, out=s)
            s += eps
            np.divide(m, s, out=s)
            s *= step
            a -= s


class LeanNumpy(Peer):
    """In-place NumPy; its BLAS's threads are set by the environment."""

    def training(self, task: Task, material: Material) -> Training:
        return _Training(task, material)

    def prediction(self, task: Task, material: Material) -> Predict:
        start = material.start

        def predict(x: FloatArray) -> FloatArray:
            a = x
            for W, b in zip(start.weights[:-1], start.biases[:-1], strict=True):
                a = a @ W
                a += b
                if task.hidden == "relu":
                    np.maximum(a, 0, out=a)
                else:
                    sigmoid_in_place(a)
            a = a @ start.weights[-1]
            a += start.biases[-1]
            softmax_in_place(a)
            return a

        return predict

"""NumPy at its fastest: the whole step in place, in buffers that are allocated once.

It is the bar for the NumPy backend, which is general and reads like the formulas. Nothing is
checked here.
"""

from __future__ import annotations

import numpy as np

from fusedmlp.bench.adapter import Adapter, Outcome, Training
from fusedmlp.optimizers import Adam


def activate(task, z):
    """Apply the hidden activation in place."""
    if task.hidden == "relu":
        np.maximum(z, 0, out=z)
        return
    np.negative(z, out=z)
    np.exp(z, out=z)
    z += 1
    np.reciprocal(z, out=z)


def softmax(z):
    """Apply the softmax in place."""
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)


class LeanTraining(Training):
    def __init__(self, task, inputs):
        self._task, self.exact = task, not task.dropout
        self._x, self._y = inputs.floats(task.dtype), inputs.y
        start = inputs.start.copy(task.dtype)
        self._W, self._b = list(start.weights), list(start.biases)
        self._gradients = [np.empty_like(a) for a in start]
        self._scratch = [np.empty_like(a) for a in start]
        self._m, self._v = ([np.zeros_like(a) for a in start] for _ in range(2))
        B = task.batch_size
        self._a = [np.empty((B, width), task.dtype) for width in task.sizes]
        self._delta = [np.empty((B, width), task.dtype) for width in task.sizes[1:-1]]
        self._masks = [np.empty_like(delta) for delta in self._delta]
        self._each, self._rng, self._t = np.arange(B), np.random.default_rng(1), 0

    def epoch(self, order):
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

    def weights(self):
        return [a for pair in zip(self._W, self._b, strict=True) for a in pair]

    def _step(self, x, labels):
        B, last = len(labels), len(self._W) - 1
        activations = [x]
        for layer, (W, b) in enumerate(zip(self._W, self._b, strict=True)):
            a = self._a[layer + 1][:B]
            np.matmul(activations[-1], W, out=a)
            a += b
            if layer < last:
                activate(self._task, a)
                self._drop(layer, a)
            activations.append(a)
        delta, each = activations.pop(), self._each[:B]
        softmax(delta)
        loss = -float(np.log(delta[each, labels]).sum())
        correct = int(np.count_nonzero(delta.argmax(axis=1) == labels))
        delta[each, labels] -= 1
        delta /= B
        for layer in range(last, -1, -1):
            np.matmul(activations[layer].T, delta, out=self._gradients[2 * layer])
            delta.sum(axis=0, out=self._gradients[2 * layer + 1])
            if layer:
                below = self._delta[layer - 1][:B]
                np.matmul(delta, self._W[layer].T, out=below)
                self._derive(activations[layer], below)
                delta = below
        self._update()
        return loss, correct

    def _drop(self, layer, a):
        rate = self._task.dropout
        if not rate:
            return
        mask = self._masks[layer][: len(a)]
        self._rng.random(dtype=mask.dtype, out=mask)
        np.less(mask, 1 - rate, out=mask, casting="unsafe")
        mask *= 1 / (1 - rate)
        a *= mask

    def _derive(self, a, delta):
        """Multiply the delta by the derivative of a layer's activation; ``a`` is overwritten."""
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

    def _update(self):
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


class LeanNumpy(Adapter):
    """In-place NumPy; the environment sets the threads of its BLAS."""

    def training(self, task, inputs):
        return LeanTraining(task, inputs)

    def prediction(self, task, inputs):
        start = inputs.start.copy(task.dtype)

        def predict(x):
            a = x
            for W, b in zip(start.weights[:-1], start.biases[:-1], strict=True):
                a = a @ W
                a += b
                activate(task, a)
            a = a @ start.weights[-1]
            a += start.biases[-1]
            softmax(a)
            return a

        return predict

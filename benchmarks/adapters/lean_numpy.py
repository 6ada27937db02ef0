"""NumPy at its fastest: a step of plain SGD in place, in buffers that are allocated once.

It is the bar for the NumPy backend, which is general and reads like the formulas. Nothing is
checked here.
"""

from __future__ import annotations

import numpy as np

from fusedmlp.bench.adapter import Adapter, Outcome, Training, UnsupportedError


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
        self._task, self._x, self._y = task, inputs.floats(task.dtype), inputs.y
        start, B = inputs.start.copy(task.dtype), task.batch_size
        self._W, self._b = list(start.weights), list(start.biases)
        self._dW = [np.empty_like(W) for W in self._W]
        self._a = [np.empty((B, width), task.dtype) for width in task.sizes]
        self._delta = [np.empty((B, width), task.dtype) for width in task.sizes[:-1]]
        self._each = np.arange(B)

    def epoch(self, order):
        loss, correct, B = 0.0, 0, self._task.batch_size
        for start in range(0, len(order), B):
            rows = order[start : start + B]
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
            activations.append(a)
        delta, each = activations.pop(), self._each[:B]
        softmax(delta)
        loss = -float(np.log(delta[each, labels]).sum())
        correct = int(np.count_nonzero(delta.argmax(axis=1) == labels))
        delta[each, labels] -= 1
        delta *= self._task.lr / B  # so that gradients are steps
        for layer in range(last, -1, -1):
            a, below = activations[layer], self._delta[layer][:B]
            np.matmul(a.T, delta, out=self._dW[layer])
            if layer:
                np.matmul(delta, self._W[layer].T, out=below)
            self._W[layer] -= self._dW[layer]
            self._b[layer] -= delta.sum(axis=0)
            if layer:
                self._derive(a, below)
            delta = below
        return loss, correct

    def _derive(self, a, delta):
        """Multiply the delta by the derivative of the activation; ``a`` is overwritten."""
        if self._task.hidden == "relu":
            delta *= a > 0
            return
        delta *= a
        np.subtract(1, a, out=a)
        delta *= a


class LeanNumpy(Adapter):
    """In-place NumPy; the environment sets the threads of its BLAS."""

    def training(self, task, inputs):
        if task.optimizer != "sgd" or task.dropout:
            raise UnsupportedError("it has plain SGD and no dropout")
        return LeanTraining(task, inputs)

    def prediction(self, task, inputs):
        start = inputs.start.copy(task.dtype)
        *hidden, (W_out, b_out) = zip(start.weights, start.biases, strict=True)

        def predict(x):
            a = x
            for W, b in hidden:
                a = a @ W
                a += b
                activate(task, a)
            a = a @ W_out
            a += b_out
            softmax(a)
            return a

        return predict

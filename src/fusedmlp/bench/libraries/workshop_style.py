"""The textbook network that this project grew from, as people write it first: float64, two layers.

Not tuned, on purpose: a copy of the data at every shuffle, fresh arrays at every step, gradients
summed over the batch. Its mistakes are not repeated (epochs are whole, batches may lack a class).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.bench.contract import Outcome, Peer, Training, UnsupportedError

if TYPE_CHECKING:
    from fusedmlp.bench.material import Material
    from fusedmlp.bench.tasks import Task
    from fusedmlp.network import Parameters
    from fusedmlp.types import Float64Array, FloatArray, IntArray


def sigmoid(z: Float64Array) -> Float64Array:
    found: Float64Array = 1 / (1 + np.exp(-z))
    return found


def sigmoid_derivative(z: Float64Array) -> Float64Array:
    return sigmoid(z) * (1 - sigmoid(z))


def softmax(z: Float64Array) -> Float64Array:
    found: Float64Array = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return found


class NeuralNet:
    """A sigmoid layer, a softmax layer, and their gradients by hand."""

    def __init__(self, start: Parameters) -> None:
        self.W1, self.W2 = (W.astype(np.float64) for W in start.weights)
        self.b1, self.b2 = (b.astype(np.float64) for b in start.biases)

    def forward(self, x: Float64Array) -> dict[str, Float64Array]:
        z1 = x @ self.W1 + self.b1
        a1 = sigmoid(z1)
        z2 = a1 @ self.W2 + self.b2
        return {"a0": x, "z1": z1, "a1": a1, "z2": z2, "a2": softmax(z2)}

    def backward(self, cache: dict[str, Float64Array], y: Float64Array) -> list[Float64Array]:
        delta_out = cache["a2"] - y
        delta_hidden = (delta_out @ self.W2.T) * sigmoid_derivative(cache["z1"])
        return [
            cache["a0"].T @ delta_hidden,
            delta_hidden.sum(axis=0),
            cache["a1"].T @ delta_out,
            delta_out.sum(axis=0),
        ]

    def train(
        self, x: Float64Array, y: IntArray, order: IntArray, batch_size: int, lr: float
    ) -> tuple[float, float]:
        """One epoch; the gradients' mean is left to the learning rate."""
        x, y = x[order], y[order]
        loss, correct = 0.0, 0
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            labels = np.eye(self.W2.shape[1])[y[rows]]
            cache = self.forward(x[rows])
            dW1, db1, dW2, db2 = self.backward(cache, labels)
            step = lr / len(labels)
            self.W1 -= step * dW1
            self.b1 -= step * db1
            self.W2 -= step * dW2
            self.b2 -= step * db2
            loss -= float((labels * np.log(cache["a2"])).sum())
            correct += int((cache["a2"].argmax(axis=1) == y[rows]).sum())
        return loss / len(x), correct / len(x)


class _Training(Training):
    def __init__(self, task: Task, material: Material) -> None:
        self._task, self._net = task, NeuralNet(material.start)
        self._x: Float64Array = np.asarray(material.floats(np.float64), np.float64)
        self._y = material.y

    def epoch(self, order: IntArray) -> Outcome:
        loss, accuracy = self._net.train(
            self._x, self._y, order, self._task.batch_size, self._task.lr
        )
        return Outcome(loss, accuracy)

    def weights(self) -> list[FloatArray]:
        return [self._net.W1, self._net.b1, self._net.W2, self._net.b2]


class WorkshopStyle(Peer):
    """The class above, in float64 whatever the task says."""

    def training(self, task: Task, material: Material) -> Training:
        fits = len(task.sizes) == 3 and task.hidden == "sigmoid" and task.optimizer == "sgd"
        if not fits or task.dropout:
            raise UnsupportedError("its class has two sigmoid layers, plain descent and no dropout")
        return _Training(task, material)

"""The two-layer network of the workshop as textbooks write it: float64, fresh arrays each step.

Not tuned, on purpose: it copies the data at every shuffle and sums gradients over the batch.
"""

from __future__ import annotations

import numpy as np

from fusedmlp.bench.adapter import Adapter, Outcome, Training, UnsupportedError


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


class WorkshopTraining(Training):
    """A sigmoid layer, a softmax layer, and their gradients by hand."""

    def __init__(self, task, inputs):
        self._task, self._x, self._y = task, inputs.floats(np.float64), inputs.y
        self._W1, self._W2 = (W.astype(np.float64) for W in inputs.start.weights)
        self._b1, self._b2 = (b.astype(np.float64) for b in inputs.start.biases)

    def epoch(self, order):
        x, y = self._x[order], self._y[order]
        loss, correct, B = 0.0, 0, self._task.batch_size
        for start in range(0, len(x), B):
            rows = x[start : start + B]
            labels = np.eye(self._W2.shape[1])[y[start : start + B]]
            z1 = rows @ self._W1 + self._b1
            a1 = sigmoid(z1)
            a2 = softmax(a1 @ self._W2 + self._b2)
            delta2 = a2 - labels
            delta1 = (delta2 @ self._W2.T) * sigmoid(z1) * (1 - sigmoid(z1))
            step = self._task.lr / len(labels)
            self._W2 -= step * (a1.T @ delta2)
            self._b2 -= step * delta2.sum(axis=0)
            self._W1 -= step * (rows.T @ delta1)
            self._b1 -= step * delta1.sum(axis=0)
            loss -= float((labels * np.log(a2)).sum())
            correct += int((a2.argmax(axis=1) == labels.argmax(axis=1)).sum())
        return Outcome(loss / len(x), correct / len(x))

    def weights(self):
        return [self._W1, self._b1, self._W2, self._b2]


class WorkshopNumpy(Adapter):
    """The class above, in float64 whatever the task's dtype."""

    def training(self, task, inputs):
        fits = len(task.sizes) == 3 and task.hidden == "sigmoid" and task.optimizer == "sgd"
        if not fits or task.dropout:
            raise UnsupportedError("it has two sigmoid layers, plain SGD and no dropout")
        return WorkshopTraining(task, inputs)

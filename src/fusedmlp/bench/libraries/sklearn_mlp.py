"""scikit-learn's MLPClassifier: one ``partial_fit`` is one shuffled epoch and keeps Adam's state.

It draws its own shuffles and reports a loss but no accuracy. For the parity check it is given the
rows in order and its shuffling is off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.neural_network import MLPClassifier

from fusedmlp.bench.contract import Outcome, Peer, Predict, Training, UnsupportedError

if TYPE_CHECKING:
    from fusedmlp.bench.material import Material
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray, IntArray


def classifier(task: Task, material: Material) -> MLPClassifier:
    """Build a classifier and put the starting weights into it."""
    found = MLPClassifier(
        task.sizes[1:-1],
        activation="relu" if task.hidden == "relu" else "logistic",
        solver=task.optimizer,
        alpha=0.0,
        batch_size=task.batch_size,
        learning_rate_init=task.lr,
        momentum=0.0,
        nesterovs_momentum=False,
        shuffle=False,
        random_state=0,
        tol=0.0,
    )
    # It makes its arrays, and learns the classes and the dtype, at its first call.
    classes = np.arange(task.sizes[-1])
    found.set_params(batch_size=1, learning_rate_init=1e-30)
    found.partial_fit(np.zeros((1, task.sizes[0]), task.dtype), classes[:1], classes=classes)
    weights, biases = list(material.start.weights), list(material.start.biases)
    if len(classes) == 2:
        # Two classes get one logistic output: the softmax of two depends on their difference.
        weights[-1], biases[-1] = (a[..., 1:] - a[..., :1] for a in (weights[-1], biases[-1]))
    for own, given in zip(found.coefs_ + found.intercepts_, weights + biases, strict=True):
        own[:] = given
    found.set_params(batch_size=task.batch_size, learning_rate_init=task.lr)
    del found._optimizer  # noqa: SLF001 - the next call makes one with the task's rate
    return found


class _Training(Training):
    def __init__(self, task: Task, material: Material) -> None:
        self._task, self._model = task, classifier(task, material)
        self.exact = task.sizes[-1] > 2
        self._x, self._y = material.floats(task.dtype), material.y

    def epoch(self, order: IntArray) -> Outcome:
        task, model = self._task, self._model
        if task.is_full_batch:
            # fit() trains many epochs in a call; plain descent has no state that it would lose.
            n = len(order) // task.rows
            model.set_params(warm_start=True, max_iter=n, n_iter_no_change=n + 1)
            model.fit(self._x, self._y)
        else:
            model.set_params(shuffle=True)
            for start in range(0, len(order), task.rows):
                part = slice(0, min(task.rows, len(order) - start))
                model.partial_fit(self._x[part], self._y[part])
        return Outcome(float(model.loss_), None)

    def first_steps(self, order: IntArray) -> Outcome:
        if self._task.is_full_batch:
            self.epoch(order)
            return Outcome(float(np.mean(self._model.loss_curve_)), None)
        self._model.partial_fit(self._x[order], self._y[order])
        return Outcome(float(self._model.loss_), None)

    def weights(self) -> list[FloatArray]:
        pairs = zip(self._model.coefs_, self._model.intercepts_, strict=True)
        return [array for pair in pairs for array in pair]


class SklearnMLP(Peer):
    """MLPClassifier."""

    packages = ("scikit-learn", "scipy")

    def training(self, task: Task, material: Material) -> Training:
        if task.dropout:
            raise UnsupportedError("it has no dropout")
        return _Training(task, material)

    def prediction(self, task: Task, material: Material) -> Predict:
        predict: Predict = classifier(task, material).predict_proba
        return predict

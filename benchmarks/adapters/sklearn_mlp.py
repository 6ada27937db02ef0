"""scikit-learn's MLPClassifier: one ``partial_fit`` is one shuffled epoch and keeps Adam's state.

It draws its own shuffles and reports a loss but no accuracy. For the parity check it gets the rows
in order, and its shuffling is off.
"""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier

from fusedmlp.bench.adapter import Adapter, Outcome, Training, UnsupportedError


def classifier(task, inputs):
    """Build a classifier with the starting weights."""
    found = MLPClassifier(
        task.sizes[1:-1],
        activation="relu" if task.hidden == "relu" else "logistic",
        solver=task.optimizer,
        alpha=0.0,
        batch_size=1,
        learning_rate_init=1e-30,
        momentum=0.0,
        nesterovs_momentum=False,
        shuffle=False,
        random_state=0,
        tol=0.0,
    )
    # The first call allocates its arrays and sets classes and dtype.
    classes = np.arange(task.sizes[-1])
    found.partial_fit(np.zeros((1, task.sizes[0]), task.dtype), classes[:1], classes=classes)
    weights, biases = list(inputs.start.weights), list(inputs.start.biases)
    if len(classes) == 2:
        # Two classes get one logistic output: the softmax of two depends on their difference.
        weights[-1], biases[-1] = (a[..., 1:] - a[..., :1] for a in (weights[-1], biases[-1]))
    for own, given in zip(found.coefs_ + found.intercepts_, weights + biases, strict=True):
        own[:] = given
    found.set_params(batch_size=task.batch_size, learning_rate_init=task.lr)
    del found._optimizer  # noqa: SLF001 - the next call makes one with the task's rate
    return found


class PartialFitTraining(Training):
    def __init__(self, task, inputs):
        self._task, self._model = task, classifier(task, inputs)
        self.exact = task.sizes[-1] > 2
        self._x, self._y = inputs.floats(task.dtype), inputs.y

    def epoch(self, order):
        task, model = self._task, self._model
        if task.is_full_batch:
            # fit() trains many epochs in a call; plain SGD has no state to lose between calls.
            n = len(order) // task.rows
            model.set_params(warm_start=True, max_iter=n, n_iter_no_change=n + 1)
            model.fit(self._x, self._y)
        else:
            model.set_params(shuffle=True)
            for start in range(0, len(order), task.rows):
                part = slice(0, min(task.rows, len(order) - start))
                model.partial_fit(self._x[part], self._y[part])
        return Outcome(float(model.loss_), None)

    def first_steps(self, order):
        if self._task.is_full_batch:
            self.epoch(order)
            return Outcome(float(np.mean(self._model.loss_curve_)), None)
        self._model.partial_fit(self._x[order], self._y[order])
        return Outcome(float(self._model.loss_), None)

    def weights(self):
        pairs = zip(self._model.coefs_, self._model.intercepts_, strict=True)
        return [array for pair in pairs for array in pair]


class SklearnMLP(Adapter):
    packages = ("scikit-learn", "scipy")

    def training(self, task, inputs):
        if task.dropout:
            raise UnsupportedError("it has no dropout")
        return PartialFitTraining(task, inputs)

    def prediction(self, task, inputs):
        return classifier(task, inputs).predict_proba

"""thinc: a chain of layers, with its own optimizers and its own loop over them."""

from __future__ import annotations

import numpy as np
from thinc import api

from fusedmlp import optimizers
from fusedmlp.bench.adapter import Adapter, Outcome, Training, UnsupportedError


class ChainTraining(Training):
    def __init__(self, task, inputs):
        self._task, self.exact = task, not task.dropout
        self._x, self._y = inputs.floats(np.float32), inputs.y
        self._truth = np.eye(task.sizes[-1], dtype=np.float32)[inputs.y]
        kind = api.Relu if task.hidden == "relu" else api.Sigmoid
        dropout = {"dropout": task.dropout} if task.hidden == "relu" and task.dropout else {}
        layers = [kind(nO=width, **dropout) for width in task.sizes[1:-1]]
        self._layers = [*layers, api.Softmax(nO=task.sizes[-1])]
        parts = []
        for layer in layers:
            parts.append(layer)
            if task.dropout and not dropout:
                parts.append(api.Dropout(task.dropout))
        self._model = api.chain(*parts, self._layers[-1])
        self._model.initialize(self._x[:1], self._truth[:1])
        start = zip(self._layers, inputs.start.weights, inputs.start.biases, strict=True)
        for layer, W, b in start:
            layer.set_param("W", np.ascontiguousarray(W.T, np.float32))
            layer.set_param("b", b.astype(np.float32))
        plain = {"L2": 0.0, "grad_clip": 0.0}
        if task.optimizer == "sgd":
            self._optimizer = api.SGD(task.lr, use_averages=False, **plain)
        else:
            adam = optimizers.Adam(task.lr)
            self._optimizer = api.Adam(
                task.lr,
                beta1=adam.beta1,
                beta2=adam.beta2,
                eps=adam.eps,
                use_averages=False,
                **plain,
            )

    def epoch(self, order):
        task, model = self._task, self._model
        loss, correct = 0.0, 0
        for start in range(0, len(order), task.batch_size):
            if task.is_full_batch:
                x, truth, labels = self._x, self._truth, self._y
            else:
                rows = order[start : start + task.batch_size]
                x, truth, labels = self._x[rows], self._truth[rows], self._y[rows]
            found, backprop = model.begin_update(x)
            backprop((found - truth) / len(x))
            model.finish_update(self._optimizer)
            loss -= float(np.log(found[np.arange(len(x)), labels]).sum())
            correct += int(np.count_nonzero(found.argmax(axis=1) == labels))
        return Outcome(loss / len(order), correct / len(order))

    def weights(self):
        found = []
        for layer in self._layers:
            found += [np.ascontiguousarray(layer.get_param("W").T), layer.get_param("b")]
        return found


class ThincChain(Adapter):
    """thinc's layers on its NumPy operations."""

    packages = ("thinc",)

    def training(self, task, inputs):
        if task.dtype != "float32":
            raise UnsupportedError("its layers are float32")
        return ChainTraining(task, inputs)

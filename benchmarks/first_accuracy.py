"""Trains 784-256-10 on MNIST until its test accuracy reaches a bound, and exits.

Started by test_time_to_accuracy.py, which times the process:

    python benchmarks/first_accuracy.py BACKEND ACCURACY ROWS
"""

from __future__ import annotations

import sys

from fusedmlp import MLP, Callback, Trainer, load_dataset, make_optimizer, make_schedule

EPOCHS = 60
"""More than enough for every bound in use."""


class StopAt(Callback):
    """Evaluate the test rows after each epoch, and stop at the bound."""

    def __init__(self, x, y, bound):
        self._x, self._y, self._bound = x, y, bound
        self.accuracies = []

    def on_train_begin(self, run):
        self._data = run.engine.stage(self._x, self._y)

    def on_epoch_end(self, run, record):
        self.accuracies.append(run.engine.evaluate(self._data).accuracy)
        if self.accuracies[-1] >= self._bound:
            run.stop("the accuracy is reached")


def main():
    backend, bound, rows = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    data = load_dataset("mnist")
    stop = StopAt(data.x_test, data.y_test, bound)
    mlp = MLP([784, 256, 10], hidden="relu", backend=backend)
    adam, constant = make_optimizer("adam"), make_schedule("constant")
    trainer = Trainer(adam, constant, epochs=EPOCHS, callbacks=(stop,))
    trainer.fit(mlp, data.x_train[:rows], data.y_train[:rows])
    print(len(stop.accuracies), stop.accuracies[-1])
    return 0 if stop.accuracies[-1] >= bound else 4


if __name__ == "__main__":
    sys.exit(main())

"""A process that trains 784-256-10 on MNIST until its test accuracy reaches a bound, and ends.

Started by test_time_to_accuracy.py, which times it from outside:

    python benchmarks/first_accuracy.py BACKEND ACCURACY ROWS
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fusedmlp import MLP, Callback, Trainer, load_dataset, make_optimizer, make_schedule

if TYPE_CHECKING:
    import numpy as np

    from fusedmlp.training.history import EpochRecord
    from fusedmlp.training.loop import TrainingLoop

EPOCHS = 60
"""Enough for every bound that is asked for, by far."""


class StopAt(Callback):
    """Evaluate the test rows after each epoch, as one would, and stop at the bound."""

    def __init__(self, x: np.ndarray, y: np.ndarray, bound: float) -> None:
        self._x, self._y, self._bound = x, y, bound
        self.accuracies: list[float] = []

    def on_train_begin(self, run: TrainingLoop) -> None:
        self._data = run.engine.stage(self._x, self._y)

    def on_epoch_end(self, run: TrainingLoop, record: EpochRecord) -> None:
        self.accuracies.append(run.engine.evaluate(self._data).accuracy)
        if self.accuracies[-1] >= self._bound:
            run.stop("the accuracy is reached")


def main() -> int:
    backend, bound, rows = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    data = load_dataset("mnist")
    stop = StopAt(data.x_test, data.y_test, bound)
    mlp = MLP([784, 256, 10], hidden="relu", backend=backend)
    trainer = Trainer(
        make_optimizer("adam"), make_schedule("constant"), epochs=EPOCHS, callbacks=(stop,)
    )
    trainer.fit(mlp, data.x_train[:rows], data.y_train[:rows])
    print(len(stop.accuracies), stop.accuracies[-1])
    return 0 if stop.accuracies[-1] >= bound else 4


if __name__ == "__main__":
    sys.exit(main())

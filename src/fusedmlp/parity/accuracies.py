"""The same training on every backend to the end: loss and accuracy on the test rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusedmlp.errors import DivergedError
from fusedmlp.model import MLP, Metrics
from fusedmlp.network import OUTPUT_OF_TASK
from fusedmlp.optimizers import SGD
from fusedmlp.parity.comparison import Finding
from fusedmlp.tolerance import accuracy_bound
from fusedmlp.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedmlp.backend import Backend
    from fusedmlp.datasets import Dataset
    from fusedmlp.types import FloatDtype

WIDTH: Final = 256
BATCH: Final = 64
EPOCHS: Final = 3
STEPS: Final = 1000
"""Lowest number of steps; small sets get more epochs than :data:`EPOCHS`."""


@dataclass(frozen=True, slots=True)
class Accuracy(Finding):
    """Result of one backend; ``bound`` limits the distance to the reference's accuracy."""

    backend: str
    reference: str
    dtype: FloatDtype
    rows: int
    loss: float
    accuracy: float
    distance: float
    bound: float

    @property
    def is_met(self) -> bool:
        """See :class:`~fusedmlp.parity.comparison.Finding`."""
        return self.distance <= self.bound

    def describe(self) -> str:
        """See :class:`~fusedmlp.parity.comparison.Finding`."""
        return (
            f"accuracy of {self.backend} in {self.dtype}: {self.accuracy:.4f}, "
            f"{self.distance:.4f} from {self.reference}'s, allowed {self.bound:.4f}"
        )


def accuracies(
    backends: dict[str, Backend], dataset: Dataset, dtype: FloatDtype, seed: int
) -> Iterator[Accuracy]:
    """Train a 256-unit network on all rows with every backend; the first is the reference."""
    x, y = dataset.x_test, dataset.y_test
    if x is None or y is None:
        x, y = dataset.x_train, dataset.y_train
    epochs = max(EPOCHS, -(-STEPS * BATCH // len(dataset.x_train)))
    trainer = Trainer(SGD(0.5), epochs=epochs, batch_size=BATCH)
    reference: tuple[str, float] | None = None
    for name, backend in backends.items():
        mlp = MLP(
            (dataset.n_inputs, WIDTH, dataset.n_outputs),
            output=OUTPUT_OF_TASK[dataset.task],
            backend=backend,
            dtype=dtype,
            seed=seed,
        )
        try:
            trainer.fit(mlp, dataset.x_train, dataset.y_train)
            metrics = mlp.evaluate(x, y)
        except DivergedError:  # a broken engine is a finding, not the end of the certificate
            metrics = Metrics(math.nan, math.nan)
        accuracy = math.nan if metrics.accuracy is None else metrics.accuracy
        reference = reference or (name, accuracy)
        yield Accuracy(
            name,
            reference[0],
            dtype,
            len(x),
            metrics.loss,
            accuracy,
            abs(accuracy - reference[1]),
            accuracy_bound(reference[1], len(x)),
        )

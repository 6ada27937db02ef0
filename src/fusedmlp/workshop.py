"""The workshop's two trainings: its figures, how closely ours must land on them, and the runs.

Every figure has two bounds. ``accepted`` is the band for the faithful recipe: what it spread over
when it was run with many seeds, widened a little, because the workshop's own random numbers are
unknown. ``must_reach`` is the bound for the repaired recipe, which has to leave the figure behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.backend import State
from fusedmlp.network import Objective, initialise, zeros
from fusedmlp.recipes import (
    MNIST_REPAIRED_ON_ITS_SPLIT,
    MNIST_WORKSHOP,
    MOONS_REPAIRED,
    MOONS_WORKSHOP,
)

if TYPE_CHECKING:
    from fusedmlp.backend import Backend
    from fusedmlp.datasets import Dataset
    from fusedmlp.recipes import Recipe
    from fusedmlp.training.callbacks import Callback

CALL: Final = 1_000
"""Iterations handed to the engine at a time: they take microseconds each."""

MOONS_DATA_SEED: Final = 0
"""The points belong to the recipe: with others the losses differ tenfold. Those of seed 0 fit."""

NAMES: Final = ("moons", "mnist")


@dataclass(frozen=True, slots=True)
class Figure:
    """One printed result of the workshop.

    Parameters
    ----------
    name, workshop
        What it is and what the workshop shows.
    accepted
        Lowest and highest value with which the faithful recipe counts as reproduced.
    why
        Where that band comes from, in a sentence.
    must_reach
        What the repaired recipe must reach: at most this for a loss, at least for an accuracy.
    """

    name: str
    workshop: float
    accepted: tuple[float, float]
    why: str
    must_reach: float

    @property
    def is_loss(self) -> bool:
        """Losses are better when lower, accuracies when higher."""
        return "loss" in self.name

    def is_reproduced(self, value: float) -> bool:
        """Tell whether the faithful recipe's value is in the band."""
        return self.accepted[0] <= value <= self.accepted[1]

    def is_surpassed(self, value: float) -> bool:
        """Tell whether the repaired recipe's value reaches its bound."""
        return value <= self.must_reach if self.is_loss else value >= self.must_reach


_MOONS_WHY: Final = "24 draws of the starting weights gave {} to {}"

MOONS_FIGURES: Final = (
    Figure("loss at 1,000", 0.1512, (0.08, 0.33), _MOONS_WHY.format(0.0872, 0.3009), 0.07),
    Figure("loss at 2,000", 0.0736, (0.06, 0.25), _MOONS_WHY.format(0.0677, 0.2267), 0.06),
    Figure("loss at 5,000", 0.0507, (0.040, 0.068), _MOONS_WHY.format(0.0442, 0.0618), 0.042),
    Figure("loss at 10,000", 0.0396, (0.027, 0.060), _MOONS_WHY.format(0.0301, 0.0545), 0.036),
    Figure("loss at 20,000", 0.0343, (0.018, 0.053), _MOONS_WHY.format(0.0204, 0.0483), 0.034),
)
"""The number is that of the iterations, each of which sees all 200 points."""

_MNIST_WHY: Final = "{} seeds gave {} to {}"

MNIST_FIGURES: Final = (
    Figure(
        "loss, epoch 1",
        18.06,
        (9.0, 20.0),
        _MNIST_WHY.format(16, 10.6, 18.1) + ": a mean of four batches, three of them overshooting",
        1.0,
    ),
    Figure(
        "accuracy, epoch 1",
        0.10,
        (0.04, 0.17),
        _MNIST_WHY.format(16, 0.066, 0.137) + ": chance, counted on 256 rows",
        0.80,
    ),
    Figure(
        "loss, last epoch",
        0.28,
        (0.19, 0.42),
        _MNIST_WHY.format(10, 0.233, 0.365) + ", on the 256 rows of one epoch",
        0.05,
    ),
    Figure(
        "accuracy, last epoch",
        0.918,
        (0.86, 0.96),
        _MNIST_WHY.format(10, 0.883, 0.934) + ", on the 256 rows of one epoch",
        0.99,
    ),
    Figure(
        "test accuracy",
        0.9111,
        (0.895, 0.925),
        _MNIST_WHY.format(10, 0.9052, 0.9210) + ", on 14,000 rows",
        0.98,
    ),
)
"""Training figures are means over the rows that an epoch trained on, as the workshop's are."""


def moons_losses(recipe: Recipe, backend: Backend, seed: int) -> list[float]:
    """Train on the two moons; return the loss at each figure's iteration.

    Parameters
    ----------
    recipe
        Full batch, a constant learning rate and no validation rows.
    seed
        Of the starting weights.
    """
    from fusedmlp.datasets import load_moons

    dataset = load_moons(seed=MOONS_DATA_SEED)
    network, optimizer = recipe.network(dataset), recipe.make_optimizer()
    engine = backend.compile(
        network,
        optimizer,
        Objective(recipe.reduction, recipe.l2),
        batch_size=recipe.batch_size,
        dtype=recipe.dtype,
        seed=seed,
    )
    slots = tuple(zeros(network, recipe.dtype) for _ in optimizer.slots)
    engine.load(State(initialise(network, seed, recipe.dtype, recipe.init), slots, 0))
    data = engine.stage(dataset.x_train, dataset.y_train)
    order = np.tile(np.arange(recipe.batch_size), CALL)
    rates = np.full(CALL, recipe.lr)
    losses = []
    for iteration in range(CALL, recipe.epochs + 1, CALL):
        engine.train_epoch(data, order, rates)
        if any(f"{iteration:,}" == figure.name.split()[-1] for figure in MOONS_FIGURES):
            losses.append(engine.evaluate(data).loss)
    return losses


def mnist_figures(
    recipe: Recipe,
    backend: Backend,
    seed: int,
    dataset: Dataset,
    callbacks: tuple[Callback, ...] = (),
) -> list[float]:
    """Train on MNIST; return loss and accuracy of the first and last epoch, and on test rows."""
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    mlp = recipe.model(dataset, seed=seed, backend=backend)
    trainer = recipe.trainer(callbacks=callbacks)
    history = trainer.fit(mlp, dataset.x_train, dataset.y_train)
    tested = mlp.evaluate(dataset.x_test, dataset.y_test)
    first, last = history.records[0], history.last
    values = (
        first.train_loss, first.train_accuracy, last.train_loss, last.train_accuracy,
        tested.accuracy,
    )  # fmt: skip
    return [value for value in values if value is not None]


def recipes(name: str) -> tuple[Recipe, Recipe]:
    """Return the faithful and the repaired recipe of a reproduction."""
    if name == "moons":
        return MOONS_WORKSHOP, MOONS_REPAIRED
    return MNIST_WORKSHOP, MNIST_REPAIRED_ON_ITS_SPLIT


def figures(name: str) -> tuple[Figure, ...]:
    """Return the workshop's figures."""
    return MOONS_FIGURES if name == "moons" else MNIST_FIGURES

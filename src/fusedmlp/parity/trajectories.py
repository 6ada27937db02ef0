"""Trainings side by side, step by step: where they first differ, and how the difference grows.

Rounding makes engines differ from the first steps on, and training accumulates the differences.
The bound applies to the first tens of steps; the rest of the epoch is only shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.backend import EngineSpec, State
from fusedmlp.network import OUTPUT_OF_TASK, Network, Objective, initialise, zeros
from fusedmlp.optimizers import SGD, Adam
from fusedmlp.parity.comparison import Finding
from fusedmlp.parity.problems import flat
from fusedmlp.seeding import shuffled
from fusedmlp.tolerance import TRAJECTORY_STEPS, difference, trajectory_bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedmlp.backend import Backend
    from fusedmlp.datasets import Dataset
    from fusedmlp.network import HiddenActivation
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import FloatDtype, IntArray

BATCH: Final = 64

WIDTH: Final = 128
"""Units of the hidden layer."""

MOST_STEPS: Final = 500


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """The settings of a training whose steps are compared."""

    name: str
    hidden: HiddenActivation
    optimizer: Optimizer
    dropout: float = 0.0


SETUPS: Final = (
    TrainingSetup("sigmoid, SGD", "sigmoid", SGD(0.5)),
    TrainingSetup("relu, Adam, dropout 0.2", "relu", Adam(0.001), 0.2),
)


@dataclass(frozen=True, slots=True)
class Trajectory(Finding):
    """The difference of two backends' parameters after each step of one training.

    Parameters
    ----------
    differences
        max|a − b| / max|b| over all parameters, after each step from the first on.
    bound
        Of the first :data:`fusedmlp.tolerance.TRAJECTORY_STEPS` entries.
    """

    training: str
    backend: str
    reference: str
    dtype: FloatDtype
    differences: list[float]
    bound: float

    @property
    def bounded(self) -> float:
        """The largest difference within the bounded steps."""
        return float(np.max(self.differences[:TRAJECTORY_STEPS], initial=0.0))

    @property
    def is_met(self) -> bool:
        """See :class:`~fusedmlp.parity.comparison.Finding`."""
        return self.bounded <= self.bound

    @property
    def first_differing_step(self) -> int | None:
        """The first step, from 1, after which any bit differs; None where none does."""
        differing = np.flatnonzero(np.asarray(self.differences) != 0.0)
        return int(differing[0]) + 1 if differing.size else None

    @property
    def growth(self) -> float | None:
        """Exponent p of difference ~ stepᵖ, by least squares; None where too few steps differ.

        ½ is a random walk of independent roundings, 1 a steady drift, more is amplification.
        """
        values = np.asarray(self.differences)
        steps = np.flatnonzero((values > 0.0) & np.isfinite(values))
        if steps.size < 10:
            return None
        return float(np.polyfit(np.log(steps + 1.0), np.log(values[steps]), 1)[0])

    def describe(self) -> str:
        """See :class:`~fusedmlp.parity.comparison.Finding`."""
        return (
            f"trajectory, {self.training}: {self.backend} and {self.reference} in {self.dtype} "
            f"are {self.bounded:.3g} apart, allowed {self.bound:.3g}"
        )

    def document(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "course": self.training,
            "backend": self.backend,
            "reference": self.reference,
            "dtype": self.dtype,
            "differences": [float(f"{value:.4g}") for value in self.differences],
            "bound": self.bound,
            "bounded_steps": min(TRAJECTORY_STEPS, len(self.differences)),
            "bounded": self.bounded,
            "first_differing_step": self.first_differing_step,
            "growth": self.growth,
            "met": self.is_met,
        }


def trajectories(
    backends: dict[str, Backend], dataset: Dataset, dtypes: tuple[FloatDtype, ...], seed: int
) -> Iterator[Trajectory]:
    """Train on every backend side by side; each is compared with the first."""
    reference, *others = backends
    for setup in SETUPS:
        for dtype in dtypes:
            steps = {
                name: parameters_by_step(backend, dataset, setup, dtype, seed)
                for name, backend in backends.items()
            }
            found: dict[str, list[float]] = {name: [] for name in others}
            for expected in steps[reference]:
                for name in others:
                    found[name].append(difference(next(steps[name]), expected))
            for name in others:
                yield Trajectory(
                    setup.name, name, reference, dtype, found[name], trajectory_bound(dtype)
                )


def parameters_by_step(
    backend: Backend, dataset: Dataset, setup: TrainingSetup, dtype: FloatDtype, seed: int
) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.floating]]]:
    """All parameters in one vector after each step of at most an epoch."""
    network = Network(
        (dataset.n_inputs, WIDTH, dataset.n_outputs),
        setup.hidden,
        OUTPUT_OF_TASK[dataset.task],
        setup.dropout,
    )
    engine = backend.compile(
        EngineSpec(network, setup.optimizer, Objective(), batch_size=BATCH, dtype=dtype, seed=seed)
    )
    slots = tuple(zeros(network, dtype) for _ in setup.optimizer.slots)
    engine.load(State(initialise(network, seed, dtype), slots, 0))
    data = engine.stage(dataset.x_train, dataset.y_train)
    order: IntArray = shuffled(np.arange(len(dataset.x_train)), seed, 0)
    rate = np.array([setup.optimizer.lr])
    for step in range(min(MOST_STEPS, len(order) // BATCH)):
        engine.train_epoch(data, order[step * BATCH : (step + 1) * BATCH], rate)
        yield flat(engine.parameters())

"""A task's data, starting weights and expected results, as files that all workers read.

The driver writes them, so that every peer has the same numbers, and no worker needs a library but
its own. The expected results are those of the NumPy backend.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np

from fusedmlp import MLP
from fusedmlp.bench.operations import KINDS, compiled
from fusedmlp.network import Parameters, initialise
from fusedmlp.registry import backend_class

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import DenseInputs, FloatArray, IntArray

    Expected: TypeAlias = tuple[list[FloatArray], float]
    Rows: TypeAlias = tuple[DenseInputs, IntArray]
    Source: TypeAlias = Callable[[Task], Rows]

PARITY_STEPS: Final = 5
"""Whole batches before weights are compared; half a batch comes after them."""

LOSS_STEPS: Final = 60
"""The same with dropout, where most peers draw other masks and only mean losses compare."""

PARITY_PREDICTIONS: Final = 100


@dataclass(frozen=True, slots=True)
class Material:
    """What :func:`write` wrote.

    Parameters
    ----------
    x, y
        (N, D) inputs, uint8 pixels or of the task's dtype; (N,) class numbers.
    start
        Starting weights and biases.
    order
        Row numbers for the parity check of a training.
    expected, expected_loss
        Where they lead the NumPy backend: W1, b1, …, and the mean loss on the way; for a
        prediction its outputs, and 0.
    """

    x: DenseInputs
    y: IntArray
    start: Parameters
    order: IntArray
    expected: list[FloatArray]
    expected_loss: float

    def floats(self, dtype: npt.DTypeLike) -> FloatArray:
        """Return the inputs as floats of this type, pixels divided by 255."""
        if self.x.dtype == np.uint8:
            scaled: FloatArray = self.x.astype(dtype) / np.asarray(255, dtype)
            return scaled
        return self.x.astype(dtype)


def write(task: Task, folder: Path, source: Source | None = None) -> None:
    """Make a task's material and write it to a new folder.

    Parameters
    ----------
    source
        Gives the rows of a task; :func:`rows` where None.
    """
    folder.mkdir(parents=True)
    x, y = (source or rows)(task)
    start = _start(task)
    expected, loss = _expected(task, x, y, start)
    arrays: dict[str, npt.NDArray[np.generic]] = {"order": _order(task)}
    arrays |= {f"start{index}": array for index, array in enumerate(start)}
    arrays |= {f"expected{index}": array for index, array in enumerate(expected)}
    np.savez(folder / "arrays.npz", expected_loss=np.float64(loss), **arrays)  # type: ignore[arg-type] # its keywords
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)


def read(folder: Path) -> Material:
    """Read what :func:`write` wrote, into memory."""
    with np.load(folder / "arrays.npz") as arrays:
        start = [arrays[f"start{i}"] for i in range(sum(n.startswith("start") for n in arrays))]
        count = sum(n.startswith("expected") for n in arrays) - 1
        return Material(
            np.load(folder / "x.npy"),
            np.load(folder / "y.npy"),
            Parameters(tuple(start[::2]), tuple(start[1::2])),
            arrays["order"],
            [arrays[f"expected{i}"] for i in range(count)],
            float(arrays["expected_loss"]),
        )


@functools.cache
def _mnist(part: str) -> Rows:
    from fusedmlp.datasets import load_dataset

    data = load_dataset("mnist")
    found = (data.x_test, data.y_test) if part == "test" else (data.x_train, data.y_train)
    return cast("Rows", found)  # MNIST has both parts, of these types


def rows(task: Task) -> Rows:
    """Return a task's rows: of MNIST, of the two moons, or drawn."""
    if task.inputs == "moons":
        from fusedmlp.datasets import load_moons

        moons = load_moons(seed=0)
        return moons.x_train.astype(task.dtype), moons.y_train.astype(np.int64)
    if task.inputs == "mnist":
        x, y = _mnist("test" if task.kind == "predict" else "train")
        x, y = x[: task.rows], y[: task.rows].astype(np.int64)
        # A prediction gets the floats that every library takes; only training may keep pixels.
        return (x / np.float32(255), y) if task.kind == "predict" else (x, y)
    return drawn_rows(task)


def drawn_rows(task: Task) -> Rows:
    """Draw normal inputs, of the task's density, and labels."""
    rng = np.random.default_rng(0)
    shape = (task.rows, task.sizes[0])
    drawn = rng.standard_normal(shape, np.float32)
    if task.density < 1.0:
        drawn *= rng.random(shape, np.float32) < task.density
    return drawn.astype(task.dtype), rng.integers(0, task.sizes[-1], task.rows)


def _order(task: Task) -> IntArray:
    steps = LOSS_STEPS if task.dropout else PARITY_STEPS
    if task.is_full_batch:
        return np.tile(np.arange(task.rows), steps)
    half = task.batch_size // 2  # none of it for batches of one row
    drawn = np.concatenate([np.random.default_rng(9 + i).permutation(task.rows) for i in range(2)])
    steps = min(steps, max(1, len(drawn) // task.batch_size - 1))
    return drawn[: steps * task.batch_size + half]


def _start(task: Task) -> Parameters:
    """Draw weights and biases: with biases of zero, nobody would notice one who drops them."""
    weights = initialise(task.network, 0, task.dtype).weights
    rng = np.random.default_rng(1)
    biases = tuple(rng.normal(0.0, 0.1, (W.shape[1],)).astype(task.dtype) for W in weights)
    return Parameters(weights, biases)


def _expected(task: Task, x: DenseInputs, y: IntArray, start: Parameters) -> Expected:
    match task.kind:
        case "train":
            return _trained(task, x, y, start)
        case "predict":
            return _predicted(task, x, start)
        case _:
            engine = compiled(backend_class("numpy")(), task, start)
            return KINDS[task.kind](engine, task, start, x, y).outcome(), 0.0


def _trained(task: Task, x: DenseInputs, y: IntArray, start: Parameters) -> Expected:
    engine = compiled(backend_class("numpy")(), task, start)
    order = _order(task)
    rates = np.full(-(-len(order) // task.batch_size), task.lr)
    sums = engine.train_epoch(engine.stage(x, y), order, rates)
    return list(engine.parameters()), sums.loss


def _predicted(task: Task, x: DenseInputs, start: Parameters) -> Expected:
    mlp = MLP(task.sizes, task.hidden, backend="numpy", dtype=task.dtype)
    mlp.parameters = start
    return [mlp.forward(x[:PARITY_PREDICTIONS])], 0.0

"""What is measured: networks, batches and data, by name. Nothing is loaded or run here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from fusedmlp.network import Network
from fusedmlp.optimizers import SGD, Adam, Optimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedmlp.network import HiddenActivation
    from fusedmlp.types import FloatDtype, IntArray

Kind: TypeAlias = Literal["train", "predict"]
Inputs: TypeAlias = Literal["mnist", "normal", "moons"]


@dataclass(frozen=True, slots=True)
class Task:
    """One workload: all that a worker needs to know of it.

    Parameters
    ----------
    sizes, hidden, dropout
        See :class:`fusedmlp.network.Network`; the output is softmax.
    rows
        N, rows of the data set.
    samples
        Rows that one timed call sees: N for an epoch, less for a part of one, more for several.
    density
        Share of the inputs that are not zero, for ``normal`` inputs.
    seconds
        A round repeats the timed call until this much time has passed; 0 for a single call.
    """

    name: str
    kind: Kind = "train"
    sizes: tuple[int, ...] = (784, 256, 10)
    hidden: HiddenActivation = "sigmoid"
    dropout: float = 0.0
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    batch_size: int = 64
    dtype: FloatDtype = "float32"
    inputs: Inputs = "mnist"
    density: float = 1.0
    rows: int = 60_000
    samples: int = 60_000
    seconds: float = 0.0

    @property
    def network(self) -> Network:
        """The network, in the package's terms."""
        return Network(self.sizes, self.hidden, "softmax", self.dropout)

    def make_optimizer(self) -> Optimizer:
        """Build the optimizer, in the package's terms."""
        return SGD(self.lr) if self.optimizer == "sgd" else Adam(self.lr)

    @property
    def n_steps(self) -> int:
        """Batches, or calls of predict, in one timed call."""
        return -(-self.samples // self.batch_size)

    @property
    def is_full_batch(self) -> bool:
        """Whether every step sees all rows, so that there is nothing to shuffle or gather."""
        return self.kind == "train" and self.batch_size >= self.rows

    @property
    def is_counted_in_steps(self) -> bool:
        """Whether people ask for µs per step here, not for samples/s."""
        return self.is_full_batch or (self.kind == "predict" and self.batch_size == 1)

    @property
    def flops_per_sample(self) -> int:
        """Operations of the dense matrix products; skipping zeros does not lower the count."""
        if self.kind == "train":
            return self.network.flops_per_row
        return sum(2 * fan_in * fan_out for fan_in, fan_out in self.network.layer_shapes)

    def order(self, seed: int) -> IntArray:
        """Draw the row numbers of one timed call. Drawing them is part of what is timed."""
        if self.is_full_batch:
            return np.tile(np.arange(self.rows), self.n_steps)
        rng = np.random.default_rng(seed)
        drawn = [rng.permutation(self.rows) for _ in range(-(-self.samples // self.rows))]
        return np.concatenate(drawn)[: self.samples] if len(drawn) > 1 else drawn[0][: self.samples]

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON; :meth:`from_dict` reads it."""
        return asdict(self) | {"sizes": list(self.sizes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Task:
        """Rebuild a task."""
        found = cls(**data)  # type: ignore[arg-type] # it is what to_dict wrote
        return replace(found, sizes=tuple(found.sizes))


SMALL: Final = Task("small")
NORMAL: Final = replace(SMALL, inputs="normal")

TASKS: Final = (
    SMALL,
    replace(NORMAL, name="small-dense"),
    Task("big", sizes=(784, 1024, 1024, 10), hidden="relu", batch_size=1024, samples=8_192),
    # The workshop sums its gradients over the 200 points at lr 0.01: the mean of them at 2.
    Task(
        "moons",
        sizes=(2, 5, 2),
        lr=2.0,
        batch_size=200,
        inputs="moons",
        rows=200,
        samples=200 * 1_000,
        seconds=0.2,
    ),
    replace(SMALL, name="small-adam", optimizer="adam", lr=0.001),
    replace(SMALL, name="small-dropout", dropout=0.5),
    replace(SMALL, name="small-float64", dtype="float64"),
    Task("predict-10000", "predict", batch_size=10_000, rows=10_000, samples=10_000, seconds=0.2),
    Task("predict-1", "predict", batch_size=1, rows=10_000, samples=1_000, seconds=0.2),
)
BY_NAME: Final = {task.name: task for task in TASKS}


def quick(task: Task) -> Task:
    """Return the same network on so few rows that a call takes milliseconds."""
    if task.kind == "predict":
        batch_size = min(task.batch_size, 1_000)
        return replace(task, rows=1_000, batch_size=batch_size, samples=1_000, seconds=0.0)
    if task.is_full_batch:
        return replace(task, samples=20 * task.rows, seconds=0.0)
    return replace(task, rows=2_016, samples=2_016, batch_size=min(task.batch_size, 128))


# The sweep changes one thing at a time, starting from `small` on dense inputs.
BATCHES: Final = (1, 4, 16, 64, 256, 1_024, 4_096, 8_192)
WIDTHS: Final = (16, 64, 256, 1_024, 4_096)
DEPTHS: Final = (1, 2, 4, 8)
DENSITIES: Final = (0.01, 0.03, 0.1, 0.2, 0.5, 1.0)
AXES: Final = ("batch", "width", "depth", "density")

SWEEP_FLOP: Final = 2e9
"""Work in one timed call of the sweep: some tens of milliseconds on a core."""

SWEEP_ROWS: Final = 16_384


def sweep(axis: str, *, coarse: bool = False) -> list[tuple[float, Task]]:
    """Return the points of one axis of the sweep, each with its place on it."""
    points: dict[str, list[tuple[float, Task]]] = {
        "batch": [(b, replace(NORMAL, batch_size=b)) for b in BATCHES],
        "width": [(w, replace(NORMAL, sizes=(784, w, 10))) for w in WIDTHS],
        "depth": [(d, replace(NORMAL, sizes=(784, *[256] * d, 10))) for d in DEPTHS],
        "density": [(s, replace(NORMAL, density=s)) for s in DENSITIES],
    }
    chosen = points[axis][:: len(points[axis]) - 1] if coarse else points[axis]
    return [(at, _sized(task, f"{axis}={at:g}")) for at, task in chosen]


def _sized(task: Task, name: str) -> Task:
    """Give a point enough whole batches, and no more rows than they need."""
    steps = int(SWEEP_FLOP / (task.flops_per_sample * task.batch_size))
    samples = min(max(steps, 4), 1_000) * task.batch_size
    rows = max(min(samples, SWEEP_ROWS), task.batch_size + 1)
    return replace(task, name=name, rows=rows, samples=samples, seconds=0.1)

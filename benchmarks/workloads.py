"""The workloads of the project's own benchmarks, by name. Nothing is run here."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fusedmlp.bench.tasks import Task

SMALL: Final = Task("small", seconds=1.0)
NORMAL: Final = replace(SMALL, inputs="normal")

BIG: Final = replace(
    SMALL,
    name="big",
    sizes=(784, 1024, 1024, 10),
    hidden="relu",
    batch_size=1024,
    samples=8_192,
)

TASKS: Final = (
    SMALL,
    replace(NORMAL, name="small-dense"),
    BIG,
    # The workshop sums its gradients over the 200 points at lr 0.01, which is their mean at lr 2.
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
    batch_size = min(task.batch_size, 128)
    return replace(task, rows=2_016, samples=2_016, batch_size=batch_size, seconds=0.0)


# The sweep changes one thing at a time, starting from `small` on dense inputs.
BATCHES: Final = (1, 4, 16, 64, 256, 1_024, 4_096, 8_192)
WIDTHS: Final = (16, 64, 256, 1_024, 4_096)
DEPTHS: Final = (1, 2, 4, 8)
DENSITIES: Final = (0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
AXES: Final = ("batch", "width", "depth", "density")

SWEEP_FLOP: Final = 2e9
"""Work in one timed call of the sweep: some tens of milliseconds on a core."""

SWEEP_SECONDS: Final = 0.4
"""Length of a turn of the sweep, of which the median stretch counts. For some 0.1 s after a pause,
a virtual machine's processors may be slower than the noise monitor finds them around the turn."""

SWEEP_ROWS: Final = 16_384


def sweep_tasks(axis: str, *, coarse: bool = False) -> list[tuple[float, Task]]:
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
    return replace(task, name=name, rows=rows, samples=samples, seconds=SWEEP_SECONDS)

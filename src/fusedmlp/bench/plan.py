"""Plans ``fusedmlp bench``: from the options to a list of tasks. Nothing is run here.

Without networks and batch sizes among the options, one thing at a time changes from 784-256-10 in
batches of 64: the batch size, or the width. With them, every network gets every batch size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from fusedmlp.bench import machine
from fusedmlp.bench.subjects import thread_counts
from fusedmlp.bench.tasks import Task
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.model import DTYPES
from fusedmlp.registry import availability, parse, unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.datasets import Dataset
    from fusedmlp.types import FloatDtype

WIDTHS: Final = (256, 64, 1_024)
BATCH_SIZES: Final = (64, 16, 256, 1_024)
"""While one of the two varies, the other has its first value."""

ROUNDS: Final = 5

EPOCH_FLOP: Final = 60e9
"""Most work of a timed call, which else is an epoch: a second on a slow core."""

ROUND_SECONDS: Final = 0.1
"""Shorter calls are repeated until a round has lasted this long."""

PREDICTED_ROWS: Final = 10_000

LEAST_CALLS: Final = 4
"""Batches in a part of an epoch, at least."""

QUICK_FLOP: Final = 2e8


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a run; empty tuples stand for the defaults.

    Parameters
    ----------
    backends
        Names, ``cupy:1`` included.
    networks
        Sizes (D, H1, …, K).
    with_phases
        Whether processes are started to measure import, compilation and first calls.
    """

    backends: tuple[str, ...] = ()
    networks: tuple[tuple[int, ...], ...] = ()
    batch_sizes: tuple[int, ...] = ()
    dtypes: tuple[FloatDtype, ...] = ("float32",)
    threads: tuple[int, ...] = ()
    rounds: int = ROUNDS
    quick: bool = False
    with_phases: bool = True

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)

    def checked(self) -> Request:
        """Check the options, and fill in the defaults that need no data.

        Raises
        ------
        InvalidInputError
            A number is out of range, or a name unknown.
        BackendUnavailableError
            A named backend cannot be used here.
        """
        for dtype in self.dtypes:
            if dtype not in DTYPES:
                raise UnknownNameError.of("dtype", dtype, DTYPES)
        if self.rounds < 1:
            raise InvalidInputError(f"rounds {self.rounds} is not at least 1")
        usable = len(machine.usable_cpus()) or machine.n_cores()
        for count in self.threads:
            if not 1 <= count <= usable:
                raise InvalidInputError(f"threads {count} is not from 1 to {usable}, the CPUs here")
        return replace(
            self,
            backends=_usable(self.backends),
            threads=tuple(sorted({*self.threads})) or tuple(thread_counts()[-1:]),
            rounds=1 if self.quick and self.rounds == ROUNDS else self.rounds,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Tasks, in the order of measuring.

    Parameters
    ----------
    trainings
        The first is drawn as bars, and start-up is measured on it.
    """

    trainings: tuple[Task, ...]
    predictions: tuple[Task, ...]


def plan(request: Request, data: Dataset) -> Plan:
    """Choose the tasks for a data set.

    Raises
    ------
    InvalidInputError
        The data set has no classes, or a network or a batch size does not fit it.
    """
    if data.task != "classification":
        raise InvalidInputError(
            f"{data.name} is for {data.task}: throughput is measured on classes, such as mnist"
        )
    rows = min(len(data.x_train), 2_000) if request.quick else len(data.x_train)
    base = Task(
        "",
        dtype=request.dtypes[0],
        inputs=f"data set {data.name}",
        rows=rows,
        seconds=0.0 if request.quick else ROUND_SECONDS,
    )
    pairs = _pairs(request, data, rows)
    trainings = [
        _training(replace(base, sizes=sizes, batch_size=batch_size, dtype=dtype), request.quick)
        for dtype in request.dtypes
        for sizes, batch_size in pairs
    ]
    first = trainings[0]
    tested = data.x_train if data.x_test is None else data.x_test
    n_predicted = min(len(tested), 500 if request.quick else PREDICTED_ROWS)
    predictions = [
        replace(
            first,
            name=f"predict {_shape(first.sizes)}, {n_predicted:,} rows, {dtype}",
            kind="predict",
            dtype=dtype,
            batch_size=n_predicted,
            rows=n_predicted,
            samples=n_predicted,
        )
        for dtype in request.dtypes
    ]
    return Plan(tuple(trainings), tuple(predictions))


def _usable(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        parse(name)
    found = availability()
    for name in names:
        state = found[parse(name).name]
        if state.state != "usable":
            raise unavailable(name, state)
    chosen = names or [name for name, state in found.items() if state.state == "usable"]
    return tuple(sorted({*chosen}, key=lambda name: (name != "numpy", name)))


def _pairs(request: Request, data: Dataset, rows: int) -> list[tuple[tuple[int, ...], int]]:
    """Sizes and batch size of each training."""
    D, K = data.n_inputs, data.n_outputs
    for sizes in request.networks:
        if len(sizes) < 2 or sizes[0] != D or sizes[-1] != K:
            raise InvalidInputError(
                f"network {_shape(sizes)} does not fit {data.name}, which has {D} inputs and "
                f"{K} classes: write {D}-256-{K}"
            )
    for batch_size in request.batch_sizes:
        if not 1 <= batch_size <= rows:
            raise InvalidInputError(
                f"batch size {batch_size} is not from 1 to {rows}, the rows to train on"
            )
    batch_sizes = [b for b in BATCH_SIZES if b <= rows] or [rows]
    if request.networks or request.batch_sizes:
        networks = request.networks or ((D, WIDTHS[0], K),)
        return [(n, b) for n in networks for b in request.batch_sizes or batch_sizes[:1]]
    if request.quick:
        batch_sizes = batch_sizes[:2]
    widths = WIDTHS[:2] if request.quick else WIDTHS
    return [
        *(((D, WIDTHS[0], K), b) for b in batch_sizes),
        *(((D, width, K), batch_sizes[0]) for width in widths[1:]),
    ]


def _training(task: Task, quick: bool) -> Task:
    """Name a training, and limit the work of its timed call, in whole batches."""
    limit = QUICK_FLOP if quick else EPOCH_FLOP
    samples = task.rows
    if samples * task.flops_per_sample > limit:
        steps = int(limit / (task.flops_per_sample * task.batch_size))
        samples = min(samples, max(steps, LEAST_CALLS) * task.batch_size)
    name = f"{_shape(task.sizes)}, batch {task.batch_size}, {task.dtype}"
    return replace(task, name=name, samples=samples)


def _shape(sizes: Sequence[int]) -> str:
    return "-".join(map(str, sizes))

"""From the options of ``fusedmlp bench`` to subjects and tasks. Nothing is run here.

Without networks and batch sizes among the options, one thing at a time changes from 784-256-10 in
batches of 64: the batch size, or the width. With them, every network gets every batch size.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

from fusedmlp.cli.options import Option
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.types import FloatDtype
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from fusedmlp.bench.measure import Plan
    from fusedmlp.bench.tasks import Task
    from fusedmlp.datasets import Dataset

MEASURED: Final = "What is measured"

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
QUICK_ROWS: Final = 2_000
QUICK_PREDICTED_ROWS: Final = 500

Sizes = tuple[int, ...]
"""D, H1, …, K of a network."""


def _words(text: str) -> list[str]:
    """Split a list at its commas."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) < len(words):
        raise InvalidInputError(f"{text!r}: name each once, with commas between them")
    return words


def _counts(text: str) -> tuple[int, ...]:
    words = _words(text)
    if not all(word.isdecimal() for word in words):
        raise InvalidInputError(f"{text!r}: write whole numbers, such as 1,2")
    return tuple(map(int, words))


def _networks(text: str) -> tuple[Sizes, ...]:
    found = []
    for word in _words(text):
        parts = word.split("-")
        if len(parts) < 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise InvalidInputError(f"network {word!r}: write its sizes, such as 784-256-10")
        found.append(tuple(map(int, parts)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class WorkOptions:
    """What is measured."""

    networks: Annotated[
        tuple[Sizes, ...] | None,
        Option(
            "Sizes from the inputs to the classes, such as 784-256-10,784-64-64-10. Every network "
            "is measured with every batch size.",
            "A,B,…",
            MEASURED,
            variable=None,
            note="784-256-10, and its width varied",
            parse=_networks,
        ),
    ] = None
    batch_sizes: Annotated[
        tuple[int, ...] | None,
        Option(
            "Rows in each step.",
            "N,M,…",
            MEASURED,
            variable=None,
            note="64, and varied from 16 to 1024",
            parse=_counts,
        ),
    ] = None
    dtypes: Annotated[
        tuple[FloatDtype, ...],
        Option(
            "float32, float64 or both.",
            "A,B",
            MEASURED,
            variable=None,
            parse=lambda text: tuple(_words(text)),
        ),
    ] = ("float32",)
    threads: Annotated[
        tuple[int, ...] | None,
        Option(
            "CPU threads, such as 1,2; all backends use the same number.",
            "N,M,…",
            MEASURED,
            variable=None,
            note="as many as there are cores",
            parse=_counts,
        ),
    ] = None
    rounds: Annotated[
        int,
        Option(
            "Rounds of each task; every backend takes one turn in each.",
            "N",
            MEASURED,
            variable=None,
        ),
    ] = ROUNDS
    quick: Annotated[
        bool,
        Option(
            "Few rows and one round: proves that everything runs; the figures mean nothing.",
            " ",
            MEASURED,
            variable=None,
        ),
    ] = False

    def check(self) -> None:
        """Check what needs no data.

        Raises
        ------
        InvalidInputError
            A number is out of range, or a name unknown.
        """
        from fusedmlp.bench import machine
        from fusedmlp.model import DTYPES

        for dtype in self.dtypes:
            if dtype not in DTYPES:
                raise UnknownNameError.of("dtype", dtype, DTYPES)
        if self.rounds < 1:
            raise InvalidInputError(f"rounds {self.rounds} is not at least 1")
        usable = len(machine.usable_cpus()) or machine.n_cores()
        for count in self.threads or ():
            if not 1 <= count <= usable:
                raise InvalidInputError(f"threads {count} is not from 1 to {usable}, the CPUs here")


def usable_backends(names: Sequence[str]) -> tuple[str, ...]:
    """Return the named backends, NumPy first, or raise the error of one that cannot be used."""
    from fusedmlp.registry import availability, parse, unavailable

    found = availability()
    for name in names:
        state = found[parse(name).name]
        if state.state != "usable":
            raise unavailable(name, state)
    return tuple(sorted(names, key=lambda name: (name != "numpy", name)))


def plan(options: WorkOptions, backends: Sequence[str], data: "Dataset") -> "Plan":
    """Choose the tasks for a data set.

    Raises
    ------
    InvalidInputError
        The data set has no classes, or a network or a batch size does not fit it.
    """
    from fusedmlp.bench import machine
    from fusedmlp.bench.measure import Plan
    from fusedmlp.bench.subjects import backend_subject

    if data.task != "classification":
        raise InvalidInputError(
            f"{data.name} is for {data.task}: throughput is measured on classes, such as mnist"
        )
    rows = min(len(data.x_train), QUICK_ROWS) if options.quick else len(data.x_train)
    trainings = _trainings(options, data, rows)
    tested = data.x_train if data.x_test is None else data.x_test
    n_predicted = min(len(tested), QUICK_PREDICTED_ROWS if options.quick else PREDICTED_ROWS)
    first = trainings[0]
    predictions = [
        replace(
            first,
            name=f"predict {_shape(first.sizes)}, {counted(n_predicted, 'row')}, {dtype}",
            kind="predict",
            dtype=dtype,
            batch_size=n_predicted,
            rows=n_predicted,
            samples=n_predicted,
        )
        for dtype in options.dtypes
    ]
    counts = options.threads or (machine.n_cores(),)
    rounds = 1 if options.quick and options.rounds == ROUNDS else options.rounds
    settings = asdict(options) | {"backends": backends, "threads": counts, "rounds": rounds}
    return Plan(
        tuple(backend_subject(name, count) for name in backends for count in sorted(counts)),
        tuple(trainings),
        tuple(predictions),
        rounds,
        settings,
    )


def _trainings(options: WorkOptions, data: "Dataset", rows: int) -> "list[Task]":
    """Return a training for each dtype, network and batch size."""
    from fusedmlp.bench.tasks import Task

    seconds = 0.0 if options.quick else ROUND_SECONDS
    base = Task("", inputs=f"data set {data.name}", rows=rows, samples=rows, seconds=seconds)
    pairs = _pairs(options, data, rows)
    return [
        _limited(
            replace(
                base,
                name=f"{_shape(sizes)}, batch {batch_size}, {dtype}",
                sizes=sizes,
                batch_size=batch_size,
                dtype=dtype,
            ),
            QUICK_FLOP if options.quick else EPOCH_FLOP,
        )
        for dtype in options.dtypes
        for sizes, batch_size in pairs
    ]


def _pairs(options: WorkOptions, data: "Dataset", rows: int) -> list[tuple[Sizes, int]]:
    """Sizes and batch size of each training."""
    D, K = data.n_inputs, data.n_outputs
    for sizes in options.networks or ():
        if sizes[0] != D or sizes[-1] != K:
            raise InvalidInputError(
                f"network {_shape(sizes)} does not fit {data.name}, which has "
                f"{counted(D, 'input')} and {K} classes: write {D}-256-{K}"
            )
    for batch_size in options.batch_sizes or ():
        if not 1 <= batch_size <= rows:
            raise InvalidInputError(
                f"batch size {batch_size} is not from 1 to {rows}, the rows to train on"
            )
    n_varied = 2 if options.quick else None
    batch_sizes = [b for b in BATCH_SIZES if b <= rows][:n_varied] or [rows]
    networks: Sequence[Sizes] = [(D, width, K) for width in WIDTHS[:n_varied]]
    if options.networks or options.batch_sizes:
        networks = options.networks or networks[:1]
        return [(n, b) for n in networks for b in options.batch_sizes or batch_sizes[:1]]
    return [
        *((networks[0], b) for b in batch_sizes),
        *((network, batch_sizes[0]) for network in networks[1:]),
    ]


def _limited(task: "Task", limit: float) -> "Task":
    """Limit the work of a timed call, in whole batches."""
    if task.samples * task.flops_per_sample <= limit:
        return task
    steps = int(limit / (task.flops_per_sample * task.batch_size))
    samples = max(steps, LEAST_CALLS) * task.batch_size
    return replace(task, samples=min(task.samples, samples))


def _shape(sizes: Sequence[int]) -> str:
    return "-".join(map(str, sizes))

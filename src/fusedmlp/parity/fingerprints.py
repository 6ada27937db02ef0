"""Hashes of whole trainings: those equal on all backends, and those equal from run to run.

Starting weights, shuffles and dropout masks are equal on all backends, bit for bit. The final
weights of one backend are equal in every run, and for every number of threads unless the backend
declares that its bits depend on them. In strict mode they are equal on all backends.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple

from fusedmlp.errors import DivergedError, InvalidInputError
from fusedmlp.model import MLP
from fusedmlp.network import OUTPUT_OF_TASK
from fusedmlp.optimizers import SGD
from fusedmlp.parity.masks import dropout_masks
from fusedmlp.parity.recording import RecordingBackend, digest
from fusedmlp.registry import backend_class, create
from fusedmlp.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedmlp.backend import Backend
    from fusedmlp.datasets import Dataset
    from fusedmlp.registry import Selection
    from fusedmlp.types import FloatDtype

RUNS: Final = 2

ROWS: Final = 10_000
"""Largest number of rows; one epoch, with a smaller last batch."""

WIDTH: Final = 128

STRICT_ROWS: Final = 2_000
STRICT_WIDTH: Final = 32
"""Strict mode is slow by design."""

TRAINER: Final = Trainer(SGD(0.2, 0.9), epochs=1, batch_size=96)
DROPOUT: Final = 0.2


class TrainingHashes(NamedTuple):
    """SHA-256 of one training.

    Parameters
    ----------
    start, shuffles, masks
        Of the parameters at the start, the rows in the order in which the engine received them,
        and the dropout masks.
    weights
        Of the final parameters.
    """

    start: str
    shuffles: str
    masks: str
    weights: str


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The hashes of one training, and how it ran.

    Parameters
    ----------
    threads
        None for a backend that has no CPU threads to choose.
    run
        Counted from 1.
    by_threads
        Whether only runs with the same number of threads must agree.
    strict
        Whether it ran in strict mode, where the final parameters are equal on all backends.
    start, shuffles, masks, weights
        See :class:`TrainingHashes`.
    """

    backend: str
    threads: int | None
    run: int
    by_threads: bool
    strict: bool
    dtype: FloatDtype
    start: str
    shuffles: str
    masks: str
    weights: str

    def document(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)


def fingerprints(
    selections: Sequence[Selection],
    threads: Sequence[int],
    dataset: Dataset,
    dtypes: tuple[FloatDtype, ...],
    seed: int,
) -> Iterator[Fingerprint]:
    """Train on every backend with every number of threads, more than once."""
    for selection in selections:
        for count, backend in _with_threads(selection, threads):
            for dtype, run in product(dtypes, range(1, RUNS + 1)):
                hashes = hash_training(backend, dataset, dtype, seed)
                by_threads = backend.bits_depend_on_threads
                yield Fingerprint(str(selection), count, run, by_threads, False, dtype, *hashes)


def strict_fingerprints(
    selections: Sequence[Selection], dataset: Dataset, dtypes: tuple[FloatDtype, ...], seed: int
) -> Iterator[Fingerprint]:
    """Train a smaller network once on every backend that has a strict mode."""
    for selection in selections:
        if backend_class(selection.name).has_strict:
            backend = create(selection, strict=True)
            for dtype in dtypes:
                hashes = hash_training(backend, dataset, dtype, seed)
                by_threads = backend.bits_depend_on_threads
                yield Fingerprint(str(selection), None, 1, by_threads, True, dtype, *hashes)


def _with_threads(
    selection: Selection, threads: Sequence[int]
) -> Iterator[tuple[int | None, Backend]]:
    """Build the backend for each number of threads; once where it has no threads to choose."""
    try:
        built = [(count, create(selection, threads=count)) for count in threads]
    except InvalidInputError:
        yield None, create(selection)
        return
    yield from built


def hash_training(
    backend: Backend, dataset: Dataset, dtype: FloatDtype, seed: int
) -> TrainingHashes:
    """Train once, with dropout and momentum, and hash."""
    recording = RecordingBackend(backend)
    rows, width = (STRICT_ROWS, STRICT_WIDTH) if backend.strict else (ROWS, WIDTH)
    mlp = MLP(
        (dataset.n_inputs, width, dataset.n_outputs),
        "sigmoid",
        OUTPUT_OF_TASK[dataset.task],
        DROPOUT,
        backend=recording,
        dtype=dtype,
        seed=seed,
        strict=backend.strict,
    )
    # accuracies.py reports a divergence; here the final weights are then those of the start.
    with contextlib.suppress(DivergedError):
        TRAINER.fit(mlp, dataset.x_train[:rows], dataset.y_train[:rows])
    masks = digest(mask for step in dropout_masks(backend, dtype) for mask in step)
    return TrainingHashes(
        recording.start, recording.order.hexdigest(), masks, digest(mlp.parameters)
    )


def unequal(found: Sequence[Fingerprint]) -> list[str]:
    """Describe every hash that must be equal to another and is not, one line each."""
    breaches = []
    for dtype, strict in dict.fromkeys((each.dtype, each.strict) for each in found):
        same = [each for each in found if (each.dtype, each.strict) == (dtype, strict)]
        for field in ("start", "shuffles", "masks"):
            breaches += _compare_backends(same, field, dtype)
        breaches += (
            _compare_backends(same, "weights", dtype) if strict else _compare_runs(same, dtype)
        )
    return breaches


def _compare_backends(found: Sequence[Fingerprint], field: str, dtype: FloatDtype) -> list[str]:
    names = {
        "start": "starting weights",
        "shuffles": "shuffles",
        "masks": "dropout masks",
        "weights": "strict mode's final weights",
    }
    first = found[0]
    differing = {each.backend for each in found if getattr(each, field) != getattr(first, field)}
    return [
        f"{names[field]} of {backend} in {dtype} are not {first.backend}'s" for backend in differing
    ]


def _compare_runs(found: Sequence[Fingerprint], dtype: FloatDtype) -> list[str]:
    groups: dict[tuple[str, int | None], list[Fingerprint]] = {}
    for each in found:
        key = each.backend, each.threads if each.by_threads else None
        groups.setdefault(key, []).append(each)
    breaches = []
    for (backend, _), group in groups.items():
        by_weights = {each.weights: each for each in group}
        if len(by_weights) > 1:
            runs = " and ".join(
                f"run {each.run} on {each.threads or 'its'} threads" for each in by_weights.values()
            )
            breaches.append(f"final weights of {backend} in {dtype} differ between {runs}")
    return breaches

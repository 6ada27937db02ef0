"""Whole trainings as hashes: what must be equal everywhere, and what from run to run.

Starting weights, shuffles and dropout masks are equal on all backends, bit for bit. Final weights
are, on one backend, equal in every run, and for every number of threads unless the backend says
that its bits depend on them. In strict mode they are equal on all backends.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from fusedmlp.errors import DivergedError, InvalidInputError
from fusedmlp.model import MLP
from fusedmlp.network import OUTPUT_OF_TASK
from fusedmlp.optimizers import SGD
from fusedmlp.parity.masks import dropout_masks
from fusedmlp.parity.witness import Witness, digest
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
"""Rows at most; one epoch, with a smaller last batch."""

WIDTH: Final = 128

STRICT_ROWS: Final = 2_000
STRICT_WIDTH: Final = 32
"""Strict mode is slow by design."""

TRAINER: Final = Trainer(SGD(0.2, 0.9), epochs=1, batch_size=96)
DROPOUT: Final = 0.2


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One training's SHA-256 hashes.

    Parameters
    ----------
    threads
        None for a backend that has no CPU threads to choose.
    run
        Counted from 1.
    by_threads
        Whether only runs with as many threads must agree.
    start, shuffles, masks
        Of what the engine began with, the rows in the order it got them, and its dropout masks.
    weights
        Of the final parameters.
    strict
        Whether it ran in strict mode, where the final parameters are equal on all backends.
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
        for count, backend in with_threads(selection, threads):
            for dtype in dtypes:
                for run in range(1, RUNS + 1):
                    yield fingerprint(str(selection), count, run, backend, dataset, dtype, seed)


def strict_fingerprints(
    selections: Sequence[Selection], dataset: Dataset, dtypes: tuple[FloatDtype, ...], seed: int
) -> Iterator[Fingerprint]:
    """Train a smaller network once on every backend that has a strict mode."""
    for selection in selections:
        if backend_class(selection.name).has_strict:
            backend = create(selection, strict=True)
            for dtype in dtypes:
                yield fingerprint(str(selection), None, 1, backend, dataset, dtype, seed)


def with_threads(
    selection: Selection, threads: Sequence[int]
) -> Iterator[tuple[int | None, Backend]]:
    """Build the backend for each number of threads; once, where it has none to choose."""
    try:
        built = [(count, create(selection, threads=count)) for count in threads]
    except InvalidInputError:
        yield None, create(selection)
        return
    yield from built


def fingerprint(
    name: str,
    threads: int | None,
    run: int,
    backend: Backend,
    dataset: Dataset,
    dtype: FloatDtype,
    seed: int,
) -> Fingerprint:
    """Train once, with dropout and momentum, and hash."""
    witness = Witness(backend)
    rows = STRICT_ROWS if backend.strict else ROWS
    width = STRICT_WIDTH if backend.strict else WIDTH
    sizes = (dataset.n_inputs, width, dataset.n_outputs)
    mlp = MLP(
        sizes,
        "sigmoid",
        OUTPUT_OF_TASK[dataset.task],
        DROPOUT,
        backend=witness,
        dtype=dtype,
        seed=seed,
        strict=backend.strict,
    )
    with contextlib.suppress(DivergedError):  # accuracies.py reports it; the hash is of the start
        TRAINER.fit(mlp, dataset.x_train[:rows], dataset.y_train[:rows])
    masks = digest(mask for step in dropout_masks(backend, dtype) for mask in step)
    return Fingerprint(
        name,
        threads,
        run,
        backend.bits_depend_on_threads,
        backend.strict,
        dtype,
        str(witness.started),
        witness.shuffled,
        masks,
        digest(mlp.parameters),
    )


def unequal(found: Sequence[Fingerprint]) -> list[str]:
    """Say what differs that must not; nothing where all is well."""
    breaches = []
    for dtype, strict in dict.fromkeys((each.dtype, each.strict) for each in found):
        same = [each for each in found if (each.dtype, each.strict) == (dtype, strict)]
        for what in ("start", "shuffles", "masks"):
            breaches += _by_backend(same, what, dtype)
        if strict:
            breaches += _by_backend(same, "weights", dtype)
        else:
            breaches += _by_run(same, dtype)
    return breaches


def _by_backend(found: Sequence[Fingerprint], what: str, dtype: FloatDtype) -> list[str]:
    names = {
        "start": "starting weights",
        "shuffles": "shuffles",
        "masks": "dropout masks",
        "weights": "strict mode's final weights",
    }
    first = found[0]
    differing = {each.backend for each in found if getattr(each, what) != getattr(first, what)}
    return [f"{names[what]} of {name} in {dtype} are not {first.backend}'s" for name in differing]


def _by_run(found: Sequence[Fingerprint], dtype: FloatDtype) -> list[str]:
    groups: dict[tuple[str, int | None], list[Fingerprint]] = {}
    for each in found:
        key = each.backend, each.threads if each.by_threads else None
        groups.setdefault(key, []).append(each)
    breaches = []
    for (name, _), group in groups.items():
        ends = {each.weights: each for each in group}
        if len(ends) > 1:
            who = " and ".join(
                f"run {each.run} on {each.threads or 'its'} threads" for each in ends.values()
            )
            breaches.append(f"final weights of {name} in {dtype} differ between {who}")
    return breaches

"""Who takes part in the project's own measurements: ours in several forms, and every peer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fusedmlp.bench.contestants import OURS, PEAK, PEERS, THE_PEAK, Contestant, own
from fusedmlp.errors import UnknownNameError
from peers.tasks import SMALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.bench.tasks import Task


def without_dropout(task: Task) -> Task:
    """Return the task without dropout."""
    return replace(task, name=f"{task.name}-without", dropout=0.0)


def with_sgd(task: Task) -> Task:
    """Return the task with the optimizer of ``small``."""
    name = f"{task.name}-by-{SMALL.optimizer}"
    return replace(task, name=name, optimizer=SMALL.optimizer, lr=SMALL.lr)


NO_DROPOUT: Final = replace(
    own("numba"),
    name="fusedmlp-numba-no-dropout",
    only=("small-dropout",),
    variant=without_dropout,
)
SGD: Final = replace(
    own("numba"), name="fusedmlp-numba-sgd", only=("small-adam",), variant=with_sgd
)

ALL: Final = (
    THE_PEAK,
    own("numba"),
    Contestant(
        "fusedmlp-numba-engine",
        "fusedmlp.bench.libraries.ours:EnginePeer",
        "numba",
        arguments=("numba",),
        only=("predict-10000", "predict-1"),
    ),
    NO_DROPOUT,
    SGD,
    own("numpy"),
    *PEERS,
)
NAMES: Final = tuple(contestant.name for contestant in ALL)
OWN: Final = tuple(name for name in NAMES if name.startswith("fusedmlp"))


def chosen(
    names: Sequence[str], threads: Sequence[int], *, quick: bool = False
) -> list[Contestant]:
    """Every named contestant on every number of threads.

    Parameters
    ----------
    names
        Of :data:`NAMES`; empty for all. The peak and our own always take part.
    """
    for name in names:
        if name not in NAMES:
            raise UnknownNameError.of("peer", name, NAMES)
    wanted = {*names, PEAK, OURS} | ({*OWN} if not names else set())
    return [
        replace(contestant, threads=count, only=("small",) if is_cut else contestant.only)
        for contestant in ALL
        if not names or contestant.name in wanted
        for is_cut in [quick and contestant.is_slow_to_compile]
        for count in threads
    ]

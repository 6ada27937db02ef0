"""Who takes part: a peer, a number of threads, and what its process needs. Nothing is imported."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from fusedmlp.errors import UnknownNameError
from peers import machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peers.tasks import Task

PEAK: Final = "fma-peak"
OURS: Final = "fusedmlp-numba"


@dataclass(frozen=True)
class Contestant:
    """A peer on a number of threads.

    Parameters
    ----------
    target
        ``module:Class`` of its :class:`peers.contract.Peer`.
    library
        The module that must be installed.
    environment
        Variables of its process, besides those that set threads.
    only
        Tasks that it takes part in; empty for all.
    dropout
        False for the one that leaves dropout out, to show what dropout costs.
    is_slow_to_compile
        In a quick run it takes part in one task only.
    """

    name: str
    target: str
    library: str
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    dropout: bool = True
    is_slow_to_compile: bool = False

    @property
    def label(self) -> str:
        """Name and threads, unique in a run."""
        return f"{self.name} ×{self.threads}"

    def enters(self, task: Task) -> bool:
        """Whether this contestant has anything to say on a task."""
        return not self.only or task.name in self.only

    def task_for(self, task: Task) -> Task:
        """Return the task as this contestant does it."""
        return task if self.dropout else replace(task, name=f"{task.name}-without", dropout=0.0)

    def absence(self) -> str | None:
        """Say why it cannot take part here, or None."""
        if find_spec(self.library) is None:
            return f"{self.library} is not installed"
        if "OPENBLAS_CORETYPE" in self.environment and not machine.has("avx512f"):
            return "its OpenBLAS kernels need AVX-512"
        return None


_LIBRARIES: Final = "peers.libraries"

ALL: Final = (
    Contestant(PEAK, f"{_LIBRARIES}.peak:Peak", "numba"),
    Contestant(OURS, f"{_LIBRARIES}.ours:NumbaPeer", "numba"),
    Contestant(
        "fusedmlp-numba-engine",
        f"{_LIBRARIES}.ours:EnginePeer",
        "numba",
        only=("predict-10000", "predict-1"),
    ),
    Contestant(
        "fusedmlp-numba-no-dropout",
        f"{_LIBRARIES}.ours:NumbaPeer",
        "numba",
        only=("small-dropout",),
        dropout=False,
    ),
    Contestant("fusedmlp-numpy", f"{_LIBRARIES}.ours:NumpyPeer", "numpy"),
    Contestant("jax", f"{_LIBRARIES}.jax_scan:JaxScan", "jax"),
    Contestant("tensorflow", f"{_LIBRARIES}.tensorflow_graph:TensorFlowGraph", "tensorflow"),
    Contestant(
        "tensorflow-xla",
        f"{_LIBRARIES}.tensorflow_graph:TensorFlowXLA",
        "tensorflow",
        is_slow_to_compile=True,
    ),
    Contestant("torch", f"{_LIBRARIES}.torch_eager:TorchEager", "torch"),
    Contestant(
        "torch-compile",
        f"{_LIBRARIES}.torch_compiled:TorchCompiled",
        "torch",
        is_slow_to_compile=True,
    ),
    Contestant("sklearn", f"{_LIBRARIES}.sklearn_mlp:SklearnMLP", "sklearn"),
    Contestant("thinc", f"{_LIBRARIES}.thinc_chain:ThincChain", "thinc"),
    Contestant("onnxruntime", f"{_LIBRARIES}.onnx_session:OnnxSession", "onnxruntime"),
    Contestant("lean-numpy", f"{_LIBRARIES}.lean:LeanNumpy", "numpy"),
    Contestant(
        "lean-numpy-skylakex",
        f"{_LIBRARIES}.lean:LeanNumpy",
        "numpy",
        environment={"OPENBLAS_CORETYPE": "SkylakeX"},
    ),
    Contestant("workshop", f"{_LIBRARIES}.workshop_style:WorkshopStyle", "numpy"),
)
NAMES: Final = tuple(contestant.name for contestant in ALL)
OWN: Final = tuple(name for name in NAMES if name.startswith("fusedmlp"))


def thread_counts(most: int | None = None) -> list[int]:
    """Return 1, 2, 4, … up to the physical cores."""
    most = most or machine.n_cores()
    counts = [1]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == most else [*counts, most]


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

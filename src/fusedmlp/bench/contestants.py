"""Who takes part: a backend or a library, a number of threads, and what its process needs.

Nothing that is measured is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from fusedmlp.bench import machine
from fusedmlp.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fusedmlp.bench.tasks import Task

PEAK: Final = "fma-peak"
TRIAD: Final = "triad"
OWN_PREFIX: Final = "fusedmlp-"
OURS: Final = f"{OWN_PREFIX}numba"

_LIBRARIES: Final = "fusedmlp.bench.libraries"


@dataclass(frozen=True)
class Contestant:
    """One of those who are measured, on a number of threads.

    Parameters
    ----------
    target
        ``module:Class`` of its :class:`fusedmlp.bench.contract.Peer`.
    library
        The module that must be installed.
    arguments
        What the class takes besides the number of threads.
    environment
        Variables of its process, besides those that set threads.
    only
        Tasks that it takes part in; empty for all.
    variant
        What it does in place of a task, so that beside it one sees what a part of the task costs;
        None for the task itself. Its name must be another, since parity is against that task.
    is_slow_to_compile
        In a quick run it takes part in one task only.
    """

    name: str
    target: str
    library: str
    threads: int = 1
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    variant: Callable[[Task], Task] | None = None
    is_slow_to_compile: bool = False

    @property
    def label(self) -> str:
        """Name and threads, unique in a run."""
        return f"{self.name} ×{self.threads}"

    def enters(self, task: Task) -> bool:
        """Whether this contestant has anything to say on a task."""
        if (task.kind == "triad") != (self.name == TRIAD):
            return False
        return not self.only or task.name in self.only

    def task_for(self, task: Task) -> Task:
        """Return the task as this contestant does it."""
        return self.variant(task) if self.variant else task

    def absence(self) -> str | None:
        """Say why it cannot take part here, or None."""
        if find_spec(self.library) is None:
            return f"{self.library} is not installed"
        if "OPENBLAS_CORETYPE" in self.environment and not machine.has("avx512f"):
            return "its OpenBLAS kernels need AVX-512"
        return None


class Options(TypedDict, total=False):
    """Fields of a :class:`Contestant` that are not the same for all."""

    threads: int
    environment: Mapping[str, str]
    only: tuple[str, ...]
    variant: Callable[[Task], Task] | None
    is_slow_to_compile: bool


def peer(name: str, where: str, library: str, **words: Unpack[Options]) -> Contestant:
    """Describe another library: it is kept on the CPU, and from writing what nobody reads."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    words["environment"] = quiet | dict(words.get("environment", {}))
    return Contestant(name, f"{_LIBRARIES}.{where}", library, **words)


def own(backend: str, **words: Unpack[Options]) -> Contestant:
    """Describe one of fusedmlp's backends, such as ``numba`` or ``cupy:1``, of any package."""
    library = backend if backend in ("numpy", "numba") else "fusedmlp"
    name = f"{OWN_PREFIX}{backend}"
    target = f"{_LIBRARIES}.ours:OwnPeer"
    return Contestant(name, target, library, arguments=(backend,), **words)


THE_PEAK: Final = Contestant(PEAK, f"{_LIBRARIES}.peak:Peak", "numba")
THE_TRIAD: Final = Contestant(TRIAD, f"{_LIBRARIES}.triad:Triad", "numba")

PEERS: Final = (
    peer("jax", "jax_scan:JaxScan", "jax"),
    peer("tensorflow", "tensorflow_graph:TensorFlowGraph", "tensorflow"),
    peer(
        "tensorflow-xla",
        "tensorflow_graph:TensorFlowXLA",
        "tensorflow",
        is_slow_to_compile=True,
    ),
    peer("torch", "torch_eager:TorchEager", "torch"),
    peer("torch-compile", "torch_compiled:TorchCompiled", "torch", is_slow_to_compile=True),
    peer("sklearn", "sklearn_mlp:SklearnMLP", "sklearn"),
    peer("thinc", "thinc_chain:ThincChain", "thinc"),
    peer("onnxruntime", "onnx_session:OnnxSession", "onnxruntime"),
    peer("lean-numpy", "lean:LeanNumpy", "numpy"),
    peer(
        "lean-numpy-skylakex",
        "lean:LeanNumpy",
        "numpy",
        environment={"OPENBLAS_CORETYPE": "SkylakeX"},
    ),
    peer("workshop", "workshop_style:WorkshopStyle", "numpy"),
)
"""Every library that there is a file for, and NumPy as one would write it by hand."""

USUAL: Final = ("torch", "jax", "sklearn", "thinc", "onnxruntime")
"""Whom people ask about: those of them that are installed take part where nobody is named."""


def is_own(name: str) -> bool:
    """Whether this is one of fusedmlp's backends."""
    return name.startswith(OWN_PREFIX)


def thread_counts(most: int | None = None) -> list[int]:
    """Return 1, 2, 4, … up to the physical cores."""
    most = most or machine.n_cores()
    counts = [1]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == most else [*counts, most]


def named_peers(names: Sequence[str]) -> list[Contestant]:
    """Return the peers of these names, in the order of :data:`PEERS`.

    Raises
    ------
    UnknownNameError
        There is no such peer.
    """
    known = tuple(each.name for each in PEERS)
    for name in names:
        if name not in known:
            raise UnknownNameError.of("peer", name, known)
    return [each for each in PEERS if each.name in names]

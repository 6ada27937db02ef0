"""Finding and building the Numba engine. Numba is imported where something must be compiled."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Final

from fusedmlp.backend import (
    Availability,
    Backend,
    Device,
    Engine,
    Preference,
    Workload,
    check_threads,
)
from fusedmlp.errors import InvalidInputError
from fusedmlp.registry import unavailable

if TYPE_CHECKING:
    from fusedmlp.backend import EngineSpec

INSTALL: Final = "pip install numba"


class NumbaBackend(Backend):
    """Compiled kernels on the CPU: no BLAS, no thread pool, the same bits for any thread count."""

    name = "numba"
    has_strict = True

    def __init__(
        self, *, device: int | None = None, threads: int | None = None, strict: bool = False
    ) -> None:
        if device is not None:
            raise InvalidInputError(
                f"numba:{device} names a device, but the numba backend has none: use 'numba'"
            )
        check_threads(threads)
        found = self.probe()
        if found.state != "usable":
            raise unavailable(self.name, found)
        self._threads = default_threads() if threads is None else threads
        self.strict = strict

    @classmethod
    def probe(cls) -> Availability:
        """See :meth:`fusedmlp.backend.Backend.probe`.

        Has LLVM describe this CPU, and imports Numba unless compiled code is on disk, for either
        type: that is where an unsuited NumPy, a missing library or an unknown CPU shows. Such code
        needs no Numba, whose import takes as long as all else of a prediction; where it is broken
        none the less, that shows when something must be compiled. With ``NUMBA_DISABLE_JIT`` the
        backend is not usable, whether code is on disk or not.
        """
        try:
            version = _version("numba")
            from fusedmlp_numba.compiler import llvm
            from fusedmlp_numba.functions import RUN

            llvm.initialize()
            if not any(function.is_on_disk() for function in RUN.values()):
                with llvm.LOCK:
                    importlib.import_module("numba")
        except ModuleNotFoundError as error:
            if error.name in ("numba", "llvmlite"):
                return Availability("missing", f"{error.name} is not installed", INSTALL)
            return _broken(error)
        except Exception as error:  # noqa: BLE001 - a probe never raises, whatever a loader does
            return _broken(error)
        if _jit_is_disabled():
            detail = "NUMBA_DISABLE_JIT is set, and the engine exists as compiled code only"
            return Availability("broken", detail, "unset NUMBA_DISABLE_JIT")
        return Availability("usable", f"Numba {version}")

    @classmethod
    def preference(cls, workload: Workload) -> Preference:
        """See :meth:`fusedmlp.backend.Backend.preference`."""
        return Preference(10.0, "compiled and fused, the fastest on the CPU")

    def device(self) -> Device:
        """See :meth:`fusedmlp.backend.Backend.device`."""
        from fusedmlp_numba.compiler.host import VECTOR_BYTES, cpu_name

        facts: dict[str, str | int | float | bool | None] = {
            "numba": _version("numba"),
            "llvm": _version("llvmlite"),
            "cpu": cpu_name(),
            "vector_bits": 8 * VECTOR_BYTES,
            "cpus": os.cpu_count(),
            "threads": self._threads,
        }
        threads = "1 thread" if self._threads == 1 else f"{self._threads} threads"
        return Device(
            f"CPU ({facts['cpu']}), Numba {facts['numba']} with {facts['vector_bits']}-bit vectors "
            f"and at most {threads}",
            facts,
        )

    def compile(self, spec: EngineSpec) -> Engine:
        """See :meth:`fusedmlp.backend.Backend.compile`."""
        if self.strict:
            from fusedmlp.reference.engine import ReferenceEngine
            from fusedmlp_numba.strict import CompiledOperations

            return ReferenceEngine(
                spec,
                operations=CompiledOperations(),
            )
        from fusedmlp_numba.engine import NumbaEngine

        return NumbaEngine(
            spec,
            threads=self._threads,
        )


def default_threads() -> int:
    """Return the threads of an engine where none are requested.

    They are the usable CPUs, or fewer where a variable limits the threads of numerical libraries.
    joblib sets both variables in its processes, so that these share the CPUs.
    """
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        limit = os.environ.get(name, "").split(",")[0].strip()  # OpenMP: one number a level
        if limit.isdecimal() and int(limit) > 0:
            return min(int(limit), usable_cpus())
    return usable_cpus()


def usable_cpus() -> int:
    """CPUs that this process may run on, which containers and ``taskset`` limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(library: str) -> str:
    """Return an installed library's version, without importing it."""
    if importlib.util.find_spec(library) is None:
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)
    return importlib.metadata.version(library)


def _jit_is_disabled() -> bool:
    """Whether Numba would leave functions to Python, as it reads its variable."""
    if "numba" in sys.modules:
        return bool(sys.modules["numba"].config.DISABLE_JIT)
    try:
        return int(os.environ.get("NUMBA_DISABLE_JIT", "0")) != 0
    except ValueError:
        return False  # Numba ignores what is no number


def _broken(error: Exception) -> Availability:
    return Availability(
        "broken", f"Numba does not load: {error}", f"{INSTALL} --upgrade --force-reinstall"
    )

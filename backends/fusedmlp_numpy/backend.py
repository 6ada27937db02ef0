"""The NumPy backend: the reference engine, with matrix products on NumPy's BLAS.

The formulas are in :mod:`fusedmlp.reference`, because strict mode of other backends uses them too.
This file has the backend's description and the thread limit.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

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
from fusedmlp.reference.engine import ReferenceEngine
from fusedmlp.reference.operations import Operations, StrictOperations

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from fusedmlp.backend import EngineSpec


class NumpyBackend(Backend):
    """Plain NumPy; matrix products on its BLAS, with the threads of that library."""

    name = "numpy"
    has_strict = True

    # BLAS libraries divide products by the number of threads and use other kernels for the parts.
    bits_depend_on_threads = True

    def __init__(
        self, *, device: int | None = None, threads: int | None = None, strict: bool = False
    ) -> None:
        if device is not None:
            raise InvalidInputError(
                f"numpy:{device} names a device, but the numpy backend has none: use 'numpy'"
            )
        check_threads(threads)
        self._threads = threads
        self.strict = strict

    @classmethod
    def probe(cls) -> Availability:
        """See :meth:`fusedmlp.backend.Backend.probe`."""
        return Availability("usable", f"NumPy {np.__version__}")

    @classmethod
    def preference(cls, workload: Workload) -> Preference:
        """See :meth:`fusedmlp.backend.Backend.preference`."""
        return Preference(1.0, "always available, slower than a compiled engine")

    def device(self) -> Device:
        """See :meth:`fusedmlp.backend.Backend.device`."""
        from threadpoolctl import ThreadpoolController  # not needed to train

        blas = [
            library
            for library in ThreadpoolController().info()
            if library["user_api"] == "blas" and "numpy" in library["filepath"]
        ]
        facts = {
            "numpy": np.__version__,
            "cpus": os.cpu_count(),
            "blas": blas[0]["internal_api"] if blas else "unknown",
            "blas_version": blas[0]["version"] if blas else "unknown",
            "blas_kernels": blas[0].get("architecture", "unknown") if blas else "unknown",
            "threads": self._threads or (blas[0]["num_threads"] if blas else None),
        }
        threads = "1 thread" if facts["threads"] == 1 else f"{facts['threads']} threads"
        return Device(
            f"CPU, NumPy {facts['numpy']} with {facts['blas']} {facts['blas_version']} "
            f"({facts['blas_kernels']} kernels, {threads})",
            facts,
        )

    def compile(self, spec: EngineSpec) -> Engine:
        """See :meth:`fusedmlp.backend.Backend.compile`."""
        return ReferenceEngine(
            spec,
            operations=StrictOperations() if self.strict else Operations(),
            threads=nullcontext if self._threads is None else self._limited_threads(),
        )

    def _limited_threads(self) -> Callable[[], AbstractContextManager[object]]:
        """Return a function whose contexts limit the threads of NumPy's BLAS."""
        from threadpoolctl import ThreadpoolController  # only needed with a number of threads

        return partial(ThreadpoolController().limit, limits=self._threads)

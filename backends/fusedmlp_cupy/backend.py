"""The CuPy backend: its options, the device that it reports, and how it compiles engines.

CuPy is imported only when a backend is probed or constructed.
"""

from __future__ import annotations

import os
from types import MappingProxyType
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
from fusedmlp.errors import BackendNotInstalledError, InvalidInputError, NoUsableDeviceError
from fusedmlp_cupy.engine import CupyEngine
from fusedmlp_cupy.probing import examine
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.training.execution import MODES, Execution
from fusedmlp_cupy.tuning import Tuning

if TYPE_CHECKING:
    from fusedmlp.backend import EngineSpec, Fact
    from fusedmlp_cupy.training.execution import Mode

TF32_CAPABILITY: Final = (8, 0)
"""Lowest compute capability with TF32 products (CUDA programming guide)."""

WORTHWHILE_FLOPS: Final = 50_000_000
"""Fewest operations per step for which a GPU is preferred to a compiled CPU engine.

An estimate that no device has confirmed. It assumes 100 µs for a step of queued kernels, however
small, and 500 GFLOP/s for a CPU.
"""


class CupyBackend(Backend):
    """One NVIDIA GPU through CuPy: own kernels, and cuBLAS for large matrix products.

    Parameters
    ----------
    device
        Number of the device as the driver lists them (``cupy:1``); 0 where None.
    threads
        Host threads. The engine computes nothing on the host, so any number is accepted.
    tf32
        Let float32 products round their operands to TF32's 10 bits, which tensor cores multiply
        several times as fast. Results are then within :func:`fusedmlp.tolerance.tf32_bound`.
    graph, eager, persistent
        How training steps reach the device; at most one. A requested mode is never replaced: where
        it cannot be had, an error says why. The default is CUDA graphs, and eager launches with a
        warning where graphs fail. :meth:`device` reports the mode in use.

    Attributes
    ----------
    tuning
        Thresholds and sizes of the engines compiled from now on.
    """

    name = "cupy"
    has_strict = True
    options = MappingProxyType(
        {"tf32": "float32 products with operands of 10 bits, and faster", **MODES}
    )

    def __init__(
        self,
        *,
        device: int | None = None,
        threads: int | None = None,
        strict: bool = False,
        tf32: bool = False,
        graph: bool = False,
        eager: bool = False,
        persistent: bool = False,
    ) -> None:
        self._requested = _requested_mode(
            strict=strict, graph=graph, eager=eager, persistent=persistent
        )
        if tf32 and persistent:
            raise InvalidInputError(
                "the persistent kernel multiplies in float32, not in TF32: leave "
                "+persistent or +tf32 out"
            )
        if strict and tf32:
            raise InvalidInputError(
                "strict arithmetic and TF32 exclude each other: leave one of them out"
            )
        check_threads(threads)
        number = 0 if device is None else device
        found = examine(number)
        availability = found.availability
        if availability.state != "usable":
            text = (
                f"backend 'cupy' is {availability.state}: {availability.detail}. "
                f"Remedy: {availability.remedy}"
            )
            if availability.state == "no-device":
                raise NoUsableDeviceError(text)
            raise BackendNotInstalledError(text)
        self._cupy = found.cupy
        self._number = number
        self.strict = strict
        self._tf32 = tf32
        self.tuning = Tuning()
        self._execution: Execution | None = None
        if tf32 and (capability := self._capability()) < TF32_CAPABILITY:
            raise InvalidInputError(
                f"device {number} has compute capability {'.'.join(map(str, capability))}, and "
                "TF32 needs 8.0: leave +tf32 out"
            )

    @classmethod
    def probe(cls) -> Availability:
        """See :meth:`fusedmlp.backend.Backend.probe`; examines the first device."""
        return examine(0).availability

    @classmethod
    def preference(cls, workload: Workload) -> Preference:
        """See :meth:`fusedmlp.backend.Backend.preference`."""
        mega = workload.flops_per_step / 1e6
        if workload.flops_per_step >= WORTHWHILE_FLOPS:
            return Preference(100.0, f"{mega:,.1f} MFLOP a step are enough for a GPU to pay off")
        return Preference(5.0, f"{mega:,.1f} MFLOP a step are fewer than a GPU's launches cost")

    def device(self) -> Device:
        """See :meth:`fusedmlp.backend.Backend.device`.

        The mode of execution is that of the engine compiled last; before the first, that of the
        next.
        """
        execution = self._execution or self._initial_execution()
        runtime = self._cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self._number)
        name = properties["name"]
        facts: dict[str, Fact] = {
            "number": self._number,
            "name": name.decode() if isinstance(name, bytes) else str(name),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "multiprocessors": int(properties["multiProcessorCount"]),
            "memory_bytes": int(properties["totalGlobalMem"]),
            "driver_cuda": _version(runtime.driverGetVersion()),
            "runtime_cuda": _version(runtime.runtimeGetVersion()),
            "cupy": str(self._cupy.__version__),
            "products": "tf32" if self._tf32 else "float32",
            "launches": execution.mode,
            "launches_because": execution.reason,
        }
        return Device(
            f"GPU {self._number}, {facts['name']} (compute capability "
            f"{facts['compute_capability']}, {properties['totalGlobalMem'] / 2**30:.1f} GiB), "
            f"CuPy {facts['cupy']} with CUDA {facts['runtime_cuda']}, driver for CUDA "
            f"{facts['driver_cuda']}{', float32 products in TF32' if self._tf32 else ''}, "
            f"{execution}",
            facts,
        )

    def compile(self, spec: EngineSpec) -> Engine:
        """See :meth:`fusedmlp.backend.Backend.compile`.

        Raises
        ------
        BackendUnavailableError
            The requested mode cannot be had for this network or device.
        DeviceMemoryError
            The engine's buffers do not fit into the device's free memory.
        """
        if self._tf32 and spec.dtype != "float32":
            raise InvalidInputError(
                f"TF32 products are float32 products, the model is {spec.dtype}: leave +tf32 out, "
                "or use float32"
            )
        if not self._tf32 and os.environ.get("CUPY_TF32", "0") not in ("", "0"):
            raise InvalidInputError(
                f"CUPY_TF32={os.environ['CUPY_TF32']} makes CuPy round the operands of float32 "
                "products to 10 bits, outside the bounds between backends: unset it, or request "
                "it by name: backend 'cupy+tf32'"
            )
        device = CupyDevice(self._cupy, self._number, tf32=self._tf32)
        self._execution = self._initial_execution()
        return CupyEngine(
            spec,
            device=device,
            strict=self.strict,
            execution=self._execution,
            tuning=self.tuning,
        )

    def _initial_execution(self) -> Execution:
        """Return how the next engine's steps are run, unless it falls back."""
        if self.strict:
            return Execution("eager", "eager", "strict arithmetic is launched so")
        if self._requested is not None:
            return Execution(self._requested, self._requested, "asked for")
        return Execution(None, "graph", "the default")

    def _capability(self) -> tuple[int, int]:
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._number)
        return int(properties["major"]), int(properties["minor"])


def _requested_mode(*, strict: bool, **requested: bool) -> Mode | None:
    """Return the mode that was requested by name, or None."""
    each: tuple[Mode, ...] = ("graph", "eager", "persistent")
    modes = [mode for mode in each if requested[mode]]
    if len(modes) > 1:
        raise InvalidInputError(f"{' and '.join(modes)} exclude each other: leave one of them out")
    if strict and modes and modes != ["eager"]:
        raise InvalidInputError(
            f"strict arithmetic is launched kernel by kernel: leave +{modes[0]} out"
        )
    return modes[0] if modes else None


def _version(number: int) -> str:
    """Write CUDA's 13020 as 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"

"""Finding a GPU and building the CuPy engine on it. CuPy is imported here only when asked for."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from fusedmlp.backend import Availability, Backend, Device, Engine, Preference, Workload
from fusedmlp.errors import InvalidInputError, MissingDependencyError, NoUsableDeviceError
from fusedmlp_cupy.device import CupyDevice
from fusedmlp_cupy.engine import CupyEngine
from fusedmlp_cupy.launching import WAYS, Launching
from fusedmlp_cupy.persistent import choose
from fusedmlp_cupy.probing import examine

if TYPE_CHECKING:
    from fusedmlp.backend import Fact
    from fusedmlp.network import Network, Objective
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.launching import Way
    from fusedmlp_cupy.persistent import Plan

TF32_CAPABILITY: Final = (8, 0)
"""Compute capability from which on devices multiply TF32 (CUDA programming guide)."""

WORTHWHILE_FLOPS: Final = 50_000_000
"""Operations per step from which a GPU is preferred to a compiled CPU engine.

An estimate that no device has confirmed: a step of queued kernels is taken to cost about 100 µs
however small it is, and a CPU to do about 500 GFLOP/s.
"""


class CupyBackend(Backend):
    """One NVIDIA GPU through CuPy: own kernels, cuBLAS for the matrix products.

    Parameters
    ----------
    device
        Number of the device as the driver lists them (``cupy:1``); the first where None.
    threads
        Host threads. The engine computes nothing on the host, so any number is honoured.
    tf32
        Let float32 products round their operands to TF32's 10 bits, which tensor cores multiply
        several times as fast. Results are then within :func:`fusedmlp.tolerance.tf32_bound`.
    eager, graph, persistent, cluster
        How steps reach the device: kernel by kernel, replayed as CUDA graphs, in one persistent
        kernel, or in its form with clusters of blocks; at most one of them. Where none is asked
        for, the backend chooses among the first three by the network's size, and :meth:`device`
        says what it chose.
    """

    name = "cupy"
    has_strict = True
    options = MappingProxyType(
        {"tf32": "float32 products with operands of 10 bits, and faster"} | WAYS
    )

    def __init__(
        self,
        *,
        device: int | None = None,
        threads: int | None = None,
        strict: bool = False,
        tf32: bool = False,
        eager: bool = False,
        graph: bool = False,
        persistent: bool = False,
        cluster: bool = False,
    ) -> None:
        self._asked = _one_way(
            strict=strict, eager=eager, graph=graph, persistent=persistent, cluster=cluster
        )
        if tf32 and (persistent or cluster):
            raise InvalidInputError(
                "the persistent kernel multiplies in float32, not in TF32: leave "
                f"+{self._asked} or +tf32 out"
            )
        if strict and tf32:
            raise InvalidInputError(
                "strict arithmetic and TF32 exclude each other: leave one of them out"
            )
        if threads is not None and threads < 1:
            raise InvalidInputError(f"threads {threads} is not at least 1")
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
            raise MissingDependencyError(text)
        self._cupy = found.cupy
        self._number = number
        self.strict = strict
        self._tf32 = tf32
        self._launching: Launching | None = None
        if tf32 and (capability := self._capability()) < TF32_CAPABILITY:
            raise InvalidInputError(
                f"device {number} has compute capability {'.'.join(map(str, capability))}, and "
                "TF32 needs 8.0: leave +tf32 out"
            )

    @classmethod
    def probe(cls) -> Availability:
        """See :meth:`fusedmlp.backend.Backend.probe`; the first device stands for all."""
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

        How steps are launched is what the engine that was compiled last does; before there is one,
        what the next will try first.
        """
        launching = self._launching or self._plan()
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
            "launches": launching.used,
            "launches_because": launching.why,
        }
        return Device(
            f"GPU {self._number}, {facts['name']} (compute capability "
            f"{facts['compute_capability']}, {properties['totalGlobalMem'] / 2**30:.1f} GiB), "
            f"CuPy {facts['cupy']} with CUDA {facts['runtime_cuda']}, driver for CUDA "
            f"{facts['driver_cuda']}{', float32 products in TF32' if self._tf32 else ''}, "
            f"{launching}",
            facts,
        )

    def compile(
        self,
        network: Network,
        optimizer: Optimizer,
        objective: Objective,
        *,
        batch_size: int,
        dtype: FloatDtype,
        seed: int,
    ) -> Engine:
        """See :meth:`fusedmlp.backend.Backend.compile`.

        Raises
        ------
        DeviceMemoryError
            The engine's buffers do not fit into the device's free memory.
        """
        if self._tf32 and dtype != "float32":
            raise InvalidInputError(
                f"TF32 is a way to multiply float32, the model is {dtype}: leave +tf32 out, or "
                "use float32"
            )
        if not self._tf32 and os.environ.get("CUPY_TF32", "0") not in ("", "0"):
            raise InvalidInputError(
                f"CUPY_TF32={os.environ['CUPY_TF32']} makes CuPy round the operands of float32 "
                "products to 10 bits, outside the bounds that backends agree within: unset it, or "
                "ask for it by name: backend 'cupy+tf32'"
            )
        device = CupyDevice(self._cupy, self._number, tf32=self._tf32)
        self._launching = self._plan()
        if self._launching.asked is None and not self.strict:
            self._launching = self._choose(choose(network, batch_size, dtype, device.limits()))
        return CupyEngine(
            network,
            optimizer,
            objective,
            batch_size=batch_size,
            dtype=dtype,
            seed=seed,
            device=device,
            strict=self.strict,
            launching=self._launching,
        )

    def _plan(self) -> Launching:
        """Say how the next engine's steps are to be run, if nothing is in the way."""
        if self.strict:
            return Launching("eager", "eager", "strict arithmetic is launched so")
        if self._asked is not None:
            return Launching(self._asked, self._asked, "asked for")
        return Launching(None, "graph", "the default; small networks in one persistent kernel")

    def _choose(self, plan: Plan | str) -> Launching:
        """Choose for a network, by what came of spreading it over the device."""
        if self._tf32:
            plan = "TF32 products are cuBLAS's"
        if isinstance(plan, str):
            return Launching(None, "graph", plan)
        return Launching(None, "persistent", str(plan))

    def _capability(self) -> tuple[int, int]:
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._number)
        return int(properties["major"]), int(properties["minor"])


def _one_way(*, strict: bool, **asked: bool) -> Way | None:
    """Return the one way to launch steps that was asked for, or None."""
    each: tuple[Way, ...] = ("eager", "graph", "persistent", "cluster")
    ways = [way for way in each if asked[way]]
    if len(ways) > 1:
        raise InvalidInputError(f"{' and '.join(ways)} exclude each other: leave one of them out")
    if strict and ways and ways != ["eager"]:
        raise InvalidInputError(
            f"strict arithmetic is launched kernel by kernel: leave +{ways[0]} out"
        )
    return ways[0] if ways else None


def _version(number: int) -> str:
    """Write CUDA's 13020 as 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"

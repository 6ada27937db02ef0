"""Finding a GPU and building the CuPy engine on it. CuPy is imported here only when asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from fusedmlp.backend import Availability, Backend, Device, Engine, Preference, Workload
from fusedmlp.errors import InvalidInputError, MissingDependencyError, NoUsableDeviceError
from fusedmlp_cupy.device import CupyDevice
from fusedmlp_cupy.engine import CupyEngine
from fusedmlp_cupy.probing import examine

if TYPE_CHECKING:
    from fusedmlp.backend import Fact
    from fusedmlp.network import Network, Objective
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import FloatDtype

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
    """

    name = "cupy"
    has_strict = True

    def __init__(
        self, *, device: int | None = None, threads: int | None = None, strict: bool = False
    ) -> None:
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
        """See :meth:`fusedmlp.backend.Backend.device`."""
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
        }
        return Device(
            f"GPU {self._number}, {facts['name']} (compute capability "
            f"{facts['compute_capability']}, {properties['totalGlobalMem'] / 2**30:.1f} GiB), "
            f"CuPy {facts['cupy']} with CUDA {facts['runtime_cuda']}, driver for CUDA "
            f"{facts['driver_cuda']}",
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
        if os.environ.get("CUPY_TF32", "0") not in ("", "0"):
            raise InvalidInputError(
                f"CUPY_TF32={os.environ['CUPY_TF32']} makes CuPy round the operands of float32 "
                "products to 10 bits, outside the bounds that backends agree within: unset it"
            )
        return CupyEngine(
            network,
            optimizer,
            objective,
            batch_size=batch_size,
            dtype=dtype,
            seed=seed,
            device=CupyDevice(self._cupy, self._number),
            strict=self.strict,
        )


def _version(number: int) -> str:
    """Write CUDA's 13020 as 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"

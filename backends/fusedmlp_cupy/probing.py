"""Detection of CuPy and a device, by using every part that the engine needs.

CuPy imports without a driver, and a missing part of its toolkit fails only at its first use: NVRTC
with the first kernel, cuBLAS with the first product, the runtime's headers with the first of CuPy's
own kernels. So each is used here once, on small arrays, and every failure becomes an
:class:`Availability` with the text of the driver or loader and the command that repairs it. Nothing
is cached and nothing here raises.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusedmlp.backend import Availability
from fusedmlp_cupy.kernel_cache import protect_kernel_cache
from fusedmlp_cupy.messages import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp_cupy.runtime.types import CupyModule

OLDEST_CUDA: Final = 12
NEWEST_CUDA: Final = 13
"""Major versions of CUDA for which there is an extra: ``cuda12`` and ``cuda13``."""

CHECK_DRIVER: Final = "run `nvidia-smi`: it must list a device and its driver"

PROBE_KERNEL: Final = """
extern "C" __global__ void fusedmlp_probe(float* x) { x[threadIdx.x] += 1.0f; }
"""


@dataclass(frozen=True, slots=True)
class Examination:
    """Result of :func:`examine`.

    Parameters
    ----------
    availability
        The result for users.
    cupy
        The imported module, None where it could not be imported.
    """

    availability: Availability
    cupy: CupyModule = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the CUDA toolkit: its name, its package's stem, and a use of it."""

    name: str
    package: str
    use: Callable[[CupyModule], None]


def examine(number: int) -> Examination:
    """Import CuPy and use every part of it that the engine needs, on device ``number``."""
    changed = protect_kernel_cache()
    try:
        cupy = importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return Examination(Availability("missing", "CuPy is not installed", install_line()))
        return Examination(_broken_import(error))
    except Exception as error:  # noqa: BLE001 - a broken install may raise anything
        return Examination(_broken_import(error))
    try:
        found = _examine_device(cupy, number)
    except Exception as error:  # noqa: BLE001 - a probe never raises
        detail = f"CuPy is installed and fails: {one_line(error)}"
        return Examination(Availability("broken", detail, _reinstall_line()), cupy)
    if changed and found.availability.state == "usable":
        warnings.warn(changed, stacklevel=2)
    return found


def install_line() -> str:
    """Return the line that installs CuPy for this machine's driver, or for the newest CUDA."""
    major = driver_major()
    if major is None:
        major = NEWEST_CUDA
    return f"pip install 'fusedmlp[cuda{min(max(major, OLDEST_CUDA), NEWEST_CUDA)}]'"


def driver_major() -> int | None:
    """Return the newest CUDA major version that the driver serves; None without a driver."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    version = ctypes.c_int(0)
    try:
        status = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return version.value // 1000 if status == 0 and version.value else None


def _examine_device(cupy: CupyModule, number: int) -> Examination:
    try:
        n_devices = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # noqa: BLE001 - CuPy's error class is in the module under test
        return Examination(_no_device(cupy, one_line(error)), cupy)
    if n_devices == 0:
        return Examination(_no_device(cupy, "the driver lists 0 devices"), cupy)
    if not 0 <= number < n_devices:
        listed = "device 0" if n_devices == 1 else f"devices 0 to {n_devices - 1}"
        detail = f"there is no device {number}: the driver lists {n_devices} ({listed})"
        return Examination(Availability("no-device", detail, f"choose from {listed}"), cupy)

    with cupy.cuda.Device(number):
        for part in PARTS:
            try:
                part.use(cupy)
            except Exception as error:  # noqa: BLE001 - loaders raise half a dozen classes
                return Examination(_failed(cupy, part, error), cupy)
    return Examination(Availability("usable", f"CuPy {cupy.__version__}"), cupy)


def _use_nvrtc(cupy: CupyModule) -> None:
    kernel = cupy.RawKernel(PROBE_KERNEL, "fusedmlp_probe")
    x = cupy.zeros(32, "float32")
    kernel((1,), (32,), (x,))
    if x.get().sum() != 32.0:
        raise RuntimeError("a kernel that adds 1 to 32 zeros gave something else")


def _use_headers(cupy: CupyModule) -> None:
    # CuPy compiles its own kernels with the runtime's headers, this one among them.
    x = cupy.zeros(32, "float32")
    x.fill(2.0)
    if x.get().sum() != 64.0:
        raise RuntimeError("filling an array with 2 gave something else")


def _use_cublas(cupy: CupyModule) -> None:
    # CuPy computes the product of 1 row and 1 column by a reduction; the engine needs both.
    for rows in (2, 1):
        x = cupy.zeros((rows, 3), "float32")
        x.fill(2.0)
        if (cupy.dot(x, x.T).get() != 12.0).any():
            raise RuntimeError(f"a product of {rows} rows and {rows} columns is wrong")


PARTS: Final = (
    Part("NVRTC", "nvidia-cuda-nvrtc", _use_nvrtc),
    Part("the CUDA runtime headers", "nvidia-cuda-runtime", _use_headers),
    Part("cuBLAS", "nvidia-cublas", _use_cublas),
)


def _failed(cupy: CupyModule, part: Part, error: Exception) -> Availability:
    """Distinguish a missing part from a device that refuses work, by the class of the error."""
    refusals = {"CUDARuntimeError", "CUDADriverError", "OutOfMemoryError"}
    if refusals & {cls.__name__ for cls in type(error).__mro__}:
        return _no_device(cupy, one_line(error))
    detail = (
        f"CuPy {cupy.__version__} is installed, but {part.name} does not work: {one_line(error)}"
    )
    return Availability("broken", detail, part_line(part.package, _cuda_major(cupy)))


def part_line(package: str, cuda_major: int) -> str:
    """Return the line that installs one part for a major version of CUDA."""
    if cuda_major <= OLDEST_CUDA:
        return f"pip install '{package}-cu{cuda_major}'"
    return f"pip install '{package}>={cuda_major},<{cuda_major + 1}'"


def _no_device(cupy: CupyModule, text: str) -> Availability:
    """Report the driver's text, and whether this CuPy is too new for the driver."""
    detail = f"CuPy {cupy.__version__} is installed, but no device is usable: {text}"
    driver = driver_major()
    if driver is None:
        return Availability("no-device", f"{detail} (no NVIDIA driver was found)", CHECK_DRIVER)
    needed = _cuda_major(cupy)
    if OLDEST_CUDA <= driver < needed:
        detail += f" (CuPy is built for CUDA {needed}, the driver serves CUDA {driver})"
        remedy = f"pip uninstall -y cupy-cuda{needed}x && pip install 'fusedmlp[cuda{driver}]'"
        return Availability("no-device", detail, remedy)
    return Availability("no-device", detail, CHECK_DRIVER)


def _cuda_major(cupy: CupyModule) -> int:
    return int(cupy.cuda.runtime.runtimeGetVersion()) // 1000


def _broken_import(error: Exception) -> Availability:
    return Availability("broken", f"importing CuPy failed: {one_line(error)}", _reinstall_line())


def _reinstall_line() -> str:
    return install_line().replace("pip install", "pip install --force-reinstall")

"""One CUDA device behind a few typed calls: the only file that touches CuPy's objects.

CuPy publishes no types, so its module is ``Any`` here and nowhere else; everything above this
file sees :class:`DeviceArray` and :class:`Program`. There is no network and no kernel in here.
Nothing is changed for other users of CuPy in the same process: device and stream are set for the
length of a ``with`` block, and no allocator, math mode or option is touched.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from fusedmlp.errors import DeviceMemoryError
from fusedmlp_cupy.strict import constants_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from fusedmlp.types import FloatDtype

CupyModule: TypeAlias = Any
"""The module ``cupy``, which publishes no types."""

Geometry: TypeAlias = tuple[int, ...]
Argument: TypeAlias = "DeviceArray | np.generic"
"""What a kernel takes: a device array, or a NumPy scalar of exactly the parameter's width."""

COMPILE_OPTIONS = ("--std=c++17", "-prec-div=true", "-prec-sqrt=true")
"""Given to NVRTC beside -DREAL; CuPy adds -ftz=true and the architecture. Never fast-math."""

STRICT_OPTIONS = (*COMPILE_OPTIONS, "-fmad=false")
"""Without fused multiply-adds; what -ftz=true means for strict mode is said in strict.cu."""

UPLOAD_BYTES = 64 * 2**20
"""Data sets go up in pieces of this size, so that a mapped file is never pulled in whole."""


class DeviceArray(Protocol):
    """The part of ``cupy.ndarray`` that this backend uses."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    T: DeviceArray

    def __getitem__(self, index: slice) -> DeviceArray:
        """View of a range of rows."""

    def reshape(self, *shape: int) -> DeviceArray:
        """View of another shape."""

    def set(self, host: npt.NDArray[Any]) -> None:
        """Copy from the host, on the current stream."""

    def get(self) -> npt.NDArray[Any]:
        """Copy to the host and wait."""


class Program:
    """The compiled kernels for one floating type; every launch goes through here."""

    def __init__(self, functions: dict[str, Callable[..., None]], seconds: float) -> None:
        self._functions = functions
        self.seconds = seconds

    def launch(
        self, name: str, grid: Geometry, block: Geometry, args: tuple[Argument, ...]
    ) -> None:
        """Queue one kernel on the current device and stream."""
        self._functions[name](grid, block, args)


class CupyDevice:
    """Device ``number`` as CuPy counts them.

    Parameters
    ----------
    cupy
        The imported module, or a stand-in of the same shape.
    """

    def __init__(self, cupy: CupyModule, number: int) -> None:
        self._cupy = cupy
        self.number = number

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this device and its default stream current for a while.

        The default stream, whatever stream the caller has made current: otherwise two calls of
        one engine could land on two streams and overtake each other.
        """
        with self._cupy.cuda.Device(self.number), self._cupy.cuda.Stream.null:
            yield

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Allocate without filling."""
        try:
            array: DeviceArray = self._cupy.empty(shape, dtype)
        except MemoryError as error:
            asked = math.prod(shape) * np.dtype(dtype).itemsize
            free, total = self._cupy.cuda.runtime.memGetInfo()
            raise DeviceMemoryError(
                f"device {self.number} cannot hold {asked:,} bytes more, {free:,} of {total:,} "
                "are free: use fewer rows at a time, float32 or uint8 inputs, or a smaller batch"
            ) from error
        return array

    def upload(self, host: npt.NDArray[Any]) -> DeviceArray:
        """Copy a C-ordered host array to the device."""
        array = self.empty(host.shape, host.dtype)
        self.copy_in(array, host)
        return array

    def copy_in(self, array: DeviceArray, host: npt.NDArray[Any]) -> None:
        """Overwrite a device array with a host array of its shape and dtype, piece by piece."""
        rows = max(1, UPLOAD_BYTES // max(1, host[:1].nbytes))
        for start in range(0, len(host), rows):
            array[start : start + rows].set(np.asarray(host[start : start + rows]))
            # A copy from pageable memory may still be reading when it returns, and the host
            # array is the caller's to change or free.
            self.synchronize()

    def download(self, array: DeviceArray) -> npt.NDArray[Any]:
        """Copy to a fresh host array; waits for the work that fills it."""
        return array.get()

    def product(self, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
        """Out = a·b for matrices, each C-ordered or the transpose of such.

        ``cupy.dot`` ends in the same cuBLAS call as ``cupy.matmul`` and spends less time on the
        way; with a C-ordered ``out`` that overlaps neither operand it copies nothing. CuPy
        multiplies float32 in float32 unless CUPY_TF32 says otherwise, which the backend refuses.
        """
        self._cupy.dot(a, b, out=out)

    def synchronize(self) -> None:
        """Wait for everything queued on the current stream."""
        self._cupy.cuda.Stream.null.synchronize()

    def program(
        self, dtype: FloatDtype, names: tuple[str, ...], *, strict: bool = False
    ) -> Program:
        """Compile the kernels for a floating type, or load them from CuPy's cache on disk."""
        start = time.perf_counter()
        module = self._cupy.RawModule(
            code=kernel_source(strict=strict), options=compile_options(dtype, strict=strict)
        )
        module.compile()
        functions = {name: module.get_function(name) for name in names}
        return Program(functions, time.perf_counter() - start)


def kernel_source(*, strict: bool = False) -> str:
    """Text of the program: ``common.cu`` and ``kernels.cu``, or ``strict.cu`` and its constants."""
    if strict:
        return _source("common.cu") + constants_source() + _source("strict.cu")
    return _source("common.cu") + _source("kernels.cu")


def compile_options(dtype: FloatDtype, *, strict: bool = False) -> tuple[str, ...]:
    """NVRTC options for one floating type."""
    real = "float" if dtype == "float32" else "double"
    return (f"-DREAL={real}", *(STRICT_OPTIONS if strict else COMPILE_OPTIONS))


def _source(name: str) -> str:
    """Text of a file of this package, behind a line that has the compiler's messages name it."""
    text = files("fusedmlp_cupy").joinpath(name).read_text(encoding="utf-8")
    return f'#line 1 "{name}"\n{text}'

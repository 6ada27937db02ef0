"""A separate cuBLAS handle, because CuPy's own refuses stream capture.

The library is the one that CuPy has loaded. The handle has its own workspace, so that cuBLAS
allocates nothing during a capture, and its own math mode, independent of CuPy's setting. Matrices
are in C order. cuBLAS reads them in Fortran order, as transposes, and computes the transpose of
the product, which is the same numbers.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from fusedmlp_cupy.runtime.types import CupyModule, DeviceArray, Transposed

Library: TypeAlias = Any
"""A ctypes library: its functions have no static types."""

WORKSPACE_BYTES: Final = 32 * 2**20
"""Size that cuBLAS's manual recommends for compute capability 9.0; older devices need less."""

DEFAULT_MATH, TF32_MATH = 0, 3
"""Values of cublasMath_t in cublas_api.h."""

_int, _pointer = ctypes.c_int, ctypes.c_void_p
_GEMM: Final = (
    *(_pointer, _int, _int, _int, _int, _int),  # handle, forms of both, m, n, k
    *(_pointer, _pointer, _int, _pointer, _int),  # alpha, a, lda, b, ldb
    *(_pointer, _pointer, _int),  # beta, c, ldc
)
SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cublasCreate_v2": (_pointer,),
    "cublasDestroy_v2": (_pointer,),
    "cublasSetStream_v2": (_pointer, _pointer),
    "cublasSetWorkspace_v2": (_pointer, _pointer, ctypes.c_size_t),
    "cublasSetMathMode": (_pointer, _int),
    "cublasSgemm_v2": _GEMM,
    "cublasDgemm_v2": _GEMM,
}


def load(cupy: CupyModule) -> Library:
    """Open the cuBLAS that CuPy has loaded already, by its file name.

    Raises
    ------
    OSError, AttributeError
        No such library is loaded, or it lacks a function.
    """
    cuda_major = int(cupy.cuda.runtime.runtimeGetVersion()) // 1000
    windows = sys.platform == "win32"
    name = f"cublas64_{cuda_major}.dll" if windows else f"libcublas.so.{cuda_major}"
    library = ctypes.CDLL(name)
    for function, arguments in SIGNATURES.items():
        entry = getattr(library, function)
        entry.argtypes, entry.restype = arguments, _int
    return library


class CublasHandle:
    """One handle on the current device.

    Parameters
    ----------
    library
        Result of :func:`load`.
    workspace
        Device memory for the exclusive use of cuBLAS.
    tf32
        Whether float32 products round their operands to TF32.

    Raises
    ------
    RuntimeError
        A cuBLAS function fails.
    """

    def __init__(self, library: Library, workspace: DeviceArray, *, tf32: bool) -> None:
        self._library, self._workspace = library, workspace
        self._handle = ctypes.c_void_p()
        self._stream = 0
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        weakref.finalize(self, library.cublasDestroy_v2, self._handle).atexit = False
        self._call("cublasSetMathMode", self._handle, TF32_MATH if tf32 else DEFAULT_MATH)
        self.use_stream(0)

    def use_stream(self, pointer: int) -> None:
        """Queue products on another stream; cuBLAS then resets the workspace, so set it again."""
        self._call("cublasSetStream_v2", self._handle, pointer)
        self._call(
            "cublasSetWorkspace_v2",
            self._handle,
            self._workspace.data.ptr,
            self._workspace.nbytes,
        )

    def product(
        self, a: DeviceArray, b: DeviceArray, out: DeviceArray, transposed: Transposed = ""
    ) -> None:
        """Out (m, n) = a·b, aᵀ·b or a·bᵀ, each array in C order."""
        m, n = out.shape
        k = b.shape[1] if transposed == "b" else b.shape[0]
        single = out.dtype == np.float32
        kind = ctypes.c_float if single else ctypes.c_double
        one, zero = kind(1.0), kind(0.0)
        self._call(
            "cublasSgemm_v2" if single else "cublasDgemm_v2",
            *(self._handle, int(transposed == "b"), int(transposed == "a"), n, m, k),
            *(ctypes.byref(one), b.data.ptr, b.shape[1], a.data.ptr, a.shape[1]),
            *(ctypes.byref(zero), out.data.ptr, n),
        )

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise RuntimeError(f"{function} failed with status {status}")

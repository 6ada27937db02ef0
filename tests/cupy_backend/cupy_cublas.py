"""A stand-in for the library cuBLAS, for handles made through ctypes: its functions on host memory.

It reads its arguments as cuBLAS does: addresses, matrices column by column, leading dimensions.
It refuses what a device would: wrong sizes, a product while a stream records that is not the
handle's, and one whose workspace would have to be allocated then, as setting a stream forgets it.
"""

from __future__ import annotations

import ctypes

import numpy as np

from fusedmlp_cupy.runtime import cublas

INVALID_VALUE, INTERNAL_ERROR = 7, 14


class FakeCublas:
    """The functions that cublas.py calls, with handles that are numbers.

    Parameters
    ----------
    tf32
        Rounds the operands of handles in TF32 mode.
    """

    def __init__(self, standin, tf32):
        self._standin, self._tf32 = standin, tf32
        self.handles = {}
        self.products = self._created = 0
        for name in cublas.SIGNATURES:
            assert callable(getattr(self, name)), name

    def cublasCreate_v2(self, handle):
        if self._standin.memory.recording is not None:
            return INTERNAL_ERROR
        self._created += 1
        handle._obj.value = self._created
        self.handles[handle._obj.value] = {"stream": 0, "workspace": None, "math": 0}
        return 0

    def cublasDestroy_v2(self, handle):
        del self.handles[handle.value]
        return 0

    def cublasSetStream_v2(self, handle, stream):
        self.handles[handle.value] |= {"stream": stream, "workspace": None}
        return 0

    def cublasSetWorkspace_v2(self, handle, pointer, n_bytes):
        assert pointer
        assert n_bytes >= 4 * 2**20
        self.handles[handle.value]["workspace"] = pointer
        return 0

    def cublasSetMathMode(self, handle, mode):
        self.handles[handle.value]["math"] = mode
        return 0

    def cublasSgemm_v2(self, *arguments):
        return self._gemm(np.float32, *arguments)

    def cublasDgemm_v2(self, *arguments):
        return self._gemm(np.float64, *arguments)

    def _gemm(self, dtype, handle, form_a, form_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        state, standin = self.handles[handle.value], self._standin
        stream = standin.memory.streams[-1]
        assert state["stream"] == getattr(stream, "ptr", 0), "queued on another stream"
        if state["workspace"] is None and standin.memory.recording is not None:
            return INTERNAL_ERROR
        kind = ctypes.c_float if dtype == np.float32 else ctypes.c_double
        assert type(alpha._obj) is type(beta._obj) is kind
        assert (alpha._obj.value, beta._obj.value) == (1.0, 0.0)
        if min(m, n, k) < 1 or lda < (k if form_a else m) or ldb < (n if form_b else k) or ldc < m:
            return INVALID_VALUE
        operands = [
            column_major(a, dtype, *((k, m) if form_a else (m, k)), lda),
            column_major(b, dtype, *((n, k) if form_b else (k, n)), ldb),
        ]
        out = column_major(c, dtype, m, n, ldc)

        def run():
            x, y = (
                self._tf32(each)
                if state["math"] == cublas.TF32_MATH and dtype == np.float32
                else each
                for each in operands
            )
            with np.errstate(all="ignore"):
                out[...] = (x.T if form_a else x) @ (y.T if form_b else y)

        self.products += 1
        standin.queue(run, [])
        return 0


def column_major(address, dtype, rows, columns, leading):
    """The matrix (rows, columns) at an address, whose columns begin ``leading`` numbers apart."""
    n = (columns - 1) * leading + rows
    kind = ctypes.c_float if dtype == np.float32 else ctypes.c_double
    flat = np.ctypeslib.as_array((kind * n).from_address(address))
    return np.lib.stride_tricks.as_strided(
        flat, (rows, columns), (flat.itemsize, leading * flat.itemsize)
    )

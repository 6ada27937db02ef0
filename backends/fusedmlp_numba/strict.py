"""Strict mode on compiled loops: operations for the reference engine, with the same bits.

The engine and its formulas are :mod:`fusedmlp.reference`. Here are the operations that take most of
its time, compiled; strict_kernels.py has their loops. One thread computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import keep_threshold
from fusedmlp.reference.operations import StrictOperations
from fusedmlp_numba.functions import STRICT
from fusedmlp_numba.layout import address

if TYPE_CHECKING:
    from fusedmlp.reference.dropout import Mask
    from fusedmlp.reference.operations import Function
    from fusedmlp.types import FloatArray, FloatDtype


class CompiledOperations(StrictOperations):
    """:class:`~fusedmlp.reference.operations.StrictOperations`, faster."""

    compiles = True

    def product(self, a: FloatArray, b: FloatArray, out: FloatArray) -> None:
        """Out (m, n) = a (m, k) · b (k, n)."""
        left, right, result = (np.ascontiguousarray(each) for each in (a, b, out))
        places = address(left), address(right), address(result)
        self._run("product", _dtype(out), *places, *a.shape, b.shape[1])
        if result is not out:
            out[...] = result

    def dropout_mask(self, mask: Mask) -> None:
        """Fill a mask; see :func:`fusedmlp.reference.dropout.fill_mask`."""
        kept = np.ascontiguousarray(mask.kept)
        words = mask.seed, mask.step % 2**32, mask.layer, keep_threshold(mask.dropout)
        self._run("dropout_mask", "float32", address(kept), *kept.shape, *map(int, words))
        if kept is not mask.kept:
            mask.kept[...] = kept

    def _apply(
        self, function: Function, x: FloatArray, out: FloatArray | None = None
    ) -> FloatArray:
        """Compute a function of :mod:`fusedmlp.reference.arithmetic` for each number."""
        numbers = np.ascontiguousarray(x)
        found = np.empty(x.shape, x.dtype)
        self._run(function.__name__, _dtype(x), address(numbers), address(found), x.size)
        if out is None:
            return found
        out[...] = found
        return out

    def _run(self, name: str, dtype: FloatDtype, *arguments: int) -> None:
        cached = STRICT[name][dtype]
        self.compile_seconds += cached.compile()
        cached.function(*arguments)


def _dtype(x: FloatArray) -> FloatDtype:
    return "float32" if x.dtype == np.float32 else "float64"

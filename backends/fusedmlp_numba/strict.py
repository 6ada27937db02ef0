"""Strict mode on compiled loops: operations for the reference engine, with the same bits.

The engine and its formulas are :mod:`fusedmlp.reference`. Here are the operations that take most of
its time, compiled; strict_kernels.py has their loops. One thread computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import keep_threshold
from fusedmlp.reference.arithmetic import constants_of
from fusedmlp.reference.operations import StrictOperations
from fusedmlp_numba import strict_kernels as kernels

if TYPE_CHECKING:
    from fusedmlp.reference.dropout import Mask
    from fusedmlp.reference.operations import Function
    from fusedmlp.types import FloatArray
    from fusedmlp_numba.compiler.jit import Entry


class CompiledOperations(StrictOperations):
    """:class:`~fusedmlp.reference.operations.StrictOperations`, faster."""

    compiles = True

    def product(self, a: FloatArray, b: FloatArray, out: FloatArray) -> None:
        """Out (m, n) = a (m, k) · b (k, n)."""
        self._run(kernels.product, a, b, out)

    def dropout_mask(self, mask: Mask) -> None:
        """Fill a mask; see :func:`fusedmlp.reference.dropout.fill_mask`."""
        words = mask.seed, mask.step % 2**32, mask.layer, keep_threshold(mask.dropout)
        self._run(kernels.dropout_mask, mask.kept, *map(np.uint64, words))

    def _apply(
        self, function: Function, x: FloatArray, out: FloatArray | None = None
    ) -> FloatArray:
        """Compute a function of :mod:`fusedmlp.reference.arithmetic` for each number."""
        numbers = np.ascontiguousarray(x).reshape(-1)
        found = np.empty_like(numbers)
        self._run(kernels.FUNCTIONS[function.__name__], numbers, found, constants_of(x))
        if out is None:
            return found.reshape(x.shape)
        out[...] = found.reshape(x.shape)
        return out

    def _run(self, entry: Entry, *arguments: object) -> None:
        self.compile_seconds += entry.compile(*arguments)
        entry(*arguments)

"""Lists of the nonzero inputs of a batch, from dense or CSR data. Products are in products.py.

Packed data is read by packed_rows.py. Kernels list rows ``span[0]`` to ``span[1]`` of a batch,
whose row numbers in the data set are ``rows`` (B,).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import DTYPE_UINT8, PIXEL_MAX, SEGMENT_BOUNDS, SEGMENTS
from fusedmlp_numba.simd.dtype_dispatch import MASK_LANES, nonzero_mask, take_elements
from fusedmlp_numba.simd.intrinsics import cast_like, no_inline
from fusedmlp_numba.simd.memory import copy_convert, lowest_bit, unchecked_get, unchecked_set

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import IntArray
    from fusedmlp_numba.simd.dtype_dispatch import StoredValues
    from fusedmlp_numba.sparse.operands import CsrRows, Entries


@kernel
def list_dense(
    stored: StoredValues, D: int, rows: IntArray, span: tuple[int, int], entries: Entries
) -> None:
    """List the nonzero entries of dense rows (N, D); pixels become x / 255."""
    no_inline()
    for i in range(span[0], span[1]):
        start, source = i * entries.capacity, rows[i] * D
        count = list_nonzero(stored, source, D, entries.indices, start)
        value = entries.values
        take_elements(value, start, stored, source, entries.indices, start, count)
        if stored.dtype == DTYPE_UINT8:
            copy_convert(value, start, value, start, count, cast_like(PIXEL_MAX, value))
        _write_bounds(entries, start, start + count, D, i)


@kernel
def list_nonzero(
    stored: StoredValues, start: int, D: int, index: npt.NDArray[np.generic], at: int
) -> int:
    """Write the indices of nonzero values among D from ``start`` on to ``index[at:]``; count."""
    no_inline()
    n = at
    for j in range(0, D, MASK_LANES):
        mask = nonzero_mask(stored, start + j, min(D - j, MASK_LANES))
        while mask != 0:
            unchecked_set(index, n, j + lowest_bit(mask))
            mask &= mask - 1
            n += 1
    return n - at


@kernel
def copy_csr(csr: CsrRows, D: int, rows: IntArray, span: tuple[int, int], entries: Entries) -> None:
    """Copy the entries of CSR rows."""
    no_inline()
    one = cast_like(1, entries.values)
    for i in range(span[0], span[1]):
        source, start = csr.indptr[rows[i]], i * entries.capacity
        count = csr.indptr[rows[i] + 1] - source
        copy_convert(entries.indices, start, csr.indices, source, count, 1)
        copy_convert(entries.values, start, csr.values, source, count, one)
        _write_bounds(entries, start, start + count, D, i)


@kernel
def segment_start(segment: int, D: int) -> int:
    """Return the first input of a segment; D for the one after the last."""
    return min(segment * ((D + SEGMENTS - 1) // SEGMENTS), D)


@kernel
def _write_bounds(entries: Entries, start: int, stop: int, D: int, i: int) -> None:
    """Write the segment bounds of row i, whose entries are from ``start`` to ``stop``."""
    index, bounds, first = entries.indices, entries.bounds, i * SEGMENT_BOUNDS
    unchecked_set(bounds, first, start)
    for s in range(1, SEGMENTS):
        unchecked_set(bounds, first + s, lower_bound(index, start, stop, segment_start(s, D)))
    unchecked_set(bounds, first + SEGMENTS, stop)


@kernel
def lower_bound(index: npt.NDArray[np.generic], low: int, high: int, bound: int) -> int:
    """First position from low to high whose index is ≥ ``bound``: branch-free binary search."""
    n = high - low
    while n > 0:
        half = (n + 1) // 2
        low += half if unchecked_get(index, low + half - 1) < bound else 0
        n -= half
    return low

"""The packed format of a data set's nonzero inputs: each row in one stretch of memory.

Searching for nonzero inputs in every epoch costs as much as half the products. Rows are read in
random order, and every further stretch that a row is spread over is another page whose address
must be translated, which takes longer than reading the row.

A packed row is SEGMENTS numbers of two bytes, which count its entries before the end of each
segment of the inputs; then the indices of its entries, of two bytes each; then their values, from
the next multiple of their size on. It begins at a multiple of PACKED_ALIGNMENT bytes. data.py
decides which data sets are packed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import (
    DTYPE_UINT8,
    HEADER_BYTES,
    PACKED_INDEX_BYTES,
    PIXEL_MAX,
    SEGMENT_BOUNDS,
    SEGMENTS,
)
from fusedmlp_numba.simd.dtype_dispatch import (
    MASK_LANES,
    StoredValues,
    nonzero_mask,
    read_elements,
    take_elements,
)
from fusedmlp_numba.simd.intrinsics import cast_like, no_inline
from fusedmlp_numba.simd.memory import copy_convert, count_bits, unchecked_get, unchecked_set
from fusedmlp_numba.sparse.entries import list_nonzero, lower_bound, segment_start

if TYPE_CHECKING:
    from fusedmlp.types import IntArray
    from fusedmlp_numba.sparse.operands import Entries, PackedRows


@kernel
def _first_value(start: int, count: int, itemsize: int) -> int:
    """Return the element number of the first value of the packed row from byte ``start`` on."""
    return (start + HEADER_BYTES + PACKED_INDEX_BYTES * count + itemsize - 1) // itemsize


@kernel
def count_nonzero(stored: StoredValues, span: tuple[int, int], D: int, counts: IntArray) -> None:
    """Count the nonzero inputs of a span of the rows of x (N, D), into counts (N,)."""
    no_inline()
    for i in range(span[0], span[1]):
        count = 0
        for j in range(0, D, MASK_LANES):
            count += count_bits(nonzero_mask(stored, i * D + j, min(D - j, MASK_LANES)))
        unchecked_set(counts, i, count)


@kernel
def pack_rows(
    stored: StoredValues, span: tuple[int, int], D: int, counts: IntArray, out: PackedRows
) -> None:
    """Pack a span of the rows of x (N, D), whose rows have ``counts`` (N,) entries."""
    no_inline()
    for i in range(span[0], span[1]):
        start, count, source = unchecked_get(out.starts, i), unchecked_get(counts, i), i * D
        header = start // PACKED_INDEX_BYTES
        at = header + SEGMENTS
        list_nonzero(stored, source, D, out.indices, at)
        if stored.dtype == DTYPE_UINT8:
            value = _first_value(start, count, 1)
            take_elements(out.pixels, value, stored, source, out.indices, at, count)
        else:
            value = _first_value(start, count, out.values.itemsize)
            take_elements(out.values, value, stored, source, out.indices, at, count)
        for s in range(SEGMENTS):
            end = lower_bound(out.indices, at, at + count, segment_start(s + 1, D))
            unchecked_set(out.indices, header + s, end - at)


@kernel
def list_packed(
    packed: PackedRows, dtype: int, rows: IntArray, span: tuple[int, int], entries: Entries
) -> None:
    """Copy the entries of a span of a batch's rows; pixels become x / 255.

    Parameters
    ----------
    dtype
        Code of the values' type: DTYPE_UINT8, or the engine's.
    rows
        (B,) row numbers of the batch.
    """
    no_inline()
    value, indices, bounds = entries.values, packed.indices, entries.bounds
    itemsize = 1 if dtype == DTYPE_UINT8 else value.itemsize
    stored, divisor = StoredValues(packed.pixels, dtype), cast_like(PIXEL_MAX, value)
    for i in range(span[0], span[1]):
        begin, start = unchecked_get(packed.starts, rows[i]), i * entries.capacity
        header = begin // PACKED_INDEX_BYTES
        unchecked_set(bounds, i * SEGMENT_BOUNDS, start)
        for s in range(SEGMENTS):
            end = start + unchecked_get(indices, header + s)
            unchecked_set(bounds, i * SEGMENT_BOUNDS + s + 1, end)
        count = unchecked_get(indices, header + SEGMENTS - 1)
        copy_convert(entries.indices, start, indices, header + SEGMENTS, count, 1)
        source = _first_value(begin, count, itemsize)
        read_elements(value, start, stored, source, count, divisor)

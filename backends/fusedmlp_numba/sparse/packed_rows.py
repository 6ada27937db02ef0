"""A data set's nonzero inputs, packed once: each row's in one stretch of memory.

Finding them in every epoch anew costs as much as half the products; and rows are read in random
order, so that each further place that a row is spread over is a page whose address must be looked
up first, which takes longer than to read the row.

A packed row is SPANS whole numbers of two bytes, how many of its entries lie before the end of each
part of the inputs (sparse.py); its entries' inputs, of two bytes each; and their values, from the
next multiple of their size on. It begins at a multiple of PACKED_ALIGNMENT bytes. Which data sets
are packed is for sources.py to decide.
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
    nonzero_mask,
    read_elements,
    take_elements,
)
from fusedmlp_numba.simd.intrinsics import cast_like, no_inline
from fusedmlp_numba.simd.memory import copy_convert, count_bits, unchecked_get, unchecked_set
from fusedmlp_numba.sparse.entries import list_nonzero, lower_bound, segment_start

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatArray, IntArray


@kernel
def _value_place(start: int, count: int, itemsize: int) -> int:
    """Return which element the first value is, of the packed row from byte ``start`` on."""
    return (start + HEADER_BYTES + PACKED_INDEX_BYTES * count + itemsize - 1) // itemsize


@kernel
def count_nonzero(
    stored: npt.NDArray[np.uint8], element: int, first: int, last: int, D: int, counts: IntArray
) -> None:
    """Count the nonzero inputs of rows first to last of x (N, D), into counts (N,).

    Parameters
    ----------
    stored
        The memory of x, whose elements are of type ``element`` of sizes.py.
    """
    no_inline()
    for i in range(first, last):
        count = 0
        for j in range(0, D, MASK_LANES):
            at, lanes = i * D + j, min(D - j, MASK_LANES)
            count += count_bits(nonzero_mask(stored, element, at, lanes))
        unchecked_set(counts, i, count)


@kernel
def pack_rows(
    stored: npt.NDArray[np.uint8],
    element: int,
    first: int,
    last: int,
    D: int,
    counts: IntArray,
    starts: IntArray,
    places: npt.NDArray[np.uint16],
    pixels: npt.NDArray[np.uint8],
    values: FloatArray,
) -> None:
    """Pack rows first to last of x (N, D).

    Parameters
    ----------
    stored
        The memory of x, whose elements are of type ``element`` of sizes.py.
    counts, starts
        (N,) entries of each row, and (N + 1,) bytes where its packed row begins.
    places, pixels, values
        The memory of packed rows: as numbers of two bytes, as pixels, and as the engine's floats.
    """
    no_inline()
    for i in range(first, last):
        header, count = unchecked_get(starts, i) // PACKED_INDEX_BYTES, unchecked_get(counts, i)
        at, source = header + SEGMENTS, i * D
        list_nonzero(stored, element, source, D, places, at)
        if element == DTYPE_UINT8:
            value = _value_place(unchecked_get(starts, i), count, 1)
            take_elements(pixels, value, stored, element, source, places, at, count)
        else:
            value = _value_place(unchecked_get(starts, i), count, values.itemsize)
            take_elements(values, value, stored, element, source, places, at, count)
        for s in range(SEGMENTS):
            end = lower_bound(places, at, at + count, segment_start(s + 1, D))
            unchecked_set(places, header + s, end - at)


@kernel
def gather_packed(
    starts: IntArray,
    places: npt.NDArray[np.uint16],
    packed: npt.NDArray[np.uint8],
    element: int,
    rows: IntArray,
    first: int,
    last: int,
    capacity: int,
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_bounds: IntArray,
) -> None:
    """Copy the entries of rows first to last of the batch; pixels become x / 255.

    Results as in :func:`~fusedmlp_numba.sparse.gather_csr`.

    Parameters
    ----------
    places, packed
        The memory of packed rows, as numbers of two bytes and as bytes.
    element
        The type of their values, of sizes.py: pixels, or the engine's floats.
    """
    no_inline()
    itemsize, most = 1 if element == DTYPE_UINT8 else value.itemsize, cast_like(PIXEL_MAX, value)
    for i in range(first, last):
        begin, start = unchecked_get(starts, rows[i]), i * capacity
        header = begin // PACKED_INDEX_BYTES
        unchecked_set(row_bounds, i * SEGMENT_BOUNDS, start)
        for s in range(SEGMENTS):
            unchecked_set(
                row_bounds, i * SEGMENT_BOUNDS + s + 1, start + unchecked_get(places, header + s)
            )
        count = unchecked_get(places, header + SEGMENTS - 1)
        copy_convert(index, start, places, header + SEGMENTS, count, 1)
        source = _value_place(begin, count, itemsize)
        read_elements(value, start, packed, element, source, count, most)

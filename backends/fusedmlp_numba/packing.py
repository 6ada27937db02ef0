"""A data set's nonzero inputs, packed once: each row's in one stretch of memory.

Finding them in every epoch anew costs as much as half the products; and rows are read in random
order, so that each further place that a row is spread over is a page whose address must be looked
up first, which takes longer than to read the row.

A packed row is SPANS whole numbers of two bytes, how many of its entries lie before the end of each
part of the inputs (sparse.py); its entries' inputs, of two bytes each; and their values, from the
next multiple of their size on. It begins at a multiple of ALIGNMENT bytes. Which data sets are
packed is for sources.py to decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.intrinsics import like, stay_small
from fusedmlp_numba.kernels import PIXEL_MAX
from fusedmlp_numba.runs import MASK_LANES, convert_run, count_bits, get, nonzero_mask, put
from fusedmlp_numba.sparse import BOUNDS, SPANS, list_nonzero, lower_bound, span_start

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.types import DenseInputs, FloatArray, IntArray

PLACE_BYTES: Final = 2
"""Bytes of an input's number."""

MOST_INPUTS: Final = int(np.iinfo(np.uint16).max)
"""Inputs, and so entries, that have such a number."""

HEADER_BYTES: Final = PLACE_BYTES * SPANS

ALIGNMENT: Final = 8


def packed_bytes(counts: IntArray, itemsize: int) -> IntArray:
    """Bytes (N,) of packed rows with so many entries each (N,), of ``itemsize`` bytes a value."""
    places = HEADER_BYTES + PLACE_BYTES * counts
    used = _up(places, itemsize) + itemsize * counts
    return _up(used, ALIGNMENT)


def _up(n: IntArray, multiple: int) -> IntArray:
    return -(-n // multiple) * multiple


@kernel
def _value_place(start: int, count: int, itemsize: int) -> int:
    """Return which element the first value is, of the packed row from byte ``start`` on."""
    return (start + HEADER_BYTES + PLACE_BYTES * count + itemsize - 1) // itemsize


@kernel
def count_nonzero(x: DenseInputs, first: int, last: int, D: int, counts: IntArray) -> None:
    """Count the nonzero inputs of rows first to last of x (N, D), into counts (N,)."""
    stay_small()
    whole = D // MASK_LANES * MASK_LANES
    for i in range(first, last):
        count = 0
        for j in range(0, whole, MASK_LANES):
            count += count_bits(nonzero_mask(x, i * D + j))
        for j in range(whole, D):
            if get(x, i * D + j) != 0:
                count += 1
        put(counts, i, count)


@kernel
def pack_rows(
    x: DenseInputs,
    first: int,
    last: int,
    D: int,
    counts: IntArray,
    starts: IntArray,
    places: npt.NDArray[np.uint16],
    values: npt.NDArray[np.generic],
) -> None:
    """Pack rows first to last of x (N, D).

    Parameters
    ----------
    counts, starts
        (N,) entries of each row, and (N + 1,) bytes where its packed row begins.
    places, values
        The memory of packed rows, as numbers of two bytes and as values.
    """
    stay_small()
    for i in range(first, last):
        header, count = get(starts, i) // PLACE_BYTES, get(counts, i)
        at = header + SPANS
        value = _value_place(get(starts, i), count, values.itemsize)
        list_nonzero(x, i * D, D, places, at, values, value)
        for s in range(SPANS):
            end = lower_bound(places, at, at + count, span_start(s + 1, D))
            put(places, header + s, end - at)


@kernel
def gather_packed(
    starts: IntArray,
    places: npt.NDArray[np.uint16],
    values: DenseInputs,
    rows: IntArray,
    pixels: bool,
    first: int,
    last: int,
    capacity: int,
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_bounds: IntArray,
) -> None:
    """Copy the entries of rows first to last of the batch; pixels become x / 255.

    Results as in :func:`~fusedmlp_numba.sparse.gather_csr`.
    """
    stay_small()
    divisor = like(PIXEL_MAX if pixels else 1, value)
    for i in range(first, last):
        begin, start = get(starts, rows[i]), i * capacity
        header = begin // PLACE_BYTES
        put(row_bounds, i * BOUNDS, start)
        for s in range(SPANS):
            put(row_bounds, i * BOUNDS + s + 1, start + get(places, header + s))
        count = get(places, header + SPANS - 1)
        convert_run(index, start, places, header + SPANS, count, 1)
        source = _value_place(begin, count, values.itemsize)
        convert_run(value, start, values, source, count, divisor)

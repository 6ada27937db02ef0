"""The first layer of sparse inputs: finding the nonzero entries, and the sums over them.

A batch's entries lie row by row: row i has room for ``capacity`` of them from ``i * capacity`` on,
inputs ascending, and SPANS + 1 bounds between which lie those of each part of the inputs. masks.py
turns them round for the gradient. Every element is summed in one fixed order whatever the
workers' shares, as in products.py; a product with a zero input is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import DTYPE_UINT8, PIXEL_MAX, SEGMENT_BOUNDS, SEGMENTS
from fusedmlp_numba.simd.dtype_dispatch import MASK_LANES, nonzero_mask, take_elements
from fusedmlp_numba.simd.intrinsics import cast_like, no_inline
from fusedmlp_numba.simd.memory import copy_convert, lowest_bit, unchecked_get, unchecked_set
from fusedmlp_numba.sparse.microkernel import SPARSE_PANELS, sparse_tiles

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatArray, IntArray

PRODUCT_BYTES: Final = 256
"""Bytes of a row of W that the product reads at a time, in as many panels as that is: together with
SPANS, what keeps the weights in the L1 cache."""

PRODUCT_ROWS: Final = 256
"""Rows of X that the product takes through all of W at a time: their entries stay in L2."""


@kernel
def gather_dense(
    stored: npt.NDArray[np.uint8],
    element: int,
    D: int,
    rows: IntArray,
    first: int,
    last: int,
    capacity: int,
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_bounds: IntArray,
) -> None:
    """List the nonzero inputs of rows first to last of the batch; pixels become x / 255.

    Results as in :func:`gather_csr`.

    Parameters
    ----------
    stored
        The memory of x (N, D), whose elements are of type ``element`` of sizes.py.
    """
    no_inline()
    for i in range(first, last):
        start, source = i * capacity, rows[i] * D
        count = list_nonzero(stored, element, source, D, index, start)
        take_elements(value, start, stored, element, source, index, start, count)
        if element == DTYPE_UINT8:
            copy_convert(value, start, value, start, count, cast_like(PIXEL_MAX, value))
        _write_bounds(index, start, start + count, D, row_bounds, i)


@kernel
def list_nonzero(
    stored: npt.NDArray[np.uint8],
    element: int,
    source: int,
    D: int,
    index: npt.NDArray[np.generic],
    at: int,
) -> int:
    """List which of D inputs from ``source`` on are not 0, to ``index[at]`` and on; how many."""
    no_inline()
    n = at
    for j in range(0, D, MASK_LANES):
        mask = nonzero_mask(stored, element, source + j, min(D - j, MASK_LANES))
        while mask != 0:
            unchecked_set(index, n, j + lowest_bit(mask))
            mask &= mask - 1
            n += 1
    return n - at


@kernel
def gather_csr(
    indptr: IntArray,
    indices: npt.NDArray[np.int32],
    data: FloatArray,
    rows: IntArray,
    first: int,
    last: int,
    D: int,
    capacity: int,
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_bounds: IntArray,
) -> None:
    """Copy the entries of CSR rows first to last of the batch.

    Parameters
    ----------
    index, value
        Row i's entries, inputs ascending, from ``i * capacity`` on.
    row_bounds
        (B·BOUNDS,) where row i's entries of the first, second, … part of the inputs begin, and
        where the last part's end.
    """
    no_inline()
    one = cast_like(1, value)
    for i in range(first, last):
        source, start = indptr[rows[i]], i * capacity
        count = indptr[rows[i] + 1] - source
        copy_convert(index, start, indices, source, count, 1)
        copy_convert(value, start, data, source, count, one)
        _write_bounds(index, start, start + count, D, row_bounds, i)


@kernel
def segment_start(span: int, D: int) -> int:
    """Return the first input of a span; of the one after the last, D."""
    return min(span * ((D + SEGMENTS - 1) // SEGMENTS), D)


@kernel
def _write_bounds(
    index: npt.NDArray[np.uint32], start: int, stop: int, D: int, row_bounds: IntArray, i: int
) -> None:
    unchecked_set(row_bounds, i * SEGMENT_BOUNDS, start)
    for s in range(1, SEGMENTS):
        unchecked_set(
            row_bounds, i * SEGMENT_BOUNDS + s, lower_bound(index, start, stop, segment_start(s, D))
        )
    unchecked_set(row_bounds, i * SEGMENT_BOUNDS + SEGMENTS, stop)


@kernel
def lower_bound(index: npt.NDArray[np.generic], low: int, high: int, bound: int) -> int:
    """First place in low to high whose index is at least ``bound``, by halves, without branches."""
    n = high - low
    while n > 0:
        half = (n + 1) // 2
        low += half if unchecked_get(index, low + half - 1) < bound else 0
        n -= half
    return low


@kernel
def sparse_product(
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_bounds: IntArray,
    W: FloatArray,
    w: int,
    D: int,
    C: FloatArray,
    c: int,
    c_row: int,
    rows: tuple[int, int],
    panels: tuple[int, int],
    columns: int,
) -> None:
    """C = X·W with X by its nonzero entries and W in panels: the first layer of sparse inputs.

    A product with a zero input is left out: 0·∞ counts as 0 here.
    """
    no_inline()
    step = min(max(PRODUCT_BYTES // (columns * value.itemsize), 1), SPARSE_PANELS)
    for first in range(rows[0], rows[1], PRODUCT_ROWS):
        for p in range(panels[0], panels[1], step):
            for s in range(SEGMENTS):
                sparse_tiles(
                    min(step, panels[1] - p),
                    min(PRODUCT_ROWS, rows[1] - first),
                    value,
                    index,
                    row_bounds,
                    first * SEGMENT_BOUNDS + s,
                    SEGMENT_BOUNDS,
                    W,
                    w + p * D * columns,
                    D * columns,
                    C,
                    c + first * c_row + p * columns,
                    c_row,
                    s > 0,
                )

"""The first layer of sparse inputs: finding the nonzero entries, and the sums over them.

A batch's entries lie row by row: row i has room for ``capacity`` of them from ``i * capacity`` on,
inputs ascending, and SPANS + 1 bounds between which lie those of each part of the inputs. masks.py
turns them round for the gradient. Every element is summed in one fixed order whatever the
workers' shares, as in products.py; a product with a zero input is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.intrinsics import like, stay_small
from fusedmlp_numba.kernels import PIXEL_MAX
from fusedmlp_numba.runs import MASK_LANES, convert_run, get, lowest_bit, nonzero_mask, put
from fusedmlp_numba.tiles import GATHER_PANELS, gather_tiles

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import DenseInputs, FloatArray, IntArray

SPANS: Final = 4
"""Stretches into which a sparse row's inputs are cut: the weights of one stay in the L1 cache."""

BOUNDS: Final = SPANS + 1
"""Numbers that say where in its entries a row's stretches begin and end."""

PRODUCT_BYTES: Final = 256
"""Bytes of a row of W that the product reads at a time, in as many panels as that is: together with
SPANS, what keeps the weights in the L1 cache."""

PRODUCT_ROWS: Final = 256
"""Rows of X that the product takes through all of W at a time: their entries stay in L2."""


@kernel
def gather_dense(
    x: DenseInputs,
    rows: IntArray,
    pixels: bool,
    first: int,
    last: int,
    capacity: int,
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_bounds: IntArray,
) -> None:
    """List the nonzero inputs of rows first to last of the batch; pixels become x / 255.

    Results as in :func:`gather_csr`.
    """
    stay_small()
    D = x.shape[1]
    divisor = like(PIXEL_MAX if pixels else 1, value)
    for i in range(first, last):
        start = i * capacity
        count = list_nonzero(x, rows[i] * D, D, index, start, value, start)
        if pixels:
            convert_run(value, start, value, start, count, divisor)
        _write_bounds(index, start, start + count, D, row_bounds, i)


@kernel
def list_nonzero(
    x: DenseInputs,
    source: int,
    D: int,
    index: npt.NDArray[np.generic],
    at: int,
    value: npt.NDArray[np.generic],
    value_at: int,
) -> int:
    """List the nonzero ones of D inputs from ``x[source]`` on; return how many.

    Their numbers go to ``index[at]`` and on, their values to ``value[value_at]`` and on.
    """
    stay_small()
    whole, n = D // MASK_LANES * MASK_LANES, 0
    for j in range(0, whole, MASK_LANES):
        mask = nonzero_mask(x, source + j)
        while mask != 0:
            k = j + lowest_bit(mask)
            mask &= mask - 1
            put(index, at + n, k)
            put(value, value_at + n, get(x, source + k))
            n += 1
    for j in range(whole, D):
        if get(x, source + j) != 0:
            put(index, at + n, j)
            put(value, value_at + n, get(x, source + j))
            n += 1
    return n


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
    stay_small()
    one = like(1, value)
    for i in range(first, last):
        source, start = indptr[rows[i]], i * capacity
        count = indptr[rows[i] + 1] - source
        convert_run(index, start, indices, source, count, 1)
        convert_run(value, start, data, source, count, one)
        _write_bounds(index, start, start + count, D, row_bounds, i)


@kernel
def span_start(span: int, D: int) -> int:
    """Return the first input of a span; of the one after the last, D."""
    return min(span * ((D + SPANS - 1) // SPANS), D)


@kernel
def _write_bounds(
    index: npt.NDArray[np.uint32], start: int, stop: int, D: int, row_bounds: IntArray, i: int
) -> None:
    put(row_bounds, i * BOUNDS, start)
    for s in range(1, SPANS):
        put(row_bounds, i * BOUNDS + s, lower_bound(index, start, stop, span_start(s, D)))
    put(row_bounds, i * BOUNDS + SPANS, stop)


@kernel
def lower_bound(index: npt.NDArray[np.generic], low: int, high: int, bound: int) -> int:
    """First place in low to high whose index is at least ``bound``, by halves, without branches."""
    n = high - low
    while n > 0:
        half = (n + 1) // 2
        low += half if get(index, low + half - 1) < bound else 0
        n -= half
    return low


@kernel
def gather_product(
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
    stay_small()
    step = min(max(PRODUCT_BYTES // (columns * value.itemsize), 1), GATHER_PANELS)
    for first in range(rows[0], rows[1], PRODUCT_ROWS):
        for p in range(panels[0], panels[1], step):
            for s in range(SPANS):
                gather_tiles(
                    min(step, panels[1] - p),
                    min(PRODUCT_ROWS, rows[1] - first),
                    value,
                    index,
                    row_bounds,
                    first * BOUNDS + s,
                    BOUNDS,
                    W,
                    w + p * D * columns,
                    D * columns,
                    C,
                    c + first * c_row + p * columns,
                    c_row,
                    s > 0,
                )

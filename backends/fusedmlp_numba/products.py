"""Matrix products and sparse sums over whole panels, from the tiles of intrinsics.py.

A product works on rows first_row to last_row and on panels first to last of its result, so that
workers can share it. Every element is summed in one fixed order whatever the share: no bit
depends on how the work was cut. Operands are flat arrays with offsets; layout.py says what lies
where. There are no activations and no layers here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.intrinsics import (
    GATHER_PANELS,
    TILE_ROWS,
    gather_tile,
    like,
    multiply_tile,
)
from fusedmlp_numba.kernels import PIXEL_MAX

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import DenseInputs, FloatArray, IntArray

DEPTH: Final = 1024
"""Terms summed in one go: a panel of the right operand then stays in the L1 or L2 cache."""

BLOCK: Final = 2**16
"""Elements of the left operand in one block: a share of the L2 cache."""

PACKED_ROWS: Final = 16
"""Rows that are copied into panels together."""


@kernel
def block_rows(depth: int) -> int:
    """Rows of the left operand in one block: whole tiles."""
    return max(1, BLOCK // (min(depth, DEPTH) * TILE_ROWS)) * TILE_ROWS


@kernel
def multiply(
    A: FloatArray,
    a: int,
    a_row: int,
    B: FloatArray,
    b: int,
    depth: int,
    C: FloatArray,
    c: int,
    c_row: int,
    rows: tuple[int, int],
    panels: tuple[int, int],
    columns: int,
) -> None:
    """C = A·B for rows of A with B in panels: the forward product, and the delta handed down.

    Parameters
    ----------
    A, a, a_row
        (M, depth) from offset a, rows a_row apart.
    B, b
        Panels (depth, columns) from offset b.
    C, c, c_row
        (M, N) from offset c, rows c_row apart.
    """
    height = block_rows(depth)
    for i0 in range(rows[0], rows[1], height):
        i1 = min(i0 + height, rows[1])
        for k in range(0, depth, DEPTH):
            for p in range(panels[0], panels[1]):
                right = b + (p * depth + k) * columns
                for i in range(i0, i1, TILE_ROWS):
                    multiply_tile(
                        min(TILE_ROWS, i1 - i),
                        A,
                        a + i * a_row + k,
                        a_row,
                        1,
                        B,
                        right,
                        columns,
                        C,
                        c + i * c_row + p * columns,
                        c_row,
                        min(DEPTH, depth - k),
                        k > 0,
                    )


@kernel
def multiply_transposed(
    A: FloatArray,
    a: int,
    a_row: int,
    B: FloatArray,
    b: int,
    b_row: int,
    b_panel: int,
    depth: int,
    C: FloatArray,
    c: int,
    height: int,
    rows: tuple[int, int],
    panels: tuple[int, int],
    columns: int,
    left: FloatArray,
    scratch: int,
) -> None:
    """C = Aᵀ·B with C in panels, for one block of C's rows: the gradient of weights.

    Parameters
    ----------
    A, a, a_row
        (depth, M) from offset a, rows a_row apart.
    B, b, b_row, b_panel
        Row k of panel p at ``b + k * b_row + p * b_panel``.
    C, c, height
        Panels (height, columns) from offset c.
    rows
        At most ``block_rows(depth)`` rows of C.
    left, scratch
        Room for BLOCK elements, at an offset.
    """
    for k0 in range(0, depth, DEPTH):
        terms = min(DEPTH, depth - k0)
        for k in range(terms):
            source, target = a + (k0 + k) * a_row, scratch + k * TILE_ROWS
            for i in range(rows[0], rows[1], TILE_ROWS):
                tile = target + (i - rows[0]) * terms
                for j in range(min(TILE_ROWS, rows[1] - i)):
                    left[tile + j] = A[source + i + j]
        for p in range(panels[0], panels[1]):
            for i in range(rows[0], rows[1], TILE_ROWS):
                multiply_tile(
                    min(TILE_ROWS, rows[1] - i),
                    left,
                    scratch + (i - rows[0]) * terms,
                    1,
                    TILE_ROWS,
                    B,
                    b + k0 * b_row + p * b_panel,
                    b_row,
                    C,
                    c + (p * height + i) * columns,
                    columns,
                    terms,
                    k0 > 0,
                )


@kernel
def pack_panels(
    B: FloatArray,
    b: int,
    b_row: int,
    depth: int,
    out: FloatArray,
    panels: tuple[int, int],
    columns: int,
) -> None:
    """Copy columns of a (depth, N) matrix into panels (depth, columns) of ``out``."""
    # A few rows at a time: all of a panel's rows at once lie on more pages than the TLB holds.
    for k0 in range(0, depth, PACKED_ROWS):
        for p in range(panels[0], panels[1]):
            for k in range(k0, min(k0 + PACKED_ROWS, depth)):
                source, target = b + k * b_row + p * columns, (p * depth + k) * columns
                for j in range(columns):
                    out[target + j] = B[source + j]


@kernel
def transpose_panels(
    W: FloatArray,
    w: int,
    D: int,
    H: int,
    out: FloatArray,
    t: int,
    panels: tuple[int, int],
    columns: int,
) -> None:
    """Write panels (H, columns) of Wᵀ from panels (D, columns) of W; columns beyond D are left."""
    for q in range(panels[0], panels[1]):
        n = min(columns, D - q * columns)
        for p in range((H + columns - 1) // columns):
            source = w + (p * D + q * columns) * columns
            target = t + (q * H + p * columns) * columns
            for h in range(min(columns, H - p * columns)):
                for d in range(n):
                    out[target + h * columns + d] = W[source + d * columns + h]


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
    row_stop: IntArray,
) -> None:
    """List the nonzero inputs of rows first to last of the batch; pixels become x / 255."""
    zero = like(0.0, value)
    for i in range(first, last):
        source, n = x[rows[i]], i * capacity
        for j in range(len(source)):
            # Without a branch: an entry that is zero is overwritten by the next.
            entry = like(source[j], value)
            index[n] = j
            value[n] = entry
            n += entry != zero
        row_stop[i] = n
        if pixels:
            for k in range(i * capacity, n):
                value[k] /= like(PIXEL_MAX, value)


@kernel
def gather_csr(
    indptr: IntArray,
    indices: npt.NDArray[np.int32] | npt.NDArray[np.uint16],
    data: DenseInputs,
    rows: IntArray,
    pixels: bool,
    first: int,
    last: int,
    capacity: int,
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_stop: IntArray,
) -> None:
    """Copy the entries of CSR rows first to last of the batch; pixels become x / 255."""
    for i in range(first, last):
        start, stop = indptr[rows[i]], indptr[rows[i] + 1]
        n = i * capacity
        for k in range(stop - start):
            index[n + k] = indices[start + k]
            value[n + k] = like(data[start + k], value)
        row_stop[i] = n + stop - start
        if pixels:
            for k in range(n, n + stop - start):
                value[k] /= like(PIXEL_MAX, value)


@kernel
def list_columns(
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_stop: IntArray,
    rows: int,
    capacity: int,
    first: int,
    last: int,
    list_row: npt.NDArray[np.uint32],
    list_value: FloatArray,
    list_start: IntArray,
    list_stop: IntArray,
) -> None:
    """Turn the batch's entries by row into entries by input, for inputs first to last.

    Within an input, rows ascend; each worker fills its own inputs' stretch of the lists.
    """
    list_stop[first:last] = 0
    before = 0
    for i in range(rows):
        start, stop = _stretch(index, i * capacity, row_stop[i], first, last)
        before += start - i * capacity
        for n in range(start, stop):
            list_stop[index[n]] += 1
    for d in range(first, last):
        count = list_stop[d]
        list_start[d] = before
        list_stop[d] = before
        before += count
    for i in range(rows):
        start, stop = _stretch(index, i * capacity, row_stop[i], first, last)
        for n in range(start, stop):
            d = index[n]
            at = list_stop[d]
            list_row[at] = i
            list_value[at] = value[n]
            list_stop[d] = at + 1


@kernel
def _stretch(
    index: npt.NDArray[np.uint32], start: int, stop: int, first: int, last: int
) -> tuple[int, int]:
    """Where a row's ascending indices first to last stand."""
    return _lower_bound(index, start, stop, first), _lower_bound(index, start, stop, last)


@kernel
def _lower_bound(index: npt.NDArray[np.uint32], low: int, high: int, bound: int) -> int:
    """First place in low to high whose index is at least ``bound``."""
    while low < high:
        middle = (low + high) // 2
        if index[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def gather_product(
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_stop: IntArray,
    capacity: int,
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
    one = like(1.0, value)
    for p in range(panels[0], panels[1], GATHER_PANELS):
        for i in range(rows[0], rows[1]):
            gather_tile(
                min(GATHER_PANELS, panels[1] - p),
                value,
                index,
                i * capacity,
                row_stop[i],
                W,
                w + p * D * columns,
                columns,
                D * columns,
                C,
                c + i * c_row + p * columns,
                columns,
                one,
                False,
            )


@kernel
def gather_gradient(
    list_row: npt.NDArray[np.uint32],
    list_value: FloatArray,
    list_start: IntArray,
    list_stop: IntArray,
    delta: FloatArray,
    at: int,
    d_row: int,
    C: FloatArray,
    c: int,
    D: int,
    rows: tuple[int, int],
    panels: tuple[int, int],
    columns: int,
    scale: float,
    descend: bool,
) -> None:
    """C = Xᵀ·delta with C in panels and X by its entries per input; or C += scale·Xᵀ·delta.

    With ``descend`` and scale −lr this is gradient and SGD step in one: inputs that are zero in
    the whole batch are not touched.
    """
    factor = like(scale, delta)
    for p in range(panels[0], panels[1], GATHER_PANELS):
        for d in range(rows[0], rows[1]):
            if descend and list_start[d] == list_stop[d]:
                continue
            gather_tile(
                min(GATHER_PANELS, panels[1] - p),
                list_value,
                list_row,
                list_start[d],
                list_stop[d],
                delta,
                at + p * columns,
                d_row,
                columns,
                C,
                c + (p * D + d) * columns,
                D * columns,
                factor,
                descend,
            )

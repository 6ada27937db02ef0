"""Matrix products and sparse sums over whole panels, from the tiles of tiles.py.

A product works on rows first_row to last_row and on panels first to last of its result, so that
workers can share it. Every element is summed in one fixed order whatever the share: no bit
depends on how the work was cut. Operands are flat arrays with offsets; layout.py says what lies
where. There are no activations and no layers here.

Hazard: rows that lie a multiple of 4096 bytes apart share one set of the L1 cache and throw each
other out. layout.py keeps them an odd number of cache lines apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.intrinsics import VECTORS, like, stay_small
from fusedmlp_numba.kernels import PIXEL_MAX
from fusedmlp_numba.tiles import (
    CACHE_LINE,
    GATHER_PANELS,
    MASK_LANES,
    TILE_ROWS,
    convert_run,
    copy_column,
    copy_panel,
    gather_tile,
    get,
    lowest_bit,
    multiply_tile,
    nonzero_mask,
    prefetch,
    put,
    transpose_tile,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import DenseInputs, FloatArray, IntArray

DEPTH: Final = 1024
"""Most terms summed in one go: a panel of the right operand then stays in the L1 or L2 cache."""

BLOCK: Final = 2**16
"""Elements of the left operand in one block: a share of the L2 cache."""

PACKING_PANELS: Final = 4
"""Up to so many panels, reading the left operand where it lies is faster than packing it."""

PACKED_ROWS: Final = 16
"""Rows that are copied into panels together."""

GRADIENT_INPUTS: Final = 32
"""Inputs whose gradient is worth finishing before the optimizer takes it: it is still in the cache.
"""

SPANS: Final = 4
"""Stretches into which a sparse row's inputs are cut: the weights of one stay in the L1 cache."""


@kernel
def chunk(depth: int) -> int:
    """Terms summed in one go: equal parts of the depth, so that none is very short."""
    parts = (depth + DEPTH - 1) // DEPTH
    return (depth + parts - 1) // parts


@kernel
def block_rows(depth: int) -> int:
    """Rows of the left operand in one block: whole tiles."""
    return max(1, BLOCK // (chunk(depth) * TILE_ROWS)) * TILE_ROWS


@kernel
def tiles(
    rows: int,
    panels: int,
    A: FloatArray,
    a: int,
    a_row: int,
    a_column: int,
    a_tile: int,
    B: FloatArray,
    b: int,
    b_row: int,
    b_panel: int,
    C: FloatArray,
    c: int,
    c_row: int,
    c_panel: int,
    depth: int,
    alpha: float,
    accumulate: bool,
) -> None:
    """C = α·A·B or C += α·A·B, tile by tile; parameters as in :func:`multiply_tile`.

    The only place with tiles in it, because their code is long. Tile n of A begins at
    ``a + n * a_tile``. One or two rows take more panels at once. Callers write a stride of 1 as
    ``like(1, depth)``: a plain 1 is a type of its own to Numba, and all of this is compiled again.
    """
    stay_small()
    factor = like(alpha, C)
    group = 1 if rows > 2 else 6 - 2 * rows
    for p in range(0, panels, group):
        for n in range((rows + TILE_ROWS - 1) // TILE_ROWS):
            multiply_tile(
                min(TILE_ROWS, rows - n * TILE_ROWS),
                min(group, panels - p),
                A,
                a + n * a_tile,
                a_row,
                a_column,
                B,
                b + p * b_panel,
                b_row,
                b_panel,
                C,
                c + n * TILE_ROWS * c_row + p * c_panel,
                c_row,
                c_panel,
                depth,
                factor,
                accumulate,
            )


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
    alpha: float,
    accumulate: bool,
) -> None:
    """C = α·A·B or C += α·A·B for rows of A with B in panels: forward, and the delta handed down.

    Sums over chunks of the depth are added to C in their order.

    Parameters
    ----------
    A, a, a_row
        (M, depth) from offset a, rows a_row apart.
    B, b
        Panels (depth, columns) from offset b.
    C, c, c_row
        (M, N) from offset c, rows c_row apart.
    """
    stay_small()
    height, terms = block_rows(depth), chunk(depth)
    for i in range(rows[0], rows[1], height):
        for k in range(0, depth, terms):
            tiles(
                min(height, rows[1] - i),
                panels[1] - panels[0],
                A,
                a + i * a_row + k,
                a_row,
                like(1, depth),
                TILE_ROWS * a_row,
                B,
                b + (panels[0] * depth + k) * columns,
                columns,
                depth * columns,
                C,
                c + i * c_row + panels[0] * columns,
                c_row,
                columns,
                min(terms, depth - k),
                alpha,
                accumulate or k > 0,
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
    alpha: float,
    accumulate: bool,
) -> None:
    """C = α·Aᵀ·B or C += α·Aᵀ·B with C in panels, for one block of its rows: dW, or a step of SGD.

    Sums over chunks of the depth are added to C in their order.

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
    stay_small()
    first, count, most = rows[0], rows[1] - rows[0], chunk(depth)
    # Copying A into tiles costs about as much as the sums of a few panels gain by it.
    packed = panels[1] - panels[0] > PACKING_PANELS
    for k in range(0, depth, most):
        terms = min(most, depth - k)
        source = a + k * a_row + first
        if packed:
            pack_tiles(A, source, a_row, count, terms, left, scratch)
        tiles(
            count,
            panels[1] - panels[0],
            left if packed else A,
            scratch if packed else source,
            like(1, depth),
            TILE_ROWS if packed else a_row,
            TILE_ROWS * terms if packed else TILE_ROWS,
            B,
            b + k * b_row + panels[0] * b_panel,
            b_row,
            b_panel,
            C,
            c + (panels[0] * height + first) * columns,
            columns,
            height * columns,
            terms,
            alpha,
            accumulate or k > 0,
        )


@kernel
def pack_tiles(
    A: FloatArray, a: int, a_row: int, rows: int, depth: int, left: FloatArray, scratch: int
) -> None:
    """Copy ``rows`` columns of a (depth, M) matrix into tiles (depth, TILE_ROWS); fill the last."""
    stay_small()
    whole = rows // TILE_ROWS * TILE_ROWS
    for k in range(depth):
        source, target = a + k * a_row, scratch + k * TILE_ROWS
        for i in range(0, whole, TILE_ROWS):
            copy_column(left, target + i * depth, A, source + i)
        convert_run(left, target + whole * depth, A, source + whole, rows - whole, 1)


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
    stay_small()
    # A few rows at a time: all of a panel's rows at once lie on more pages than the TLB holds.
    for k0 in range(0, depth, PACKED_ROWS):
        for p in range(panels[0], panels[1]):
            for k in range(k0, min(k0 + PACKED_ROWS, depth)):
                copy_panel(out, (p * depth + k) * columns, B, b + k * b_row + p * columns)


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
    """Write panels (H, columns) of Wᵀ from panels (D, columns) of W; columns beyond D get zeros."""
    stay_small()
    lanes = columns // VECTORS
    for q in range(panels[0], panels[1]):
        for h in range(0, H, lanes):
            source = w + h // columns * D * columns + h % columns
            target = t + (q * H + h) * columns
            for d in range(q * columns, min((q + 1) * columns, D), lanes):
                transpose_tile(
                    W,
                    source + d * columns,
                    columns,
                    min(lanes, D - d),
                    out,
                    target + d - q * columns,
                    columns,
                    min(lanes, H - h),
                )


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
    """List the nonzero inputs of rows first to last of the batch; pixels become x / 255.

    Results as in :func:`gather_csr`.
    """
    stay_small()
    D = x.shape[1]
    whole = D // MASK_LANES * MASK_LANES
    divisor = like(PIXEL_MAX if pixels else 1, value)
    for i in range(first, last):
        source, start = rows[i] * D, i * capacity
        n = start
        for j in range(0, whole, MASK_LANES):
            mask = nonzero_mask(x, source + j)
            while mask != 0:
                k = j + lowest_bit(mask)
                mask &= mask - 1
                put(index, n, k)
                put(value, n, get(x, source + k))
                n += 1
        for j in range(whole, D):
            if get(x, source + j) != 0:
                put(index, n, j)
                put(value, n, get(x, source + j))
                n += 1
        if pixels:
            convert_run(value, start, value, start, n - start, divisor)
        _write_stops(index, start, n, D, row_stop, i)


@kernel
def gather_csr(
    indptr: IntArray,
    indices: npt.NDArray[np.int32] | npt.NDArray[np.uint16],
    data: DenseInputs,
    rows: IntArray,
    pixels: bool,
    first: int,
    last: int,
    D: int,
    capacity: int,
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_stop: IntArray,
) -> None:
    """Copy the entries of CSR rows first to last of the batch; pixels become x / 255.

    Parameters
    ----------
    index, value
        Row i's entries, inputs ascending, from ``i * capacity`` on.
    row_stop
        (B·SPANS,) where row i's entries end that belong to the first, second, … part of the inputs.
    """
    stay_small()
    divisor = like(PIXEL_MAX if pixels else 1, value)
    for i in range(first, last):
        source, start = indptr[rows[i]], i * capacity
        count = indptr[rows[i] + 1] - source
        convert_run(index, start, indices, source, count, 1)
        convert_run(value, start, data, source, count, divisor)
        _write_stops(index, start, start + count, D, row_stop, i)


@kernel
def _write_stops(
    index: npt.NDArray[np.uint32], start: int, stop: int, D: int, row_stop: IntArray, i: int
) -> None:
    span = (D + SPANS - 1) // SPANS
    for s in range(SPANS - 1):
        put(row_stop, i * SPANS + s, _lower_bound(index, start, stop, (s + 1) * span))
    put(row_stop, i * SPANS + SPANS - 1, stop)


@kernel
def prefetch_csr(
    indptr: IntArray,
    indices: npt.NDArray[np.int32] | npt.NDArray[np.uint16],
    data: DenseInputs,
    rows: IntArray,
    first: int,
    last: int,
) -> None:
    """Bring the entries of CSR rows first to last of the next batch into the cache."""
    stay_small()
    for i in range(first, last):
        start, stop = indptr[rows[i]], indptr[rows[i] + 1]
        for n in range(start, stop, CACHE_LINE // indices.itemsize):
            prefetch(indices, n)
        for n in range(start, stop, CACHE_LINE // data.itemsize):
            prefetch(data, n)


@kernel
def prefetch_dense(x: DenseInputs, rows: IntArray, first: int, last: int) -> None:
    """Bring rows first to last of the next batch into the cache."""
    stay_small()
    D = x.shape[1]
    for i in range(first, last):
        for j in range(0, D, CACHE_LINE // x.itemsize):
            prefetch(x, rows[i] * D + j)


@kernel
def _lower_bound(index: npt.NDArray[np.uint32], low: int, high: int, bound: int) -> int:
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
    stay_small()
    one = like(1.0, value)
    for p in range(panels[0], panels[1], GATHER_PANELS):
        s, i = 0, rows[0]
        # One loop over both: LLVM would write out nested ones, and take SPANS times as long.
        while s < SPANS and i < rows[1]:
            at = i * SPANS + s
            gather_tile(
                min(GATHER_PANELS, panels[1] - p),
                value,
                index,
                get(row_stop, at - 1) if s > 0 else i * capacity,
                get(row_stop, at),
                W,
                w + p * D * columns,
                columns,
                D * columns,
                C,
                c + i * c_row + p * columns,
                columns,
                one,
                s > 0,
            )
            i += 1
            if i == rows[1]:
                s, i = s + 1, rows[0]


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
    alpha: float,
    accumulate: bool,
) -> None:
    """C = α·Xᵀ·delta with C in panels and X by its entries per input; or C += α·Xᵀ·delta.

    With ``accumulate``, inputs that are zero in the whole batch are not touched: with α = −lr that
    is gradient and SGD step in one.
    """
    stay_small()
    factor = like(alpha, delta)
    for p in range(panels[0], panels[1], GATHER_PANELS):
        for d in range(rows[0], rows[1]):
            start, stop = get(list_start, d), get(list_stop, d)
            if accumulate and start == stop:
                continue
            gather_tile(
                min(GATHER_PANELS, panels[1] - p),
                list_value,
                list_row,
                start,
                stop,
                delta,
                at + p * columns,
                d_row,
                columns,
                C,
                c + (p * D + d) * columns,
                D * columns,
                factor,
                accumulate,
            )

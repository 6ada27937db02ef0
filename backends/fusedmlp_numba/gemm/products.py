"""Matrix products over whole panels, from the tiles of tiles.py.

A product works on rows first_row to last_row and on panels first to last of its result, so that
workers can share it. Every element is summed in one fixed order whatever the share: no bit
depends on how the work was cut. Operands are flat arrays with offsets; layout.py says what lies
where. There are no activations and no layers here.

Hazard: rows, or tiles, that lie a multiple of 4096 bytes apart share one set of the L1 cache and
throw each other out. They are kept an odd number of cache lines apart (``row_stride``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.host import VECTORS
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import A_BLOCK, KC
from fusedmlp_numba.gemm.copies import copy_column, copy_panel, transpose_tile
from fusedmlp_numba.gemm.microkernel import (
    MR,
    OUTER_TERMS,
    WIDE_TILE_ROWS,
    add_outer,
    multiply_tiles,
)
from fusedmlp_numba.layout import row_stride
from fusedmlp_numba.simd.intrinsics import cast_like, no_inline
from fusedmlp_numba.simd.memory import copy_convert

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray, IntArray

PACKING_PANELS: Final = 4
"""Up to so many panels, reading the left operand where it lies is faster than packing it."""

PACKED_ROWS: Final = 16
"""Rows that are copied into panels together."""


@kernel
def terms_per_chunk(depth: int) -> int:
    """Terms summed in one go: equal parts of the depth, so that none is very short."""
    parts = (depth + KC - 1) // KC
    return (depth + parts - 1) // parts


tile_stride = kernel(row_stride)
"""Elements from one packed tile to the next, for a tile's elements and the bytes of each."""


@kernel
def rows_per_block(depth: int, itemsize: int) -> int:
    """Rows of the left operand in one block: whole tiles, which have room when packed."""
    return max(1, A_BLOCK // tile_stride(terms_per_chunk(depth) * MR, itemsize)) * MR


@kernel
def tiles(
    rows: int,
    panels: int,
    A: FloatArray,
    a: int,
    a_row: int,
    a_column: int,
    a_tile: int,
    numbers: IntArray,
    number: int,
    numbered: bool,
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
    """C = α·A·B or C += α·A·B, tile by tile; parameters as in :func:`multiply_tiles`.

    The only place with tiles in it, because their code is long. Tile n of A begins at
    ``a + n * a_tile``. One or two rows take more panels at once. Callers write a stride of 1 as
    ``like(1, depth)``: a plain 1 is a type of its own to Numba, and all of this is compiled again.
    """
    no_inline()
    factor = cast_like(alpha, C)
    group = 1 if numbered or rows > WIDE_TILE_ROWS else 6 - 2 * rows
    for p in range(0, panels, group):
        multiply_tiles(
            rows,
            min(group, panels - p),
            A,
            a,
            a_row,
            a_column,
            a_tile,
            numbers,
            number,
            numbered,
            B,
            b + p * b_panel,
            b_row,
            b_panel,
            C,
            c + p * c_panel,
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
    numbers: IntArray,
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
    numbers
        Which row of A each row is in truth, where that is not its own number; else empty.
    B, b
        Panels (depth, columns) from offset b.
    C, c, c_row
        (M, N) from offset c, rows c_row apart.
    """
    no_inline()
    height, terms = rows_per_block(depth, A.itemsize), terms_per_chunk(depth)
    numbered = len(numbers) > 0
    for i in range(rows[0], rows[1], height):
        for k in range(0, depth, terms):
            tiles(
                min(height, rows[1] - i),
                panels[1] - panels[0],
                A,
                a + k if numbered else a + i * a_row + k,
                a_row,
                cast_like(1, depth),
                0 if numbered else MR * a_row,
                numbers,
                i,
                numbered,
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
    numbers: IntArray,
    B: FloatArray,
    b: int,
    b_row: int,
    b_panel: int,
    C: FloatArray,
    c: int,
    height: int,
    terms: tuple[int, int],
    rows: tuple[int, int],
    panels: tuple[int, int],
    columns: int,
    left: FloatArray,
    scratch: int,
    alpha: float,
    accumulate: bool,
) -> None:
    """C = α·Aᵀ·B or C += α·Aᵀ·B with C in panels, for a chunk of the depth and a block of C's rows.

    That is dW, or a step of SGD. Callers go through the chunks in their order, which is that of the
    sums, and through the blocks within: a chunk of B is then read by all blocks while it is in the
    L2 or L3 cache. All chunks but the first add to C.

    Parameters
    ----------
    A, a, a_row
        (depth, M) from offset a, rows a_row apart.
    numbers
        Which row of A each row is in truth, where that is not its own number; else empty.
    B, b, b_row, b_panel
        Row k of panel p at ``b + k * b_row + p * b_panel``.
    C, c, height
        Panels (height, columns) from offset c.
    terms
        Rows of A and B: at most ``chunk(depth)``, and at least one.
    rows
        At most ``block_rows(depth, itemsize)`` rows of C.
    left, scratch
        Room for BLOCK elements, at an offset.
    """
    no_inline()
    first, count, depth = rows[0], rows[1] - rows[0], terms[1] - terms[0]
    # Copying A into tiles costs about as much as the sums of a few panels gain by it; but a tile
    # goes through A's rows by one stride.
    packed = panels[1] - panels[0] > PACKING_PANELS or len(numbers) > 0
    source = a + terms[0] * a_row + first
    if depth <= OUTER_TERMS and len(numbers) == 0:
        for p in range(panels[0], panels[1]):
            add_outer(
                count,
                A,
                source,
                a_row,
                B,
                b + terms[0] * b_row + p * b_panel,
                b_row,
                C,
                c + (p * height + first) * columns,
                depth,
                cast_like(alpha, C),
                accumulate or terms[0] > 0,
            )
        return
    stride = tile_stride(MR * depth, A.itemsize)
    if packed:
        pack_tiles(A, a + first, a_row, numbers, terms, count, left, scratch, stride)
    tiles(
        count,
        panels[1] - panels[0],
        left if packed else A,
        scratch if packed else source,
        cast_like(1, depth),
        MR if packed else a_row,
        stride if packed else MR,
        numbers,
        0,
        False,
        B,
        b + terms[0] * b_row + panels[0] * b_panel,
        b_row,
        b_panel,
        C,
        c + (panels[0] * height + first) * columns,
        columns,
        height * columns,
        depth,
        alpha,
        accumulate or terms[0] > 0,
    )


@kernel
def pack_tiles(
    A: FloatArray,
    a: int,
    a_row: int,
    numbers: IntArray,
    terms: tuple[int, int],
    rows: int,
    left: FloatArray,
    scratch: int,
    stride: int,
) -> None:
    """Copy columns of a matrix into tiles (depth, TILE_ROWS), ``stride`` apart.

    ``rows`` columns of its rows ``terms``, whose numbers are looked up where there are any. The
    last tile's other columns are left as they were: no product reads them.
    """
    no_inline()
    whole = rows // MR
    for k in range(terms[0], terms[1]):
        row = numbers[k] if len(numbers) > 0 else k
        source, target = a + row * a_row, scratch + (k - terms[0]) * MR
        for n in range(whole):
            copy_column(left, target + n * stride, A, source + n * MR)
        last = whole * MR
        copy_convert(left, target + whole * stride, A, source + last, rows - last, 1)


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
    no_inline()
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
    no_inline()
    lanes = columns // VECTORS
    # In the order of W, which may come from memory, and line by line on both sides.
    for h in range(0, H, columns):
        source = w + h * D
        for d in range(panels[0] * columns, panels[1] * columns, lanes):
            target = t + (d // columns * H + h) * columns + d % columns
            for k in range(0, min(columns, H - h), lanes):
                transpose_tile(
                    W,
                    source + min(d, D - 1) * columns + k,
                    min(lanes, D - d),
                    out,
                    target + k * columns,
                    min(lanes, H - h - k),
                )

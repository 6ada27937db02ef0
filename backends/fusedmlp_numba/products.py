"""Matrix products over whole panels, from the tiles of tiles.py.

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
from fusedmlp_numba.host import VECTORS
from fusedmlp_numba.intrinsics import like, stay_small
from fusedmlp_numba.runs import convert_run
from fusedmlp_numba.sizes import BLOCK, DEPTH
from fusedmlp_numba.tiles import (
    TILE_ROWS,
    copy_column,
    copy_panel,
    multiply_tile,
    transpose_tile,
)

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray

PACKING_PANELS: Final = 4
"""Up to so many panels, reading the left operand where it lies is faster than packing it."""

PACKED_ROWS: Final = 16
"""Rows that are copied into panels together."""


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

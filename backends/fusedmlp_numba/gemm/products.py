"""Dense products in panels: blocking for the caches around the micro-kernel.

A product computes a block of rows and panels of its result, so that workers can partition it.
Every element is summed in one fixed order for any partition. Activations and layers are elsewhere.

With the names of BLIS: KC terms are summed in one go, and MC rows of the left operand are packed
together, so that MC·KC elements stay in the L2 cache.

Hazard: rows, or tiles, at distances that are multiples of 4096 bytes share one set of the L1
cache and evict each other. Their strides are odd numbers of cache lines (``row_stride``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import A_BLOCK, KC
from fusedmlp_numba.gemm.microkernel import (
    MR,
    OUTER_TERMS,
    WIDE_TILE_ROWS,
    add_outer,
    multiply_tiles,
)
from fusedmlp_numba.gemm.operands import Operand, TiledOperand, Update
from fusedmlp_numba.gemm.packing import pack_tiles
from fusedmlp_numba.layout import row_stride
from fusedmlp_numba.simd.intrinsics import no_inline
from fusedmlp_numba.simd.vectors import inline_kernel

if TYPE_CHECKING:
    from fusedmlp.types import IntArray
    from fusedmlp_numba.gemm.operands import Block

UNPACKED_PANELS: Final = 4
"""Up to this many panels, reading the left operand in place is faster than packing it."""


@kernel
def terms_per_chunk(depth: int) -> int:
    """Terms summed in one go: at most KC, in equal parts of the depth."""
    parts = (depth + KC - 1) // KC
    return (depth + parts - 1) // parts


tile_stride = kernel(row_stride)
"""Elements from one packed tile to the next, for a tile's elements and the bytes of each."""


@kernel
def rows_per_block(depth: int, itemsize: int) -> int:
    """MC, rows of the left operand in one block: whole tiles that fit A_BLOCK when packed."""
    return max(1, A_BLOCK // tile_stride(terms_per_chunk(depth) * MR, itemsize)) * MR


@inline_kernel
def shifted(operand: Operand, offset: int) -> Operand:
    """Return the operand that begins ``offset`` elements later."""
    return Operand(operand.values, operand.start + offset, operand.row, operand.panel)


@kernel
def multiply_block(
    rows: int, panels: int, A: TiledOperand, B: Operand, C: Operand, depth: int, update: Update
) -> None:
    """C = α·A·B or C += α·A·B, from the first row and panel on; see :func:`multiply_tiles`.

    The only caller of the micro-kernel, whose code is long. One or two rows take more panels at
    once.
    """
    no_inline()
    group = 1 if A.indexed or rows > WIDE_TILE_ROWS else 6 - 2 * rows
    for p in range(0, panels, group):
        multiply_tiles(
            rows,
            min(group, panels - p),
            A,
            shifted(B, p * B.panel),
            shifted(C, p * C.panel),
            depth,
            update,
        )


@kernel
def multiply(
    A: Operand,
    row_indices: IntArray,
    B: Operand,
    C: Operand,
    depth: int,
    block: Block,
    update: Update,
) -> None:
    """C = α·A·B or C += α·A·B for a block: forward products and backpropagated deltas.

    Sums over chunks of the depth are added to C in their order.

    Parameters
    ----------
    A
        (M, depth), row-major.
    row_indices
        (M,) the row of A for each row of C; empty means in order.
    B
        (depth, N) in panels.
    C
        (M, N), row-major.
    """
    no_inline()
    height, terms = rows_per_block(depth, A.values.itemsize), terms_per_chunk(depth)
    indexed = len(row_indices) > 0
    for i in range(block.first_row, block.last_row, height):
        for k in range(0, depth, terms):
            multiply_block(
                min(height, block.last_row - i),
                block.last_panel - block.first_panel,
                TiledOperand(
                    values=A.values,
                    start=A.start + k + (0 if indexed else i * A.row),
                    row=A.row,
                    column=1,
                    tile=0 if indexed else MR * A.row,
                    row_indices=row_indices,
                    first_row=i,
                    indexed=indexed,
                ),
                shifted(B, block.first_panel * B.panel + k * B.row),
                shifted(C, block.first_panel * C.panel + i * C.row),
                min(terms, depth - k),
                Update(update.alpha, update.accumulate or k > 0),
            )


@kernel
def multiply_transposed(
    A: Operand,
    row_indices: IntArray,
    B: Operand,
    C: Operand,
    terms: tuple[int, int],
    block: Block,
    packed_A: Operand,
    update: Update,
) -> None:
    """C = α·Aᵀ·B or C += α·Aᵀ·B for a chunk of the depth and a block: dW, or a step of SGD.

    Callers iterate over the chunks in their order, which is that of the sums, and over the blocks
    within a chunk: all blocks then read the chunk of B from the L2 or L3 cache. All chunks but the
    first add to C.

    Parameters
    ----------
    A
        (depth, M), row-major.
    row_indices
        (depth,) the row of A for each term; empty means in order.
    B
        (depth, N), row-major or in panels.
    C
        (M, N) in panels.
    terms
        Range of terms, not empty, of at most ``terms_per_chunk(depth)``.
    block
        At most ``rows_per_block(depth, itemsize)`` rows of C.
    packed_A
        Work space for A_BLOCK elements from ``start`` on.
    """
    no_inline()
    rows, depth = block.last_row - block.first_row, terms[1] - terms[0]
    accumulated = Update(update.alpha, update.accumulate or terms[0] > 0)
    B = shifted(B, terms[0] * B.row)
    C = shifted(C, block.first_row * C.row)
    in_order = len(row_indices) == 0
    if depth <= OUTER_TERMS and in_order:
        source = shifted(A, terms[0] * A.row + block.first_row)
        for p in range(block.first_panel, block.last_panel):
            right, target = shifted(B, p * B.panel), shifted(C, p * C.panel)
            add_outer(rows, source, right, target, depth, accumulated)
        return
    B, C = shifted(B, block.first_panel * B.panel), shifted(C, block.first_panel * C.panel)
    panels = block.last_panel - block.first_panel
    # Packing A costs about as much as the sums of a few panels gain by it; but a tile that is not
    # packed needs one stride between A's rows.
    if panels > UNPACKED_PANELS or not in_order:
        stride = tile_stride(MR * depth, A.values.itemsize)
        pack_tiles(shifted(A, block.first_row), row_indices, terms, rows, packed_A, stride)
        values, start, column, tile = packed_A.values, packed_A.start, MR, stride
    else:
        values, start = A.values, A.start + terms[0] * A.row + block.first_row
        column, tile = A.row, MR
    tiles = TiledOperand(
        values=values,
        start=start,
        row=1,
        column=column,
        tile=tile,
        row_indices=row_indices,
        first_row=0,
        indexed=False,
    )
    multiply_block(rows, panels, tiles, B, C, depth, accumulated)

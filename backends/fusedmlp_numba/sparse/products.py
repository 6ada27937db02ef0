"""Products with a batch's nonzero inputs: X·W of the first layer, and Xᵀ·delta, its gradient.

Every element is summed in one fixed order for any partition of the work. Products with zero inputs
are left out: 0·∞ counts as 0 here. The lists of entries are made by entries.py and packed_rows.py.

The gradient needs, for each input, the rows that have it. The entries are therefore transposed
into a bit mask for each input, over BITMASK_ROWS rows. Values stay where they are: inputs are
processed in ascending order, which is their order in each row, so that a row's next value is
always the wanted one. Every worker builds its own masks: reading lines that another core has
written takes longer than transposing all the entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import BITMASK_ROWS, SEGMENT_BOUNDS, SEGMENTS
from fusedmlp_numba.gemm.products import shifted
from fusedmlp_numba.simd.intrinsics import no_inline
from fusedmlp_numba.simd.memory import unchecked_get, unchecked_set
from fusedmlp_numba.simd.vectors import lane_count
from fusedmlp_numba.sparse.entries import lower_bound
from fusedmlp_numba.sparse.microkernel import SPARSE_PANELS, masked_tiles, sparse_tiles

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray
    from fusedmlp_numba.gemm.operands import Block, Operand, Update
    from fusedmlp_numba.sparse.operands import Entries, RowMasks

PRODUCT_BYTES: Final = 256
"""Bytes of a row of W that the product reads at a time, in up to SPARSE_PANELS panels: together
with SEGMENTS, this keeps the weights in the L1 cache."""

PRODUCT_ROWS: Final = 256
"""Rows of X that the product takes through all of W at a time: their entries stay in L2."""

GRADIENT_INPUTS: Final = 32
"""Inputs whose gradients are completed before the optimizer reads them from the cache."""


@kernel
def sparse_product(entries: Entries, W: Operand, C: Operand, block: Block) -> None:
    """C = X·W for a block, with X by its nonzero entries, W in panels and C row-major."""
    no_inline()
    columns = lane_count(W.values)
    step = min(max(PRODUCT_BYTES // (columns * W.values.itemsize), 1), SPARSE_PANELS)
    for first in range(block.first_row, block.last_row, PRODUCT_ROWS):
        for p in range(block.first_panel, block.last_panel, step):
            for s in range(SEGMENTS):
                sparse_tiles(
                    min(step, block.last_panel - p),
                    min(PRODUCT_ROWS, block.last_row - first),
                    entries,
                    first * SEGMENT_BOUNDS + s,
                    shifted(W, p * W.panel),
                    shifted(C, first * C.row + p * C.panel),
                    s > 0,
                )


@kernel
def build_row_masks(
    entries: Entries, rows: tuple[int, int], inputs: tuple[int, int], out: RowMasks
) -> None:
    """Transpose the entries of at most BITMASK_ROWS rows.

    Parameters
    ----------
    rows
        Range of rows of the batch; the first becomes bit 0.
    inputs
        Range of the wanted inputs. Masks of others are undefined; positions are those of each
        row's first entry in the range.
    """
    no_inline()
    index, bounds, masks = entries.indices, entries.bounds, out.masks
    for d in range(inputs[0], inputs[1]):
        unchecked_set(masks, d, 0)
    for row in range(rows[0], rows[1]):
        start = unchecked_get(bounds, row * SEGMENT_BOUNDS)
        stop = unchecked_get(bounds, row * SEGMENT_BOUNDS + SEGMENTS)
        if inputs[0] > 0:
            start = lower_bound(index, start, stop, inputs[0])
        if inputs[1] < len(masks):
            stop = lower_bound(index, start, stop, inputs[1])
        unchecked_set(out.positions, row - rows[0], start)
        bit = 1 << (row - rows[0])
        # Four at a time, of different inputs: all are read before any is written. Processors that
        # may not reorder a load before earlier stores of unknown address (a security mitigation,
        # on a Zen 1 for a whole core) would wait for each index.
        whole = start + (stop - start) // 4 * 4
        for n in range(start, whole, 4):
            d0, d1 = unchecked_get(index, n), unchecked_get(index, n + 1)
            d2, d3 = unchecked_get(index, n + 2), unchecked_get(index, n + 3)
            m0, m1 = unchecked_get(masks, d0), unchecked_get(masks, d1)
            m2, m3 = unchecked_get(masks, d2), unchecked_get(masks, d3)
            unchecked_set(masks, d0, m0 | bit)
            unchecked_set(masks, d1, m1 | bit)
            unchecked_set(masks, d2, m2 | bit)
            unchecked_set(masks, d3, m3 | bit)
        for n in range(whole, stop):
            d = unchecked_get(index, n)
            unchecked_set(masks, d, unchecked_get(masks, d) | bit)


@kernel
def sparse_gradient_product(
    row_masks: RowMasks,
    value: FloatArray,
    delta: Operand,
    C: Operand,
    block: Block,
    update: Update,
) -> None:
    """C = α·Xᵀ·delta or C += α·Xᵀ·delta for a block of inputs, with C in panels.

    With ``accumulate``, inputs that are zero in all rows are not touched. With α = −lr this is
    gradient and SGD step in one.

    Parameters
    ----------
    row_masks
        Up to BITMASK_ROWS rows of X. Afterwards the positions are those of input
        ``block.last_row``, from where the next call continues.
    value
        The values of the batch's entries.
    delta
        As many rows, row-major.
    """
    no_inline()
    if block.first_row >= block.last_row:
        return
    positions = row_masks.positions
    for p in range(block.first_panel, block.last_panel, SPARSE_PANELS):
        for i in range(BITMASK_ROWS):
            unchecked_set(positions, BITMASK_ROWS + i, unchecked_get(positions, i))
        masked_tiles(
            min(SPARSE_PANELS, block.last_panel - p),
            block.first_row,
            block.last_row,
            row_masks,
            value,
            shifted(delta, p * delta.panel),
            shifted(C, p * C.panel),
            update,
        )
    for i in range(BITMASK_ROWS):
        unchecked_set(positions, i, unchecked_get(positions, BITMASK_ROWS + i))

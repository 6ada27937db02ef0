"""The gradient of a sparse first layer: a batch's entries by input, and the sums over them.

The entries lie row by row (sparse.py), but the gradient of the first layer's weights needs, for
each input, the rows that have it: a mask with a bit for each of MASK_ROWS rows. The values stay
where they are. The inputs are taken in ascending order, as each row has them, so that the value
wanted of a row is always its next one: all that is kept is the place of that. Every worker makes
masks for itself: lines that another core reads would have to be taken back to be written again,
which takes longer than to turn round all the entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import BITMASK_ROWS, SEGMENT_BOUNDS, SEGMENTS
from fusedmlp_numba.simd.intrinsics import cast_like, no_inline
from fusedmlp_numba.simd.memory import unchecked_get, unchecked_set
from fusedmlp_numba.sparse.entries import lower_bound
from fusedmlp_numba.sparse.microkernel import SPARSE_PANELS, masked_tiles

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatArray, IntArray

GRADIENT_INPUTS: Final = 32
"""Inputs whose gradient is worth finishing before the optimizer takes it: it is still in the cache.
"""


@kernel
def build_row_masks(
    index: npt.NDArray[np.uint32],
    row_bounds: IntArray,
    first: int,
    last: int,
    inputs: tuple[int, int],
    masks: npt.NDArray[np.int64],
    places: IntArray,
) -> None:
    """Turn round the entries of rows first to last of a batch, at most MASK_ROWS.

    Parameters
    ----------
    index, row_bounds
        The batch's entries by row, as sparse.py gathers them.
    inputs
        The range of inputs that are wanted; the masks of others are not to be read.
    masks
        (D,) bit i of input d is whether row ``first + i`` has it.
    places
        (2·MASK_ROWS,) where among the entries row ``first + i`` has its first one of ``inputs``.
        The second half is working space of :func:`gather_gradient`.
    """
    no_inline()
    for d in range(inputs[0], inputs[1]):
        unchecked_set(masks, d, 0)
    for row in range(first, last):
        start, stop = (
            unchecked_get(row_bounds, row * SEGMENT_BOUNDS),
            unchecked_get(row_bounds, row * SEGMENT_BOUNDS + SEGMENTS),
        )
        if inputs[0] > 0:
            start = lower_bound(index, start, stop, inputs[0])
        if inputs[1] < len(masks):
            stop = lower_bound(index, start, stop, inputs[1])
        unchecked_set(places, row - first, start)
        bit = 1 << (row - first)
        # Four at a time, of different inputs: all are read before any is written. Where a processor
        # may not read memory before it knows the addresses of all earlier writes (as a mitigation;
        # on a Zen 1 for a whole core, by whoever shares it), each write waits for its index.
        whole = start + (stop - start) // 4 * 4
        for n in range(start, whole, 4):
            d0, d1, d2, d3 = (
                unchecked_get(index, n),
                unchecked_get(index, n + 1),
                unchecked_get(index, n + 2),
                unchecked_get(index, n + 3),
            )
            m0, m1, m2, m3 = (
                unchecked_get(masks, d0),
                unchecked_get(masks, d1),
                unchecked_get(masks, d2),
                unchecked_get(masks, d3),
            )
            unchecked_set(masks, d0, m0 | bit)
            unchecked_set(masks, d1, m1 | bit)
            unchecked_set(masks, d2, m2 | bit)
            unchecked_set(masks, d3, m3 | bit)
        for n in range(whole, stop):
            d = unchecked_get(index, n)
            unchecked_set(masks, d, unchecked_get(masks, d) | bit)


@kernel
def sparse_gradient_product(
    masks: npt.NDArray[np.int64],
    places: IntArray,
    value: FloatArray,
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

    With ``accumulate``, inputs that are zero in all of these rows are not touched: with α = −lr
    that is gradient and SGD step in one.

    Parameters
    ----------
    masks, places, value
        Up to MASK_ROWS rows of X as :func:`mask_entries` makes them, and the batch's values.
        Afterwards ``places`` are those of ``rows[1]``, from where the next call is to go on.
    delta, at, d_row
        As many rows from offset ``at``, ``d_row`` apart.
    """
    no_inline()
    if rows[0] >= rows[1]:
        return
    factor = cast_like(alpha, delta)
    for p in range(panels[0], panels[1], SPARSE_PANELS):
        for i in range(BITMASK_ROWS):
            unchecked_set(places, BITMASK_ROWS + i, unchecked_get(places, i))
        masked_tiles(
            min(SPARSE_PANELS, panels[1] - p),
            rows[0],
            rows[1],
            masks,
            value,
            places,
            BITMASK_ROWS,
            delta,
            at + p * columns,
            d_row,
            C,
            c + p * D * columns,
            D * columns,
            factor,
            accumulate,
        )
    for i in range(BITMASK_ROWS):
        unchecked_set(places, i, unchecked_get(places, BITMASK_ROWS + i))

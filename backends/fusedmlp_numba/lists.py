"""Lists of a sparse batch's entries by input, for the gradient: made by all workers together.

A batch is gathered row by row (sparse.py), but the gradient of the first layer's weights needs, for
each input, the rows that have it. That is a counting sort. Workers have inputs of their own, a few
of a row's SPANS each, and go through all rows for them: were the rows shared out, most of a list's
cache lines would be written by several cores in turn, which takes longer than one core alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.runs import get, put
from fusedmlp_numba.sparse import SPANS, span_start

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatArray, IntArray


@kernel
def list_entries(
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_stop: IntArray,
    capacity: int,
    batch: int,
    spans: tuple[int, int],
    places: IntArray,
    list_row: npt.NDArray[np.uint32],
    list_value: FloatArray,
    list_start: IntArray,
) -> None:
    """Write the entries of some spans' inputs, this worker's, to the lists of these inputs.

    Parameters
    ----------
    index, value, row_stop, capacity
        The batch's entries by row, as sparse.py gathers them.
    spans
        First span and the one after the last; where they are equal, nothing is done.
    places
        (D,) working space; only the places of these inputs are used.
    list_row, list_value
        Input d's rows, ascending, and values, from ``list_start[d]`` to ``list_start[d + 1]``.
    list_start
        (D + 1,)
    """
    D = len(places)
    for span in range(spans[0], spans[1]):
        first, last, total = span_start(span, D), span_start(span + 1, D), 0
        for d in range(first, last):
            put(places, d, 0)
        for i in range(batch):
            start, stop = span_stop(row_stop, capacity, i, span), get(row_stop, i * SPANS + span)
            total += start - i * capacity
            for n in range(start, stop):
                d = get(index, n)
                put(places, d, get(places, d) + 1)
        for d in range(first, last):
            count = get(places, d)
            put(list_start, d, total)
            put(places, d, total)
            total += count
        if span == SPANS - 1:
            put(list_start, D, total)
        for i in range(batch):
            start, stop = span_stop(row_stop, capacity, i, span), get(row_stop, i * SPANS + span)
            for n in range(start, stop):
                d = get(index, n)
                at = get(places, d)
                put(list_row, at, i)
                put(list_value, at, get(value, n))
                put(places, d, at + 1)


@kernel
def span_stop(row_stop: IntArray, capacity: int, i: int, span: int) -> int:
    """Where row i's entries of the spans before ``span`` end."""
    return get(row_stop, i * SPANS + span - 1) if span > 0 else i * capacity

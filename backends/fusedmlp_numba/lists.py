"""Lists of a sparse batch's entries by input, for the gradient: made by all workers together.

A batch is gathered row by row (products.py), but the gradient of the first layer's weights needs,
for each input, the rows that have it. That is a counting sort in two passes, each over a worker's
own rows only: count the entries of every input, then, once all have counted, write each entry to
its place. Within an input rows ascend, whoever has written them: workers have consecutive rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.runs import get, put
from fusedmlp_numba.sparse import SPANS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatArray, IntArray


@kernel
def count_inputs(
    index: npt.NDArray[np.uint32],
    row_stop: IntArray,
    capacity: int,
    first: int,
    last: int,
    counts: IntArray,
) -> None:
    """Count, for every input, the entries of rows first to last.

    Parameters
    ----------
    index, row_stop, capacity
        The batch's entries by row, as products.py gathers them.
    counts
        (D,), overwritten.
    """
    counts[:] = 0
    for i in range(first, last):
        for n in range(i * capacity, get(row_stop, i * SPANS + SPANS - 1)):
            d = get(index, n)
            put(counts, d, get(counts, d) + 1)


@kernel
def list_entries(
    index: npt.NDArray[np.uint32],
    value: FloatArray,
    row_stop: IntArray,
    capacity: int,
    first: int,
    last: int,
    counts: IntArray,
    places: IntArray,
    worker: int,
    workers: int,
    list_row: npt.NDArray[np.uint32],
    list_value: FloatArray,
    list_start: IntArray,
) -> None:
    """Write the entries of rows first to last, this worker's, to the lists of their inputs.

    Parameters
    ----------
    counts
        (workers, D) of all workers, from :func:`count_inputs`.
    places
        (D,) working space of this worker.
    list_row, list_value
        Input d's rows and values, from ``list_start[d]`` to ``list_start[d + 1]``.
    list_start
        (D + 1,), written by worker 0.
    """
    D, total = len(places), 0
    for d in range(D):
        if worker == 0:
            put(list_start, d, total)
        for w in range(workers):
            if w == worker:
                put(places, d, total)
            total += get(counts, w * D + d)
    if worker == 0:
        put(list_start, D, total)
    for i in range(first, last):
        for n in range(i * capacity, get(row_stop, i * SPANS + SPANS - 1)):
            d = get(index, n)
            at = get(places, d)
            put(list_row, at, i)
            put(list_value, at, get(value, n))
            put(places, d, at + 1)

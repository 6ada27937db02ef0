"""A worker's share of a batch's inputs, from however the data set is stored, in compiled code.

Dense inputs are copied to where the products read them; of sparse ones the nonzero entries are
listed (sparse.py). sources.py has the kinds of storage, and decides which of the two is done, and
whether a data set's nonzero entries are packed first, which is done here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.host import CACHE_LINE
from fusedmlp_numba.kernels import gather_rows
from fusedmlp_numba.packing import count_nonzero, gather_packed, pack_rows
from fusedmlp_numba.runs import prefetch
from fusedmlp_numba.shares import entry_place, in_place, layer_at, share
from fusedmlp_numba.sizes import BOUNDS, CSR, DENSE, DOUBLE, PACKED, SINGLE
from fusedmlp_numba.sparse import gather_csr, gather_dense
from fusedmlp_numba.views import (
    BYTES,
    COUNTS,
    FLOATS,
    INTS,
    SHORTS,
    SINGLES,
    WORDS,
    matrix,
    part,
    reals,
    tail,
    vector,
)

if TYPE_CHECKING:
    from fusedmlp.types import IntArray
    from fusedmlp_numba.layout import Plan
    from fusedmlp_numba.sources import Source

INDEX_BYTES: Final = WORDS.itemsize

FETCHED_ROWS: Final = 32
"""Rows of the data set that begin to be loaded before as many are gathered: they lie at random
places, and one after the other each would wait for the memory."""


@kernel
def gather_share(
    plan: Plan, source: Source, rows: IntArray, side: int, worker: int, workers: int
) -> None:
    """Gather a worker's share of a batch's inputs.

    Where each worker has lists of its own, its share is all: what another core has written takes
    longer to fetch than to gather, the longer the farther that core is.
    """
    first, last = share(len(rows), worker, workers)
    if source.sparse and plan.entry_copies > 1:
        first, last = 0, len(rows)
    gather(plan, source, rows, first, last, entry_place(plan, side, worker))


@kernel
def gather(
    plan: Plan,
    source: Source,
    rows: IntArray,
    first: int,
    last: int,
    place: int,
) -> None:
    """Bring rows first to last of the batch into x, or into a place's lists of nonzero entries.

    Nothing is to be done where products read them in place.
    """
    if in_place(source, len(rows)):
        return
    stop = min(first + FETCHED_ROWS, last)
    fetch_inputs(plan, source, part(rows, first, stop))
    while first < last:
        following = min(stop + FETCHED_ROWS, last)
        fetch_inputs(plan, source, part(rows, stop, following))
        if source.sparse:
            gather_sparse(plan, source, rows, place, first, stop)
        else:
            gather_dense_rows(plan, source, rows, first, stop)
        first, stop = stop, following


@kernel
def all_finite(source: Source, count: int) -> bool:
    """Whether dense inputs, ``count`` numbers in all, are finite: x − x is 0 but for ∞ and NaN."""
    wrong = False
    if source.element == SINGLE:
        singles = vector(source.x, SINGLES)
        for n in range(count):
            wrong |= singles[n] - singles[n] != 0
    elif source.element == DOUBLE:
        doubles = vector(source.x, FLOATS)
        for n in range(count):
            wrong |= doubles[n] - doubles[n] != 0
    return not wrong


@kernel
def fetch_inputs(plan: Plan, source: Source, rows: IntArray) -> None:
    """Begin to load what rows of the data set are stored as."""
    values, indices = vector(source.x, BYTES), vector(source.indices, BYTES)
    starts = vector(source.indptr, INTS)
    for row in rows:
        if source.kind == PACKED:
            for n in range(starts[row], starts[row + 1], CACHE_LINE):
                prefetch(values, n)
            continue
        if source.kind == CSR:
            start, stop = starts[row], starts[row + 1]
            for n in range(start * INDEX_BYTES, stop * INDEX_BYTES, CACHE_LINE):
                prefetch(indices, n)
        else:
            start, stop = row * layer_at(plan, 0).D, (row + 1) * layer_at(plan, 0).D
        for n in range(start * source.value_bytes, stop * source.value_bytes, CACHE_LINE):
            prefetch(values, n)


@kernel
def gather_dense_rows(plan: Plan, source: Source, rows: IntArray, first: int, last: int) -> None:
    """Copy rows first to last of the batch into x."""
    layer = layer_at(plan, 0)
    x = matrix(plan, layer.below, first, last, layer.below_stride)
    gather_rows(vector(source.x, BYTES), source.element, layer.D, part(rows, first, last), x)


@kernel
def gather_sparse(
    plan: Plan, source: Source, rows: IntArray, place: int, first: int, last: int
) -> None:
    """List the nonzero inputs of rows first to last of the batch, whatever they are stored as."""
    D, room, stored = layer_at(plan, 0).D, source.capacity, vector(source.x, BYTES)
    index = tail(vector(plan.entry_index, COUNTS), place * plan.room)
    value = tail(reals(plan, plan.entry_value), place * plan.room)
    bounds = tail(vector(plan.entry_bounds, INTS), place * plan.rows * BOUNDS)
    starts, element = vector(source.indptr, INTS), source.element
    if source.kind == DENSE:
        gather_dense(stored, element, D, rows, first, last, room, index, value, bounds)
    elif source.kind == CSR:
        columns, real = vector(source.indices, WORDS), reals(plan, source.x)
        gather_csr(starts, columns, real, rows, first, last, D, room, index, value, bounds)
    else:
        places = vector(source.x, SHORTS)
        gather_packed(
            starts, places, stored, element, rows, first, last, room, index, value, bounds
        )


@kernel
def pack_data(plan: Plan, source: Source, rows: int, worker: int, workers: int) -> None:
    """Count the nonzero inputs of a worker's share of a dense data set, or pack them."""
    first, last = share(rows, worker, workers)
    D, counts = layer_at(plan, 0).D, vector(source.counts, INTS)
    stored, element = vector(source.x, BYTES), source.element
    if source.packed == 0:
        count_nonzero(stored, element, first, last, D, counts)
    else:
        pack_rows(
            stored, element, first, last, D, counts, vector(source.indptr, INTS),
            vector(source.packed, SHORTS), vector(source.packed, BYTES),
            reals(plan, source.packed),
        )  # fmt: skip

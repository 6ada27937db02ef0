"""A worker's share of a batch's inputs, from however the data set is stored, in compiled code.

Dense inputs are copied to where the products read them; of sparse ones the nonzero entries are
listed (sparse.py). sources.py has the kinds of storage, and decides which of the two is done, and
whether a data set's nonzero entries are packed first, which is done here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.kernels import gather_rows
from fusedmlp_numba.packing import count_nonzero, gather_packed, pack_rows
from fusedmlp_numba.runs import prefetch
from fusedmlp_numba.shares import entry_place, layer_at, share
from fusedmlp_numba.sources import CSR, DOUBLE, PACKED, PACKED_PIXELS, PIXELS, SINGLE
from fusedmlp_numba.sparse import BOUNDS, gather_csr, gather_dense
from fusedmlp_numba.tiles import CACHE_LINE
from fusedmlp_numba.views import (
    BYTES,
    COUNTS,
    FLOATS,
    INTS,
    SHORTS,
    SINGLES,
    WORDS,
    matrix,
    reals,
    table,
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
    """Bring rows first to last of the batch into x, or into a place's lists of nonzero entries."""
    stop = min(first + FETCHED_ROWS, last)
    fetch_inputs(plan, source, rows[first:stop])
    while first < last:
        following = min(stop + FETCHED_ROWS, last)
        fetch_inputs(plan, source, rows[stop:following])
        if source.sparse:
            gather_sparse(plan, source, rows, place, first, stop)
        else:
            gather_dense_rows(plan, source, rows, first, stop)
        first, stop = stop, following


@kernel
def fetch_inputs(plan: Plan, source: Source, rows: IntArray) -> None:
    """Begin to load what rows of the data set are stored as."""
    values, indices = vector(source.x, BYTES), vector(source.indices, BYTES)
    starts = vector(source.indptr, INTS)
    for row in rows:
        if source.kind == PACKED or source.kind == PACKED_PIXELS:
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
    mine = rows[first:last]
    if source.kind == PIXELS:
        gather_rows(table(source.x, BYTES, layer.D), mine, x, True)
    elif source.kind == SINGLE:
        gather_rows(table(source.x, SINGLES, layer.D), mine, x, False)
    else:
        gather_rows(table(source.x, FLOATS, layer.D), mine, x, False)


@kernel
def gather_sparse(
    plan: Plan, source: Source, rows: IntArray, place: int, first: int, last: int
) -> None:
    """List the nonzero inputs of rows first to last of the batch, whatever they are stored as."""
    D, room = layer_at(plan, 0).D, source.capacity
    index = vector(plan.entry_index, COUNTS)[place * plan.room :]
    value = reals(plan, plan.entry_value)[place * plan.room :]
    bounds = vector(plan.entry_bounds, INTS)[place * plan.rows * BOUNDS :]
    if source.kind == PIXELS:
        pixels = table(source.x, BYTES, D)
        gather_dense(pixels, rows, True, first, last, room, index, value, bounds)
        return
    if source.kind == SINGLE:
        singles = table(source.x, SINGLES, D)
        gather_dense(singles, rows, False, first, last, room, index, value, bounds)
        return
    if source.kind == DOUBLE:
        doubles = table(source.x, FLOATS, D)
        gather_dense(doubles, rows, False, first, last, room, index, value, bounds)
        return
    starts, real = vector(source.indptr, INTS), reals(plan, source.x)
    if source.kind == CSR:
        columns = vector(source.indices, WORDS)
        gather_csr(starts, columns, real, rows, first, last, D, room, index, value, bounds)
        return
    places = vector(source.x, SHORTS)
    if source.kind == PACKED:
        gather_packed(starts, places, real, rows, False, first, last, room, index, value, bounds)
    else:
        x8 = vector(source.x, BYTES)
        gather_packed(starts, places, x8, rows, True, first, last, room, index, value, bounds)


@kernel
def pack_data(plan: Plan, source: Source, rows: int, worker: int, workers: int) -> None:
    """Count the nonzero inputs of a worker's share of a dense data set, or pack them."""
    first, last = share(rows, worker, workers)
    D, counts = layer_at(plan, 0).D, vector(source.counts, INTS)
    pixels, singles = table(source.x, BYTES, D), table(source.x, SINGLES, D)
    doubles = table(source.x, FLOATS, D)
    if source.packed == 0:
        if source.kind == PIXELS:
            count_nonzero(pixels, first, last, D, counts)
        elif source.kind == SINGLE:
            count_nonzero(singles, first, last, D, counts)
        else:
            count_nonzero(doubles, first, last, D, counts)
        return
    starts, places = vector(source.indptr, INTS), vector(source.packed, SHORTS)
    small, real = vector(source.packed, BYTES), reals(plan, source.packed)
    if source.kind == PIXELS:
        pack_rows(pixels, first, last, D, counts, starts, places, small)
    elif source.kind == SINGLE:
        pack_rows(singles, first, last, D, counts, starts, places, real)
    else:
        pack_rows(doubles, first, last, D, counts, starts, places, real)

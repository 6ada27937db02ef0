"""A worker's share of a batch's inputs, from however the data set is stored, in compiled code.

Dense inputs are copied to where the products read them; of sparse ones the nonzero entries are
listed (sparse.py). sources.py has the kinds of storage, and decides which of the two is done, and
whether a data set's nonzero entries are packed first, which is done here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.host import CACHE_LINE
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import (
    CSR,
    DENSE,
    DTYPE_FLOAT32,
    DTYPE_FLOAT64,
    PACKED,
    SEGMENT_BOUNDS,
)
from fusedmlp_numba.network.kernels import gather_rows
from fusedmlp_numba.network.partition import entry_buffer, layer_at, partition, reads_in_place
from fusedmlp_numba.simd.memory import prefetch
from fusedmlp_numba.simd.views import (
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    UINT8,
    UINT16,
    UINT32,
    array_at,
    float_rows_at,
    floats_at,
    unchecked_slice,
    unchecked_tail,
)
from fusedmlp_numba.sparse.entries import gather_csr, gather_dense
from fusedmlp_numba.sparse.packed_rows import count_nonzero, gather_packed, pack_rows

if TYPE_CHECKING:
    from fusedmlp.types import IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.layout import EngineContext

INDEX_BYTES: Final = INT32.itemsize

PREFETCH_ROWS: Final = 32
"""Rows of the data set that begin to be loaded before as many are gathered: they lie at random
places, and one after the other each would wait for the memory."""


@kernel
def gather_share(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    buffer_index: int,
    worker: int,
    workers: int,
) -> None:
    """Gather a worker's share of a batch's inputs.

    Where each worker has lists of its own, its share is all: what another core has written takes
    longer to fetch than to gather, the longer the farther that core is.
    """
    first, last = partition(len(rows), worker, workers)
    if source.sparse and context.entry_copies > 1:
        first, last = 0, len(rows)
    gather(context, source, rows, first, last, entry_buffer(context, buffer_index, worker))


@kernel
def gather(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    first: int,
    last: int,
    place: int,
) -> None:
    """Bring rows first to last of the batch into x, or into a place's lists of nonzero entries.

    Nothing is to be done where products read them in place.
    """
    if reads_in_place(source, len(rows)):
        return
    stop = min(first + PREFETCH_ROWS, last)
    fetch_inputs(context, source, unchecked_slice(rows, first, stop))
    while first < last:
        following = min(stop + PREFETCH_ROWS, last)
        fetch_inputs(context, source, unchecked_slice(rows, stop, following))
        if source.sparse:
            gather_sparse(context, source, rows, place, first, stop)
        else:
            gather_dense_rows(context, source, rows, first, stop)
        first, stop = stop, following


@kernel
def all_finite(source: DataDescriptor, count: int) -> bool:
    """Whether dense inputs, ``count`` numbers in all, are finite: x − x is 0 but for ∞ and NaN."""
    wrong = False
    if source.element == DTYPE_FLOAT32:
        singles = array_at(source.x, FLOAT32)
        for n in range(count):
            wrong |= singles[n] - singles[n] != 0
    elif source.element == DTYPE_FLOAT64:
        doubles = array_at(source.x, FLOAT64)
        for n in range(count):
            wrong |= doubles[n] - doubles[n] != 0
    return not wrong


@kernel
def fetch_inputs(context: EngineContext, source: DataDescriptor, rows: IntArray) -> None:
    """Begin to load what rows of the data set are stored as."""
    values, indices = array_at(source.x, UINT8), array_at(source.indices, UINT8)
    starts = array_at(source.indptr, INT64)
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
            start, stop = row * layer_at(context, 0).D, (row + 1) * layer_at(context, 0).D
        for n in range(start * source.value_bytes, stop * source.value_bytes, CACHE_LINE):
            prefetch(values, n)


@kernel
def gather_dense_rows(
    context: EngineContext, source: DataDescriptor, rows: IntArray, first: int, last: int
) -> None:
    """Copy rows first to last of the batch into x."""
    layer = layer_at(context, 0)
    x = float_rows_at(context, layer.below, first, last, layer.below_stride)
    gather_rows(
        array_at(source.x, UINT8), source.element, layer.D, unchecked_slice(rows, first, last), x
    )


@kernel
def gather_sparse(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    place: int,
    first: int,
    last: int,
) -> None:
    """List the nonzero inputs of rows first to last of the batch, whatever they are stored as."""
    D, room, stored = layer_at(context, 0).D, source.capacity, array_at(source.x, UINT8)
    index = unchecked_tail(array_at(context.entry_index, UINT32), place * context.room)
    value = unchecked_tail(floats_at(context, context.entry_value), place * context.room)
    bounds = unchecked_tail(
        array_at(context.entry_bounds, INT64), place * context.rows * SEGMENT_BOUNDS
    )
    starts, element = array_at(source.indptr, INT64), source.element
    if source.kind == DENSE:
        gather_dense(stored, element, D, rows, first, last, room, index, value, bounds)
    elif source.kind == CSR:
        columns, real = array_at(source.indices, INT32), floats_at(context, source.x)
        gather_csr(starts, columns, real, rows, first, last, D, room, index, value, bounds)
    else:
        places = array_at(source.x, UINT16)
        gather_packed(
            starts, places, stored, element, rows, first, last, room, index, value, bounds
        )


@kernel
def pack_data(
    context: EngineContext, source: DataDescriptor, rows: int, worker: int, workers: int
) -> None:
    """Count the nonzero inputs of a worker's share of a dense data set, or pack them."""
    first, last = partition(rows, worker, workers)
    D, counts = layer_at(context, 0).D, array_at(source.counts, INT64)
    stored, element = array_at(source.x, UINT8), source.element
    if source.packed == 0:
        count_nonzero(stored, element, first, last, D, counts)
    else:
        pack_rows(
            stored, element, first, last, D, counts, array_at(source.indptr, INT64),
            array_at(source.packed, UINT16), array_at(source.packed, UINT8),
            floats_at(context, source.packed),
        )  # fmt: skip

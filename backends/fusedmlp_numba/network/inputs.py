"""A worker's part of a batch's inputs, from any storage of the data set.

Dense inputs are copied to where the products read them; nonzero entries of sparse ones are listed.
data.py defines the storages, and decides which of the two is done and whether a data set is packed
first; the packing starts here too.
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
    PIXEL_MAX,
)
from fusedmlp_numba.network.partition import entries_of, layer_at, partition, reads_in_place
from fusedmlp_numba.simd.dtype_dispatch import StoredValues, read_elements
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.memory import prefetch
from fusedmlp_numba.simd.views import (
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    UINT8,
    UINT16,
    array_at,
    float_rows_at,
    floats_at,
    unchecked_slice,
)
from fusedmlp_numba.sparse.entries import copy_csr, list_dense
from fusedmlp_numba.sparse.operands import CsrRows, PackedRows
from fusedmlp_numba.sparse.packed_rows import count_nonzero, list_packed, pack_rows

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray, IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.network.partition import Worker
    from fusedmlp_numba.records import EngineContext
    from fusedmlp_numba.sparse.operands import Entries

INDEX_BYTES: Final = INT32.itemsize

PREFETCH_ROWS: Final = 32
"""Rows of the data set that are prefetched before as many are gathered: they lie at random
addresses, and each would wait for the memory on its own."""


@kernel
def gather_part(
    context: EngineContext,
    data: DataDescriptor,
    rows: IntArray,
    buffer_index: int,
    worker: Worker,
) -> None:
    """Gather a worker's part of a batch's inputs.

    Where each worker has a list of entries of its own, its part is the whole batch: reading what
    another core has written takes longer than listing it, the more so the farther that core is.
    """
    first, last = partition(len(rows), worker)
    if data.sparse and context.entries.copies > 1:
        first, last = 0, len(rows)
    gather(context, data, rows, (first, last), entries_of(context, data, buffer_index, worker))


@kernel
def gather(
    context: EngineContext,
    data: DataDescriptor,
    rows: IntArray,
    span: tuple[int, int],
    entries: Entries,
) -> None:
    """Copy a span of the batch's rows into x, or list their nonzero entries.

    Nothing is done where products read the inputs in place.
    """
    if reads_in_place(data, len(rows)):
        return
    first, last = span
    stop = min(first + PREFETCH_ROWS, last)
    prefetch_inputs(context, data, unchecked_slice(rows, first, stop))
    while first < last:
        following = min(stop + PREFETCH_ROWS, last)
        prefetch_inputs(context, data, unchecked_slice(rows, stop, following))
        if data.sparse:
            list_entries(context, data, rows, (first, stop), entries)
        else:
            copy_dense_rows(context, data, rows, first, stop)
        first, stop = stop, following


@kernel
def all_finite(data: DataDescriptor, count: int) -> bool:
    """Whether ``count`` dense inputs are finite: x − x is 0 except for ∞ and NaN."""
    wrong = False
    if data.dtype == DTYPE_FLOAT32:
        singles = array_at(data.x, FLOAT32)
        for n in range(count):
            wrong |= singles[n] - singles[n] != 0
    elif data.dtype == DTYPE_FLOAT64:
        doubles = array_at(data.x, FLOAT64)
        for n in range(count):
            wrong |= doubles[n] - doubles[n] != 0
    return not wrong


@kernel
def prefetch_inputs(context: EngineContext, data: DataDescriptor, rows: IntArray) -> None:
    """Prefetch the stored values and indices of rows of the data set."""
    values, indices = array_at(data.x, UINT8), array_at(data.indices, UINT8)
    starts = array_at(data.indptr, INT64)
    for row in rows:
        if data.kind == PACKED:
            for n in range(starts[row], starts[row + 1], CACHE_LINE):
                prefetch(values, n)
            continue
        if data.kind == CSR:
            start, stop = starts[row], starts[row + 1]
            for n in range(start * INDEX_BYTES, stop * INDEX_BYTES, CACHE_LINE):
                prefetch(indices, n)
        else:
            start, stop = row * layer_at(context, 0).D, (row + 1) * layer_at(context, 0).D
        for n in range(start * data.value_bytes, stop * data.value_bytes, CACHE_LINE):
            prefetch(values, n)


@kernel
def stored_values(data: DataDescriptor) -> StoredValues:
    """Return the data set's values as memory and dtype code."""
    return StoredValues(array_at(data.x, UINT8), data.dtype)


@kernel
def copy_dense_rows(
    context: EngineContext, data: DataDescriptor, rows: IntArray, first: int, last: int
) -> None:
    """Copy rows first to last of the batch into x."""
    layer = layer_at(context, 0)
    x = float_rows_at(context, layer.below, first, last, layer.below_stride)
    gather_rows(stored_values(data), layer.D, unchecked_slice(rows, first, last), x)


@kernel
def gather_rows(stored: StoredValues, D: int, rows: IntArray, out: FloatArray) -> None:
    """Out = x[rows] in out's dtype; pixels become x / 255.

    Parameters
    ----------
    stored
        x (N, D).
    rows
        (B,) row numbers.
    out
        (B, ≥ D).
    """
    width, divisor = out.shape[1], cast_like(PIXEL_MAX, out)
    for i in range(len(rows)):
        read_elements(out, i * width, stored, rows[i] * D, D, divisor)


@kernel
def list_entries(
    context: EngineContext,
    data: DataDescriptor,
    rows: IntArray,
    span: tuple[int, int],
    entries: Entries,
) -> None:
    """List the nonzero inputs of a span of the batch's rows, from any storage."""
    D = layer_at(context, 0).D
    starts, values = array_at(data.indptr, INT64), floats_at(context, data.x)
    if data.kind == DENSE:
        list_dense(stored_values(data), D, rows, span, entries)
    elif data.kind == CSR:
        csr = CsrRows(starts, array_at(data.indices, INT32), values)
        copy_csr(csr, D, rows, span, entries)
    else:
        packed = PackedRows(starts, array_at(data.x, UINT16), array_at(data.x, UINT8), values)
        list_packed(packed, data.dtype, rows, span, entries)


@kernel
def pack_data(context: EngineContext, data: DataDescriptor, rows: int, worker: Worker) -> None:
    """Count the nonzero inputs of a worker's part of a dense data set, or pack them."""
    span = partition(rows, worker)
    D, counts = layer_at(context, 0).D, array_at(data.counts, INT64)
    if data.packed == 0:
        count_nonzero(stored_values(data), span, D, counts)
        return
    out = PackedRows(
        array_at(data.indptr, INT64),
        array_at(data.packed, UINT16),
        array_at(data.packed, UINT8),
        floats_at(context, data.packed),
    )
    pack_rows(stored_values(data), span, D, counts, out)

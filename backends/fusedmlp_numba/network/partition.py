"""How a step is partitioned over workers: each one's rows, panels, entries and deltas.

Ranges and memory views follow from an EngineContext and a Worker; nothing is computed on data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import IN_PLACE_ROWS, SEGMENT_BOUNDS
from fusedmlp_numba.gemm.operands import Operand
from fusedmlp_numba.layout import row_stride
from fusedmlp_numba.records import LAYER_DESCRIPTOR
from fusedmlp_numba.simd.views import (
    INT64,
    UINT32,
    array_at,
    floats_at,
    record_at,
    unchecked_slice,
    unchecked_tail,
)
from fusedmlp_numba.sparse.operands import Entries

if TYPE_CHECKING:
    from fusedmlp.types import IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.records import EngineContext, LayerDescriptor


class Worker(NamedTuple):
    """One of the threads of a call: its number from 0, and how many there are."""

    rank: int
    size: int


LAYER_BYTES: Final = LAYER_DESCRIPTOR.itemsize

stride_of = kernel(row_stride)
"""Elements from one row to the next, for its width and an element's bytes."""


@kernel
def layer_at(context: EngineContext, index: int) -> LayerDescriptor:
    """Return a layer's record."""
    layer: LayerDescriptor = record_at(context.layers + index * LAYER_BYTES, LAYER_DESCRIPTOR)
    return layer


@kernel
def partition(n: int, worker: Worker) -> tuple[int, int]:
    """Return a worker's range of n items."""
    return n * worker.rank // worker.size, n * (worker.rank + 1) // worker.size


@kernel
def partition_matrix(
    rows: int, panels: int, worker: Worker
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a worker's rows and panels of a matrix: by panels, or by rows where they are few."""
    if panels >= worker.size:
        return (0, rows), partition(panels, worker)
    return partition(rows, worker), (0, panels)


@kernel
def output_split_by_rows(context: EngineContext, workers: int) -> bool:
    """Whether the last layer's product is partitioned by rows, as the outputs and deltas are."""
    return layer_at(context, context.depth - 1).panels < 2 * workers


@kernel
def reads_in_place(data: DataDescriptor, rows: int) -> bool:
    """Whether the products of a batch of ``rows`` rows read the data set's inputs in place."""
    return data.in_place and rows >= IN_PLACE_ROWS


@kernel
def delta_is_private(context: EngineContext, workers: int) -> bool:
    """Whether a worker needs only its own panels of delta[1], those of the first layer."""
    return context.depth > 1 and layer_at(context, 0).panels >= workers


@kernel
def units_are_private(context: EngineContext, workers: int) -> bool:
    """Whether each worker changes only weights from and to its own units of the first layer.

    The second layer must then have too few panels, and be partitioned by rows.
    """
    return delta_is_private(context, workers) and layer_at(context, 1).panels < workers


@kernel
def private_rows(context: EngineContext, layer_index: int, worker: Worker) -> tuple[int, int]:
    """Return a worker's range of a layer's inputs: its own units of the layer below, if any."""
    D = layer_at(context, layer_index).D
    if layer_index == 0:
        return partition(D, worker)
    first, last = partition(layer_at(context, layer_index - 1).panels, worker)
    return min(first * context.columns, D), min(last * context.columns, D)


@kernel
def entries_of(
    context: EngineContext, data: DataDescriptor, buffer_index: int, worker: Worker
) -> Entries:
    """Return a worker's list of entries: buffer 0 or 1, its own or the common one."""
    buffers, place = context.entries, buffer_index
    if buffers.copies > 1:
        place += 2 * worker.rank
    bounds = array_at(buffers.bounds, INT64)
    return Entries(
        unchecked_tail(array_at(buffers.indices, UINT32), place * buffers.size),
        unchecked_tail(floats_at(context, buffers.values), place * buffers.size),
        unchecked_tail(bounds, place * context.rows * SEGMENT_BOUNDS),
        data.capacity,
    )


@kernel
def layer_inputs(
    context: EngineContext, data: DataDescriptor, layer_index: int, rows: IntArray
) -> tuple[Operand, IntArray]:
    """Return a[l], row-major, and the rows of it that are the batch: (B,), or (0,) for the first B.

    a[0] is the data set (N, D) where it is read in place. All others are (B, width).
    """
    layer = layer_at(context, layer_index)
    if layer_index == 0 and reads_in_place(data, len(rows)):
        return Operand(floats_at(context, data.x), 0, layer.D, 0), rows
    below = Operand(floats_at(context, layer.below), 0, layer.below_stride, 0)
    return below, unchecked_slice(rows, 0, 0)


@kernel
def weights_operand(context: EngineContext, layer_index: int, address: int) -> Operand:
    """Return a layer's weights, or their gradients, in the flat array at an address."""
    layer, columns = layer_at(context, layer_index), context.columns
    values = floats_at(context, address)
    return Operand(values, layer.weights, columns, layer.D * columns)


@kernel
def delta_location(context: EngineContext, layer_index: int, worker: Worker) -> tuple[int, int]:
    """Return the address and row stride of delta[l + 1] as a worker sees it.

    Panels that only one worker reads are separated from those of others, which avoids false
    sharing: in common rows, a processor would also prefetch lines of its neighbours.
    """
    layer = layer_at(context, layer_index)
    if layer_index > 0 or not delta_is_private(context, worker.size):
        return layer.delta, layer.stride
    columns = (layer.panels + worker.size - 1) // worker.size * context.columns
    stride = stride_of(columns, context.itemsize)
    first, _ = partition(layer.panels, worker)
    start = worker.rank * context.rows * stride - first * context.columns
    return layer.delta + start * context.itemsize, stride


@kernel
def delta_operand(context: EngineContext, layer_index: int, worker: Worker) -> Operand:
    """Return delta[l + 1], row-major, as a worker sees it."""
    address, stride = delta_location(context, layer_index, worker)
    return Operand(floats_at(context, address), 0, stride, context.columns)

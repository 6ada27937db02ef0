"""Who does what in a step, and where it lies: a worker's rows, panels, entries and deltas.

Only numbers are computed here, from a Plan, a worker's number and how many workers there are;
layers.py and gathering.py do the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import IN_PLACE_ROWS
from fusedmlp_numba.layout import LAYER_DESCRIPTOR, row_stride
from fusedmlp_numba.simd.views import record_at

if TYPE_CHECKING:
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.layout import EngineContext, LayerDescriptor

LAYER_BYTES: Final = LAYER_DESCRIPTOR.itemsize

stride_of = kernel(row_stride)
"""Elements from one row to the next, for its width and an element's bytes."""


@kernel
def layer_at(context: EngineContext, number: int) -> LayerDescriptor:
    """Return a layer's record."""
    layer: LayerDescriptor = record_at(context.layers + number * LAYER_BYTES, LAYER_DESCRIPTOR)
    return layer


@kernel
def partition(n: int, worker: int, workers: int) -> tuple[int, int]:
    """Return a worker's part of n things."""
    return n * worker // workers, n * (worker + 1) // workers


@kernel
def partition_matrix(
    rows: int, panels: int, worker: int, workers: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a worker's rows and panels of a matrix; rows are cut where panels are too few."""
    if panels >= workers:
        return (0, rows), partition(panels, worker, workers)
    return partition(rows, worker, workers), (0, panels)


@kernel
def output_split_by_rows(context: EngineContext, workers: int) -> bool:
    """Whether the last layer's product is cut by rows: as its outputs and their deltas are."""
    return layer_at(context, context.depth - 1).panels < 2 * workers


@kernel
def reads_in_place(source: DataDescriptor, rows: int) -> bool:
    """Whether the products of a batch of so many rows read its inputs where they lie."""
    return source.in_place and rows >= IN_PLACE_ROWS


@kernel
def delta_is_private(context: EngineContext, workers: int) -> bool:
    """Whether a worker needs no more of delta[1] than its own panels: those of the first layer."""
    return context.depth > 1 and layer_at(context, 0).panels >= workers


@kernel
def units_are_private(context: EngineContext, workers: int) -> bool:
    """Whether each worker changes the weights of its own units of the first hidden layer only.

    That is on both sides of them: of the second layer, too few panels are cut by rows.
    """
    return delta_is_private(context, workers) and layer_at(context, 1).panels < workers


@kernel
def private_rows(context: EngineContext, number: int, worker: int, workers: int) -> tuple[int, int]:
    """Return a worker's part of a layer's rows: its own units of the layer below, if any is."""
    D = layer_at(context, number).D
    if number == 0:
        return partition(D, worker, workers)
    first, last = partition(layer_at(context, number - 1).panels, worker, workers)
    return min(first * context.columns, D), min(last * context.columns, D)


@kernel
def entry_buffer(context: EngineContext, buffer_index: int, worker: int) -> int:
    """Return which of the batches of entries a worker's is: 0 or 1, or behind those of others."""
    return buffer_index + 2 * worker if context.entry_copies > 1 else buffer_index


@kernel
def delta_location(
    context: EngineContext, number: int, worker: int, workers: int
) -> tuple[int, int]:
    """Return address and row stride of delta[l + 1] as a worker sees it.

    What each worker needs alone lies apart from the others' columns. In common rows a processor
    would prefetch its neighbours' lines too, and their owner would have to take them back.
    """
    layer = layer_at(context, number)
    if number > 0 or not delta_is_private(context, workers):
        return layer.delta, layer.stride
    columns = (layer.panels + workers - 1) // workers * context.columns
    stride = stride_of(columns, context.itemsize)
    first, _ = partition(layer.panels, worker, workers)
    start = worker * context.rows * stride - first * context.columns
    return layer.delta + start * context.itemsize, stride

"""The gradient of one layer: a worker's part of dW[l] and db[l], and its update of the weights.

The partition and the order of sums are those of layers.py. A worker updates what it has just
computed, which is still in its cache. Update formulas are in updates.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import A_BLOCK, BITMASK_ROWS
from fusedmlp_numba.gemm.operands import Block, Operand, Update
from fusedmlp_numba.gemm.packing import pack_panels
from fusedmlp_numba.gemm.products import (
    multiply_transposed,
    rows_per_block,
    shifted,
    terms_per_chunk,
)
from fusedmlp_numba.network.batches import is_training
from fusedmlp_numba.network.partition import (
    delta_location,
    delta_operand,
    entries_of,
    layer_at,
    layer_inputs,
    partition_matrix,
    private_rows,
    weights_operand,
)
from fusedmlp_numba.network.updates import SGD, update
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.vector_memory import load, store
from fusedmlp_numba.simd.vectors import broadcast, lane_count
from fusedmlp_numba.simd.views import (
    INT64,
    array_at,
    float_rows_at,
    floats_at,
    unchecked_slice,
    unchecked_tail,
)
from fusedmlp_numba.sparse.operands import RowMasks
from fusedmlp_numba.sparse.products import (
    GRADIENT_INPUTS,
    build_row_masks,
    sparse_gradient_product,
)

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.network.batches import Batch, Step
    from fusedmlp_numba.network.partition import Worker
    from fusedmlp_numba.records import EngineContext

SUMMED_ROWS: Final = 16
"""Rows that :func:`column_sums` processes together: few enough for the hardware prefetcher, and
enough that the sums are rarely stored."""


@kernel
def gradient_layer(
    context: EngineContext,
    data: DataDescriptor,
    layer_index: int,
    batch: Batch,
    step: Step,
    worker: Worker,
) -> None:
    """Compute a worker's part of dW[l] = a[l]ᵀ·delta[l + 1] and db[l]; update, in training.

    Plain SGD adds the sums in registers directly to the weights.
    """
    layer, columns = layer_at(context, layer_index), context.columns
    rows, panels = partition_matrix(layer.D, layer.panels, worker)
    if layer.panels < worker.size:
        rows = private_rows(context, layer_index, worker)
    block = Block(rows[0], rows[1], panels[0], panels[1])
    if layer_index == 0 and data.sparse:
        sparse_gradient(context, data, batch, block, step, worker)
    else:
        dense_gradient(context, data, layer_index, batch, block, step, worker)
    if layer.panels >= worker.size or worker.rank == 0:
        first, last = panels[0] * columns, panels[1] * columns
        address, stride = delta_location(context, layer_index, worker)
        delta = float_rows_at(context, address, 0, len(batch.rows), stride)
        gradient = floats_at(context, context.parameters.gradient)
        column_sums(delta, unchecked_tail(gradient, layer.bias), (first, last))
        if is_training(step):
            update(context, layer.bias + first, layer.bias + last, step, 0.0)


@kernel
def updates_directly(context: EngineContext, step: Step) -> bool:
    """Whether sums are added to the weights at once: plain SGD stores no gradient."""
    settings = context.settings
    return is_training(step) and settings.optimizer == SGD and settings.l2 == 0.0


@kernel
def gradient_target(context: EngineContext, layer_index: int, direct: bool) -> Operand:
    """Return where a layer's gradient goes: with ``direct``, the weights themselves."""
    parameters = context.parameters
    address = parameters.theta if direct else parameters.gradient
    return weights_operand(context, layer_index, address)


@kernel
def sparse_gradient(
    context: EngineContext,
    data: DataDescriptor,
    batch: Batch,
    block: Block,
    step: Step,
    worker: Worker,
) -> None:
    """Compute a block of dW[0] from the batch's entries; update, in training."""
    B, direct = len(batch.rows), updates_directly(context, step)
    buffers, D = context.entries, layer_at(context, 0).D
    masks = unchecked_tail(array_at(buffers.masks, INT64), worker.rank * buffers.mask_stride)
    positions = array_at(buffers.positions, INT64)
    row_masks = RowMasks(
        unchecked_slice(masks, 0, D), unchecked_tail(positions, worker.rank * 2 * BITMASK_ROWS)
    )
    entries = entries_of(context, data, batch.buffer_index, worker)
    delta, out = delta_operand(context, 0, worker), gradient_target(context, 0, direct)
    for start in range(0, B, BITMASK_ROWS):
        stop = min(start + BITMASK_ROWS, B)
        build_row_masks(entries, (start, stop), (block.first_row, block.last_row), row_masks)
        # Direct sums need nothing afterwards: then delta stays in the L1 cache.
        inputs = max(block.last_row - block.first_row, 1) if direct else GRADIENT_INPUTS
        for first in range(block.first_row, block.last_row, inputs):
            last = min(first + inputs, block.last_row)
            part = Block(first, last, block.first_panel, block.last_panel)
            change = Update(-step.lr if direct else 1.0, direct or start > 0)
            sparse_gradient_product(
                row_masks, entries.values, shifted(delta, start * delta.row), out, part, change
            )
            if stop == B and not direct:
                finish_block(context, 0, part, step)


@kernel
def dense_gradient(
    context: EngineContext,
    data: DataDescriptor,
    layer_index: int,
    batch: Batch,
    block: Block,
    step: Step,
    worker: Worker,
) -> None:
    """Compute a block of dW[l] as a product; update, in training."""
    B, direct = len(batch.rows), updates_directly(context, step)
    below, row_indices = layer_inputs(context, data, layer_index, batch.rows)
    columns, work = context.columns, context.work
    right = delta_operand(context, layer_index, worker)
    # Each worker packs its own panels, at a place that is its own in every layer: other workers
    # may be one layer behind. Panels too few to be partitioned are read where they are.
    if layer_at(context, layer_index).panels >= worker.size:
        first_panel = worker.rank * ((work.max_panels + worker.size - 1) // worker.size)
        start = (first_panel - block.first_panel) * B * columns
        packed = unchecked_tail(floats_at(context, work.right), start)
        panels = Operand(packed, 0, columns, B * columns)
        pack_panels(right, B, panels, (block.first_panel, block.last_panel))
        right = panels
    left = Operand(floats_at(context, work.left), worker.rank * A_BLOCK, 0, 0)
    out = gradient_target(context, layer_index, direct)
    height, chunk = rows_per_block(B, context.itemsize), terms_per_chunk(B)
    for k in range(0, B, chunk):
        terms = k, min(k + chunk, B)
        for first in range(block.first_row, block.last_row, height):
            last = min(first + height, block.last_row)
            part = Block(first, last, block.first_panel, block.last_panel)
            change = Update(-step.lr if direct else 1.0, direct)
            multiply_transposed(below, row_indices, right, out, terms, part, left, change)
            if terms[1] == B and not direct:
                finish_block(context, layer_index, part, step)


@kernel
def finish_block(context: EngineContext, layer_index: int, block: Block, step: Step) -> None:
    """Add the L2 term to a block of the weights' gradient, and update while it is in the cache."""
    layer, l2 = layer_at(context, layer_index), context.settings.l2
    for p in range(block.first_panel, block.last_panel):
        start = layer.weights + (p * layer.D + block.first_row) * context.columns
        stop = layer.weights + (p * layer.D + block.last_row) * context.columns
        if l2 != 0.0:
            gradient = floats_at(context, context.parameters.gradient)
            gradient = unchecked_slice(gradient, start, stop)
            W = unchecked_slice(floats_at(context, context.parameters.theta), start, stop)
            factor = cast_like(l2, W)
            for i in range(len(W)):
                gradient[i] += factor * W[i]
        if is_training(step):
            update(context, start, stop, step, context.settings.decay)


@kernel
def column_sums(delta: FloatArray, out: FloatArray, columns: tuple[int, int]) -> None:
    """Out = 1ᵀ·delta in a range of columns, summed in the order of the rows.

    Parameters
    ----------
    delta
        (B, width).
    out
        (width,).
    """
    B, width, lanes = len(delta), delta.shape[1], lane_count(delta)
    for i in range(0, B, SUMMED_ROWS):
        for j in range(columns[0], columns[1], lanes):
            total = load(out, j) if i > 0 else broadcast(cast_like(0.0, delta))
            for row in range(i, min(i + SUMMED_ROWS, B)):
                total = total + load(delta, row * width + j)
            store(out, j, total)

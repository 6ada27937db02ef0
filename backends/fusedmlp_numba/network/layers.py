"""One layer of a step: a worker's part of its product, its delta, its gradient and its update.

Every worker runs these functions with its own index, on its own rows or panels (partition.py).
What is computed never depends on the number of workers, and sums over the batch's rows run in one
order on one worker: the bits are the same for any number. Where a worker needs the results of
others, steps.py puts a barrier between the calls. Formulas are in activations.py and outputs.py,
products in gemm and sparse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import A_BLOCK, BITMASK_ROWS
from fusedmlp_numba.gemm.operands import Block, Operand, Update
from fusedmlp_numba.gemm.packing import pack_panels, transpose_panels
from fusedmlp_numba.gemm.products import (
    multiply,
    multiply_transposed,
    rows_per_block,
    shifted,
    terms_per_chunk,
)
from fusedmlp_numba.network.activations import bias_activation, hidden_delta, saves_slope
from fusedmlp_numba.network.batches import is_training, row_results, targets_of
from fusedmlp_numba.network.dropout import MaskStream, dropout_mask
from fusedmlp_numba.network.outputs import output_activation
from fusedmlp_numba.network.outputs import output_delta as output_delta_rows
from fusedmlp_numba.network.partition import (
    delta_location,
    delta_operand,
    entries_of,
    layer_at,
    output_split_by_rows,
    partition,
    partition_matrix,
    private_rows,
    reads_in_place,
    weights_operand,
)
from fusedmlp_numba.network.updates import SGD, update
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.vector_memory import load, store
from fusedmlp_numba.simd.vectors import broadcast, lane_count
from fusedmlp_numba.simd.views import (
    INT64,
    UINT8,
    array_at,
    float_rows_at,
    floats_at,
    table_at,
    unchecked_slice,
    unchecked_tail,
)
from fusedmlp_numba.sparse.operands import RowMasks
from fusedmlp_numba.sparse.products import (
    GRADIENT_INPUTS,
    build_row_masks,
    sparse_gradient_product,
    sparse_product,
)

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray, IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.network.batches import Batch, Step
    from fusedmlp_numba.network.partition import Worker
    from fusedmlp_numba.records import EngineContext

SUMMED_ROWS: Final = 16
"""Rows that :func:`column_sums` processes together: few enough for the hardware prefetcher, and
enough that the sums are rarely stored."""


@kernel
def transpose(context: EngineContext, layer_index: int, worker: Worker) -> None:
    """Copy a worker's part of W[l]ᵀ, for l > 0: its panels are those of the layer below."""
    layer, columns = layer_at(context, layer_index), context.columns
    W = weights_operand(context, layer_index, context.parameters.theta)
    transposed = Operand(floats_at(context, context.work.transposed), 0, columns, layer.H * columns)
    panels = partition(layer_at(context, layer_index - 1).panels, worker)
    transpose_panels(W, layer.D, layer.H, transposed, panels)


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
def forward_layer(
    context: EngineContext,
    data: DataDescriptor,
    layer_index: int,
    batch: Batch,
    training: bool,
    independent: bool,
    worker: Worker,
) -> None:
    """Compute a worker's part of a[l + 1] = f(a[l]·W[l] + b[l]), or of the last product.

    The part is a range of rows if ``independent``. The last bias is added by the output kernels.
    """
    layer, hidden = layer_at(context, layer_index), layer_index < context.depth - 1
    B = len(batch.rows)
    if independent or (not hidden and output_split_by_rows(context, worker.size)):
        rows, panels = partition(B, worker), (0, layer.panels)
    else:
        rows, panels = partition_matrix(B, layer.panels, worker)
    block = Block(rows[0], rows[1], panels[0], panels[1])
    W = weights_operand(context, layer_index, context.parameters.theta)
    out = Operand(floats_at(context, layer.a), 0, layer.stride, context.columns)
    if layer_index == 0 and data.sparse:
        sparse_product(entries_of(context, data, batch.buffer_index, worker), W, out, block)
    else:
        below, row_indices = layer_inputs(context, data, layer_index, batch.rows)
        multiply(below, row_indices, W, out, layer.D, block, Update(1.0, False))
    if not hidden:
        return
    settings = context.settings
    columns = panels[0] * context.columns, panels[1] * context.columns
    a = float_rows_at(context, layer.a, rows[0], rows[1], layer.stride)
    saved_rows = rows[1] if training else rows[0]
    slope = float_rows_at(context, layer.slope, rows[0], saved_rows, layer.stride)
    bias_activation(a, unchecked_tail(W.values, layer.bias), slope, settings.hidden, columns)
    if training and settings.keep < 1.0:
        kept = unchecked_slice(table_at(layer.kept, UINT8, layer.stride), rows[0], rows[1])
        stream = MaskStream(
            settings.seed, np.uint64(batch.step), np.uint64(layer_index), settings.threshold
        )
        dropout_mask(kept, a, stream, 1.0 / settings.keep, columns, rows[0])


@kernel
def output_delta(
    context: EngineContext, data: DataDescriptor, rows: IntArray, scale: float, worker: Worker
) -> None:
    """Turn a worker's part of the last product into the delta; write losses and hits by row."""
    layer = layer_at(context, context.depth - 1)
    first, last = partition(len(rows), worker)
    theta = floats_at(context, context.parameters.theta)
    scratch = floats_at(context, context.work.scratch)
    output_delta_rows(
        context.settings.output,
        float_rows_at(context, layer.a, first, last, layer.stride),
        unchecked_slice(theta, layer.bias, layer.bias + layer.H),
        targets_of(context, data, unchecked_slice(rows, first, last)),
        scale,
        row_results(context, first, last),
        unchecked_tail(scratch, worker.rank * context.work.scratch_size),
    )


@kernel
def write_outputs(context: EngineContext, out: FloatArray, worker: Worker) -> None:
    """Write a worker's part of the batch's outputs ŷ (B, K)."""
    layer = layer_at(context, context.depth - 1)
    first, last = partition(len(out), worker)
    z = float_rows_at(context, layer.a, first, last, layer.stride)
    theta = floats_at(context, context.parameters.theta)
    b = unchecked_slice(theta, layer.bias, layer.bias + layer.H)
    part = unchecked_slice(out, first, last)
    scratch = floats_at(context, context.work.scratch)
    scratch = unchecked_tail(scratch, worker.rank * context.work.scratch_size)
    output_activation(z, b, context.settings.output, part, scratch)


@kernel
def backpropagate_delta(context: EngineContext, layer_index: int, B: int, worker: Worker) -> None:
    """Compute a worker's part of delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]), for l > 0.

    Its panels of W[l]ᵀ, or all of them where its part is rows, were written by :func:`transpose`.
    """
    layer, under = layer_at(context, layer_index), layer_at(context, layer_index - 1)
    rows, panels = partition_matrix(B, under.panels, worker)
    delta = Operand(floats_at(context, layer.delta), 0, layer.stride, 0)
    in_order = unchecked_slice(array_at(context.work.barrier, INT64), 0, 0)
    width, transposed = context.columns, floats_at(context, context.work.transposed)
    out = delta_operand(context, layer_index - 1, worker)
    multiply(
        delta,
        in_order,
        Operand(transposed, 0, width, layer.H * width),
        out,
        layer.H,
        Block(rows[0], rows[1], panels[0], panels[1]),
        Update(1.0, False),
    )
    address, stride = delta_location(context, layer_index - 1, worker)
    saved = under.slope if saves_slope(context.settings.hidden) else under.a
    hidden_delta(
        float_rows_at(context, address, rows[0], rows[1], stride),
        float_rows_at(context, saved, rows[0], rows[1], under.stride),
        unchecked_slice(table_at(under.kept, UINT8, under.stride), rows[0], rows[1]),
        context.settings.hidden,
        context.settings.keep,
        (panels[0] * width, panels[1] * width),
    )


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

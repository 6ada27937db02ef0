"""One layer of a step: a worker's part of its product and of its delta; gradients.py has the rest.

Every worker runs these functions with its own index, on its own rows or panels (partition.py).
What is computed never depends on the number of workers, and sums over the batch's rows run in one
order on one worker: the bits are the same for any number. Where a worker needs the results of
others, steps.py puts a barrier between the calls. Formulas are in activations.py and outputs.py,
products in gemm and sparse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.gemm.operands import Block, Operand, Update
from fusedmlp_numba.gemm.packing import transpose_panels
from fusedmlp_numba.gemm.products import multiply
from fusedmlp_numba.network.activations import bias_activation, hidden_delta, saves_slope
from fusedmlp_numba.network.batches import row_results, targets_of
from fusedmlp_numba.network.dropout import MaskStream, dropout_mask
from fusedmlp_numba.network.outputs import output_activation
from fusedmlp_numba.network.outputs import output_delta as output_delta_rows
from fusedmlp_numba.network.partition import (
    delta_location,
    delta_operand,
    entries_of,
    layer_at,
    layer_inputs,
    output_split_by_rows,
    partition,
    partition_matrix,
    weights_operand,
)
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
from fusedmlp_numba.sparse.products import sparse_product

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray, IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.network.batches import Batch
    from fusedmlp_numba.network.partition import Worker
    from fusedmlp_numba.records import EngineContext


@kernel
def transpose(context: EngineContext, layer_index: int, worker: Worker) -> None:
    """Copy a worker's part of W[l]ᵀ, for l > 0: its panels are those of the layer below."""
    layer, columns = layer_at(context, layer_index), context.columns
    W = weights_operand(context, layer_index, context.parameters.theta)
    transposed = Operand(floats_at(context, context.work.transposed), 0, columns, layer.H * columns)
    panels = partition(layer_at(context, layer_index - 1).panels, worker)
    transpose_panels(W, layer.D, layer.H, transposed, panels)


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

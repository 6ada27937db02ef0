"""One layer of a step in compiled code: a worker's share of each part.

Every worker runs these same functions with its own number, on its own rows or panels (shares.py).
What it computes never depends on how many workers there are, and sums over the batch's rows run in
one order on one worker: the bits are the same for any number. Where a worker needs what others have
computed, steps.py puts a barrier between the calls. The formulas are in kernels.py, the products
in products.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import A_BLOCK, BITMASK_ROWS, MOMENTUM, NESTEROV, SEGMENT_BOUNDS, SGD
from fusedmlp_numba.gemm.products import (
    multiply,
    multiply_transposed,
    pack_panels,
    rows_per_block,
    terms_per_chunk,
    transpose_panels,
)
from fusedmlp_numba.network.kernels import (
    EXP_OUTPUT,
    SIGMOID_OUTPUT,
    SOFTMAX_OUTPUT,
    adam,
    bias_activation,
    column_sums,
    dropout_mask,
    hidden_delta,
    momentum,
    nesterov,
    output_activation,
    poisson_deviance,
    sgd,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)
from fusedmlp_numba.network.partition import (
    delta_location,
    entry_buffer,
    layer_at,
    output_split_by_rows,
    partition,
    partition_matrix,
    private_rows,
    reads_in_place,
)
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.views import (
    FLOAT64,
    INT64,
    UINT8,
    UINT32,
    UNBOUNDED,
    array_at,
    float_rows_at,
    floats_at,
    table_at,
    unchecked_slice,
    unchecked_tail,
)
from fusedmlp_numba.sparse.entries import sparse_product
from fusedmlp_numba.sparse.gradient import GRADIENT_INPUTS, build_row_masks, sparse_gradient_product

if TYPE_CHECKING:
    from fusedmlp.types import Float64Vector, FloatArray, IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.layout import EngineContext, LayerDescriptor


@kernel
def transpose(context: EngineContext, number: int, worker: int, workers: int) -> None:
    """Copy a worker's share of W[l]ᵀ, for l > 0: its panels are those of the layer below."""
    layer = layer_at(context, number)
    transpose_panels(
        floats_at(context, context.theta), layer.weights, layer.D, layer.H, floats_at(context,
        context.transposed), 0,
        partition(layer_at(context, number - 1).panels, worker, workers), context.columns,
    )  # fmt: skip


@kernel
def layer_inputs(
    context: EngineContext, source: DataDescriptor, number: int, order: IntArray
) -> tuple[FloatArray, int, IntArray]:
    """Return a[l], its row stride, and which of its rows are the batch's.

    The numbers are (B,), or (0,) where the batch is a[l]'s first B rows. a[0] is (N, D) where it
    is read in place, all else (B, width).
    """
    layer = layer_at(context, number)
    if number == 0 and reads_in_place(source, len(order)):
        return floats_at(context, source.x), layer.D, order
    return floats_at(context, layer.below), layer.below_stride, unchecked_slice(order, 0, 0)


@kernel
def forward_layer(
    context: EngineContext,
    source: DataDescriptor,
    number: int,
    order: IntArray,
    buffer_index: int,
    step: int,
    training: bool,
    apart: bool,
    worker: int,
    workers: int,
) -> None:
    """Compute a worker's share of a[l + 1] = f(a[l]·W[l] + b[l]), or of the last product.

    Its share is cut by rows if ``apart``. The last bias is left to the output kernels.

    Parameters
    ----------
    order
        (B,) row numbers of the batch.
    """
    layer, hidden, batch = layer_at(context, number), number < context.depth - 1, len(order)
    theta, out = floats_at(context, context.theta), floats_at(context, layer.a)
    if apart or (not hidden and output_split_by_rows(context, workers)):
        rows, panels = partition(batch, worker, workers), (0, layer.panels)
    else:
        rows, panels = partition_matrix(batch, layer.panels, worker, workers)
    if number == 0 and source.sparse:
        place = entry_buffer(context, buffer_index, worker)
        sparse_product(
            unchecked_tail(array_at(context.entry_index, UINT32), place * context.room),
            unchecked_tail(floats_at(context, context.entry_value), place * context.room),
            unchecked_tail(array_at(context.entry_bounds, INT64),
            place * context.rows * SEGMENT_BOUNDS),
            theta, layer.weights, layer.D, out, 0, layer.stride, rows, panels, context.columns,
        )  # fmt: skip
    else:
        below, stride, numbers = layer_inputs(context, source, number, order)
        multiply(
            below, 0, stride, numbers, unchecked_tail(theta, layer.weights), 0, layer.D,
            out, 0, layer.stride, rows, panels, context.columns, 1.0, False,
        )  # fmt: skip
    if not hidden:
        return
    first, last = panels[0] * context.columns, panels[1] * context.columns
    a = float_rows_at(context, layer.a, rows[0], rows[1], layer.stride)
    bias_activation(a, unchecked_tail(theta, layer.bias), context.hidden, first, last)
    if training and context.keep < 1.0:
        kept = unchecked_slice(table_at(layer.kept, UINT8, layer.stride), rows[0], rows[1])
        dropout_mask(
            kept, a, 1.0 / context.keep, context.seed, np.uint64(step), np.uint64(number),
            context.threshold, first, last, rows[0],
        )  # fmt: skip


@kernel
def output_delta(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    scale: float,
    worker: int,
    workers: int,
) -> None:
    """Turn a worker's share of the last product into the delta; note losses and hits by row."""
    layer = layer_at(context, context.depth - 1)
    first, last = partition(len(rows), worker, workers)
    z = float_rows_at(context, layer.a, first, last, layer.stride)
    b = unchecked_slice(floats_at(context, context.theta), layer.bias, layer.bias + layer.H)
    labels = array_at(source.labels, INT64)
    targets = float_rows_at(context, source.targets, 0, UNBOUNDED, layer.H)
    w = unchecked_slice(floats_at(context, source.sample_weight), 0, UNBOUNDED * source.weighted)
    losses = unchecked_slice(array_at(context.row_loss, FLOAT64), first, last)
    correct = unchecked_slice(array_at(context.row_correct, FLOAT64), first, last)
    chosen = unchecked_slice(rows, first, last)
    room = unchecked_tail(floats_at(context, context.scratch), worker * context.scratch_size)
    if context.output == SOFTMAX_OUTPUT:
        softmax_cross_entropy(z, b, labels, w, chosen, scale, losses, correct, room)
    elif context.output == SIGMOID_OUTPUT:
        sigmoid_cross_entropy(z, b, targets, w, chosen, scale, losses, correct, room)
    elif context.output == EXP_OUTPUT:
        poisson_deviance(z, b, targets, w, chosen, scale, losses, correct, room)
    else:
        squared_error(z, b, targets, w, chosen, scale, losses, correct, room)


@kernel
def write_outputs(context: EngineContext, out: FloatArray, worker: int, workers: int) -> None:
    """Write a worker's share of the batch's outputs ŷ (B, K)."""
    layer = layer_at(context, context.depth - 1)
    first, last = partition(len(out), worker, workers)
    z = float_rows_at(context, layer.a, first, last, layer.stride)
    b = unchecked_slice(floats_at(context, context.theta), layer.bias, layer.bias + layer.H)
    room = unchecked_tail(floats_at(context, context.scratch), worker * context.scratch_size)
    output_activation(z, b, context.output, unchecked_slice(out, first, last), room)


@kernel
def backpropagate_delta(
    context: EngineContext, number: int, batch: int, worker: int, workers: int
) -> None:
    """Compute a worker's share of delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]), for l > 0.

    W[l]ᵀ is there: the worker's panels of it, or all of it where its share is rows.
    """
    layer, under = layer_at(context, number), layer_at(context, number - 1)
    rows, panels = partition_matrix(batch, under.panels, worker, workers)
    place, stride = delta_location(context, number - 1, worker, workers)
    in_order = unchecked_slice(
        array_at(context.sync, INT64), 0, 0
    )  # no numbers: delta is the batch's
    multiply(
        floats_at(context, layer.delta), 0, layer.stride, in_order,
        floats_at(context, context.transposed), 0, layer.H,
        floats_at(context, place), 0, stride, rows, panels, context.columns, 1.0, False,
    )  # fmt: skip
    hidden_delta(
        float_rows_at(context, place, rows[0], rows[1], stride),
        float_rows_at(context, under.a, rows[0], rows[1], under.stride),
        unchecked_slice(table_at(under.kept, UINT8, under.stride), rows[0], rows[1]),
        context.hidden, context.keep, panels[0] * context.columns, panels[1] * context.columns,
    )  # fmt: skip


@kernel
def gradient_layer(
    context: EngineContext,
    source: DataDescriptor,
    number: int,
    order: IntArray,
    buffer_index: int,
    lr: float,
    corrections: Float64Vector,
    training: bool,
    worker: int,
    workers: int,
) -> None:
    """Compute a worker's share of dW[l] = a[l]ᵀ·delta[l + 1] and db[l]; update, in training.

    Plain SGD goes straight from the sums in registers into the weights.
    """
    layer, columns, batch = layer_at(context, number), context.columns, len(order)
    rows, panels = partition_matrix(layer.D, layer.panels, worker, workers)
    if layer.panels < workers:
        rows = private_rows(context, number, worker, workers)
    if number == 0 and source.sparse:
        sparse_gradient(
            context, batch, buffer_index, rows, panels, lr, corrections, training, worker, workers
        )
    else:
        dense_gradient(
            context, source, number, order, rows, panels, lr, corrections, training, worker, workers
        )
    if layer.panels >= workers or worker == 0:
        first, last = panels[0] * columns, panels[1] * columns
        place, stride = delta_location(context, number, worker, workers)
        delta = float_rows_at(context, place, 0, batch, stride)
        column_sums(
            delta, unchecked_tail(floats_at(context, context.gradient), layer.bias), first, last
        )
        if training:
            update(context, layer.bias + first, layer.bias + last, lr, corrections, 0.0)


@kernel
def updates_directly(context: EngineContext, training: bool) -> bool:
    """Whether sums go straight into the weights: plain SGD needs no other place for them."""
    return training and context.optimizer == SGD and context.l2 == 0.0


@kernel
def sparse_gradient(
    context: EngineContext,
    batch: int,
    buffer_index: int,
    rows: tuple[int, int],
    panels: tuple[int, int],
    lr: float,
    corrections: Float64Vector,
    training: bool,
    worker: int,
    workers: int,
) -> None:
    """Compute rows and panels of dW[0] from the batch's entries; update, in training."""
    layer, descend = layer_at(context, 0), updates_directly(context, training)
    masks = unchecked_slice(
        unchecked_tail(array_at(context.masks, INT64), worker * context.mask_room), 0, layer.D
    )
    places = unchecked_tail(array_at(context.mask_places, INT64), worker * 2 * BITMASK_ROWS)
    at, stride = delta_location(context, 0, worker, workers)
    delta, place = floats_at(context, at), entry_buffer(context, buffer_index, worker)
    value = unchecked_tail(floats_at(context, context.entry_value), place * context.room)
    for start in range(0, batch, BITMASK_ROWS):
        stop = min(start + BITMASK_ROWS, batch)
        build_row_masks(
            unchecked_tail(array_at(context.entry_index, UINT32), place * context.room),
            unchecked_tail(array_at(context.entry_bounds, INT64),
            place * context.rows * SEGMENT_BOUNDS),
            start, stop, rows, masks, places,
        )  # fmt: skip
        # Nothing follows on sums that go straight into the weights: delta stays in the L1 cache.
        inputs = max(rows[1] - rows[0], 1) if descend else GRADIENT_INPUTS
        for first in range(rows[0], rows[1], inputs):
            block = first, min(first + inputs, rows[1])
            sparse_gradient_product(
                masks, places, value, delta, start * stride, stride,
                floats_at(context, context.theta if descend else context.gradient), layer.weights,
                layer.D,
                block, panels, context.columns, -lr if descend else 1.0, descend or start > 0,
            )  # fmt: skip
            if stop == batch and not descend:
                finish_block(context, layer, block, panels, lr, corrections, training)


@kernel
def dense_gradient(
    context: EngineContext,
    source: DataDescriptor,
    number: int,
    order: IntArray,
    rows: tuple[int, int],
    panels: tuple[int, int],
    lr: float,
    corrections: Float64Vector,
    training: bool,
    worker: int,
    workers: int,
) -> None:
    """Compute rows and panels of dW[l] as a product; update, in training."""
    layer, columns, descend = (
        layer_at(context, number),
        context.columns,
        updates_directly(context, training),
    )
    below, below_stride, numbers = layer_inputs(context, source, number, order)
    batch = len(order)
    place, stride = delta_location(context, number, worker, workers)
    delta = floats_at(context, place)
    # Its own panels are packed by each worker, to a place that is its own in every layer: others
    # may be a layer behind. Too few panels to cut are read where they lie.
    packed = layer.panels >= workers
    first_panel = worker * ((context.most_panels + workers - 1) // workers) - panels[0]
    right = unchecked_tail(
        floats_at(context, context.right), first_panel * batch * columns * packed
    )
    if packed:
        pack_panels(delta, 0, stride, batch, right, panels, columns)
    height, most = rows_per_block(batch, context.itemsize), terms_per_chunk(batch)
    for k in range(0, batch, most):
        terms = k, min(k + most, batch)
        for first in range(rows[0], rows[1], height):
            block = first, min(first + height, rows[1])
            multiply_transposed(
                below, 0, below_stride, numbers,
                right if packed else delta, 0,
                columns if packed else stride, batch * columns if packed else columns,
                floats_at(context, context.theta if descend else context.gradient), layer.weights,
                layer.D,
                terms, block, panels, columns,
                floats_at(context, context.left), worker * A_BLOCK, -lr if descend else 1.0,
                descend,
            )  # fmt: skip
            if terms[1] == batch and not descend:
                finish_block(context, layer, block, panels, lr, corrections, training)


@kernel
def finish_block(
    context: EngineContext,
    layer: LayerDescriptor,
    rows: tuple[int, int],
    panels: tuple[int, int],
    lr: float,
    corrections: Float64Vector,
    training: bool,
) -> None:
    """Add the L2 term to a block of the weights' gradient, and update while it is in the cache."""
    for p in range(panels[0], panels[1]):
        start = layer.weights + (p * layer.D + rows[0]) * context.columns
        stop = layer.weights + (p * layer.D + rows[1]) * context.columns
        if context.l2 != 0.0:
            gradient = unchecked_slice(floats_at(context, context.gradient), start, stop)
            W = unchecked_slice(floats_at(context, context.theta), start, stop)
            l2 = cast_like(context.l2, W)
            for i in range(len(W)):
                gradient[i] += l2 * W[i]
        if training:
            update(context, start, stop, lr, corrections, context.decay)


@kernel
def update(
    context: EngineContext,
    start: int,
    stop: int,
    lr: float,
    corrections: Float64Vector,
    decay: float,
) -> None:
    """Take one optimizer step with a stretch of the flat parameters."""
    theta, gradient = (
        unchecked_slice(floats_at(context, context.theta), start, stop),
        unchecked_slice(floats_at(context, context.gradient), start, stop),
    )
    if context.optimizer == SGD:
        sgd(theta, gradient, lr)
        return
    first = unchecked_slice(floats_at(context, context.first), start, stop)
    if context.optimizer == MOMENTUM:
        momentum(theta, gradient, first, lr, context.momentum)
    elif context.optimizer == NESTEROV:
        nesterov(theta, gradient, first, lr, context.momentum)
    else:
        second = unchecked_slice(floats_at(context, context.second), start, stop)
        adam(
            theta, gradient, first, second, lr, context.beta1, context.beta2, corrections[2],
            corrections, decay,
        )  # fmt: skip

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

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.intrinsics import like
from fusedmlp_numba.kernels import (
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
from fusedmlp_numba.masks import GRADIENT_INPUTS, gather_gradient, mask_entries
from fusedmlp_numba.products import (
    block_rows,
    chunk,
    multiply,
    multiply_transposed,
    pack_panels,
    transpose_panels,
)
from fusedmlp_numba.shares import (
    by_rows,
    delta_place,
    entry_place,
    in_place,
    layer_at,
    share,
    shares,
    unit_rows,
)
from fusedmlp_numba.sizes import BLOCK, BOUNDS, MASK_ROWS, MOMENTUM, NESTEROV, SGD
from fusedmlp_numba.sparse import gather_product
from fusedmlp_numba.views import (
    BYTES,
    COUNTS,
    ENDLESS,
    FLOATS,
    INTS,
    matrix,
    part,
    reals,
    table,
    tail,
    vector,
)

if TYPE_CHECKING:
    from fusedmlp.types import Float64Vector, FloatArray, IntArray
    from fusedmlp_numba.layout import Layer, Plan
    from fusedmlp_numba.sources import Source


@kernel
def transpose(plan: Plan, number: int, worker: int, workers: int) -> None:
    """Copy a worker's share of W[l]ᵀ, for l > 0: its panels are those of the layer below."""
    layer = layer_at(plan, number)
    transpose_panels(
        reals(plan, plan.theta), layer.weights, layer.D, layer.H, reals(plan, plan.transposed), 0,
        share(layer_at(plan, number - 1).panels, worker, workers), plan.columns,
    )  # fmt: skip


@kernel
def layer_inputs(
    plan: Plan, source: Source, number: int, order: IntArray
) -> tuple[FloatArray, int, IntArray]:
    """Return a[l], its row stride, and which of its rows are the batch's.

    The numbers are (B,), or (0,) where the batch is a[l]'s first B rows. a[0] is (N, D) where it
    is read in place, all else (B, width).
    """
    layer = layer_at(plan, number)
    if number == 0 and in_place(source, len(order)):
        return reals(plan, source.x), layer.D, order
    return reals(plan, layer.below), layer.below_stride, part(order, 0, 0)


@kernel
def forward_layer(
    plan: Plan,
    source: Source,
    number: int,
    order: IntArray,
    side: int,
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
    layer, hidden, batch = layer_at(plan, number), number < plan.depth - 1, len(order)
    theta, out = reals(plan, plan.theta), reals(plan, layer.a)
    if apart or (not hidden and by_rows(plan, workers)):
        rows, panels = share(batch, worker, workers), (0, layer.panels)
    else:
        rows, panels = shares(batch, layer.panels, worker, workers)
    if number == 0 and source.sparse:
        place = entry_place(plan, side, worker)
        gather_product(
            tail(vector(plan.entry_index, COUNTS), place * plan.room),
            tail(reals(plan, plan.entry_value), place * plan.room),
            tail(vector(plan.entry_bounds, INTS), place * plan.rows * BOUNDS),
            theta, layer.weights, layer.D, out, 0, layer.stride, rows, panels, plan.columns,
        )  # fmt: skip
    else:
        below, stride, numbers = layer_inputs(plan, source, number, order)
        multiply(
            below, 0, stride, numbers, tail(theta, layer.weights), 0, layer.D,
            out, 0, layer.stride, rows, panels, plan.columns, 1.0, False,
        )  # fmt: skip
    if not hidden:
        return
    first, last = panels[0] * plan.columns, panels[1] * plan.columns
    a = matrix(plan, layer.a, rows[0], rows[1], layer.stride)
    bias_activation(a, tail(theta, layer.bias), plan.hidden, first, last)
    if training and plan.keep < 1.0:
        kept = part(table(layer.kept, BYTES, layer.stride), rows[0], rows[1])
        dropout_mask(
            kept, a, 1.0 / plan.keep, plan.seed, np.uint64(step), np.uint64(number),
            plan.threshold, first, last, rows[0],
        )  # fmt: skip


@kernel
def output_delta(
    plan: Plan, source: Source, rows: IntArray, scale: float, worker: int, workers: int
) -> None:
    """Turn a worker's share of the last product into the delta; note losses and hits by row."""
    layer = layer_at(plan, plan.depth - 1)
    first, last = share(len(rows), worker, workers)
    z = matrix(plan, layer.a, first, last, layer.stride)
    b = part(reals(plan, plan.theta), layer.bias, layer.bias + layer.H)
    labels = vector(source.labels, INTS)
    targets = matrix(plan, source.targets, 0, ENDLESS, layer.H)
    w = part(reals(plan, source.sample_weight), 0, ENDLESS * source.weighted)
    losses = part(vector(plan.row_loss, FLOATS), first, last)
    correct = part(vector(plan.row_correct, FLOATS), first, last)
    chosen = part(rows, first, last)
    room = tail(reals(plan, plan.scratch), worker * plan.scratch_size)
    if plan.output == SOFTMAX_OUTPUT:
        softmax_cross_entropy(z, b, labels, w, chosen, scale, losses, correct, room)
    elif plan.output == SIGMOID_OUTPUT:
        sigmoid_cross_entropy(z, b, targets, w, chosen, scale, losses, correct, room)
    elif plan.output == EXP_OUTPUT:
        poisson_deviance(z, b, targets, w, chosen, scale, losses, correct, room)
    else:
        squared_error(z, b, targets, w, chosen, scale, losses, correct, room)


@kernel
def write_outputs(plan: Plan, out: FloatArray, worker: int, workers: int) -> None:
    """Write a worker's share of the batch's outputs ŷ (B, K)."""
    layer = layer_at(plan, plan.depth - 1)
    first, last = share(len(out), worker, workers)
    z = matrix(plan, layer.a, first, last, layer.stride)
    b = part(reals(plan, plan.theta), layer.bias, layer.bias + layer.H)
    room = tail(reals(plan, plan.scratch), worker * plan.scratch_size)
    output_activation(z, b, plan.output, part(out, first, last), room)


@kernel
def hand_down(plan: Plan, number: int, batch: int, worker: int, workers: int) -> None:
    """Compute a worker's share of delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]), for l > 0.

    W[l]ᵀ is there: the worker's panels of it, or all of it where its share is rows.
    """
    layer, under = layer_at(plan, number), layer_at(plan, number - 1)
    rows, panels = shares(batch, under.panels, worker, workers)
    place, stride = delta_place(plan, number - 1, worker, workers)
    in_order = part(vector(plan.sync, INTS), 0, 0)  # no numbers: delta is the batch's
    multiply(
        reals(plan, layer.delta), 0, layer.stride, in_order,
        reals(plan, plan.transposed), 0, layer.H,
        reals(plan, place), 0, stride, rows, panels, plan.columns, 1.0, False,
    )  # fmt: skip
    hidden_delta(
        matrix(plan, place, rows[0], rows[1], stride),
        matrix(plan, under.a, rows[0], rows[1], under.stride),
        part(table(under.kept, BYTES, under.stride), rows[0], rows[1]),
        plan.hidden, plan.keep, panels[0] * plan.columns, panels[1] * plan.columns,
    )  # fmt: skip


@kernel
def gradient_layer(
    plan: Plan,
    source: Source,
    number: int,
    order: IntArray,
    side: int,
    lr: float,
    corrections: Float64Vector,
    training: bool,
    worker: int,
    workers: int,
) -> None:
    """Compute a worker's share of dW[l] = a[l]ᵀ·delta[l + 1] and db[l]; update, in training.

    Plain SGD goes straight from the sums in registers into the weights.
    """
    layer, columns, batch = layer_at(plan, number), plan.columns, len(order)
    rows, panels = shares(layer.D, layer.panels, worker, workers)
    if layer.panels < workers:
        rows = unit_rows(plan, number, worker, workers)
    if number == 0 and source.sparse:
        sparse_gradient(plan, batch, side, rows, panels, lr, corrections, training, worker, workers)
    else:
        dense_gradient(
            plan, source, number, order, rows, panels, lr, corrections, training, worker, workers
        )
    if layer.panels >= workers or worker == 0:
        first, last = panels[0] * columns, panels[1] * columns
        place, stride = delta_place(plan, number, worker, workers)
        delta = matrix(plan, place, 0, batch, stride)
        column_sums(delta, tail(reals(plan, plan.gradient), layer.bias), first, last)
        if training:
            update(plan, layer.bias + first, layer.bias + last, lr, corrections, 0.0)


@kernel
def descends(plan: Plan, training: bool) -> bool:
    """Whether sums go straight into the weights: plain SGD needs no other place for them."""
    return training and plan.optimizer == SGD and plan.l2 == 0.0


@kernel
def sparse_gradient(
    plan: Plan,
    batch: int,
    side: int,
    rows: tuple[int, int],
    panels: tuple[int, int],
    lr: float,
    corrections: Float64Vector,
    training: bool,
    worker: int,
    workers: int,
) -> None:
    """Compute rows and panels of dW[0] from the batch's entries; update, in training."""
    layer, descend = layer_at(plan, 0), descends(plan, training)
    masks = part(tail(vector(plan.masks, INTS), worker * plan.mask_room), 0, layer.D)
    places = tail(vector(plan.mask_places, INTS), worker * 2 * MASK_ROWS)
    at, stride = delta_place(plan, 0, worker, workers)
    delta, place = reals(plan, at), entry_place(plan, side, worker)
    value = tail(reals(plan, plan.entry_value), place * plan.room)
    for start in range(0, batch, MASK_ROWS):
        stop = min(start + MASK_ROWS, batch)
        mask_entries(
            tail(vector(plan.entry_index, COUNTS), place * plan.room),
            tail(vector(plan.entry_bounds, INTS), place * plan.rows * BOUNDS),
            start, stop, rows, masks, places,
        )  # fmt: skip
        # Nothing follows on sums that go straight into the weights: delta stays in the L1 cache.
        inputs = max(rows[1] - rows[0], 1) if descend else GRADIENT_INPUTS
        for first in range(rows[0], rows[1], inputs):
            block = first, min(first + inputs, rows[1])
            gather_gradient(
                masks, places, value, delta, start * stride, stride,
                reals(plan, plan.theta if descend else plan.gradient), layer.weights, layer.D,
                block, panels, plan.columns, -lr if descend else 1.0, descend or start > 0,
            )  # fmt: skip
            if stop == batch and not descend:
                finish(plan, layer, block, panels, lr, corrections, training)


@kernel
def dense_gradient(
    plan: Plan,
    source: Source,
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
    layer, columns, descend = layer_at(plan, number), plan.columns, descends(plan, training)
    below, below_stride, numbers = layer_inputs(plan, source, number, order)
    batch = len(order)
    place, stride = delta_place(plan, number, worker, workers)
    delta = reals(plan, place)
    # Its own panels are packed by each worker, to a place that is its own in every layer: others
    # may be a layer behind. Too few panels to cut are read where they lie.
    packed = layer.panels >= workers
    first_panel = worker * ((plan.most_panels + workers - 1) // workers) - panels[0]
    right = tail(reals(plan, plan.right), first_panel * batch * columns * packed)
    if packed:
        pack_panels(delta, 0, stride, batch, right, panels, columns)
    height, most = block_rows(batch, plan.itemsize), chunk(batch)
    for k in range(0, batch, most):
        terms = k, min(k + most, batch)
        for first in range(rows[0], rows[1], height):
            block = first, min(first + height, rows[1])
            multiply_transposed(
                below, 0, below_stride, numbers,
                right if packed else delta, 0,
                columns if packed else stride, batch * columns if packed else columns,
                reals(plan, plan.theta if descend else plan.gradient), layer.weights, layer.D,
                terms, block, panels, columns,
                reals(plan, plan.left), worker * BLOCK, -lr if descend else 1.0, descend,
            )  # fmt: skip
            if terms[1] == batch and not descend:
                finish(plan, layer, block, panels, lr, corrections, training)


@kernel
def finish(
    plan: Plan,
    layer: Layer,
    rows: tuple[int, int],
    panels: tuple[int, int],
    lr: float,
    corrections: Float64Vector,
    training: bool,
) -> None:
    """Add the L2 term to a block of the weights' gradient, and update while it is in the cache."""
    for p in range(panels[0], panels[1]):
        start = layer.weights + (p * layer.D + rows[0]) * plan.columns
        stop = layer.weights + (p * layer.D + rows[1]) * plan.columns
        if plan.l2 != 0.0:
            gradient = part(reals(plan, plan.gradient), start, stop)
            W = part(reals(plan, plan.theta), start, stop)
            l2 = like(plan.l2, W)
            for i in range(len(W)):
                gradient[i] += l2 * W[i]
        if training:
            update(plan, start, stop, lr, corrections, plan.decay)


@kernel
def update(
    plan: Plan, start: int, stop: int, lr: float, corrections: Float64Vector, decay: float
) -> None:
    """Take one optimizer step with a stretch of the flat parameters."""
    theta, gradient = (
        part(reals(plan, plan.theta), start, stop),
        part(reals(plan, plan.gradient), start, stop),
    )
    if plan.optimizer == SGD:
        sgd(theta, gradient, lr)
        return
    first = part(reals(plan, plan.first), start, stop)
    if plan.optimizer == MOMENTUM:
        momentum(theta, gradient, first, lr, plan.momentum)
    elif plan.optimizer == NESTEROV:
        nesterov(theta, gradient, first, lr, plan.momentum)
    else:
        second = part(reals(plan, plan.second), start, stop)
        adam(
            theta, gradient, first, second, lr, plan.beta1, plan.beta2, corrections[2],
            corrections, decay,
        )  # fmt: skip

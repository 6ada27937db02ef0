"""One layer of a step in compiled code, or what is not yet a layer: a worker's share of each part.

Every worker runs these same functions with its own number, on its own rows or panels. What it
computes never depends on how many workers there are, and sums over the batch's rows run in one
order on one worker: the bits are the same for any number. Where a worker needs what others have
computed, steps.py puts a barrier between the calls. The formulas are in kernels.py, the products
in products.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.intrinsics import like, matrix
from fusedmlp_numba.kernels import (
    SIGMOID_OUTPUT,
    SOFTMAX_OUTPUT,
    adam,
    bias_activation,
    dropout_mask,
    gather_rows,
    hidden_delta,
    momentum,
    nesterov,
    sgd,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)
from fusedmlp_numba.products import (
    BLOCK,
    block_rows,
    gather_csr,
    gather_dense,
    gather_gradient,
    gather_product,
    multiply,
    multiply_transposed,
    pack_panels,
)

if TYPE_CHECKING:
    from fusedmlp.types import Float64Vector, FloatArray, IntArray
    from fusedmlp_numba.layout import Buffers, Rules, Shape, Source

OPTIMIZER_KERNELS: Final = ("sgd", "momentum", "nesterov", "adam")
SGD, MOMENTUM, NESTEROV = range(3)

(
    PIXELS,
    SINGLE,
    DOUBLE,
    CSR_SINGLE,
    CSR_DOUBLE,
    SHORT_PIXELS,
    SHORT_SINGLE,
    SHORT_DOUBLE,
) = range(8)
"""Kinds of a Source."""


@kernel
def share(n: int, worker: int, workers: int) -> tuple[int, int]:
    """Return a worker's part of n things."""
    return n * worker // workers, n * (worker + 1) // workers


@kernel
def shares(
    rows: int, panels: int, worker: int, workers: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a worker's rows and panels of a matrix; rows are cut where panels are too few."""
    if panels >= workers:
        return (0, rows), share(panels, worker, workers)
    return share(rows, worker, workers), (0, panels)


@kernel
def gather(
    shape: Shape, buffers: Buffers, source: Source, rows: IntArray, worker: int, workers: int
) -> None:
    """Bring a worker's share of the batch's inputs into x, or into lists of nonzero entries."""
    first, last = share(len(rows), worker, workers)
    if source.sparse:
        gather_sparse(buffers, source, rows, first, last)
        return
    x = matrix(buffers.x, 0, first, last, shape.sizes[0])
    mine = rows[first:last]
    if source.kind == PIXELS:
        gather_rows(source.pixels, mine, x, True)
    elif source.kind == SINGLE:
        gather_rows(source.single, mine, x, False)
    else:
        gather_rows(source.double, mine, x, False)


@kernel
def gather_sparse(buffers: Buffers, source: Source, rows: IntArray, first: int, last: int) -> None:
    """List the nonzero inputs of rows first to last of the batch, whatever they are stored as."""
    index, value, stop = buffers.entry_index, buffers.entry_value, buffers.entry_stop
    room = source.capacity
    if source.kind == PIXELS:
        gather_dense(
            source.pixels, rows, True,
            first, last, room, index, value, stop,
        )  # fmt: skip
    elif source.kind == SINGLE:
        gather_dense(
            source.single, rows, False,
            first, last, room, index, value, stop,
        )  # fmt: skip
    elif source.kind == DOUBLE:
        gather_dense(
            source.double, rows, False,
            first, last, room, index, value, stop,
        )  # fmt: skip
    elif source.kind == CSR_SINGLE:
        gather_csr(
            source.indptr, source.indices, source.single_data, rows, False,
            first, last, room, index, value, stop,
        )  # fmt: skip
    elif source.kind == CSR_DOUBLE:
        gather_csr(
            source.indptr, source.indices, source.double_data, rows, False,
            first, last, room, index, value, stop,
        )  # fmt: skip
    elif source.kind == SHORT_PIXELS:
        gather_csr(
            source.indptr, source.short_indices, source.pixel_data, rows, True,
            first, last, room, index, value, stop,
        )  # fmt: skip
    elif source.kind == SHORT_SINGLE:
        gather_csr(
            source.indptr, source.short_indices, source.single_data, rows, False,
            first, last, room, index, value, stop,
        )  # fmt: skip
    else:
        gather_csr(
            source.indptr, source.short_indices, source.double_data, rows, False,
            first, last, room, index, value, stop,
        )  # fmt: skip


@kernel
def forward_layer(
    shape: Shape,
    buffers: Buffers,
    rules: Rules,
    source: Source,
    layer: int,
    batch: int,
    step: int,
    training: bool,
    worker: int,
    workers: int,
) -> None:
    """Compute a worker's share of a[l + 1] = f(a[l]·W[l] + b[l]), or of the last product.

    The last bias is left to the output kernels.
    """
    columns, D, width = shape.columns, shape.widths[layer], shape.widths[layer + 1]
    hidden = layer < len(shape.weights) - 1
    out = buffers.a if hidden else buffers.delta
    at = shape.rows[layer + 1]
    rows, panels = shares(batch, width // columns, worker, workers)
    if layer == 0 and source.sparse:
        gather_product(
            buffers.entry_index, buffers.entry_value, buffers.entry_stop, source.capacity,
            buffers.theta, shape.weights[0], shape.sizes[0],
            out, at, width, rows, panels, columns,
        )  # fmt: skip
    else:
        multiply(
            buffers.x if layer == 0 else buffers.a, shape.rows[layer], D,
            buffers.theta, shape.weights[layer], shape.sizes[layer],
            out, at, width, rows, panels, columns,
        )  # fmt: skip
    if not hidden:
        return
    first, last = panels[0] * columns, panels[1] * columns
    a = matrix(out, at, rows[0], rows[1], width)
    b = buffers.theta[shape.biases[layer] :][:width]
    bias_activation(a, b, rules.hidden, first, last)
    if training and rules.keep < 1.0:
        kept = matrix(buffers.kept, at, rows[0], rows[1], width)
        dropout_mask(
            kept, rules.seed, np.uint64(step), np.uint64(layer), rules.threshold,
            first, last, rows[0],
        )  # fmt: skip
        drop(a, kept, 1.0 / rules.keep, first, last)


@kernel
def drop(a: FloatArray, kept: FloatArray, factor: float, first: int, last: int) -> None:
    """Compute a ← a ⊙ kept · factor in columns first to last."""
    scale = like(factor, a)
    for i in range(len(a)):
        row, mask = a[i][first:last], kept[i][first:last]
        for j in range(len(row)):
            row[j] = row[j] * like(mask[j], a) * scale


@kernel
def output_delta(
    shape: Shape,
    buffers: Buffers,
    rules: Rules,
    source: Source,
    rows: IntArray,
    scale: float,
    worker: int,
    workers: int,
) -> None:
    """Turn a worker's share of the last product into the delta; note losses and hits by row."""
    L = len(shape.weights)
    mine = share(len(rows), worker, workers)
    z = matrix(buffers.delta, shape.rows[L], mine[0], mine[1], shape.widths[L])
    b = buffers.theta[shape.biases[L - 1] :][: shape.sizes[L]]
    w, chosen = source.sample_weight, rows[mine[0] : mine[1]]
    losses, correct = buffers.row_loss[mine[0] : mine[1]], buffers.row_correct[mine[0] : mine[1]]
    if rules.output == SOFTMAX_OUTPUT:
        softmax_cross_entropy(z, b, source.labels, w, chosen, scale, losses, correct)
    elif rules.output == SIGMOID_OUTPUT:
        sigmoid_cross_entropy(z, b, source.targets, w, chosen, scale, losses, correct)
    else:
        squared_error(z, b, source.targets, w, chosen, scale, losses, correct)


@kernel
def hand_down(
    shape: Shape,
    buffers: Buffers,
    rules: Rules,
    layer: int,
    batch: int,
    worker: int,
    workers: int,
) -> None:
    """Compute a worker's share of delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]), for l > 0."""
    columns, width = shape.columns, shape.widths[layer]
    rows, panels = shares(batch, width // columns, worker, workers)
    multiply(
        buffers.delta, shape.rows[layer + 1], shape.widths[layer + 1],
        buffers.transposed, shape.transposed[layer], shape.sizes[layer + 1],
        buffers.delta, shape.rows[layer], width, rows, panels, columns,
    )  # fmt: skip
    first, last = panels[0] * columns, panels[1] * columns
    delta = matrix(buffers.delta, shape.rows[layer], rows[0], rows[1], width)
    if rules.keep < 1.0:
        kept = matrix(buffers.kept, shape.rows[layer], rows[0], rows[1], width)
        drop(delta, kept, 1.0 / rules.keep, first, last)
    a = matrix(buffers.a, shape.rows[layer], rows[0], rows[1], width)
    hidden_delta(delta, a, rules.hidden, rules.keep, first, last)


@kernel
def gradient_layer(
    shape: Shape,
    buffers: Buffers,
    rules: Rules,
    source: Source,
    layer: int,
    batch: int,
    lr: float,
    corrections: Float64Vector,
    training: bool,
    worker: int,
    workers: int,
) -> None:
    """Compute a worker's share of dW[l] = a[l]ᵀ·delta[l + 1] and db[l]; update, in training."""
    columns, D, width = shape.columns, shape.sizes[layer], shape.widths[layer + 1]
    at, w = shape.rows[layer + 1], shape.weights[layer]
    rows, panels = shares(D, width // columns, worker, workers)
    sparse = layer == 0 and source.sparse
    if sparse:
        descend = training and rules.optimizer == SGD and rules.l2 == 0.0
        gather_gradient(
            buffers.list_row, buffers.list_value, buffers.list_start, buffers.list_stop,
            buffers.delta, at, width,
            buffers.theta if descend else buffers.gradient, w, D,
            rows, panels, columns, -lr if descend else 1.0, descend,
        )  # fmt: skip
        if not descend:
            finish(buffers, rules, w, D, rows, panels, columns, lr, corrections, training)
    else:
        # Its own panels are packed by each worker; too few panels to cut are read where they lie.
        packed = width // columns >= workers
        if packed:
            pack_panels(buffers.delta, at, width, batch, buffers.right, panels, columns)
        height = block_rows(batch)
        for i in range(rows[0], rows[1], height):
            block = (i, min(i + height, rows[1]))
            multiply_transposed(
                buffers.x if layer == 0 else buffers.a, shape.rows[layer], shape.widths[layer],
                buffers.right if packed else buffers.delta,
                0 if packed else at,
                columns if packed else width,
                batch * columns if packed else columns,
                batch, buffers.gradient, w, D, block, panels, columns,
                buffers.left, worker * BLOCK,
            )  # fmt: skip
            finish(buffers, rules, w, D, block, panels, columns, lr, corrections, training)
    if width // columns >= workers or worker == 0:
        first, last = panels[0] * columns, panels[1] * columns
        bias = shape.biases[layer]
        column_sums(
            matrix(buffers.delta, at, 0, batch, width),
            buffers.gradient[bias:][:width], first, last,
        )  # fmt: skip
        if training:
            update(buffers, rules, bias + first, bias + last, lr, corrections, 0.0)


@kernel
def finish(
    buffers: Buffers,
    rules: Rules,
    w: int,
    D: int,
    rows: tuple[int, int],
    panels: tuple[int, int],
    columns: int,
    lr: float,
    corrections: Float64Vector,
    training: bool,
) -> None:
    """Add the L2 term to a block of the weights' gradient, and update while it is in the cache."""
    for p in range(panels[0], panels[1]):
        start, stop = w + (p * D + rows[0]) * columns, w + (p * D + rows[1]) * columns
        if rules.l2 != 0.0:
            gradient, W = buffers.gradient[start:stop], buffers.theta[start:stop]
            l2 = like(rules.l2, W)
            for i in range(len(W)):
                gradient[i] += l2 * W[i]
        if training:
            update(buffers, rules, start, stop, lr, corrections, rules.decay)


@kernel
def column_sums(delta: FloatArray, out: FloatArray, first: int, last: int) -> None:
    """Db = 1ᵀ·delta in columns first to last, summed in the order of the rows."""
    sums = out[first:last]
    sums[:] = like(0.0, out)
    for i in range(len(delta)):
        row = delta[i][first:last]
        for j in range(len(row)):
            sums[j] += row[j]


@kernel
def update(
    buffers: Buffers,
    rules: Rules,
    start: int,
    stop: int,
    lr: float,
    corrections: Float64Vector,
    decay: float,
) -> None:
    """Take one optimizer step with a stretch of the flat parameters."""
    theta, gradient = buffers.theta[start:stop], buffers.gradient[start:stop]
    if rules.optimizer == SGD:
        sgd(theta, gradient, lr)
        return
    first = buffers.first[start:stop]
    if rules.optimizer == MOMENTUM:
        momentum(theta, gradient, first, lr, rules.momentum)
    elif rules.optimizer == NESTEROV:
        nesterov(theta, gradient, first, lr, rules.momentum)
    else:
        second = buffers.second[start:stop]
        adam(
            theta, gradient, first, second, lr, rules.beta1, rules.beta2, rules.eps, corrections,
            decay,
        )  # fmt: skip

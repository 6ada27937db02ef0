"""Whole steps in compiled code: forward, backward and update for every batch of one call.

Each pass strings together the parts of layers.py. Every worker runs the same passes, and meets the
others at a barrier wherever it needs their results. At the end stand the entries, the two
functions that Python calls (see caching.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.caching import STAMP, Entry, kernel
from fusedmlp_numba.intrinsics import atomic_add, atomic_load, matrix, yield_processor
from fusedmlp_numba.kernels import output_activation
from fusedmlp_numba.layers import (
    forward_layer,
    gather,
    gradient_layer,
    hand_down,
    output_delta,
    share,
    update,
)
from fusedmlp_numba.products import list_columns, transpose_panels

if TYPE_CHECKING:
    from fusedmlp.types import Float64Array, Float64Vector, FloatArray, IntArray
    from fusedmlp_numba.layout import Buffers, Rules, Shape, Source

ARRIVED, ROUND, FAILED = 0, 8, 16
"""The barrier's counters in ``sync``, a cache line apart."""

SPINS: Final = 2000
"""Reads of the barrier before a waiting worker offers its processor: some microseconds."""

TRAIN, GRADIENTS, EVALUATE, FORWARD = range(4)
"""What a pass over the batches does."""


@kernel
def barrier(sync: IntArray, workers: int) -> bool:
    """Wait for all workers; False where one has failed, and the others should leave."""
    if workers == 1:
        return True
    current = atomic_load(sync, ROUND)
    if atomic_add(sync, ARRIVED, 1) == workers - 1:
        atomic_add(sync, ARRIVED, -workers)
        atomic_add(sync, ROUND, 1)
        return True
    spins = 0
    while atomic_load(sync, ROUND) == current:
        spins += 1
        if spins > SPINS:
            if atomic_load(sync, FAILED) != 0:
                return False
            yield_processor()
    return True


@kernel
def batch_weight(source: Source, rows: IntArray) -> float:
    """Σ wᵢ of a batch."""
    w = source.sample_weight
    if len(w) == 0:
        return float(len(rows))
    total = 0.0
    for row in rows:
        total += np.float64(w[row])
    return total


@kernel
def forward_pass(
    shape: Shape,
    buffers: Buffers,
    rules: Rules,
    source: Source,
    rows: IntArray,
    step: int,
    training: bool,
    worker: int,
    workers: int,
) -> bool:
    """Fill the activations and the last product for a batch; False where a worker has failed."""
    sync, batch = buffers.sync, len(rows)
    gather(shape, buffers, source, rows, worker, workers)
    if not barrier(sync, workers):
        return False
    if training and source.sparse:
        first, last = share(shape.sizes[0], worker, workers)
        list_columns(
            buffers.entry_index, buffers.entry_value, buffers.entry_stop,
            batch, source.capacity, first, last,
            buffers.list_row, buffers.list_value, buffers.list_start, buffers.list_stop,
        )  # fmt: skip
    for layer in range(len(shape.weights)):
        forward_layer(shape, buffers, rules, source, layer, batch, step, training, worker, workers)
        if not barrier(sync, workers):
            return False
    return True


@kernel
def backward_pass(
    shape: Shape,
    buffers: Buffers,
    rules: Rules,
    source: Source,
    batch: int,
    lr: float,
    corrections: Float64Vector,
    training: bool,
    worker: int,
    workers: int,
) -> bool:
    """Fill the gradients, and update in training; False where a worker has failed.

    delta[L] = ŷ − y;  dW[l] = a[l]ᵀ·delta[l + 1];  db[l] = 1ᵀ·delta[l + 1];
    delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]).
    """
    for layer in range(len(shape.weights) - 1, -1, -1):
        # Wᵀ was copied before: these weights may change while other workers still need the old.
        if layer > 0:
            hand_down(shape, buffers, rules, layer, batch, worker, workers)
        gradient_layer(
            shape, buffers, rules, source, layer, batch, lr, corrections, training, worker, workers
        )
        if not barrier(buffers.sync, workers):
            return False
    return True


@kernel
def losses_pass(
    shape: Shape,
    buffers: Buffers,
    rules: Rules,
    source: Source,
    rows: IntArray,
    training: bool,
    sums: Float64Vector,
    worker: int,
    workers: int,
) -> bool:
    """Turn the last product into delta[L], and write the batch's loss, correct and weight sums.

    In training Wᵀ is copied too, for the backward pass. False where a worker has failed.
    """
    weight = batch_weight(source, rows)
    scale = 1.0
    if rules.mean:
        scale = 1.0 / weight if weight != 0.0 else 0.0
    output_delta(shape, buffers, rules, source, rows, scale, worker, workers)
    if training:
        for layer in range(1, len(shape.weights)):
            panels = shape.widths[layer] // shape.columns
            transpose_panels(
                buffers.theta, shape.weights[layer], shape.sizes[layer], shape.sizes[layer + 1],
                buffers.transposed, shape.transposed[layer],
                share(panels, worker, workers), shape.columns,
            )  # fmt: skip
    if not barrier(buffers.sync, workers):
        return False
    if worker == 0:
        loss, correct = 0.0, 0.0
        for i in range(len(rows)):
            loss += buffers.row_loss[i]
            correct += buffers.row_correct[i]
        sums[0], sums[1], sums[2] = loss, correct, weight
    return True


@kernel
def write_outputs(
    shape: Shape, buffers: Buffers, rules: Rules, out: FloatArray, worker: int, workers: int
) -> None:
    """Write a worker's share of the batch's outputs ŷ (B, K)."""
    L = len(shape.weights)
    first, last = share(len(out), worker, workers)
    z = matrix(buffers.delta, shape.rows[L], first, last, shape.widths[L])
    b = buffers.theta[shape.biases[L - 1] :][: shape.sizes[L]]
    output_activation(z, b, rules.output, out[first:last])


@kernel
def update_all(
    shape: Shape, buffers: Buffers, rules: Rules, lr: float, corrections: Float64Vector
) -> None:
    """Take one optimizer step along the gradients in the buffers."""
    for layer in range(len(shape.weights)):
        weights, bias = shape.weights[layer], shape.biases[layer]
        update(buffers, rules, weights, bias, lr, corrections, rules.decay)
        update(buffers, rules, bias, bias + shape.widths[layer + 1], lr, corrections, 0.0)


def entries(stamp: str | None) -> tuple[Entry, Entry]:
    """Build the functions that Python calls; ``stamp`` ties their cached code to the sources."""

    def run(
        shape: Shape,
        buffers: Buffers,
        rules: Rules,
        source: Source,
        task: int,
        order: IntArray,
        batch: int,
        first_step: int,
        lr: Float64Vector,
        corrections: Float64Array,
        sums: Float64Array,
        outputs: FloatArray,
        worker: int,
        workers: int,
    ) -> None:
        """Do ``task`` with every batch of ``order``: one worker's part.

        Parameters
        ----------
        lr, corrections
            (n_batches,) and (n_batches, 2); one row is enough for tasks that do not train.
        sums
            (n_batches, 3) loss, correct and weight sums; worker 0 writes them.
        outputs
            (n, K), written by FORWARD.
        """
        stamp  # noqa: B018 - a closure value, and so a part of the cache's key
        training = task in (TRAIN, GRADIENTS)
        for number in range((len(order) + batch - 1) // batch):
            start, t = number * batch, min(number, len(lr) - 1)
            rows, step = order[start : start + batch], first_step + number
            going = forward_pass(
                shape, buffers, rules, source, rows, step, training, worker, workers
            )
            if going and task == FORWARD:
                out = outputs[start : start + len(rows)]
                write_outputs(shape, buffers, rules, out, worker, workers)
            elif going:
                going = losses_pass(
                    shape, buffers, rules, source, rows, training, sums[number], worker, workers
                )
            if going and training:
                going = backward_pass(
                    shape, buffers, rules, source, len(rows), lr[t], corrections[t],
                    task == TRAIN, worker, workers,
                )  # fmt: skip
            elif going:
                going = barrier(buffers.sync, workers)
            if not going:
                return

    def apply(
        shape: Shape, buffers: Buffers, rules: Rules, lr: float, corrections: Float64Vector
    ) -> None:
        stamp  # noqa: B018 - as above
        update_all(shape, buffers, rules, lr, corrections)

    return Entry(run), Entry(apply)


RUN, APPLY = entries(STAMP)

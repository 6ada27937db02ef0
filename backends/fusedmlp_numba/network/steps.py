"""Steps: forward, backward and update for every batch of a call.

Each pass is a sequence of the functions of layers.py and gradients.py. Every worker runs the same
passes, and waits at a barrier where it needs the results of others; elsewhere it continues.
Entries, the functions that Python calls, are in entry_points.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import FORWARD, FORWARD_ROWS, GRADIENTS, TRAIN
from fusedmlp_numba.network.barrier import barrier
from fusedmlp_numba.network.batches import is_training, row_results
from fusedmlp_numba.network.gradients import gradient_layer
from fusedmlp_numba.network.inputs import gather, gather_part
from fusedmlp_numba.network.layers import (
    backpropagate_delta,
    forward_layer,
    output_delta,
    transpose,
    write_outputs,
)
from fusedmlp_numba.network.narrow import narrow_gradients
from fusedmlp_numba.network.partition import (
    Worker,
    entries_of,
    layer_at,
    output_split_by_rows,
    partition,
    reads_in_place,
    units_are_private,
)
from fusedmlp_numba.network.squares import square_panels, sum_squares
from fusedmlp_numba.network.updates import update
from fusedmlp_numba.simd.views import floats_at, unchecked_slice

if TYPE_CHECKING:
    from fusedmlp.types import Float64Array, IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.network.batches import Batch, Results, Step
    from fusedmlp_numba.records import EngineContext

INDEPENDENT_ROWS: Final = 32
"""Rows for each worker from which on each takes its own rows through all layers. With fewer, every
worker reading all weights would cost more than the barriers save."""


@kernel
def batch_weight(context: EngineContext, data: DataDescriptor, rows: IntArray) -> float:
    """Σ wᵢ of a batch."""
    if not data.weighted:
        return float(len(rows))
    w, total = floats_at(context, data.sample_weight), 0.0
    for row in rows:
        total += np.float64(w[row])
    return total


@kernel
def delta_scale(context: EngineContext, weight: float) -> float:
    """Return the factor of delta[L]: 1 for a sum over the batch, 1 / Σ wᵢ for a mean."""
    if not context.settings.mean:
        return 1.0
    return 1.0 / weight if weight != 0.0 else 0.0


@kernel
def forward_pass(
    context: EngineContext, data: DataDescriptor, batch: Batch, training: bool, worker: Worker
) -> bool:
    """Write the activations and the last product of a batch; False where a worker has failed.

    Where the output is split by rows, each worker has only its own rows of the last product.
    """
    last = context.depth - 1
    for layer_index in range(last):
        forward_layer(context, data, layer_index, batch, training, False, worker)
        if not barrier(context, worker.size):
            return False
    forward_layer(context, data, last, batch, training, False, worker)
    return output_split_by_rows(context, worker.size) or barrier(context, worker.size)


@kernel
def sum_rows(
    context: EngineContext, data: DataDescriptor, rows: IntArray, each: int, sums: Float64Array
) -> None:
    """Write the loss, correct and weight sums (parts, SUMS) of every ``each`` rows of a batch."""
    results = row_results(context, 0, len(rows))
    for n in range(len(sums)):
        first, last = n * each, min((n + 1) * each, len(rows))
        loss, correct = 0.0, 0.0
        for i in range(first, last):
            loss += results.losses[i]
            correct += results.correct[i]
        weight = batch_weight(context, data, unchecked_slice(rows, first, last))
        sums[n, 0], sums[n, 1], sums[n, 2] = loss, correct, weight


@kernel
def delta_pass(
    context: EngineContext,
    data: DataDescriptor,
    rows: IntArray,
    each: int,
    sums: Float64Array,
    worker: Worker,
) -> bool:
    """Turn the last product into delta[L], and sum every ``each`` rows.

    False where a worker has failed.
    """
    scale = delta_scale(context, batch_weight(context, data, rows))
    output_delta(context, data, rows, scale, worker)
    if not barrier(context, worker.size):
        return False
    if worker.rank == 0:
        sum_rows(context, data, rows, each, sums)
    return True


@kernel
def backward_pass(
    context: EngineContext, data: DataDescriptor, batch: Batch, step: Step, worker: Worker
) -> bool:
    """Write the gradients, and update in training; False where a worker has failed.

    delta[L] = ŷ − y;  dW[l] = a[l]ᵀ·delta[l + 1];  db[l] = 1ᵀ·delta[l + 1];
    delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]).
    """
    for layer_index in range(context.depth - 1, -1, -1):
        if layer_index > 0 and not delta_below(context, layer_index, len(batch.rows), worker):
            return False
        gradient_layer(context, data, layer_index, batch, step, worker)
    return True


@kernel
def delta_below(context: EngineContext, layer_index: int, B: int, worker: Worker) -> bool:
    """Write delta[l] from delta[l + 1] and W[l], for l > 0; False where a worker has failed.

    W[l] (H, K) is transposed only now, and its gradient follows at once: the whole pass loads it
    into the cache once.
    """
    transpose(context, layer_index, worker)
    by_panels = layer_at(context, layer_index - 1).panels >= worker.size
    if not (by_panels or barrier(context, worker.size)):
        return False
    backpropagate_delta(context, layer_index, B, worker)
    # Neither weights that others may still read nor Wᵀ, whose place the next layer's takes, may
    # change before all workers have arrived.
    if layer_index == 1 and units_are_private(context, worker.size):
        return True
    return barrier(context, worker.size)


@kernel
def update_all(context: EngineContext, step: Step) -> None:
    """Take one optimizer step along the gradients in the buffers."""
    for layer_index in range(context.depth):
        layer = layer_at(context, layer_index)
        update(context, layer.weights, layer.bias, step, context.settings.decay)
        update(context, layer.bias, layer.bias + layer.width, step, 0.0)


@kernel
def narrow_step(
    context: EngineContext, data: DataDescriptor, rows: IntArray, step: Step, sums: Float64Array
) -> None:
    """Do a whole step of a narrow network."""
    scale, alone = delta_scale(context, batch_weight(context, data, rows)), Worker(0, 1)
    narrow_gradients(context, data, rows, scale)
    sum_rows(context, data, rows, len(rows), sums)
    if context.settings.sums_squares:
        square_panels(context, alone)
        sums[0, 3] = sum_squares(context)
    if is_training(step):
        update_all(context, step)


@kernel
def steps_overlap(context: EngineContext, data: DataDescriptor, B: int, workers: int) -> bool:
    """Whether a worker may begin a step while others are still in the one before.

    After the barrier behind delta[L], a worker then uses and changes only its own units of the
    first hidden layer: their weights on both sides, a[1] and delta[1]. Its part of a sparse batch
    is listed before that barrier, and inputs in place need not be copied.
    """
    fetched = data.sparse or reads_in_place(data, B)
    return fetched and units_are_private(context, workers)


@kernel
def inputs_ready(
    context: EngineContext, data: DataDescriptor, batch: Batch, overlap: bool, worker: Worker
) -> bool:
    """Gather a step's inputs and wait for all of them; False where a worker has failed.

    A sparse batch was listed in the step before, beside the one then in use.
    """
    first = batch.number == 0
    if overlap and not first:
        return True
    if reads_in_place(data, len(batch.rows)):
        return first or barrier(context, worker.size)
    if first or not data.sparse:
        if not first and not barrier(context, worker.size):
            return False
        gather_part(context, data, batch.rows, batch.buffer_index, worker)
    return barrier(context, worker.size)


@kernel
def forward_independent(
    context: EngineContext, data: DataDescriptor, batch: Batch, worker: Worker
) -> bool:
    """Gather a batch and compute its outputs, each worker its own rows; False where one has failed.

    No worker needs the results of others. But the batch before may have been partitioned
    differently, and its losses are summed by one worker.
    """
    if batch.number > 0 and not barrier(context, worker.size):
        return False
    span = partition(len(batch.rows), worker)
    gather(context, data, batch.rows, span, entries_of(context, data, batch.buffer_index, worker))
    for layer_index in range(context.depth):
        forward_layer(context, data, layer_index, batch, False, True, worker)
    return True


@kernel
def forward_cooperative(
    context: EngineContext, data: DataDescriptor, batch: Batch, worker: Worker
) -> bool:
    """Gather a batch and compute its outputs, all together; False where a worker has failed."""
    if batch.number > 0 and not barrier(context, worker.size):
        return False
    gather_part(context, data, batch.rows, batch.buffer_index, worker)
    if not barrier(context, worker.size):
        return False
    return forward_pass(context, data, batch, False, worker)


@kernel
def inference_step(
    context: EngineContext,
    data: DataDescriptor,
    batch: Batch,
    step: Step,
    results: Results,
    worker: Worker,
) -> bool:
    """Evaluate or predict a batch; False where a worker has failed."""
    if len(batch.rows) >= INDEPENDENT_ROWS * worker.size:
        done = forward_independent(context, data, batch, worker)
    else:
        done = forward_cooperative(context, data, batch, worker)
    if done and step.task == FORWARD:
        write_outputs(context, results.outputs, worker)
    elif done:
        done = delta_pass(context, data, batch.rows, FORWARD_ROWS, results.sums, worker)
    return done


@kernel
def training_step(
    context: EngineContext,
    data: DataDescriptor,
    batch: Batch,
    step: Step,
    results: Results,
    worker: Worker,
) -> bool:
    """Compute the gradients of a batch, and update in training; False where a worker has failed."""
    overlap = steps_overlap(context, data, len(batch.rows), worker.size)
    following = 1 - batch.buffer_index
    if not inputs_ready(context, data, batch, overlap, worker):
        return False
    if not forward_pass(context, data, batch, True, worker):
        return False
    if overlap and data.sparse:
        gather_part(context, data, batch.upcoming, following, worker)
    if context.settings.sums_squares:
        square_panels(context, worker)  # the barrier of the next pass is behind it
    if not delta_pass(context, data, batch.rows, len(batch.rows), results.sums, worker):
        return False
    if context.settings.sums_squares and worker.rank == 0:
        results.sums[0, 3] = sum_squares(context)
    if not backward_pass(context, data, batch, step, worker):
        return False
    if data.sparse and not overlap:
        gather_part(context, data, batch.upcoming, following, worker)
    return True


@kernel
def batch_step(
    context: EngineContext,
    data: DataDescriptor,
    batch: Batch,
    step: Step,
    results: Results,
    worker: Worker,
) -> bool:
    """Do the step's task with a batch; False where a worker has failed."""
    if step.task == TRAIN or step.task == GRADIENTS:
        return training_step(context, data, batch, step, results, worker)
    return inference_step(context, data, batch, step, results, worker)

"""Whole steps in compiled code: forward, backward and update for every batch of one call.

Each pass strings together the parts of layers.py. Every worker runs the same passes, and meets the
others at a barrier wherever it needs their results; where it needs none, it goes on. At the end
stand the entries, the three functions that Python calls (see native.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.compiler.jit import kernel, object_code
from fusedmlp_numba.constants import (
    APPLY_ARGUMENTS,
    EVALUATE,
    FORWARD,
    FORWARD_ROWS,
    GRADIENTS,
    PACK,
    RUN_ARGUMENTS,
    TRAIN,
)
from fusedmlp_numba.data import DATA_DESCRIPTOR
from fusedmlp_numba.layout import ENGINE_CONTEXTS, KERNEL_ARGUMENTS
from fusedmlp_numba.network.barrier import barrier
from fusedmlp_numba.network.inputs import all_finite, gather, gather_share, pack_data
from fusedmlp_numba.network.layers import (
    backpropagate_delta,
    forward_layer,
    gradient_layer,
    output_delta,
    transpose,
    update,
    write_outputs,
)
from fusedmlp_numba.network.narrow import narrow_gradients
from fusedmlp_numba.network.partition import (
    entry_buffer,
    layer_at,
    output_split_by_rows,
    partition,
    reads_in_place,
    units_are_private,
)
from fusedmlp_numba.simd.views import (
    FLOAT64,
    INT64,
    array_at,
    float_rows_at,
    floats_at,
    record_at,
    table_at,
    unchecked_slice,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.types import Float64Array, Float64Vector, FloatArray, FloatDtype, IntArray
    from fusedmlp_numba.compiler.object_cache import ObjectCode
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.layout import EngineContext

INDEPENDENT_ROWS: Final = 32
"""Rows for each worker from which on each takes its own through all layers: for fewer, reading all
weights would weigh more than what nobody has to wait for."""


@kernel
def batch_weight(context: EngineContext, source: DataDescriptor, rows: IntArray) -> float:
    """Σ wᵢ of a batch."""
    if not source.weighted:
        return float(len(rows))
    w, total = floats_at(context, source.sample_weight), 0.0
    for row in rows:
        total += np.float64(w[row])
    return total


@kernel
def delta_scale(context: EngineContext, weight: float) -> float:
    """Return the factor of delta[L]: 1 for a sum over the batch, 1 / Σ wᵢ for a mean."""
    if not context.mean:
        return 1.0
    return 1.0 / weight if weight != 0.0 else 0.0


@kernel
def forward_pass(
    context: EngineContext,
    source: DataDescriptor,
    order: IntArray,
    buffer_index: int,
    step: int,
    training: bool,
    worker: int,
    workers: int,
) -> bool:
    """Fill the activations and the last product for a batch; False where a worker has failed.

    Where :func:`~fusedmlp_numba.shares.by_rows` holds, each worker has its own rows of the last
    product only.
    """
    last = context.depth - 1
    for number in range(last):
        forward_layer(
            context, source, number, order, buffer_index, step, training, False, worker, workers
        )
        if not barrier(context, workers):
            return False
    forward_layer(
        context, source, last, order, buffer_index, step, training, False, worker, workers
    )
    return output_split_by_rows(context, workers) or barrier(context, workers)


@kernel
def sum_rows(
    context: EngineContext, source: DataDescriptor, rows: IntArray, each: int, sums: Float64Array
) -> None:
    """Write the loss, correct and weight sums of every ``each`` rows of a batch.

    Parameters
    ----------
    sums
        (parts, 3), a row for every ``each`` of the batch's rows.
    """
    losses, hits = array_at(context.row_loss, FLOAT64), array_at(context.row_correct, FLOAT64)
    for n in range(len(sums)):
        first, last = n * each, min((n + 1) * each, len(rows))
        loss, correct = 0.0, 0.0
        for i in range(first, last):
            loss += losses[i]
            correct += hits[i]
        weight = batch_weight(context, source, unchecked_slice(rows, first, last))
        sums[n, 0], sums[n, 1], sums[n, 2] = loss, correct, weight


@kernel
def delta_pass(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    each: int,
    sums: Float64Array,
    worker: int,
    workers: int,
) -> bool:
    """Turn the last product into delta[L], and sum as :func:`sum_rows` does.

    False where a worker has failed.
    """
    scale = delta_scale(context, batch_weight(context, source, rows))
    output_delta(context, source, rows, scale, worker, workers)
    if not barrier(context, workers):
        return False
    if worker == 0:
        sum_rows(context, source, rows, each, sums)
    return True


@kernel
def backward_pass(
    context: EngineContext,
    source: DataDescriptor,
    order: IntArray,
    buffer_index: int,
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
    for number in range(context.depth - 1, -1, -1):
        if number > 0 and not delta_pass_below(context, number, len(order), worker, workers):
            return False
        gradient_layer(
            context, source, number, order, buffer_index, lr, corrections, training, worker, workers
        )
    return True


@kernel
def delta_pass_below(
    context: EngineContext, number: int, batch: int, worker: int, workers: int
) -> bool:
    """Fill delta[l] from delta[l + 1] and W[l], for l > 0; False where a worker has failed.

    W[l] (H, K) is transposed only now, and its gradient follows at once, so that the whole pass
    brings it into the cache once.
    """
    transpose(context, number, worker, workers)
    by_panels = layer_at(context, number - 1).panels >= workers
    if not (by_panels or barrier(context, workers)):
        return False
    backpropagate_delta(context, number, batch, worker, workers)
    # Weights that others may still read must not change, nor Wᵀ: the next layer's goes there.
    return (number == 1 and units_are_private(context, workers)) or barrier(context, workers)


@kernel
def update_all(context: EngineContext, lr: float, corrections: Float64Vector) -> None:
    """Take one optimizer step along the gradients in the buffers."""
    for number in range(context.depth):
        layer = layer_at(context, number)
        update(context, layer.weights, layer.bias, lr, corrections, context.decay)
        update(context, layer.bias, layer.bias + layer.width, lr, corrections, 0.0)


@kernel
def narrow_step(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    lr: float,
    corrections: Float64Vector,
    training: bool,
    sums: Float64Array,
) -> None:
    """Do a whole step of a narrow network."""
    narrow_gradients(
        context, source, rows, delta_scale(context, batch_weight(context, source, rows))
    )
    sum_rows(context, source, rows, len(rows), sums)
    if training:
        update_all(context, lr, corrections)


@kernel
def steps_overlap(context: EngineContext, source: DataDescriptor, batch: int, workers: int) -> bool:
    """Whether a worker may begin a step while others are still in the one before.

    After the barrier behind delta[L], a worker then uses and changes nothing but its own units of
    the first hidden layer: their weights on both sides, a[1] and delta[1]. Its part of a
    sparse batch is gathered before that barrier, and inputs in place need not be.
    """
    return (source.sparse or reads_in_place(source, batch)) and units_are_private(context, workers)


@kernel
def inputs_ready(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    number: int,
    overlap: bool,
    worker: int,
    workers: int,
) -> bool:
    """Gather a step's inputs and wait for all of them; False where a worker has failed.

    A sparse batch was gathered in the step before, beside the one then in use.
    """
    if number > 0 and overlap:
        return True
    if reads_in_place(source, len(rows)):
        return number == 0 or barrier(context, workers)
    if number == 0 or not source.sparse:
        if number > 0 and not barrier(context, workers):
            return False
        gather_share(context, source, rows, number % 2, worker, workers)
    return barrier(context, workers)


@kernel
def forward_independent(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    number: int,
    worker: int,
    workers: int,
) -> bool:
    """Gather a batch and compute its outputs, each worker its own rows; False where one has failed.

    Nobody needs what others have computed; but the batch before may have been cut elsewhere, and
    its losses are one worker's to sum.
    """
    if number > 0 and not barrier(context, workers):
        return False
    first, last = partition(len(rows), worker, workers)
    gather(context, source, rows, first, last, entry_buffer(context, 0, worker))
    for layer in range(context.depth):
        forward_layer(context, source, layer, rows, 0, 0, False, True, worker, workers)
    return True


@kernel
def forward_cooperative(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    number: int,
    worker: int,
    workers: int,
) -> bool:
    """Gather a batch and compute its outputs, all together; False where a worker has failed."""
    if number > 0 and not barrier(context, workers):
        return False
    gather_share(context, source, rows, 0, worker, workers)
    if not barrier(context, workers):
        return False
    return forward_pass(context, source, rows, 0, 0, False, worker, workers)


@kernel
def untrained_step(
    context: EngineContext,
    source: DataDescriptor,
    task: int,
    rows: IntArray,
    number: int,
    sums: Float64Array,
    outputs: FloatArray,
    worker: int,
    workers: int,
) -> bool:
    """Evaluate or predict a batch; False where a worker has failed."""
    if len(rows) >= INDEPENDENT_ROWS * workers:
        done = forward_independent(context, source, rows, number, worker, workers)
    else:
        done = forward_cooperative(context, source, rows, number, worker, workers)
    if done and task == FORWARD:
        write_outputs(context, outputs, worker, workers)
    elif done:
        done = delta_pass(context, source, rows, FORWARD_ROWS, sums, worker, workers)
    return done


@kernel
def batch_step(
    context: EngineContext,
    source: DataDescriptor,
    task: int,
    rows: IntArray,
    upcoming: IntArray,
    number: int,
    step: int,
    lr: float,
    corrections: Float64Vector,
    sums: Float64Array,
    outputs: FloatArray,
    worker: int,
    workers: int,
) -> bool:
    """Do ``task`` with the ``number``-th batch of a call; False where a worker has failed.

    Parameters
    ----------
    rows, upcoming
        Row numbers of this batch and of the next.
    lr, corrections, sums, outputs
        This batch's part of what ``run`` gets.
    """
    if task != TRAIN and task != GRADIENTS:
        return untrained_step(context, source, task, rows, number, sums, outputs, worker, workers)
    buffer_index = number % 2
    overlap = steps_overlap(context, source, len(rows), workers)
    if not inputs_ready(context, source, rows, number, overlap, worker, workers):
        return False
    if not forward_pass(context, source, rows, buffer_index, step, True, worker, workers):
        return False
    if overlap and source.sparse:
        gather_share(context, source, upcoming, 1 - buffer_index, worker, workers)
    if not delta_pass(context, source, rows, len(rows), sums, worker, workers):
        return False
    if not backward_pass(
        context, source, rows, buffer_index, lr, corrections, task == TRAIN, worker, workers
    ):
        return False
    if source.sparse and not overlap:
        gather_share(context, source, upcoming, 1 - buffer_index, worker, workers)
    return True


def run(dtype: FloatDtype) -> ObjectCode:
    """Compile the function that does a whole call, one worker's part of it.

    Of the numbers RUN_ARGUMENTS: the address of a Call, and the worker.
    """
    engine = ENGINE_CONTEXTS[dtype]

    def run(call_address: int, worker: int) -> None:
        call = record_at(call_address, KERNEL_ARGUMENTS)
        context, source = record_at(call.context, engine), record_at(call.source, DATA_DESCRIPTOR)
        workers = call.workers
        if call.task == PACK:
            pack_data(context, source, call.rows, worker, workers)
            return
        order, sums = array_at(call.order, INT64), table_at(call.sums, FLOAT64, 3)
        lr, corrections = array_at(call.lr, FLOAT64), table_at(call.corrections, FLOAT64, 3)
        each = call.batch // FORWARD_ROWS if call.task == EVALUATE else 1
        K = layer_at(context, context.depth - 1).H
        if call.checks and not all_finite(source, call.rows * layer_at(context, 0).D):
            float_rows_at(context, call.outputs, 0, 1, K)[0, 0] = np.nan
            return
        for start in range(0, call.rows, call.batch):
            number, stop = start // call.batch, min(start + call.batch, call.rows)
            following = min(stop + call.batch, call.rows)
            # What a task does not use, of sums and outputs, is a view that nobody reads.
            t, first = min(number, call.rates - 1), number * each
            if not batch_step(
                context, source, call.task, unchecked_slice(order, start, stop),
                unchecked_slice(order, stop, following),
                number, call.first_step + number, lr[t], corrections[t],
                unchecked_slice(sums, first, min(first + each, call.parts)),
                float_rows_at(context, call.outputs, start, stop, K), worker, workers,
            ):  # fmt: skip
                return

    return object_code(named(run, dtype), RUN_ARGUMENTS)


def run_narrow(dtype: FloatDtype) -> ObjectCode:
    """Compile the function that trains a narrow network on dense inputs, for one worker.

    It takes what that of :func:`run` takes, and is apart since few networks need it.
    """
    engine = ENGINE_CONTEXTS[dtype]

    def run_narrow(call_address: int, worker: int) -> None:
        call = record_at(call_address, KERNEL_ARGUMENTS)
        context, source = record_at(call.context, engine), record_at(call.source, DATA_DESCRIPTOR)
        order, sums = array_at(call.order, INT64), table_at(call.sums, FLOAT64, 3)
        lr, corrections = array_at(call.lr, FLOAT64), table_at(call.corrections, FLOAT64, 3)
        for number in range(worker, call.parts):
            start, t = number * call.batch, min(number, call.rates - 1)
            narrow_step(
                context, source, unchecked_slice(order, start, min(start + call.batch,
                call.rows)), lr[t],
                corrections[t], call.task == TRAIN, unchecked_slice(sums, number, number + 1),
            )  # fmt: skip

    return object_code(named(run_narrow, dtype), RUN_ARGUMENTS)


def apply(dtype: FloatDtype) -> ObjectCode:
    """Compile the function that takes one step along the gradients in the buffers.

    Of the numbers APPLY_ARGUMENTS: a Plan's address, the learning rate, and the address of Adam's
    three scalars, as in a Call.
    """
    engine = ENGINE_CONTEXTS[dtype]

    def apply(plan_address: int, lr: float, corrections: int) -> None:
        update_all(
            record_at(plan_address, engine),
            lr,
            unchecked_slice(array_at(corrections, FLOAT64), 0, 3),
        )

    return object_code(named(apply, dtype), APPLY_ARGUMENTS)


def named(function: Callable[..., None], dtype: FloatDtype) -> Callable[..., None]:
    """Name a function by its floating type too: Numba's names for compiled code come from there."""
    function.__qualname__ = f"{function.__name__}_{dtype}"
    return function

"""Whole steps in compiled code: forward, backward and update for every batch of one call.

Each pass strings together the parts of layers.py. Every worker runs the same passes, and meets the
others at a barrier wherever it needs their results; where it needs none, it goes on. At the end
stand the entries, the three functions that Python calls (see native.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.barrier import barrier
from fusedmlp_numba.caching import kernel, object_code
from fusedmlp_numba.gathering import all_finite, gather, gather_share, pack_data
from fusedmlp_numba.layers import (
    forward_layer,
    gradient_layer,
    hand_down,
    output_delta,
    transpose,
    update,
    write_outputs,
)
from fusedmlp_numba.layout import CALL, PLANS
from fusedmlp_numba.narrow import narrow_gradients
from fusedmlp_numba.shares import by_rows, entry_place, in_place, layer_at, own_units, share
from fusedmlp_numba.sizes import (
    APPLY_ARGUMENTS,
    EVALUATE,
    FORWARD,
    FORWARD_ROWS,
    GRADIENTS,
    PACK,
    RUN_ARGUMENTS,
    TRAIN,
)
from fusedmlp_numba.sources import SOURCE
from fusedmlp_numba.views import FLOATS, INTS, matrix, part, reals, record, table, vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.types import Float64Array, Float64Vector, FloatArray, FloatDtype, IntArray
    from fusedmlp_numba.layout import Plan
    from fusedmlp_numba.native import Code
    from fusedmlp_numba.sources import Source

APART_ROWS: Final = 32
"""Rows for each worker from which on each takes its own through all layers: for fewer, reading all
weights would weigh more than what nobody has to wait for."""


@kernel
def batch_weight(plan: Plan, source: Source, rows: IntArray) -> float:
    """Σ wᵢ of a batch."""
    if not source.weighted:
        return float(len(rows))
    w, total = reals(plan, source.sample_weight), 0.0
    for row in rows:
        total += np.float64(w[row])
    return total


@kernel
def delta_scale(plan: Plan, weight: float) -> float:
    """Return the factor of delta[L]: 1 for a sum over the batch, 1 / Σ wᵢ for a mean."""
    if not plan.mean:
        return 1.0
    return 1.0 / weight if weight != 0.0 else 0.0


@kernel
def forward_pass(
    plan: Plan,
    source: Source,
    order: IntArray,
    side: int,
    step: int,
    training: bool,
    worker: int,
    workers: int,
) -> bool:
    """Fill the activations and the last product for a batch; False where a worker has failed.

    Where :func:`~fusedmlp_numba.shares.by_rows` holds, each worker has its own rows of the last
    product only.
    """
    last = plan.depth - 1
    for number in range(last):
        forward_layer(plan, source, number, order, side, step, training, False, worker, workers)
        if not barrier(plan, workers):
            return False
    forward_layer(plan, source, last, order, side, step, training, False, worker, workers)
    return by_rows(plan, workers) or barrier(plan, workers)


@kernel
def sum_rows(plan: Plan, source: Source, rows: IntArray, each: int, sums: Float64Array) -> None:
    """Write the loss, correct and weight sums of every ``each`` rows of a batch.

    Parameters
    ----------
    sums
        (parts, 3), a row for every ``each`` of the batch's rows.
    """
    losses, hits = vector(plan.row_loss, FLOATS), vector(plan.row_correct, FLOATS)
    for n in range(len(sums)):
        first, last = n * each, min((n + 1) * each, len(rows))
        loss, correct = 0.0, 0.0
        for i in range(first, last):
            loss += losses[i]
            correct += hits[i]
        weight = batch_weight(plan, source, part(rows, first, last))
        sums[n, 0], sums[n, 1], sums[n, 2] = loss, correct, weight


@kernel
def delta_pass(
    plan: Plan,
    source: Source,
    rows: IntArray,
    each: int,
    sums: Float64Array,
    worker: int,
    workers: int,
) -> bool:
    """Turn the last product into delta[L], and sum as :func:`sum_rows` does.

    False where a worker has failed.
    """
    scale = delta_scale(plan, batch_weight(plan, source, rows))
    output_delta(plan, source, rows, scale, worker, workers)
    if not barrier(plan, workers):
        return False
    if worker == 0:
        sum_rows(plan, source, rows, each, sums)
    return True


@kernel
def backward_pass(
    plan: Plan,
    source: Source,
    order: IntArray,
    side: int,
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
    for number in range(plan.depth - 1, -1, -1):
        if number > 0 and not delta_below(plan, number, len(order), worker, workers):
            return False
        gradient_layer(
            plan, source, number, order, side, lr, corrections, training, worker, workers
        )
    return True


@kernel
def delta_below(plan: Plan, number: int, batch: int, worker: int, workers: int) -> bool:
    """Fill delta[l] from delta[l + 1] and W[l], for l > 0; False where a worker has failed.

    W[l] (H, K) is transposed only now, and its gradient follows at once, so that the whole pass
    brings it into the cache once.
    """
    transpose(plan, number, worker, workers)
    by_panels = layer_at(plan, number - 1).panels >= workers
    if not (by_panels or barrier(plan, workers)):
        return False
    hand_down(plan, number, batch, worker, workers)
    # Weights that others may still read must not change, nor Wᵀ: the next layer's goes there.
    return (number == 1 and own_units(plan, workers)) or barrier(plan, workers)


@kernel
def update_all(plan: Plan, lr: float, corrections: Float64Vector) -> None:
    """Take one optimizer step along the gradients in the buffers."""
    for number in range(plan.depth):
        layer = layer_at(plan, number)
        update(plan, layer.weights, layer.bias, lr, corrections, plan.decay)
        update(plan, layer.bias, layer.bias + layer.width, lr, corrections, 0.0)


@kernel
def narrow_step(
    plan: Plan,
    source: Source,
    rows: IntArray,
    lr: float,
    corrections: Float64Vector,
    training: bool,
    sums: Float64Array,
) -> None:
    """Do a whole step of a narrow network."""
    narrow_gradients(plan, source, rows, delta_scale(plan, batch_weight(plan, source, rows)))
    sum_rows(plan, source, rows, len(rows), sums)
    if training:
        update_all(plan, lr, corrections)


@kernel
def runs_on(plan: Plan, source: Source, batch: int, workers: int) -> bool:
    """Whether a worker may begin a step while others are still in the one before.

    After the barrier behind delta[L], a worker then uses and changes nothing but its own units of
    the first hidden layer: their weights on both sides, a[1] and delta[1]. Its part of a
    sparse batch is gathered before that barrier, and inputs in place need not be.
    """
    return (source.sparse or in_place(source, batch)) and own_units(plan, workers)


@kernel
def inputs_ready(
    plan: Plan,
    source: Source,
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
    if in_place(source, len(rows)):
        return number == 0 or barrier(plan, workers)
    if number == 0 or not source.sparse:
        if number > 0 and not barrier(plan, workers):
            return False
        gather_share(plan, source, rows, number % 2, worker, workers)
    return barrier(plan, workers)


@kernel
def forward_apart(
    plan: Plan, source: Source, rows: IntArray, number: int, worker: int, workers: int
) -> bool:
    """Gather a batch and compute its outputs, each worker its own rows; False where one has failed.

    Nobody needs what others have computed; but the batch before may have been cut elsewhere, and
    its losses are one worker's to sum.
    """
    if number > 0 and not barrier(plan, workers):
        return False
    first, last = share(len(rows), worker, workers)
    gather(plan, source, rows, first, last, entry_place(plan, 0, worker))
    for layer in range(plan.depth):
        forward_layer(plan, source, layer, rows, 0, 0, False, True, worker, workers)
    return True


@kernel
def forward_together(
    plan: Plan, source: Source, rows: IntArray, number: int, worker: int, workers: int
) -> bool:
    """Gather a batch and compute its outputs, all together; False where a worker has failed."""
    if number > 0 and not barrier(plan, workers):
        return False
    gather_share(plan, source, rows, 0, worker, workers)
    if not barrier(plan, workers):
        return False
    return forward_pass(plan, source, rows, 0, 0, False, worker, workers)


@kernel
def untrained_step(
    plan: Plan,
    source: Source,
    task: int,
    rows: IntArray,
    number: int,
    sums: Float64Array,
    outputs: FloatArray,
    worker: int,
    workers: int,
) -> bool:
    """Evaluate or predict a batch; False where a worker has failed."""
    if len(rows) >= APART_ROWS * workers:
        done = forward_apart(plan, source, rows, number, worker, workers)
    else:
        done = forward_together(plan, source, rows, number, worker, workers)
    if done and task == FORWARD:
        write_outputs(plan, outputs, worker, workers)
    elif done:
        done = delta_pass(plan, source, rows, FORWARD_ROWS, sums, worker, workers)
    return done


@kernel
def batch_step(
    plan: Plan,
    source: Source,
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
        return untrained_step(plan, source, task, rows, number, sums, outputs, worker, workers)
    side = number % 2
    overlap = runs_on(plan, source, len(rows), workers)
    if not inputs_ready(plan, source, rows, number, overlap, worker, workers):
        return False
    if not forward_pass(plan, source, rows, side, step, True, worker, workers):
        return False
    if overlap and source.sparse:
        gather_share(plan, source, upcoming, 1 - side, worker, workers)
    if not delta_pass(plan, source, rows, len(rows), sums, worker, workers):
        return False
    if not backward_pass(plan, source, rows, side, lr, corrections, task == TRAIN, worker, workers):
        return False
    if source.sparse and not overlap:
        gather_share(plan, source, upcoming, 1 - side, worker, workers)
    return True


def run(dtype: FloatDtype) -> Code:
    """Compile the function that does a whole call, one worker's part of it.

    Of the numbers RUN_ARGUMENTS: the address of a Call, and the worker.
    """
    engine = PLANS[dtype]

    def run(call_address: int, worker: int) -> None:
        call = record(call_address, CALL)
        plan, source = record(call.plan, engine), record(call.source, SOURCE)
        workers = call.workers
        if call.task == PACK:
            pack_data(plan, source, call.rows, worker, workers)
            return
        order, sums = vector(call.order, INTS), table(call.sums, FLOATS, 3)
        lr, corrections = vector(call.lr, FLOATS), table(call.corrections, FLOATS, 3)
        each = call.batch // FORWARD_ROWS if call.task == EVALUATE else 1
        K = layer_at(plan, plan.depth - 1).H
        if call.checks and not all_finite(source, call.rows * layer_at(plan, 0).D):
            matrix(plan, call.outputs, 0, 1, K)[0, 0] = np.nan
            return
        for start in range(0, call.rows, call.batch):
            number, stop = start // call.batch, min(start + call.batch, call.rows)
            following = min(stop + call.batch, call.rows)
            # What a task does not use, of sums and outputs, is a view that nobody reads.
            t, first = min(number, call.rates - 1), number * each
            if not batch_step(
                plan, source, call.task, part(order, start, stop), part(order, stop, following),
                number, call.first_step + number, lr[t], corrections[t],
                part(sums, first, min(first + each, call.parts)),
                matrix(plan, call.outputs, start, stop, K), worker, workers,
            ):  # fmt: skip
                return

    return object_code(named(run, dtype), RUN_ARGUMENTS)


def run_narrow(dtype: FloatDtype) -> Code:
    """Compile the function that trains a narrow network on dense inputs, for one worker.

    It takes what that of :func:`run` takes, and is apart since few networks need it.
    """
    engine = PLANS[dtype]

    def run_narrow(call_address: int, worker: int) -> None:
        call = record(call_address, CALL)
        plan, source = record(call.plan, engine), record(call.source, SOURCE)
        order, sums = vector(call.order, INTS), table(call.sums, FLOATS, 3)
        lr, corrections = vector(call.lr, FLOATS), table(call.corrections, FLOATS, 3)
        for number in range(worker, call.parts):
            start, t = number * call.batch, min(number, call.rates - 1)
            narrow_step(
                plan, source, part(order, start, min(start + call.batch, call.rows)), lr[t],
                corrections[t], call.task == TRAIN, part(sums, number, number + 1),
            )  # fmt: skip

    return object_code(named(run_narrow, dtype), RUN_ARGUMENTS)


def apply(dtype: FloatDtype) -> Code:
    """Compile the function that takes one step along the gradients in the buffers.

    Of the numbers APPLY_ARGUMENTS: a Plan's address, the learning rate, and the address of Adam's
    three scalars, as in a Call.
    """
    engine = PLANS[dtype]

    def apply(plan_address: int, lr: float, corrections: int) -> None:
        update_all(record(plan_address, engine), lr, part(vector(corrections, FLOATS), 0, 3))

    return object_code(named(apply, dtype), APPLY_ARGUMENTS)


def named(function: Callable[..., None], dtype: FloatDtype) -> Callable[..., None]:
    """Name a function by its floating type too: Numba's names for compiled code come from there."""
    function.__qualname__ = f"{function.__name__}_{dtype}"
    return function

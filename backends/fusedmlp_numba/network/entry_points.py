"""The functions that Python calls: they view a call's arguments, and iterate over its batches.

Each is compiled to an object file; see compiler/object_cache.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp_numba.compiler.jit import kernel, object_code
from fusedmlp_numba.constants import (
    APPLY_ARGUMENTS,
    EVALUATE,
    FORWARD_ROWS,
    GRADIENTS,
    PACK,
    RUN_ARGUMENTS,
    SUMS,
    TRAIN,
)
from fusedmlp_numba.data import DATA_DESCRIPTOR
from fusedmlp_numba.network.batches import Batch, Results, Step
from fusedmlp_numba.network.inputs import all_finite, pack_data
from fusedmlp_numba.network.partition import Worker, layer_at
from fusedmlp_numba.network.steps import batch_step, narrow_step, update_all
from fusedmlp_numba.records import ENGINE_CONTEXTS, KERNEL_ARGUMENTS
from fusedmlp_numba.simd.views import (
    FLOAT64,
    INT64,
    array_at,
    float_rows_at,
    record_at,
    table_at,
    unchecked_slice,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.types import FloatDtype
    from fusedmlp_numba.compiler.object_cache import ObjectCode
    from fusedmlp_numba.records import EngineContext, KernelArguments


@kernel
def batch_of(arguments: KernelArguments, start: int) -> Batch:
    """Return the batch that begins at row ``start`` of the call's order."""
    stop = min(start + arguments.batch, arguments.rows)
    following = min(stop + arguments.batch, arguments.rows)
    index, order = start // arguments.batch, array_at(arguments.order, INT64)
    trains = arguments.task == TRAIN or arguments.task == GRADIENTS
    return Batch(
        rows=unchecked_slice(order, start, stop),
        upcoming=unchecked_slice(order, stop, following),
        number=index,
        step=arguments.first_step + index,
        buffer_index=index % 2 if trains else 0,
    )


@kernel
def step_of(arguments: KernelArguments, index: int) -> Step:
    """Return the task and the optimizer's numbers for a batch of the call."""
    t = min(index, arguments.rates - 1)
    lr = array_at(arguments.lr, FLOAT64)
    corrections = table_at(arguments.corrections, FLOAT64, 3)
    return Step(arguments.task, lr[t], corrections[t])


@kernel
def results_of(context: EngineContext, arguments: KernelArguments, index: int) -> Results:
    """Return where a batch's results go; what a task does not use is a view that is not read."""
    each = arguments.batch // FORWARD_ROWS if arguments.task == EVALUATE else 1
    first, start = index * each, index * arguments.batch
    stop = min(start + arguments.batch, arguments.rows)
    K = layer_at(context, context.depth - 1).H
    sums = table_at(arguments.sums, FLOAT64, SUMS)
    return Results(
        unchecked_slice(sums, first, min(first + each, arguments.parts)),
        float_rows_at(context, arguments.outputs, start, stop, K),
    )


def run(dtype: FloatDtype) -> ObjectCode:
    """Compile the function that does a whole call, for one worker.

    Of the numbers RUN_ARGUMENTS: the address of KernelArguments, and the worker's index.
    """
    context_dtype = ENGINE_CONTEXTS[dtype]

    def run(arguments_address: int, worker_index: int) -> None:
        arguments = record_at(arguments_address, KERNEL_ARGUMENTS)
        context = record_at(arguments.context, context_dtype)
        data = record_at(arguments.data, DATA_DESCRIPTOR)
        worker = Worker(worker_index, arguments.workers)
        if arguments.task == PACK:
            pack_data(context, data, arguments.rows, worker)
            return
        D = layer_at(context, 0).D
        if arguments.check_finite and not all_finite(data, arguments.rows * D):
            float_rows_at(context, arguments.outputs, 0, 1, 1)[0, 0] = np.nan
            return
        for start in range(0, arguments.rows, arguments.batch):
            batch = batch_of(arguments, start)
            step = step_of(arguments, batch.number)
            results = results_of(context, arguments, batch.number)
            if not batch_step(context, data, batch, step, results, worker):
                return

    return object_code(named(run, dtype), RUN_ARGUMENTS)


def run_narrow(dtype: FloatDtype) -> ObjectCode:
    """Compile the function that trains a narrow network on dense inputs, for one worker.

    Its arguments are those of :func:`run`. It is separate because few networks need it.
    """
    context_dtype = ENGINE_CONTEXTS[dtype]

    def run_narrow(arguments_address: int, worker_index: int) -> None:
        arguments = record_at(arguments_address, KERNEL_ARGUMENTS)
        context = record_at(arguments.context, context_dtype)
        data = record_at(arguments.data, DATA_DESCRIPTOR)
        for index in range(worker_index, arguments.parts):
            rows = batch_of(arguments, index * arguments.batch).rows
            sums = results_of(context, arguments, index).sums
            narrow_step(context, data, rows, step_of(arguments, index), sums)

    return object_code(named(run_narrow, dtype), RUN_ARGUMENTS)


def apply(dtype: FloatDtype) -> ObjectCode:
    """Compile the function that takes one step along the gradients in the buffers.

    Of the numbers APPLY_ARGUMENTS: the address of an EngineContext, the learning rate, and the
    address of Adam's three numbers, as in KernelArguments.
    """
    context_dtype = ENGINE_CONTEXTS[dtype]

    def apply(context_address: int, lr: float, corrections: int) -> None:
        context = record_at(context_address, context_dtype)
        update_all(context, Step(TRAIN, lr, unchecked_slice(array_at(corrections, FLOAT64), 0, 3)))

    return object_code(named(apply, dtype), APPLY_ARGUMENTS)


def named(function: Callable[..., None], dtype: FloatDtype) -> Callable[..., None]:
    """Add the floating type to a function's name, from which Numba makes symbols."""
    function.__qualname__ = f"{function.__name__}_{dtype}"
    return function

"""Records of one batch of a call, and what they contain of the data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import TRAIN
from fusedmlp_numba.network.outputs import RowResults, Targets
from fusedmlp_numba.network.partition import layer_at
from fusedmlp_numba.simd.views import (
    FLOAT64,
    INT64,
    UNBOUNDED,
    array_at,
    float_rows_at,
    floats_at,
    unchecked_slice,
)

if TYPE_CHECKING:
    from fusedmlp.types import Float64Array, Float64Vector, FloatArray, IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.records import EngineContext


class Batch(NamedTuple):
    """One batch of a call.

    Parameters
    ----------
    rows, upcoming
        Row numbers of this batch and of the next.
    number
        Number of the batch in the call, from 0.
    step
        Steps that the optimizer has taken before.
    buffer_index
        Which of the two lists of entries holds the batch: 0 or 1.
    """

    rows: IntArray
    upcoming: IntArray
    number: int
    step: int
    buffer_index: int


class Step(NamedTuple):
    """What is done with a batch: TRAIN, … of constants.py, and the optimizer's numbers for it.

    ``corrections`` are Adam's 1 − β₁ᵗ, 1 − β₂ᵗ and ε.
    """

    task: int
    lr: float
    corrections: Float64Vector


class Results(NamedTuple):
    """Where a batch's sums (parts, SUMS) and outputs (B, K) are written."""

    sums: Float64Array
    outputs: FloatArray


@kernel
def is_training(step: Step) -> bool:
    """Whether the weights are updated."""
    return step.task == TRAIN


@kernel
def targets_of(context: EngineContext, data: DataDescriptor, rows: IntArray) -> Targets:
    """Return the targets of rows of a data set."""
    K = layer_at(context, context.depth - 1).H
    return Targets(
        array_at(data.labels, INT64),
        float_rows_at(context, data.targets, 0, UNBOUNDED, K),
        unchecked_slice(floats_at(context, data.sample_weight), 0, UNBOUNDED * data.weighted),
        rows,
    )


@kernel
def row_results(context: EngineContext, first: int, last: int) -> RowResults:
    """Return the buffers for losses and hits of a range of a batch's rows."""
    losses = array_at(context.work.row_loss, FLOAT64)
    correct = array_at(context.work.row_correct, FLOAT64)
    return RowResults(unchecked_slice(losses, first, last), unchecked_slice(correct, first, last))

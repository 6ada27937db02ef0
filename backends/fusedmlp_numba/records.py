"""The records that compiled code reads: an engine's context, its layers, and a call's arguments.

Each record is a NamedTuple: its annotations are the static types, and :func:`record_dtype` makes
the structured dtype of compiled code from them; a NamedTuple inside another becomes a nested
dtype. Fields that hold addresses say so, and the engine keeps the memory alive. The descriptor of
a data set is in data.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_type_hints

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.types import FloatDtype


class LayerDescriptor(NamedTuple):
    """One layer: a[l + 1] = f(a[l]·W + b).

    Parameters
    ----------
    D, H
        Inputs and outputs.
    panels, width
        Panels of the outputs, and their columns.
    weights, bias
        Offsets in the flat parameters.
    below, below_stride
        Address and row stride of a[l] (B, D).
    a, delta, kept, slope, stride
        Addresses and row stride of a[l + 1], delta[l + 1], the dropout mask and f'(z) (B, width).
        The last layer has one matrix for the first two: logits become delta in place. Only
        activations whose derivative needs z have the last.
    """

    D: int
    H: int
    panels: int
    width: int
    weights: int
    bias: int
    below: int
    below_stride: int
    a: int
    delta: int
    kept: int
    slope: int
    stride: int


class ParameterBuffers(NamedTuple):
    """Addresses of parameters, gradients, and the optimizer's slots, in one layout."""

    theta: int
    gradient: int
    first_slot: int
    second_slot: int


class Workspace(NamedTuple):
    """Memory that a step uses and that means nothing afterwards.

    Parameters
    ----------
    transposed
        Address of W[l]ᵀ (H, D) in panels, for one layer at a time.
    left, right, max_panels
        Addresses of packed operands of products: A_BLOCK elements for each worker, and the delta
        in panels; and the panels of the widest layer.
    scratch, scratch_size
        Address of the output kernels' work space, ``scratch_size`` elements for each worker.
    row_loss, row_correct
        Addresses of the output kernels' results (B,).
    squares
        Address of the float64 sums of squares of the weights' panels, all layers' in turn.
    barrier
        Address of the barrier's counters.
    narrow
        Address of the vectors of narrow.py; 0 for a network that is not narrow.
    """

    transposed: int
    left: int
    right: int
    max_panels: int
    scratch: int
    scratch_size: int
    row_loss: int
    row_correct: int
    squares: int
    barrier: int
    narrow: int


class EntryBuffers(NamedTuple):
    """Memory for the nonzero inputs of two batches: one is read while the next is written.

    Parameters
    ----------
    indices, values, bounds
        Addresses of the arrays of an Entries of sparse/operands.py. The second batch is ``size``
        entries and SEGMENT_BOUNDS·B bounds behind the first.
    size
        Entries of one batch.
    copies
        Where more than 1, every worker has two batches of its own, one worker's behind another's.
    masks, mask_stride, positions
        Addresses of the workers' RowMasks; masks of consecutive workers are ``mask_stride`` apart.
    """

    indices: int
    values: int
    bounds: int
    size: int
    copies: int
    masks: int
    mask_stride: int
    positions: int


class Settings(NamedTuple):
    """Settings of network, objective and optimizer.

    Parameters
    ----------
    hidden, output, optimizer
        Positions in the contract's tuples HIDDEN_ACTIVATIONS and OUTPUTS, and in
        UPDATE_FORMULAS.
    mean, l2
        Whether the objective is a mean, and its penalty λ.
    sums_squares
        Whether training batches report Σ W².
    keep, threshold, seed
        Dropout: 1 − rate, the threshold of kept units, and the seed.
    momentum, beta1, beta2, decay
        Of the optimizer.
    """

    hidden: int
    output: int
    optimizer: int
    mean: bool
    l2: float
    sums_squares: bool
    keep: float
    threshold: np.uint64
    seed: np.uint64
    momentum: float
    beta1: float
    beta2: float
    decay: float


class EngineContext(NamedTuple):
    """An engine: its geometry, its memory and its settings.

    Parameters
    ----------
    unit
        1 in the engine's floating type, which compiled code takes from this field.
    depth, layers
        L, and the address of L LayerDescriptors.
    columns, itemsize
        Columns of a panel, and bytes of an element.
    rows
        B, the most rows of a batch.
    n_units, n_parameters
        Inputs and units of all layers; weights and biases of all layers.
    """

    unit: float
    depth: int
    layers: int
    columns: int
    itemsize: int
    rows: int
    n_units: int
    n_parameters: int
    parameters: ParameterBuffers
    work: Workspace
    entries: EntryBuffers
    settings: Settings


class KernelArguments(NamedTuple):
    """Arguments of one call of compiled code; unused addresses are 0.

    Parameters
    ----------
    context, data
        Addresses of the EngineContext, and of the DataDescriptor.
    workers
        Number of threads that call the function for this.
    task
        TRAIN, … of constants.py.
    order, rows
        Address of row numbers (rows,), which are processed ``batch`` at a time.
    batch
        Rows of a batch.
    first_step
        Steps that the optimizer has taken before.
    lr, corrections, rates
        Addresses of each batch's learning rate (rates,), and Adam's 1 − β₁ᵗ, 1 − β₂ᵗ and ε
        (rates, 3). Batches beyond the last use the last; tasks that do not train need one.
    sums, parts
        Address of loss, correct and weight sums, and where asked for Σ W² (parts, SUMS): one row
        for each batch, or for EVALUATE for every FORWARD_ROWS rows. Worker 0 writes them.
    outputs
        Address of the outputs (rows, K) that FORWARD writes.
    check_finite
        Whether dense inputs may hold values that are not finite. If one does, the first output
        becomes NaN, and nothing else is computed.
    """

    context: int
    data: int
    workers: int
    task: int
    order: int
    rows: int
    batch: int
    first_step: int
    lr: int
    corrections: int
    rates: int
    sums: int
    parts: int
    outputs: int
    check_finite: bool


FIELD_TYPES: Final = {int: np.int64, bool: np.bool_, float: np.float64, np.uint64: np.uint64}
"""Types of a record's fields, by their annotation."""


def record_dtype(kind: type[tuple[object, ...]], unit: FloatDtype = "float64") -> np.dtype[np.void]:
    """Return the structured dtype of a NamedTuple; a field named ``unit`` has the given type."""
    fields: list[tuple[str, np.dtype[Any]]] = []
    for name, hint in get_type_hints(kind).items():
        if name == "unit":
            fields.append((name, np.dtype(unit)))
        elif hint in FIELD_TYPES:
            fields.append((name, np.dtype(FIELD_TYPES[hint])))
        else:
            fields.append((name, record_dtype(hint)))
    return np.dtype(fields, align=True)


LAYER_DESCRIPTOR: Final = record_dtype(LayerDescriptor)
KERNEL_ARGUMENTS: Final = record_dtype(KernelArguments)
ENGINE_CONTEXTS: Final = {
    dtype: record_dtype(EngineContext, dtype) for dtype in ("float32", "float64")
}


def as_record(values: tuple[object, ...], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return one record: an array of length 1, so that it has an address."""
    return np.array([values], dtype)

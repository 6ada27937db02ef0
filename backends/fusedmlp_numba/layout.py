"""Where everything lies: the engine's flat buffers, and what compiled code is told of them.

Parameters, gradients and optimizer slots are one flat array each, of the same layout, so that an
update is one loop. Per layer: the weights W (D, H) in panels of ``columns`` neighbouring columns,
each panel (D, columns) contiguous, then the bias, both filled up with zeros to whole panels. The
filling is computed along and never read by a real column. Activations are (B, width) rows with
the width filled up likewise.

Compiled code reads three kinds of records here, Plan, Layer and Call. Each is written once, as a
NamedTuple: its annotations are the static types, and :func:`record_dtype` makes the compiled
code's structured dtype of them. Addresses are those of arrays that the engine keeps alive. Nothing
is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, get_type_hints

import numpy as np

from fusedmlp.network import Parameters
from fusedmlp_numba.compiler.host import panel_columns

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.network import Network
    from fusedmlp.types import FloatArray, FloatDtype, IntArray

ALIGNMENT: Final = 64
"""Bytes of a cache line: a panel's row of AVX2 is one line, where it starts at one."""


class LayerDescriptor(NamedTuple):
    """One layer, for compiled code: a[l + 1] = f(a[l]·W + b).

    Parameters
    ----------
    D, H
        Inputs and outputs.
    panels, width
        Panels of the outputs, and their columns.
    weights, bias
        Offsets in the flat parameters.
    below, below_stride
        Address and row length of a[l] (B, D).
    a, delta, kept, stride
        Addresses and row length of a[l + 1], delta[l + 1] and dropout mask (B, width). The last
        layer has one matrix for the first two: logits become delta in place.
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
    stride: int


class EngineContext(NamedTuple):
    """An engine, for compiled code.

    Parameters
    ----------
    unit
        1 in the engine's floating type.
    depth, layers
        L, and the address of as many Layers.
    columns, itemsize
        Columns of a panel, and bytes of an element.
    theta, gradient, first, second
        Addresses of parameters, gradients, and the optimizer's slots.
    transposed
        Address of W[l]ᵀ (H, D) in panels, of one layer at a time.
    left, right, most_panels
        Addresses of operands of products, packed: a block for each worker, and the delta in
        panels; and the panels of the widest layer.
    scratch, scratch_size
        Address of working space, ``scratch_size`` elements for each worker.
    room, entry_index, entry_value, entry_bounds, entry_copies
        The batch's nonzero inputs, as sparse.py describes them: a row has ``capacity`` entries
        and BOUNDS bounds. Two such, the second ``room`` entries and ``BOUNDS * rows`` bounds
        further on: one batch's are read while the next one's are written. With ``entry_copies``
        of more than 1 each worker has its own two, one worker's behind the other's.
    masks, mask_room, mask_places
        Addresses of the same entries by input, see masks.py: a worker's masks begin ``mask_room``
        inputs after the one's before.
    narrow, units, parameters
        Address of narrow.py's vectors, 0 for a network that is not narrow; inputs and units of
        all layers; weights and biases of all layers.
    rows, row_loss, row_correct
        B, and addresses of the output kernels' results (B,).
    sync
        Address of the barrier's counters.
    hidden, output, optimizer
        Numbers of the activations and of the update; see kernels.py.
    mean, l2, keep, threshold, seed, momentum, beta1, beta2, decay
        The objective's, dropout's and optimizer's settings.
    """

    unit: float
    depth: int
    layers: int
    columns: int
    itemsize: int
    theta: int
    gradient: int
    first: int
    second: int
    transposed: int
    left: int
    right: int
    most_panels: int
    scratch: int
    scratch_size: int
    room: int
    entry_index: int
    entry_value: int
    entry_bounds: int
    entry_copies: int
    masks: int
    mask_room: int
    mask_places: int
    narrow: int
    units: int
    parameters: int
    rows: int
    row_loss: int
    row_correct: int
    sync: int
    hidden: int
    output: int
    optimizer: int
    mean: bool
    l2: float
    keep: float
    threshold: np.uint64
    seed: np.uint64
    momentum: float
    beta1: float
    beta2: float
    decay: float


class KernelArguments(NamedTuple):
    """What compiled code is to do; unused addresses are 0.

    Parameters
    ----------
    plan, source
        Addresses of the engine's Plan, and of the data set's Source.
    workers
        How many call the code for this.
    task
        TRAIN, … of sizes.py.
    order, rows
        Address of row numbers (rows,), which are taken ``batch`` at a time.
    batch
        Rows of a batch.
    first_step
        Steps that the optimizer took before.
    lr, corrections, rates
        Addresses of learning rates (rates,), and of Adam's 1 − β₁ᵗ, 1 − β₂ᵗ and ε (rates, 3), of
        each batch, the last again for all that follow; one is enough for tasks that do not train.
    sums, parts
        Address of loss, correct and weight sums (parts, 3), one row for each batch or, for
        EVALUATE, for every FORWARD_ROWS rows; worker 0 writes them.
    outputs
        Address of the outputs (rows, K) that FORWARD writes.
    checks
        Whether dense inputs may hold values that are not finite: then the first output is to be
        NaN, and nothing else is done.
    """

    context: int
    source: int
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
    checks: bool


FIELDS: Final = {int: np.int64, bool: np.bool_, float: np.float64, np.uint64: np.uint64}
"""Types of a record's fields, by their annotation."""


def record_dtype(kind: type[tuple[object, ...]], unit: FloatDtype = "float64") -> np.dtype[np.void]:
    """Return the structured dtype of a NamedTuple; a field named ``unit`` has the given type."""
    fields = [
        (name, np.dtype(unit) if name == "unit" else np.dtype(FIELDS[hint]))
        for name, hint in get_type_hints(kind).items()
    ]
    return np.dtype(fields, align=True)


LAYER_DESCRIPTOR: Final = record_dtype(LayerDescriptor)
KERNEL_ARGUMENTS: Final = record_dtype(KernelArguments)
ENGINE_CONTEXTS: Final = {
    dtype: record_dtype(EngineContext, dtype) for dtype in ("float32", "float64")
}


def as_record(values: tuple[object, ...], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return one record: an array of length 1, so that it has an address."""
    return np.array([values], dtype)


def address(array: npt.NDArray[np.generic] | None) -> int:
    """Where an array's elements begin; 0 for None."""
    if array is None:
        return 0
    # ``array.ctypes.data`` takes twice as long, which is a tenth of a prediction.
    start: int = array.__array_interface__["data"][0]
    return start


class ParameterLayout(NamedTuple):
    """The network's geometry, for pack and unpack; offsets count elements of the flat arrays.

    Parameters
    ----------
    sizes
        (L + 1,) D, H1, …, K.
    widths
        (L + 1,) the same filled up to whole panels.
    weights, biases
        (L,) offsets of each layer's weights and bias.
    columns
        Columns of a panel.
    """

    sizes: IntArray
    widths: IntArray
    weights: IntArray
    biases: IntArray
    columns: int


def layout_of(network: Network, dtype: FloatDtype) -> ParameterLayout:
    """Lay out a network's parameters."""
    columns = panel_columns(np.dtype(dtype).itemsize)
    sizes = np.array(network.sizes, np.int64)
    widths = -(-sizes // columns) * columns
    weights = sizes[:-1] * widths[1:]
    ends = np.cumsum(weights + widths[1:])
    return ParameterLayout(sizes, widths, ends - weights - widths[1:], ends - widths[1:], columns)


def row_stride(width: int, itemsize: int) -> int:
    """Elements from one row of ``width`` to the next: an odd number of cache lines.

    Rows that lie a power of two apart would compete for the same few places of a cache.
    """
    lines = -(-width * itemsize // ALIGNMENT) | 1
    return lines * ALIGNMENT // itemsize


def parameter_count(shape: ParameterLayout) -> int:
    """Length of the flat parameters."""
    return int(shape.biases[-1] + shape.widths[-1])


def aligned(n: int, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Return n zeros that start at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(n + ALIGNMENT // itemsize, dtype)
    start = -raw.ctypes.data % ALIGNMENT // itemsize
    return raw[start : start + n]


def pack(parameters: Parameters, shape: ParameterLayout, out: FloatArray) -> None:
    """Write plain arrays into a flat buffer, with zeros as filling."""
    out[:] = 0
    for layer, (W, b) in enumerate(zip(parameters.weights, parameters.biases, strict=True)):
        panels = _panels(out, shape, layer)
        for panel in range(len(panels)):
            part = W[:, panel * shape.columns : (panel + 1) * shape.columns]
            panels[panel, :, : part.shape[1]] = part
        out[shape.biases[layer] :][: len(b)] = b


def unpack(flat: FloatArray, shape: ParameterLayout) -> Parameters:
    """Return fresh plain arrays from a flat buffer."""
    weights: list[FloatArray] = []
    biases: list[FloatArray] = []
    for layer in range(len(shape.weights)):
        panels = _panels(flat, shape, layer)
        H = int(shape.sizes[layer + 1])
        W = panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)[:, :H]
        weights.append(W.copy(order="C"))
        biases.append(flat[shape.biases[layer] :][:H].copy())
    return Parameters(tuple(weights), tuple(biases))


def _panels(flat: FloatArray, shape: ParameterLayout, layer: int) -> FloatArray:
    """View a layer's weights as (panels, D, columns)."""
    start, stop = shape.weights[layer], shape.biases[layer]
    return flat[start:stop].reshape(-1, int(shape.sizes[layer]), shape.columns)

"""Where everything lies: the engine's flat buffers, and the way between them and plain arrays.

Parameters, gradients and optimizer slots are one flat array each, of the same layout, so that an
update is one loop. Per layer: the weights W (D, H) in panels of ``columns`` neighbouring columns,
each panel (D, columns) contiguous, then the bias, both filled up with zeros to whole panels. The
filling is computed along and never read by a real column. Activations are (B, width) rows with
the width filled up likewise. Compiled code gets these NamedTuples; it computes nothing here.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from fusedmlp.network import Parameters
from fusedmlp_numba.intrinsics import panel_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from fusedmlp.network import Network
    from fusedmlp.types import DenseInputs, Float64Vector, FloatArray, FloatDtype, IntArray

MAPPED_COPY_BYTES: Final = 64 * 2**20
"""Most memory for the nonzero entries of inputs that are mapped from a file; MNIST needs 27 MB."""

ALIGNMENT: Final = 64
"""Bytes of a cache line: a panel's row of AVX2 is one line, where it starts at one."""


class Shape(NamedTuple):
    """The network's geometry; offsets count elements of the flat buffers.

    Parameters
    ----------
    sizes
        (L + 1,) D, H1, …, K.
    widths
        (L + 1,) columns of the activation buffers: D, then whole panels.
    weights, biases, transposed
        (L,) offsets of each layer's weights and bias in the parameters, and of Wᵀ in its buffer.
    rows
        (L + 1,) offsets of each layer's activations.
    columns
        Columns of a panel.
    """

    sizes: IntArray
    widths: IntArray
    weights: IntArray
    biases: IntArray
    transposed: IntArray
    rows: IntArray
    columns: int


class Buffers(NamedTuple):
    """Everything a step writes, each a flat array; allocated once.

    Parameters
    ----------
    theta, gradient, first, second
        Parameters, their gradients, and the optimizer's slots (empty where it has fewer).
    x
        (B, D) the batch's inputs, empty where only sparse data is staged.
    a, delta
        Activations of the hidden layers, and deltas; the last delta starts as the logits.
    kept
        Dropout masks of the hidden layers.
    transposed
        Wᵀ of the layers above the first, in panels.
    left, right
        Operands of products, packed: a block for each worker, and the delta in panels.
    entry_index, entry_value, entry_stop
        The batch's nonzero inputs: row i has a stretch of ``capacity`` entries from
        ``i * capacity``, filled up to ``entry_stop[i]``.
    list_row, list_value, list_start, list_stop
        The same entries by input: which rows, and with what value.
    row_loss, row_correct
        (B,) the output kernels' results.
    sync
        The barrier's three counters, a cache line apart.
    """

    theta: FloatArray
    gradient: FloatArray
    first: FloatArray
    second: FloatArray
    x: FloatArray
    a: FloatArray
    delta: FloatArray
    kept: npt.NDArray[np.uint8]
    transposed: FloatArray
    left: FloatArray
    right: FloatArray
    entry_index: npt.NDArray[np.uint32]
    entry_value: FloatArray
    entry_stop: IntArray
    list_row: npt.NDArray[np.uint32]
    list_value: FloatArray
    list_start: IntArray
    list_stop: IntArray
    row_loss: Float64Vector
    row_correct: Float64Vector
    sync: IntArray


class Rules(NamedTuple):
    """The network's, objective's and optimizer's settings as numbers; see kernels.py."""

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
    eps: float
    decay: float


class Source(NamedTuple):
    """A staged data set, in one type for all kinds of inputs: what is not there is empty.

    Parameters
    ----------
    kind
        The arrays in use, a constant of steps.py: ``pixels``, ``single`` or ``double``, each
        (N, D); or CSR of ``indptr``, ``indices`` or ``short_indices``, and one of the ``data``.
    sparse
        Whether the first layer works on nonzero inputs only.
    capacity
        Entries that a sparse row may have.
    labels, targets
        (N,) class numbers, or (N, K) values.
    sample_weight
        (N,), or (0,) for none.
    """

    kind: int
    sparse: bool
    capacity: int
    pixels: npt.NDArray[np.uint8]
    single: npt.NDArray[np.float32]
    double: npt.NDArray[np.float64]
    indptr: IntArray
    indices: npt.NDArray[np.int32]
    short_indices: npt.NDArray[np.uint16]
    pixel_data: npt.NDArray[np.uint8]
    single_data: npt.NDArray[np.float32]
    double_data: npt.NDArray[np.float64]
    labels: IntArray
    targets: FloatArray
    sample_weight: FloatArray


def aligned(n: int, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Return n zeros that start at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(n + ALIGNMENT // itemsize, dtype)
    start = -raw.ctypes.data % ALIGNMENT // itemsize
    return raw[start : start + n]


def nonzero_entries(
    x: DenseInputs,
) -> tuple[IntArray, npt.NDArray[np.uint16], npt.NDArray[np.generic]] | None:
    """Copy the nonzero entries of x as CSR (indptr, indices, data), where that is worth it.

    Finding them in every epoch anew costs as much as half the products. None where the copy would
    be larger than x, or larger than MAPPED_COPY_BYTES for an x that is mapped from a file, which
    may not fit into memory; or where x is too wide.
    """
    rows, D = x.shape
    most = min(x.nbytes, MAPPED_COPY_BYTES) if _is_mapped(x) else x.nbytes
    if np.iinfo(np.uint16).max < D or 8 * rows > most:
        return None
    indptr, n = np.zeros(rows + 1, np.int64), 0
    for part in _parts(rows, D):
        counts = np.count_nonzero(x[part], axis=1)
        indptr[part.start + 1 : part.stop + 1] = n + np.cumsum(counts)
        n += int(counts.sum())
        if n * (x.itemsize + 2) + indptr.nbytes > most:
            return None
    indices, data = np.empty(n, np.uint16), np.empty(n, x.dtype)
    for part in _parts(rows, D):
        found = x[part] != 0
        stretch = slice(indptr[part.start], indptr[min(part.stop, rows)])
        indices[stretch] = np.nonzero(found)[1]
        data[stretch] = x[part][found]
    return indptr, indices, data


def _parts(rows: int, D: int) -> Iterator[slice]:
    """Cut rows into pieces of about a million entries, to keep temporary arrays small."""
    height = max(1, 2**20 // D)
    for start in range(0, rows, height):
        yield slice(start, start + height)


def _is_mapped(x: npt.NDArray[np.generic]) -> bool:
    base: object = x
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return isinstance(base, mmap.mmap)


def shape_of(network: Network, dtype: FloatDtype, batch: int) -> Shape:
    """Lay out a network whose buffers hold ``batch`` rows."""
    columns = panel_columns(np.dtype(dtype).itemsize)
    sizes = np.array(network.sizes, np.int64)
    widths = -(-sizes // columns) * columns
    weights = sizes[:-1] * widths[1:]
    ends = np.cumsum(weights + widths[1:])
    transposed = sizes[1:] * widths[:-1]
    transposed[0] = 0  # no delta is handed below the first layer
    rows = batch * widths
    rows[0] = 0  # the inputs have a buffer of their own
    widths[0] = sizes[0]
    return Shape(
        sizes,
        widths,
        ends - weights - widths[1:],
        ends - widths[1:],
        np.cumsum(transposed) - transposed,
        np.cumsum(rows) - rows,
        columns,
    )


def parameter_count(shape: Shape) -> int:
    """Length of the flat parameters."""
    return int(shape.biases[-1] + shape.widths[-1])


def pack(parameters: Parameters, shape: Shape, out: FloatArray) -> None:
    """Write plain arrays into a flat buffer, with zeros as filling."""
    out[:] = 0
    for layer, (W, b) in enumerate(zip(parameters.weights, parameters.biases, strict=True)):
        panels = _panels(out, shape, layer)
        for panel in range(len(panels)):
            part = W[:, panel * shape.columns : (panel + 1) * shape.columns]
            panels[panel, :, : part.shape[1]] = part
        out[shape.biases[layer] :][: len(b)] = b


def unpack(flat: FloatArray, shape: Shape) -> Parameters:
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


def _panels(flat: FloatArray, shape: Shape, layer: int) -> FloatArray:
    """View a layer's weights as (panels, D, columns)."""
    start, stop = shape.weights[layer], shape.biases[layer]
    return flat[start:stop].reshape(-1, int(shape.sizes[layer]), shape.columns)

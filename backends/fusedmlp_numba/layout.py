"""The layout of an engine's flat arrays, and conversion from and to plain parameters.

Parameters, gradients and optimizer slots are one flat array each, of the same layout, so that an
update is one loop. Per layer: the weights W (D, H) in panels of ``columns`` neighbouring columns,
each panel (D, columns) contiguous, then the bias. Both are padded with zeros to whole panels. The
padding takes part in all products, and no real column reads it. Activations are (B, width) rows,
padded likewise. Nothing is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from fusedmlp.network import Parameters
from fusedmlp_numba.compiler.host import panel_columns

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.network import Network
    from fusedmlp.types import FloatArray, FloatDtype, IntArray

ALIGNMENT: Final = 64
"""Bytes of a cache line, at which arrays begin: a panel row of AVX2 is then one line."""


class ParameterLayout(NamedTuple):
    """A network's geometry; offsets count elements of the flat arrays.

    Parameters
    ----------
    sizes
        (L + 1,) D, H1, …, K.
    widths
        (L + 1,) the same, padded to whole panels.
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

    Rows at distances of powers of two would compete for the same few sets of a cache.
    """
    lines = -(-width * itemsize // ALIGNMENT) | 1
    return lines * ALIGNMENT // itemsize


def parameter_count(layout: ParameterLayout) -> int:
    """Length of the flat parameters."""
    return int(layout.biases[-1] + layout.widths[-1])


def aligned(n: int, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Return n zeros that begin at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(n + ALIGNMENT // itemsize, dtype)
    start = -raw.ctypes.data % ALIGNMENT // itemsize
    return raw[start : start + n]


def address(array: npt.NDArray[np.generic] | None) -> int:
    """Return the address of an array's first element; 0 for None."""
    if array is None:
        return 0
    # ``array.ctypes.data`` takes twice as long, which is a tenth of a prediction.
    start: int = array.__array_interface__["data"][0]
    return start


def pack(parameters: Parameters, layout: ParameterLayout, out: FloatArray) -> None:
    """Write plain arrays into a flat array, padded with zeros."""
    out[:] = 0
    for layer, (W, b) in enumerate(zip(parameters.weights, parameters.biases, strict=True)):
        panels = _panels(out, layout, layer)
        for panel in range(len(panels)):
            part = W[:, panel * layout.columns : (panel + 1) * layout.columns]
            panels[panel, :, : part.shape[1]] = part
        out[layout.biases[layer] :][: len(b)] = b


def unpack(flat: FloatArray, layout: ParameterLayout) -> Parameters:
    """Return new plain arrays from a flat array."""
    weights: list[FloatArray] = []
    biases: list[FloatArray] = []
    for layer in range(len(layout.weights)):
        panels = _panels(flat, layout, layer)
        H = int(layout.sizes[layer + 1])
        W = panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)[:, :H]
        weights.append(W.copy(order="C"))
        biases.append(flat[layout.biases[layer] :][:H].copy())
    return Parameters(tuple(weights), tuple(biases))


def _panels(flat: FloatArray, layout: ParameterLayout, layer: int) -> FloatArray:
    """View a layer's weights as (panels, D, columns)."""
    start, stop = layout.weights[layer], layout.biases[layer]
    return flat[start:stop].reshape(-1, int(layout.sizes[layer]), layout.columns)

"""Where each weight and bias lies in the one array that holds all parameters of a network.

One array for all of them lets one launch update the whole network and one copy move it. Weights
come first, so that "is a weight" is a comparison of indices; every array starts at a multiple of
``ALIGNMENT`` elements, because cuBLAS is fastest on aligned matrices. The gaps hold zeros, which
every optimizer leaves zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.network import Parameters

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.network import Network
    from fusedmlp.types import FloatArray, FloatDtype
    from fusedmlp_cupy.programs import DeviceArray

ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets of a network's parameters.

    Parameters
    ----------
    shapes
        (fan-in, fan-out) of each layer.
    weights, biases
        Where each layer's W and b begin.
    n_weights
        Where the weights' section ends.
    size
        Elements in all, gaps included.
    """

    shapes: tuple[tuple[int, int], ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]
    n_weights: int
    size: int

    @classmethod
    def of(cls, network: Network) -> Layout:
        """Lay a network's parameters out."""
        shapes = network.layer_shapes
        offsets = [0]
        for size in [D * H for D, H in shapes] + [H for _, H in shapes]:
            offsets.append(offsets[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        n = len(shapes)
        return cls(shapes, tuple(offsets[:n]), tuple(offsets[n:-1]), offsets[n], offsets[-1])

    def views(self, flat: DeviceArray) -> tuple[tuple[DeviceArray, ...], tuple[DeviceArray, ...]]:
        """Each layer's W and b as views of the one array."""
        return (
            tuple(
                flat[at : at + D * H].reshape(D, H)
                for at, (D, H) in zip(self.weights, self.shapes, strict=True)
            ),
            tuple(flat[at : at + H] for at, (_, H) in zip(self.biases, self.shapes, strict=True)),
        )

    def pack(self, parameters: Parameters, dtype: FloatDtype) -> FloatArray:
        """Copy host parameters into one host array (size,)."""
        flat: FloatArray = np.zeros(self.size, dtype)
        arrays = (*parameters.weights, *parameters.biases)
        for at, array in zip((*self.weights, *self.biases), arrays, strict=True):
            flat[at : at + array.size] = array.ravel()
        return flat

    def unpack(self, flat: npt.NDArray[np.floating]) -> Parameters:
        """Copy the one host array into fresh host parameters."""
        return Parameters(
            tuple(
                flat[at : at + D * H].reshape(D, H).copy()
                for at, (D, H) in zip(self.weights, self.shapes, strict=True)
            ),
            tuple(
                flat[at : at + H].copy()
                for at, (_, H) in zip(self.biases, self.shapes, strict=True)
            ),
        )

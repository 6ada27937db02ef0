"""Parameters, gradients and optimizer slots on the device, each kind in one flat array.

One array for all parameters lets one launch update the whole network and one copy move it. Weights
come first, so that "is a weight" is a comparison of indices. Every matrix and vector starts at a
multiple of ``ALIGNMENT`` elements, because cuBLAS is fastest on aligned matrices. The gaps hold
zeros, which every optimizer leaves zero.
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
    from fusedmlp_cupy.runtime.device import CupyDevice
    from fusedmlp_cupy.runtime.types import DeviceArray

ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class ParameterLayout:
    """Offsets of a network's parameters in a flat array.

    Parameters
    ----------
    shapes
        (fan-in, fan-out) of each layer.
    weights, biases
        Offset of each layer's W and b.
    n_weights
        Offset of the end of the weights.
    size
        Elements in all, gaps included.
    """

    shapes: tuple[tuple[int, int], ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]
    n_weights: int
    size: int

    @classmethod
    def of(cls, network: Network) -> ParameterLayout:
        """Lay out a network's parameters."""
        shapes = network.layer_shapes
        offsets = [0]
        for size in [D * H for D, H in shapes] + [H for _, H in shapes]:
            offsets.append(offsets[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        n = len(shapes)
        return cls(shapes, tuple(offsets[:n]), tuple(offsets[n:-1]), offsets[n], offsets[-1])

    def views(self, flat: DeviceArray) -> tuple[tuple[DeviceArray, ...], tuple[DeviceArray, ...]]:
        """Each layer's W (D, H) and b (H,) as views of a flat array."""
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
        """Copy a flat host array into fresh host parameters."""
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


class ParameterArrays:
    """The flat arrays of one network on the device.

    Attributes
    ----------
    theta, gradient, slots
        (layout.size,) parameters, their gradient, and the optimizer's slots.
    W, b, dW, db
        Views of each layer's weights, biases and their gradients.
    """

    def __init__(
        self, device: CupyDevice, network: Network, n_slots: int, dtype: FloatDtype
    ) -> None:
        self._device, self._dtype = device, dtype
        self.layout = ParameterLayout.of(network)
        zeros = np.zeros(self.layout.size, dtype)
        self.theta = device.upload(zeros)
        self.gradient = device.upload(zeros)
        self.slots = tuple(device.upload(zeros) for _ in range(n_slots))
        self.W, self.b = self.layout.views(self.theta)
        self.dW, self.db = self.layout.views(self.gradient)

    def write(self, flat: DeviceArray, parameters: Parameters) -> None:
        """Overwrite one of the flat arrays."""
        self._device.copy_in(flat, self.layout.pack(parameters, self._dtype))

    def read(self, flat: DeviceArray) -> Parameters:
        """Copy one of the flat arrays to the host, and wait for it."""
        return self.layout.unpack(self._device.download(flat))

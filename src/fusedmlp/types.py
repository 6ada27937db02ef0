"""Type aliases for arrays, without code.

The shape legend of the project:

====  =======================================================
N     rows of a data set
B     rows of one batch
D     inputs of the network
H     width of a hidden layer
K     outputs of the network
L     layers with weights (hidden layers and the output layer)
====  =======================================================

``x (B, D)``, ``W (D, H)``, ``b (H,)``, ``z, a (B, H)``, ``delta (B, H)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import scipy.sparse

FloatArray: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""An array of the engine's dtype."""

Float64Array: TypeAlias = npt.NDArray[np.float64]
Float64Vector: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
PixelArray: TypeAlias = npt.NDArray[np.uint8]
"""Pixels 0 to 255; engines read them as x / 255."""

DenseInputs: TypeAlias = PixelArray | FloatArray
Inputs: TypeAlias = "DenseInputs | scipy.sparse.csr_array"


class DLPackArray(Protocol):
    """An array of any library, in host or device memory, that speaks DLPack."""

    def __dlpack__(self, *, stream: object = None) -> object:
        """Return a capsule."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the type and the number of its device."""


InputsLike: TypeAlias = "Inputs | npt.ArrayLike | scipy.sparse.sparray | DLPackArray"
"""What models and trainers take as inputs: arrays of any library, data frames, nested sequences
and SciPy's sparse matrices of any format. Data frames of every library have ``__array__``."""

FloatDtype: TypeAlias = Literal["float32", "float64"]

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

from typing import TYPE_CHECKING, Literal, TypeAlias

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

FloatDtype: TypeAlias = Literal["float32", "float64"]

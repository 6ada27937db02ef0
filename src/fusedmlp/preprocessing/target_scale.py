"""Scaling of regression targets, which the last layer undoes.

A network with an identity output trains best on targets of mean 0 and standard deviation 1.
Outputs in the target's own unit follow from the same network with other weights in the last layer:
(a·W + b)·s + c = a·(W·s) + (b·s + c). So no model needs to carry s and c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedmlp.network import Parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class TargetScale:
    """The statistics of the training targets.

    Parameters
    ----------
    center
        Mean c, (K,).
    scale
        Standard deviation s, (K,); 1 where all targets are equal.
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, y: NDArray[Any]) -> TargetScale:
        """Compute the statistics of targets (N, K)."""
        values = y.astype(np.float64)
        deviation = values.std(axis=0)
        return cls(values.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    def apply(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return (y − c)/s, in the dtype of ``y``."""
        scaled: NDArray[Any] = ((y - self.center) / self.scale).astype(y.dtype)
        return scaled

    def fold(self, parameters: Parameters) -> Parameters:
        """Return parameters whose outputs are in the unit of the targets."""
        *weights, last = parameters.weights
        *biases, bias = parameters.biases
        dtype = parameters.dtype
        return Parameters(
            (*weights, (last * self.scale).astype(dtype)),
            (*biases, (bias * self.scale + self.center).astype(dtype)),
        )

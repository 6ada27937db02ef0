"""The operations of one layer, by whichever kernels are chosen for their sizes.

The kernels of products.cu compute small products, with what follows fused; cuBLAS computes large
ones, and all with TF32. Strict mode has a product kernel of its own. Everything is queued; nothing
waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fusedmlp_cupy.kernels import launches, products

if TYPE_CHECKING:
    from fusedmlp.network import HiddenActivation
    from fusedmlp_cupy.kernels.arguments import Batch, Dropout
    from fusedmlp_cupy.runtime.types import DeviceArray, Program, Transposed
    from fusedmlp_cupy.tuning import Tuning


class Multiply(Protocol):
    """A function that multiplies matrices on the device."""

    def __call__(
        self, a: DeviceArray, b: DeviceArray, out: DeviceArray, transposed: Transposed = ""
    ) -> None:
        """Out = a·b, aᵀ·b or a·bᵀ, each array in C order."""


@dataclass(frozen=True, slots=True)
class LayerOperations:
    """Forward and backward of one layer.

    Parameters
    ----------
    hidden
        Activation of the hidden layers.
    multiply
        Computes the products that products.cu does not.
    fused
        Whether products.cu computes small products.
    """

    program: Program
    hidden: HiddenActivation
    multiply: Multiply
    fused: bool
    tuning: Tuning

    def activations(
        self,
        a: DeviceArray,
        W: DeviceArray,
        b: DeviceArray,
        out: DeviceArray,
        batch: Batch,
        dropout: Dropout | None,
        kept_z: DeviceArray | None,
    ) -> None:
        """Out (B, H) = f(a·W + b), then the mask where there is dropout; ``kept_z`` = a·W + b."""
        if dropout is None and self._is_fused(a, W.shape[1]):
            products.product(self.program, a, W, out, b, self.hidden, kept_z)
            return
        self.logits(a, W, out)
        launches.bias_activation(self.program, out, b, self.hidden, batch, dropout, kept_z)

    def logits(self, a: DeviceArray, W: DeviceArray, out: DeviceArray) -> None:
        """Out (B, K) = a·W; the output kernels add the bias."""
        if self._is_fused(a, W.shape[1]):
            products.product(self.program, a, W, out)
        else:
            self.multiply(a, W, out)

    def backpropagate_delta(
        self,
        delta: DeviceArray,
        W: DeviceArray,
        saved: DeviceArray,
        out: DeviceArray,
        batch: Batch,
        dropout: Dropout | None,
    ) -> None:
        """Out (B, H) = (delta·Wᵀ) ⊙ f'(z), behind the mask; ``saved`` as in hidden_delta."""
        fused = self._is_fused(delta, W.shape[0])
        if fused and dropout is None:
            products.backpropagate_delta(self.program, delta, W, out, saved, self.hidden)
            return
        if fused:
            products.backpropagate_delta(self.program, delta, W, out)
        else:
            self.multiply(delta, W, out, "b")
        launches.hidden_delta(self.program, out, saved, self.hidden, batch, dropout)

    def gradients(
        self, a: DeviceArray, delta: DeviceArray, dW: DeviceArray, db: DeviceArray
    ) -> None:
        """DW = aᵀ·delta;  db = 1ᵀ·delta."""
        if self._is_fused(a, delta.shape[1]):
            products.gradients(self.program, a, delta, dW, db)
        else:
            self.multiply(a, delta, dW, "a")
            launches.bias_gradient(self.program, delta, db)

    def can_fuse_updates(self, rows: int, shapes: tuple[tuple[int, int], ...]) -> bool:
        """Tell whether products.cu computes the gradients of every layer."""
        return self.fused and all(self.tuning.is_small(D, rows, H) for D, H in shapes)

    def _is_fused(self, left: DeviceArray, width: int) -> bool:
        """Tell whether products.cu multiplies ``left``, in any form, by ``width`` columns."""
        rows, columns = left.shape
        return self.fused and self.tuning.is_small(rows, columns, width)

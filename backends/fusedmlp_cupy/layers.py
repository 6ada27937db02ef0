"""A layer's products and what stands around them, by whichever kernels they are for.

Small products are products.cu's, with what follows them fused; large ones are cuBLAS's, and all are
where TF32 was asked for; strict mode has one product kernel. Everything is queued, nothing waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fusedmlp_cupy import kernels, products
from fusedmlp_cupy.products import is_small

if TYPE_CHECKING:
    from fusedmlp.network import HiddenActivation
    from fusedmlp_cupy.cublas import Transposed
    from fusedmlp_cupy.kernels import Batch, Dropout
    from fusedmlp_cupy.programs import DeviceArray, Program


class Multiply(Protocol):
    """A function that multiplies matrices on the device."""

    def __call__(
        self, a: DeviceArray, b: DeviceArray, out: DeviceArray, transposed: Transposed = ""
    ) -> None:
        """Out = a·b, aᵀ·b or a·bᵀ, each array in C order."""


@dataclass(frozen=True, slots=True)
class Layers:
    """The operations of one network's layers.

    Parameters
    ----------
    program
        The kernels.
    hidden
        Activation of the hidden layers.
    multiply
        What computes products that are not for the kernels of products.cu.
    own
        Whether any are.
    """

    program: Program
    hidden: HiddenActivation
    multiply: Multiply
    own: bool

    def activations(
        self,
        a: DeviceArray,
        W: DeviceArray,
        b: DeviceArray,
        out: DeviceArray,
        batch: Batch,
        dropout: Dropout | None,
    ) -> None:
        """Out (B, H) = f(a·W + b), then the mask where there is dropout."""
        if dropout is None and self._is_own(a, W.shape[1]):
            products.product(self.program, a, W, out, b, self.hidden)
            return
        self.logits(a, W, out)
        kernels.bias_activation(self.program, out, b, self.hidden, batch, dropout)

    def logits(self, a: DeviceArray, W: DeviceArray, out: DeviceArray) -> None:
        """Out (B, K) = a·W; the bias is left to the output kernels."""
        if self._is_own(a, W.shape[1]):
            products.product(self.program, a, W, out)
        else:
            self.multiply(a, W, out)

    def below(
        self,
        delta: DeviceArray,
        W: DeviceArray,
        a: DeviceArray,
        out: DeviceArray,
        batch: Batch,
        dropout: Dropout | None,
    ) -> None:
        """Out (B, H) = (delta·Wᵀ) ⊙ f'(z), with f' from a = f(z), behind the mask."""
        own = self._is_own(delta, W.shape[0])
        if own and dropout is None:
            products.delta_below(self.program, delta, W, out, a, self.hidden)
            return
        if own:
            products.delta_below(self.program, delta, W, out)
        else:
            self.multiply(delta, W, out, "b")
        kernels.hidden_delta(self.program, out, a, self.hidden, batch, dropout)

    def gradients(
        self, a: DeviceArray, delta: DeviceArray, dW: DeviceArray, db: DeviceArray
    ) -> None:
        """DW = aᵀ·delta;  db = 1ᵀ·delta."""
        if self._is_own(a, delta.shape[1]):
            products.gradients(self.program, a, delta, dW, db)
        else:
            self.multiply(a, delta, dW, "a")
            kernels.bias_gradient(self.program, delta, db)

    def can_descend(self, rows: int, shapes: tuple[tuple[int, int], ...]) -> bool:
        """Tell whether every layer's gradients can be used up where they are computed."""
        return self.own and all(is_small(D, rows, H) for D, H in shapes)

    def _is_own(self, left: DeviceArray, width: int) -> bool:
        """Tell whether products.cu is for ``left``, in any form, times ``width`` columns."""
        rows, columns = left.shape
        return self.own and is_small(rows, columns, width)

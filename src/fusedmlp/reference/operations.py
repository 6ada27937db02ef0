"""The operations of the reference engine: sums, products and elementary functions.

The formulas in this package use these operations and NumPy's elementwise +, −, ×, ÷, √ and
comparisons, whose rounding IEEE 754 defines. The operations here are those that it does not define:
the order of sums, and functions such as exp. They are independent of networks.

:class:`Operations` uses NumPy's functions. :class:`StrictOperations` uses those of
:mod:`fusedmlp.reference.arithmetic`, which are specified to the last bit. A backend that computes
the same bits faster overrides methods of the latter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from fusedmlp.reference import arithmetic, dropout

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse

    from fusedmlp.reference.arithmetic import Constants
    from fusedmlp.reference.dropout import Mask
    from fusedmlp.types import Float64Vector, FloatArray

    LeftOperand: TypeAlias = "FloatArray | scipy.sparse.csr_array | scipy.sparse.csc_array"
    Function: TypeAlias = Callable[[FloatArray, Constants], FloatArray]


class Operations:
    """NumPy's functions; matrix products use its BLAS.

    Attributes
    ----------
    folds_rate
        Whether plain SGD multiplies the output delta by the learning rate. This is cheaper than
        multiplying the gradients, and rounds differently.
    takes_sparse
        Whether the left operand of a product may be CSR or CSC. Strict mode's sums have terms for
        zeros too.
    compiles
        Whether operations are compiled at their first call.
    compile_seconds
        Seconds spent so far on compiling operations.
    """

    folds_rate: ClassVar[bool] = True
    takes_sparse: ClassVar[bool] = True
    compiles: ClassVar[bool] = False
    compile_seconds: float = 0.0

    def product(self, a: LeftOperand, b: FloatArray, out: FloatArray) -> None:
        """Compute out (m, n) = a (m, k) · b (k, n)."""
        if isinstance(a, np.ndarray):
            np.matmul(a, b, out=out)
        else:
            out[...] = a @ b

    def sum_rows(self, x: FloatArray, out: FloatArray) -> None:
        """Compute out (H,), the sum of the rows of x (B, H)."""
        np.add.reduce(x, axis=0, out=out)

    def sum_columns(self, x: FloatArray) -> FloatArray:
        """Return the sum (B,) of each row of x (B, K)."""
        sums: FloatArray = x.sum(axis=1)
        return sums

    def squared_norms(self, x: FloatArray) -> Float64Vector:
        """Return Σₖ x[b, k]² (B,) in float64, x (B, K)."""
        norms: Float64Vector = np.einsum("bk,bk->b", x, x, dtype=np.float64)
        return norms

    def total(self, x: FloatArray) -> float:
        """Σ x (B,), in float64."""
        return float(x.sum(dtype=np.float64))

    def dot(self, x: Float64Vector, w: Float64Vector) -> float:
        """Σ x·w; x and w (B,)."""
        return float(x @ w)

    def exp(self, x: FloatArray, out: FloatArray | None = None) -> FloatArray:
        """Return eˣ."""
        return np.exp(x, out=out)

    def expm1(self, x: FloatArray) -> FloatArray:
        """Return eˣ − 1 for x ≤ 0."""
        return np.expm1(x)

    def log(self, x: FloatArray) -> FloatArray:
        """Return the natural logarithm of x."""
        return np.log(x)

    def log1p(self, x: FloatArray) -> FloatArray:
        """Return log(1 + x) for 0 ≤ x ≤ 1."""
        return np.log1p(x)

    def tanh(self, x: FloatArray, out: FloatArray) -> None:
        """Compute out = tanh x."""
        np.tanh(x, out=out)

    def sigmoid(self, x: FloatArray, out: FloatArray) -> None:
        """Compute out = σ(x) = 1 / (1 + e⁻ˣ), which is 0 for e⁻ˣ = ∞."""
        np.negative(x, out=out)
        np.exp(out, out=out)
        out += 1
        np.reciprocal(out, out=out)

    def relu(self, x: FloatArray, out: FloatArray) -> None:
        """Compute out = max(x, 0)."""
        np.maximum(x, 0, out=out)

    def normal_cdf(self, x: FloatArray) -> FloatArray:
        """Return Φ(x) = ½·(1 + erf(x/√2)), the cumulative normal distribution function."""
        from scipy.special import ndtr  # NumPy has no erf, and only gelu needs it

        cdf: FloatArray = ndtr(x)
        return cdf

    def dropout_mask(self, mask: Mask) -> None:
        """Fill a mask; see :func:`fusedmlp.reference.dropout.fill_mask`."""
        dropout.fill_mask(mask)


class StrictOperations(Operations):
    """The operations of :mod:`fusedmlp.reference.arithmetic`: the same bits on every machine.

    Hazard: several NumPy functions must not be used here. ``matmul`` and ``einsum`` use the BLAS or
    fused operations, ``sum`` adds in pairs, ``maximum`` of +0 and −0 may be either, and ``exp`` and
    ``log`` differ between processors.
    """

    folds_rate = False
    takes_sparse = False

    def product(self, a: LeftOperand, b: FloatArray, out: FloatArray) -> None:
        """Compute out (m, n) = a (m, k) · b (k, n) as k outer products, added in order."""
        assert isinstance(a, np.ndarray)
        out[...] = 0
        for column, row in zip(a.T, b, strict=True):
            out += column[:, None] * row

    def sum_rows(self, x: FloatArray, out: FloatArray) -> None:
        """Compute out (H,), the sum of the rows of x (B, H), in order."""
        out[...] = self._sum(x)

    def sum_columns(self, x: FloatArray) -> FloatArray:
        """Return the sum (B,) of each row of x (B, K), in order."""
        return self._sum(x.T)

    def squared_norms(self, x: FloatArray) -> Float64Vector:
        """Return Σₖ x[b, k]² (B,) in float64, x (B, K)."""
        wide = x.astype(np.float64)
        norms: Float64Vector = self._sum((wide * wide).T).astype(np.float64, copy=False)
        return norms

    def total(self, x: FloatArray) -> float:
        """Σ x (B,), in float64, in order."""
        return float(self._sum(x.astype(np.float64)))

    def dot(self, x: Float64Vector, w: Float64Vector) -> float:
        """Σ x·w, in order; x and w (B,)."""
        return self.total(x * w)

    def exp(self, x: FloatArray, out: FloatArray | None = None) -> FloatArray:
        """Return eˣ."""
        return self._apply(arithmetic.exp, x, out)

    def expm1(self, x: FloatArray) -> FloatArray:
        """Return eˣ − 1 for x ≤ 0."""
        return self._apply(arithmetic.expm1, x)

    def log(self, x: FloatArray) -> FloatArray:
        """Return the natural logarithm of x."""
        return self._apply(arithmetic.log, x)

    def log1p(self, x: FloatArray) -> FloatArray:
        """Return log(1 + x) for 0 ≤ x ≤ 1."""
        return self._apply(arithmetic.log_1p, x)

    def tanh(self, x: FloatArray, out: FloatArray) -> None:
        """Compute out = tanh x."""
        self._apply(arithmetic.tanh, x, out)

    def sigmoid(self, x: FloatArray, out: FloatArray) -> None:
        """Compute out = σ(x)."""
        self._apply(arithmetic.logistic, x, out)

    def relu(self, x: FloatArray, out: FloatArray) -> None:
        """Compute out = x where x is not below 0, else +0."""
        out[...] = np.where(x < 0, 0, x)

    def normal_cdf(self, x: FloatArray) -> FloatArray:
        """Return Φ(x)."""
        return self._apply(arithmetic.normal_cdf, x)

    def _apply(
        self, function: Function, x: FloatArray, out: FloatArray | None = None
    ) -> FloatArray:
        """Apply a function of :mod:`fusedmlp.reference.arithmetic` elementwise."""
        result = function(x, arithmetic.constants_of(x))
        if out is None:
            return result
        out[...] = result
        return out

    def _sum(self, x: FloatArray) -> FloatArray:
        """Sum over the first axis, in order, from +0."""
        total: FloatArray = np.zeros(x.shape[1:], x.dtype)
        for row in x:
            total = total + row
        return total

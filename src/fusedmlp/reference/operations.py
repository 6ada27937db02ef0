"""The operations that the reference engine is made of: sums, products and elementary functions.

The formulas in this package use these and NumPy's elementwise +, −, ×, ÷, √ and comparisons, which
IEEE 754 rounds alike everywhere. What is left to choose is here: the order of sums, and functions
such as exp. Nothing here knows of networks.

:class:`Operations` takes NumPy's own functions. :class:`StrictOperations` takes those that
:mod:`fusedmlp.reference.arithmetic` states to the last bit. A backend that computes the same bits
faster overrides methods of the latter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from fusedmlp.reference import arithmetic, dropout

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.reference.arithmetic import Constants
    from fusedmlp.reference.dropout import Mask
    from fusedmlp.types import Float64Vector, FloatArray

    Function: TypeAlias = Callable[[FloatArray, Constants], FloatArray]


class Operations:
    """NumPy's functions; matrix products on its BLAS.

    Attributes
    ----------
    folds_rate
        Whether plain SGD multiplies the output delta by the learning rate, which is cheaper than
        to multiply the gradients and rounds differently.
    compiles
        Whether an operation is compiled when it is first called.
    compile_seconds
        Seconds spent on compiling operations so far.
    """

    folds_rate: ClassVar[bool] = True
    compiles: ClassVar[bool] = False
    compile_seconds: float = 0.0

    def product(self, a: FloatArray, b: FloatArray, out: FloatArray) -> None:
        """Out (m, n) = a (m, k) · b (k, n)."""
        np.matmul(a, b, out=out)

    def sum_rows(self, x: FloatArray, out: FloatArray) -> None:
        """Out (H,) = the sum of the rows of x (B, H)."""
        np.add.reduce(x, axis=0, out=out)

    def sum_columns(self, x: FloatArray) -> FloatArray:
        """Return the sum (B,) of each row's numbers, x (B, K)."""
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
        """Out = tanh x."""
        np.tanh(x, out=out)

    def sigmoid(self, x: FloatArray, out: FloatArray) -> None:
        """Out = σ(x) = 1 / (1 + e⁻ˣ), where e⁻ˣ = ∞ gives 0."""
        np.negative(x, out=out)
        np.exp(out, out=out)
        out += 1
        np.reciprocal(out, out=out)

    def relu(self, x: FloatArray, out: FloatArray) -> None:
        """Out = max(x, 0)."""
        np.maximum(x, 0, out=out)

    def normal_cdf(self, x: FloatArray) -> FloatArray:
        """Return Φ(x) = ½·(1 + erf(x/√2)), the normal distribution's cumulative function."""
        from scipy.special import ndtr  # NumPy has no erf, and only one activation needs it

        cdf: FloatArray = ndtr(x)
        return cdf

    def dropout_mask(self, mask: Mask) -> None:
        """Fill a mask; see :func:`fusedmlp.reference.dropout.fill_mask`."""
        dropout.fill_mask(mask)


class StrictOperations(Operations):
    """What :mod:`fusedmlp.reference.arithmetic` states: the same bits on every machine.

    Hazard: of NumPy's other functions, ``matmul`` and ``einsum`` use the BLAS or fuse, ``sum`` adds
    in pairs, ``maximum`` of +0 and −0 is either, and ``exp`` and ``log`` differ between processors.
    """

    folds_rate = False

    def product(self, a: FloatArray, b: FloatArray, out: FloatArray) -> None:
        """Out (m, n) = a (m, k) · b (k, n): k outer products, added in order."""
        out[...] = 0
        for column, row in zip(a.T, b, strict=True):
            out += column[:, None] * row

    def sum_rows(self, x: FloatArray, out: FloatArray) -> None:
        """Out (H,) = the sum of the rows of x (B, H), in order."""
        out[...] = self._sum(x)

    def sum_columns(self, x: FloatArray) -> FloatArray:
        """Return the sum (B,) of each row's numbers, in order, x (B, K)."""
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
        """Out = tanh x."""
        self._apply(arithmetic.tanh, x, out)

    def sigmoid(self, x: FloatArray, out: FloatArray) -> None:
        """Out = σ(x)."""
        self._apply(arithmetic.logistic, x, out)

    def relu(self, x: FloatArray, out: FloatArray) -> None:
        """Out = x where it is not below 0, else +0."""
        out[...] = np.where(x < 0, 0, x)

    def normal_cdf(self, x: FloatArray) -> FloatArray:
        """Return Φ(x)."""
        return self._apply(arithmetic.normal_cdf, x)

    def _apply(
        self, function: Function, x: FloatArray, out: FloatArray | None = None
    ) -> FloatArray:
        """Compute a function of :mod:`fusedmlp.reference.arithmetic` for each number."""
        found = function(x, arithmetic.constants_of(x))
        if out is None:
            return found
        out[...] = found
        return out

    def _sum(self, x: FloatArray) -> FloatArray:
        """Sum over the first axis, in order, from +0."""
        total: FloatArray = np.zeros(x.shape[1:], x.dtype)
        for row in x:
            total = total + row
        return total

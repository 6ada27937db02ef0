"""The output activations, their losses and the output delta ŷ − y, computed from logits.

Loss functions work in place: delta replaces the logits z. The loss of a row is in float64 and
capped at ``MAX_ROW_LOSS``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fusedmlp.backend import EXP_OVERFLOWS, MAX_ROW_LOSS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.network import Output
    from fusedmlp.reference.operations import Operations
    from fusedmlp.types import Float64Vector, FloatArray, IntArray

    Loss: TypeAlias = Callable[
        [Operations, FloatArray, FloatArray, Any, FloatArray | None], tuple[float, float]
    ]
    """(operations, z, b, y, w) → Σ wᵢ·lossᵢ and Σ wᵢ over the rows predicted right."""


def softmax_cross_entropy(
    ops: Operations, z: FloatArray, b: FloatArray, y: IntArray, w: FloatArray | None
) -> tuple[float, float]:
    """Loss −log softmax(z + b)[y] from the logits; z becomes the unscaled delta (ŷ − y)·w.

    With m = max z: loss = log Σ e^(z − m) + m − z[y], which cannot overflow for finite logits.

    Parameters
    ----------
    z
        (B, K), the product a·W; becomes delta.
    b
        (K,).
    y
        (B,) class indices.
    w
        (B,) sample weights or None.

    Returns
    -------
    loss, correct
        Σ wᵢ·lossᵢ and Σ wᵢ over the rows whose largest logit (the first of equal ones) is y.
    """
    z += b
    each = np.arange(len(z))
    predicted = z.argmax(axis=1)
    m = z[each, predicted]
    margin = m.astype(np.float64) - z[each, y].astype(np.float64)
    z -= m[:, None]
    ops.exp(z, out=z)
    total = ops.sum_columns(z)
    losses = ops.log(total.astype(np.float64)) + margin
    z /= total[:, None]
    z[each, y] -= 1
    return _weighted_sums(ops, losses, predicted == y, z, w)


def sigmoid_cross_entropy(
    ops: Operations, z: FloatArray, b: FloatArray, y: FloatArray, w: FloatArray | None
) -> tuple[float, float]:
    """Binary cross-entropy of K independent labels; z becomes the unscaled delta (σ(z) − y)·w.

    The loss of a label is max(z, 0) − z·y + log(1 + e^−|z|); the loss of a row is their sum.

    Parameters
    ----------
    z
        (B, K), the product a·W; becomes delta.
    b
        (K,).
    y
        (B, K) zeros and ones.
    w
        (B,) sample weights or None.

    Returns
    -------
    loss, correct
        Σ wᵢ·lossᵢ and Σ wᵢ over the rows with all K labels right (the prediction is 1 if z > 0).
    """
    z += b
    correct = ((z > 0) == (y > 0.5)).all(axis=1)
    logits = z.astype(np.float64)
    log_terms = ops.log1p(ops.exp(-np.abs(logits)))
    losses = ops.sum_columns(np.maximum(logits, 0) - logits * y + log_terms)
    ops.sigmoid(z, out=z)
    z -= y
    return _weighted_sums(ops, losses, correct, z, w)


def squared_error(
    ops: Operations, z: FloatArray, b: FloatArray, y: FloatArray, w: FloatArray | None
) -> tuple[float, float]:
    """Half the squared error ½·Σₖ (zₖ − yₖ)² of a row; z becomes the unscaled delta (z − y)·w.

    Parameters
    ----------
    z
        (B, K), the product a·W; becomes delta.
    b
        (K,).
    y
        (B, K).
    w
        (B,) sample weights or None.

    Returns
    -------
    loss, correct
        Σ wᵢ·lossᵢ, and 0.
    """
    z += b
    z -= y
    losses = 0.5 * ops.squared_norms(z)
    return _weighted_sums(ops, losses, np.zeros(len(z), bool), z, w)


def poisson_deviance(
    ops: Operations, z: FloatArray, b: FloatArray, y: FloatArray, w: FloatArray | None
) -> tuple[float, float]:
    """Half the Poisson deviance of the rates eᶻ; z becomes the unscaled delta (eᶻ − y)·w.

    The loss of a target is eᶻ − y − y·(z − log y), or eᶻ for y = 0; the loss of a row is their sum.
    It is 0 for eᶻ = y.

    Parameters
    ----------
    z
        (B, K), the product a·W; becomes delta.
    b
        (K,).
    y
        (B, K), at least 0.
    w
        (B,) sample weights or None.

    Returns
    -------
    loss, correct
        Σ wᵢ·lossᵢ, and 0.
    """
    z += b
    logits = np.minimum(z.astype(np.float64), EXP_OVERFLOWS)
    counts = y.astype(np.float64)
    log_counts = ops.log(np.where(counts > 0, counts, 1))
    losses = ops.sum_columns(ops.exp(logits) - counts - counts * (logits - log_counts))
    ops.exp(z, out=z)
    z -= y
    return _weighted_sums(ops, losses, np.zeros(len(z), bool), z, w)


LOSSES: Final[dict[Output, Loss]] = {
    "softmax": softmax_cross_entropy,
    "sigmoid": sigmoid_cross_entropy,
    "identity": squared_error,
    "exp": poisson_deviance,
}
"""The loss function of each output."""


def output_activation(ops: Operations, z: FloatArray, output: Output) -> None:
    """Replace the logits z (B, K), bias included, by the network's outputs ŷ, in place."""
    match output:
        case "softmax":
            z -= z.max(axis=1, keepdims=True)
            ops.exp(z, out=z)
            z /= ops.sum_columns(z)[:, None]
        case "sigmoid":
            ops.sigmoid(z, out=z)
        case "exp":
            ops.exp(z, out=z)
        case "identity":
            pass


def _weighted_sums(
    ops: Operations,
    losses: FloatArray,
    correct: npt.NDArray[np.bool_],
    delta: FloatArray,
    w: FloatArray | None,
) -> tuple[float, float]:
    capped: Float64Vector = np.minimum(losses, MAX_ROW_LOSS, dtype=np.float64)
    if w is None:
        return ops.total(capped), float(np.count_nonzero(correct))
    delta *= w[:, None]
    weights = w.astype(np.float64)
    return ops.dot(capped, weights), ops.dot(correct.astype(np.float64), weights)

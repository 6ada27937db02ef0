"""The formulas, one function each: the specification of every kernel in the other backends.

A kernel of the same name in another backend computes the same thing, and a test compares the two.
Functions work in place on the arrays they are given, so that the engine allocates nothing per
step. Shapes follow the legend in :mod:`fusedmlp.types`. There is no network here, and no loop
over layers or batches: see engine.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from fusedmlp.backend import EXP_OVERFLOWS, MAX_ROW_LOSS, keep_threshold
from fusedmlp.validation import is_sparse

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.network import HiddenActivation, Output
    from fusedmlp.types import FloatArray, Inputs, IntArray

PIXEL_MAX = 255


def gather_rows(x: Inputs, rows: IntArray, out: FloatArray) -> None:
    """Out = x[rows] in out's dtype; uint8 pixels become x / 255, CSR rows become dense.

    Parameters
    ----------
    x
        (N, D) stored inputs.
    rows
        (B,) row numbers.
    out
        (B, D).
    """
    if is_sparse(x):
        out[...] = x[rows].toarray()
    elif x.dtype == np.uint8:
        np.divide(x[rows], out.dtype.type(PIXEL_MAX), out=out, dtype=out.dtype, casting="unsafe")
    elif x.dtype == out.dtype:
        # mode="clip" lets take write straight into out; the engine has checked the rows.
        np.take(cast("FloatArray", x), rows, axis=0, out=out, mode="clip")
    else:
        out[...] = x[rows]


def product(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """Out (m, n) = a (m, k) · b (k, n)."""
    np.matmul(a, b, out=out)


def bias_gradient(delta: FloatArray, db: FloatArray) -> None:
    """Db (H,) = the sum of delta (B, H) over its rows."""
    np.add.reduce(delta, axis=0, out=db)


def batch_weight(w: FloatArray) -> float:
    """Σ w over the batch's rows (B,), in float64."""
    return float(w.sum(dtype=np.float64))


def bias_activation(z: FloatArray, b: FloatArray, activation: HiddenActivation) -> None:
    """Z ← f(z + b), in place.

    sigmoid: σ(z) = 1 / (1 + e⁻ᶻ), where e⁻ᶻ = ∞ rightly gives 0; tanh; relu: max(z, 0).

    Parameters
    ----------
    z
        (B, H), the product a·W; becomes the activation.
    b
        (H,).
    """
    z += b
    match activation:
        case "sigmoid":
            np.negative(z, out=z)
            np.exp(z, out=z)
            z += 1
            np.reciprocal(z, out=z)
        case "tanh":
            np.tanh(z, out=z)
        case "relu":
            np.maximum(z, 0, out=z)
        case "identity":
            pass


def hidden_delta(delta: FloatArray, a: FloatArray, activation: HiddenActivation) -> None:
    """Delta ← delta ⊙ f'(z), in place, with f' from the activation's own value a = f(z).

    sigmoid: a·(1 − a); tanh: 1 − a²; relu: 1 where a > 0; identity: 1.

    Parameters
    ----------
    delta
        (B, H), the next layer's delta times Wᵀ.
    a
        (B, H); its contents are used up.
    """
    match activation:
        case "sigmoid":
            delta *= a
            np.subtract(1, a, out=a)
            delta *= a
        case "tanh":
            np.multiply(a, a, out=a)
            np.subtract(1, a, out=a)
            delta *= a
        case "relu":
            delta *= a > 0
        case "identity":
            pass


def softmax_cross_entropy(
    z: FloatArray, b: FloatArray, y: IntArray, w: FloatArray | None
) -> tuple[float, float]:
    """Loss −log softmax(z + b)[y] from the logits; z becomes the unscaled delta (ŷ − y)·w.

    With m = max z: loss = log Σ e^(z − m) + m − z[y], which no finite logit can overflow.

    Parameters
    ----------
    z
        (B, K), the product a·W; becomes delta.
    b
        (K,).
    y
        (B,) class numbers.
    w
        (B,) sample weights or None.

    Returns
    -------
    loss, correct
        Σ wᵢ·lossᵢ and Σ wᵢ over the rows whose largest logit (the first, on a tie) is y's.
    """
    z += b
    each = np.arange(len(z))
    predicted = z.argmax(axis=1)
    m = z[each, predicted]
    margin = m - z[each, y].astype(np.float64)
    z -= m[:, None]
    np.exp(z, out=z)
    total = z.sum(axis=1)
    losses = np.log(total, dtype=np.float64) + margin
    z /= total[:, None]
    z[each, y] -= 1
    return _weighted_sums(losses, predicted == y, z, w)


def sigmoid_cross_entropy(
    z: FloatArray, b: FloatArray, y: FloatArray, w: FloatArray | None
) -> tuple[float, float]:
    """Binary cross-entropy of K independent labels; z becomes the unscaled delta (σ(z) − y)·w.

    A label's loss from its logit is max(z, 0) − z·y + log(1 + e^−|z|); a row's is their sum.

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
        Σ wᵢ·lossᵢ and Σ wᵢ over the rows with all K labels right (predicted 1 where z > 0).
    """
    z += b
    correct = ((z > 0) == (y > 0.5)).all(axis=1)
    logits = z.astype(np.float64)
    losses = (np.maximum(logits, 0) - logits * y + np.log1p(np.exp(-np.abs(logits)))).sum(axis=1)
    output_activation(z, "sigmoid")
    z -= y
    return _weighted_sums(losses, correct, z, w)


def squared_error(
    z: FloatArray, b: FloatArray, y: FloatArray, w: FloatArray | None
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
    losses = 0.5 * np.einsum("bk,bk->b", z, z, dtype=np.float64)
    return _weighted_sums(losses, np.zeros(len(z), bool), z, w)


def poisson_deviance(
    z: FloatArray, b: FloatArray, y: FloatArray, w: FloatArray | None
) -> tuple[float, float]:
    """Half the Poisson deviance of the rates eᶻ; z becomes the unscaled delta (eᶻ − y)·w.

    A target's loss from its logit is eᶻ − y − y·(z − log y), and eᶻ where y = 0; a row's is their
    sum. It is 0 where eᶻ = y.

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
    logits = np.minimum(z, EXP_OVERFLOWS, dtype=np.float64)
    log_y = np.log(np.where(y > 0, y, 1), dtype=np.float64)
    losses = (np.exp(logits) - y - y * (logits - log_y)).sum(axis=1)
    output_activation(z, "exp")
    z -= y
    return _weighted_sums(losses, np.zeros(len(z), bool), z, w)


def output_activation(z: FloatArray, output: Output) -> None:
    """Z ← the network's outputs ŷ from its logits (bias included), in place.

    Parameters
    ----------
    z
        (B, K).
    """
    match output:
        case "softmax":
            z -= z.max(axis=1, keepdims=True)
            np.exp(z, out=z)
            z /= z.sum(axis=1, keepdims=True)
        case "sigmoid":
            np.negative(z, out=z)
            np.exp(z, out=z)
            z += 1
            np.reciprocal(z, out=z)
        case "exp":
            np.exp(z, out=z)
        case "identity":
            pass


def dropout_mask(
    out: npt.NDArray[np.bool_], seed: int, step: int, layer: int, dropout: float
) -> None:
    """Which units of a hidden layer are kept at a step; defined in :mod:`fusedmlp.backend`.

    Parameters
    ----------
    out
        (B, H).
    layer
        Hidden layer, from 0.
    """
    B, H = out.shape
    block = np.arange((H + 3) // 4, dtype=np.uint64)[None, :]
    row = np.arange(B, dtype=np.uint64)[:, None]
    words = philox4x32(
        (block, row, np.uint64(step % 2**32), np.uint64(layer)), (seed % 2**32, seed // 2**32)
    )
    out[...] = np.stack(words, axis=-1).reshape(B, -1)[:, :H] < keep_threshold(dropout)


def philox4x32(
    counter: tuple[npt.NDArray[np.uint64] | np.uint64, ...], key: tuple[int, int]
) -> tuple[npt.NDArray[np.uint64], ...]:
    """Philox4x32-10: four random 32-bit words for a counter (Salmon et al., SC'11, section 4.3).

    Words travel in uint64, so that the 32 × 32 bit products are whole.
    """
    multipliers = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
    weyl = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
    low_word, word_bits = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = np.broadcast_arrays(*counter)
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(10):
        p0, p1 = c0 * multipliers[0], c2 * multipliers[1]
        c0, c1, c2, c3 = (
            (p1 >> word_bits) ^ c1 ^ k0,
            p1 & low_word,
            (p0 >> word_bits) ^ c3 ^ k1,
            p0 & low_word,
        )
        k0, k1 = (k0 + weyl[0]) & low_word, (k1 + weyl[1]) & low_word
    return c0, c1, c2, c3


def sgd(theta: FloatArray, gradient: FloatArray, lr: float) -> None:
    """θ ← θ − lr·g. The gradient's contents are used up, here and below."""
    if lr != 1.0:
        gradient *= lr
    theta -= gradient


def momentum(
    theta: FloatArray, gradient: FloatArray, velocity: FloatArray, lr: float, mu: float
) -> None:
    """V ← μ·v − lr·g; θ ← θ + v."""
    gradient *= lr
    velocity *= mu
    velocity -= gradient
    theta += velocity


def nesterov(
    theta: FloatArray, gradient: FloatArray, velocity: FloatArray, lr: float, mu: float
) -> None:
    """V ← μ·v − lr·g; θ ← θ + μ·v − lr·g."""
    gradient *= lr
    velocity *= mu
    velocity -= gradient
    theta -= gradient
    np.multiply(velocity, mu, out=gradient)
    theta += gradient


def adam(
    theta: FloatArray,
    gradient: FloatArray,
    first_moment: FloatArray,
    second_moment: FloatArray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    corrections: tuple[float, float],
    decay: float,
    scratch: FloatArray,
) -> None:
    """One Adam step, after θ ← θ − lr·decay·θ; formulas in :mod:`fusedmlp.optimizers`.

    Parameters
    ----------
    eps, corrections
        The step's ε, 1 − β₁ᵗ and 1 − β₂ᵗ.
    scratch
        Work space of theta's shape.
    """
    if decay:
        theta *= 1.0 - lr * decay
    np.multiply(gradient, 1.0 - beta1, out=scratch)
    first_moment *= beta1
    first_moment += scratch
    np.multiply(gradient, gradient, out=gradient)
    gradient *= 1.0 - beta2
    second_moment *= beta2
    second_moment += gradient
    np.divide(second_moment, corrections[1], out=scratch)
    np.sqrt(scratch, out=scratch)
    scratch += eps
    np.divide(first_moment, scratch, out=scratch)
    scratch *= lr / corrections[0]
    theta -= scratch


def _weighted_sums(
    losses: npt.NDArray[np.float64],
    correct: npt.NDArray[np.bool_],
    delta: FloatArray,
    w: FloatArray | None,
) -> tuple[float, float]:
    np.minimum(losses, MAX_ROW_LOSS, out=losses)
    if w is None:
        return float(losses.sum()), float(np.count_nonzero(correct))
    delta *= w[:, None]
    weights = w.astype(np.float64)
    return float(losses @ weights), float(correct @ weights)

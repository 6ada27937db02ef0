"""The formulas of single operations, compiled: each the twin of the NumPy kernel of its name.

The specification is ``fusedmlp_numpy.kernels``; a test compares every pair. Differences in form:
activations, outputs and optimizers are numbers (their place in the contract's tuples), since
compiled code would be built anew for each string; row losses are written out row by row instead
of summed, and elementwise kernels take a range of columns, so that threads can share a batch
without any sum depending on how it was cut. Products are in products.py, whole steps in steps.py.

No fastmath: ``nnan`` and ``ninf`` would lose the NaN that tells the trainer to stop, ``arcp``
makes x / 255 differ from NumPy's, ``reassoc`` and ``contract`` round the vectorised body of a loop
and its remainder differently, so that bits would depend on the split. Where a fused multiply-add
pays, it is written out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.backend import MAX_ROW_LOSS
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp_numba.caching import kernel
from fusedmlp_numba.elementary import exp, tanh
from fusedmlp_numba.intrinsics import like

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.types import DenseInputs, Float64Vector, FloatArray, IntArray

SIGMOID: Final = HIDDEN_ACTIVATIONS.index("sigmoid")
TANH: Final = HIDDEN_ACTIVATIONS.index("tanh")
RELU: Final = HIDDEN_ACTIVATIONS.index("relu")
SOFTMAX_OUTPUT: Final = OUTPUTS.index("softmax")
SIGMOID_OUTPUT: Final = OUTPUTS.index("sigmoid")

PIXEL_MAX: Final = 255


@kernel
def gather_rows(x: DenseInputs, rows: IntArray, out: FloatArray, pixels: bool) -> None:
    """Out = x[rows] in out's dtype; pixels become x / 255.

    Parameters
    ----------
    x
        (N, D) stored inputs.
    rows
        (B,) row numbers.
    out
        (B, D).
    pixels
        Whether x is ``uint8``.
    """
    for i in range(len(rows)):
        source, target = x[rows[i]], out[i]
        if pixels:
            for j in range(len(target)):
                target[j] = like(source[j], target) / like(PIXEL_MAX, target)
        else:
            for j in range(len(target)):
                target[j] = source[j]


@kernel
def bias_activation(z: FloatArray, b: FloatArray, activation: int, first: int, last: int) -> None:
    """Z ← f(z + b), in place, in columns first to last.

    sigmoid: σ(z) = 1 / (1 + e⁻ᶻ), where e⁻ᶻ = ∞ rightly gives 0; tanh; relu: max(z, 0).

    Parameters
    ----------
    z
        (B, H), the product a·W; becomes the activation.
    b
        (H,).
    """
    one, zero = like(1.0, z), like(0.0, z)
    b = b[first:last]
    for i in range(len(z)):
        row = z[i][first:last]
        if activation == SIGMOID:
            for j in range(len(row)):
                row[j] = one / (one + exp(-(row[j] + b[j])))
        elif activation == TANH:
            for j in range(len(row)):
                row[j] = tanh(row[j] + b[j])
        elif activation == RELU:
            for j in range(len(row)):
                value = row[j] + b[j]
                # Written so that NaN, which is not ≤ 0, stays NaN.
                row[j] = zero if value <= zero else value
        else:
            for j in range(len(row)):
                row[j] += b[j]


@kernel
def hidden_delta(
    delta: FloatArray, a: FloatArray, activation: int, keep: float, first: int, last: int
) -> None:
    """Delta ← delta ⊙ f'(z), in place, with f' from the activation's own value f(z) = a·keep.

    sigmoid: a·(1 − a); tanh: 1 − a²; relu: 1 where a > 0; identity: 1.

    Parameters
    ----------
    delta
        (B, H), the next layer's delta times Wᵀ.
    a
        (B, H), the activation, which dropout has divided by ``keep`` = 1 − dropout.
    """
    one, zero, scale = like(1.0, a), like(0.0, a), like(keep, a)
    for i in range(len(delta)):
        row, value = delta[i][first:last], a[i][first:last]
        if activation == SIGMOID:
            for j in range(len(row)):
                f = value[j] * scale
                row[j] = row[j] * f * (one - f)
        elif activation == TANH:
            for j in range(len(row)):
                f = value[j] * scale
                row[j] = row[j] * (one - f * f)
        elif activation == RELU:
            for j in range(len(row)):
                # A product and not a choice: NaN·0 is NaN, as in the specification.
                row[j] = row[j] * (one if value[j] > zero else zero)


@kernel
def softmax_cross_entropy(
    z: FloatArray,
    b: FloatArray,
    y: IntArray,
    w: FloatArray,
    rows: IntArray,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
) -> None:
    """Loss −log softmax(z + b)[y] from the logits; z becomes the delta (ŷ − y)·w·scale.

    With m = max z: loss = log Σ e^(z − m) + m − z[y], which no finite logit can overflow.

    Parameters
    ----------
    z
        (B, ≥ K), the product a·W; becomes delta.
    b
        (K,).
    y
        (N,) class numbers.
    w
        (N,) sample weights, or (0,) for none.
    rows
        (B,) row numbers in y and w.
    losses, correct
        (B,) wᵢ·lossᵢ, and wᵢ where the largest logit (the first, on a tie) is y's.
    """
    K, one = len(b), like(1.0, z)
    for i in range(len(rows)):
        row, label = z[i], y[rows[i]]
        best = 0
        for k in range(K):
            row[k] += b[k]
            if row[k] > row[best]:
                best = k
        m, z_y = row[best], row[label]
        total = like(0.0, z)
        for k in range(K):
            row[k] = exp(row[k] - m)
            total += row[k]
        factor = _weigh(
            math.log(np.float64(total)) + (np.float64(m) - np.float64(z_y)),
            best == label,
            w,
            rows[i],
            i,
            losses,
            correct,
        )
        weight = like(factor * scale, z)
        for k in range(K):
            share = row[k] / total
            row[k] = (share - one if k == label else share) * weight


@kernel
def sigmoid_cross_entropy(
    z: FloatArray,
    b: FloatArray,
    y: FloatArray,
    w: FloatArray,
    rows: IntArray,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
) -> None:
    """Binary cross-entropy of K independent labels; z becomes the delta (σ(z) − y)·w·scale.

    A label's loss from its logit is max(z, 0) − z·y + log(1 + e^−|z|); a row's is their sum.

    Parameters
    ----------
    z
        (B, ≥ K), the product a·W; becomes delta.
    b
        (K,).
    y
        (N, K) zeros and ones.
    w
        (N,) sample weights, or (0,) for none.
    rows
        (B,) row numbers in y and w.
    losses, correct
        (B,) wᵢ·lossᵢ, and wᵢ where all K labels are right (predicted 1 where z > 0).
    """
    K, one, zero = len(b), like(1.0, z), like(0.0, z)
    for i in range(len(rows)):
        row, label = z[i], y[rows[i]]
        loss, right = 0.0, True
        for k in range(K):
            row[k] += b[k]
            logit = np.float64(row[k])
            right = right and (row[k] > zero) == (label[k] > 0.5)
            positive = 0.0 if logit <= 0.0 else logit
            loss += positive - logit * label[k] + math.log1p(math.exp(-abs(logit)))
        weight = like(_weigh(loss, right, w, rows[i], i, losses, correct) * scale, z)
        for k in range(K):
            row[k] = (one / (one + exp(-row[k])) - label[k]) * weight


@kernel
def squared_error(
    z: FloatArray,
    b: FloatArray,
    y: FloatArray,
    w: FloatArray,
    rows: IntArray,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
) -> None:
    """Half the squared error ½·Σₖ (zₖ − yₖ)² of a row; z becomes the delta (z − y)·w·scale.

    Parameters
    ----------
    z
        (B, ≥ K), the product a·W; becomes delta.
    b
        (K,).
    y
        (N, K).
    w
        (N,) sample weights, or (0,) for none.
    rows
        (B,) row numbers in y and w.
    losses, correct
        (B,) wᵢ·lossᵢ, and 0.
    """
    K = len(b)
    for i in range(len(rows)):
        row, target = z[i], y[rows[i]]
        loss = 0.0
        for k in range(K):
            row[k] = row[k] + b[k] - target[k]
            loss += np.float64(row[k]) * np.float64(row[k])
        weight = like(_weigh(0.5 * loss, False, w, rows[i], i, losses, correct) * scale, z)
        for k in range(K):
            row[k] *= weight


@kernel
def _weigh(
    loss: float,
    right: bool,
    w: FloatArray,
    n: int,
    i: int,
    losses: Float64Vector,
    correct: Float64Vector,
) -> float:
    """Write a row's capped, weighted loss and hit; return its weight."""
    weight = np.float64(w[n]) if len(w) else 1.0
    # MAX_ROW_LOSS is not above NaN, which therefore stays.
    losses[i] = (MAX_ROW_LOSS if loss > MAX_ROW_LOSS else loss) * weight
    correct[i] = weight if right else 0.0
    return weight


@kernel
def output_activation(z: FloatArray, b: FloatArray, output: int, out: FloatArray) -> None:
    """Out = the network's outputs ŷ from its logits z + b.

    Parameters
    ----------
    z
        (B, ≥ K), the product a·W; used up.
    b
        (K,).
    out
        (B, K).
    """
    K, one = len(b), like(1.0, z)
    for i in range(len(out)):
        row, target = z[i], out[i]
        for k in range(K):
            row[k] += b[k]
        if output == SOFTMAX_OUTPUT:
            m = row[0]
            for k in range(1, K):
                m = row[k] if row[k] > m else m
            total = like(0.0, z)
            for k in range(K):
                target[k] = exp(row[k] - m)
                total += target[k]
            for k in range(K):
                target[k] /= total
        elif output == SIGMOID_OUTPUT:
            for k in range(K):
                target[k] = one / (one + exp(-row[k]))
        else:
            for k in range(K):
                target[k] = row[k]


@kernel
def dropout_mask(
    out: npt.NDArray[np.uint8],
    seed: np.uint64,
    step: np.uint64,
    layer: np.uint64,
    threshold: np.uint64,
    first: int,
    last: int,
    first_row: int,
) -> None:
    """Which units are kept (1) in columns first to last; defined in :mod:`fusedmlp.backend`.

    Parameters
    ----------
    out
        (B, H) of ``uint8``.
    seed, step, layer, threshold
        Of ``uint64``; with a signed number among them Numba would compute in floating point.
    first
        A multiple of 4.
    first_row
        Number in the batch of out's first row.
    """
    for i in range(len(out)):
        for block in range(first // 4, (last + 3) // 4):
            words = philox4x32(np.uint64(block), np.uint64(first_row + i), step, layer, seed)
            for word in range(min(4, last - 4 * block)):
                out[i, 4 * block + word] = words[word] < threshold


@kernel
def philox4x32(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, seed: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Philox4x32-10: four random 32-bit words for a counter (Salmon et al., SC'11, section 4.3).

    Words travel in uint64, so that the 32 × 32 bit products are whole.
    """
    low_word, word_bits = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = seed & low_word, seed >> word_bits
    c2 &= low_word
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> word_bits) ^ c1 ^ k0,
            p1 & low_word,
            (p0 >> word_bits) ^ c3 ^ k1,
            p0 & low_word,
        )
        k0 = (k0 + np.uint64(0x9E3779B9)) & low_word
        k1 = (k1 + np.uint64(0xBB67AE85)) & low_word
    return c0, c1, c2, c3


@kernel
def sgd(theta: FloatArray, gradient: FloatArray, lr: float) -> None:
    """θ ← θ − lr·g."""
    rate = like(lr, theta)
    for i in range(len(theta)):
        theta[i] -= rate * gradient[i]


@kernel
def momentum(
    theta: FloatArray, gradient: FloatArray, velocity: FloatArray, lr: float, mu: float
) -> None:
    """V ← μ·v − lr·g; θ ← θ + v."""
    rate, mu = like(lr, theta), like(mu, theta)
    for i in range(len(theta)):
        v = mu * velocity[i] - rate * gradient[i]
        velocity[i] = v
        theta[i] += v


@kernel
def nesterov(
    theta: FloatArray, gradient: FloatArray, velocity: FloatArray, lr: float, mu: float
) -> None:
    """V ← μ·v − lr·g; θ ← θ + μ·v − lr·g."""
    rate, mu = like(lr, theta), like(mu, theta)
    for i in range(len(theta)):
        step = rate * gradient[i]
        v = mu * velocity[i] - step
        velocity[i] = v
        theta[i] = theta[i] - step + mu * v


@kernel
def adam(
    theta: FloatArray,
    gradient: FloatArray,
    first_moment: FloatArray,
    second_moment: FloatArray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    corrections: Float64Vector,
    decay: float,
) -> None:
    """One Adam step, after θ ← θ − lr·decay·θ; formulas in :mod:`fusedmlp.optimizers`.

    Parameters
    ----------
    corrections
        1 − β₁ᵗ and 1 − β₂ᵗ.
    """
    b1, rest1 = like(beta1, theta), like(1.0 - beta1, theta)
    b2, rest2 = like(beta2, theta), like(1.0 - beta2, theta)
    c2, epsilon = like(corrections[1], theta), like(eps, theta)
    rate, kept = like(lr / corrections[0], theta), like(1.0 - lr * decay, theta)
    for i in range(len(theta)):
        g = gradient[i]
        m = b1 * first_moment[i] + rest1 * g
        v = b2 * second_moment[i] + rest2 * (g * g)
        first_moment[i] = m
        second_moment[i] = v
        theta[i] = theta[i] * kept - rate * (m / (math.sqrt(v / c2) + epsilon))

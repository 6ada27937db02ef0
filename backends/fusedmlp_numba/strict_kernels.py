"""Strict mode's kernels: loops over numbers, in the order of fusedmlp.reference.arithmetic.

Names and formulas are those of the NumPy backend's kernels. Nothing here is fused, tiled, threaded
or written in vectors; the elementary functions are compiled from the source of
:mod:`fusedmlp.reference.arithmetic`.

Hazard: LLVM keeps to the order that is written, and to one rounding for each operation, only
because nothing here is compiled with ``fastmath``: with it, and with its flags ``contract`` and
``reassoc`` alone, sums are reordered and products fused into them. `tests/test_strict.py` notices.
A Python number among float32 ones would make Numba compute in float64, so that constants come as
arguments of the engine's type.
"""

# ruff: noqa: ANN401, ARG001 - an overload's parameters are Numba's types, which have no static
# ones, and the names alone of some matter; the three losses are called alike.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import numpy as np
from numba import extending as untyped_extending
from numba import types

from fusedmlp.backend import EXP_OVERFLOWS, MAX_ROW_LOSS
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp.reference import arithmetic as strict
from fusedmlp_numba.compiler.jit import Entry, kernel
from fusedmlp_numba.compiler.object_cache import SOURCE_HASH
from fusedmlp_numba.network.dropout import philox4x32

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.reference.arithmetic import Constants
    from fusedmlp.types import Float64Vector, FloatArray, IntArray

    OfNumbers: TypeAlias = Callable[[float | np.floating, Constants], float]
    """An elementary function as compiled code calls it."""

extending: Any = untyped_extending

Function = TypeVar("Function", bound="Callable[..., Any]")

SIGMOID, TANH, RELU, _ = range(len(HIDDEN_ACTIVATIONS))
SOFTMAX, LOGISTIC, _, EXP = range(len(OUTPUTS))

LOSS, CORRECT, WEIGHT = range(3)
"""What the output kernels write into a batch's sums."""


def entry(function: Callable[..., None]) -> Entry:
    """Compile what Python calls, under a name on disk that changes with the sources."""
    if SOURCE_HASH is not None:
        function.__qualname__ += f"_{SOURCE_HASH[:16]}"
    return Entry(function)


def overload(function: Callable[..., object]) -> Callable[[Function], Function]:
    """Say what compiled code does in place of a function: Numba's decorator, with a type."""
    return cast("Callable[[Function], Function]", extending.overload(function))


@overload(strict.choose)
def _choose(condition: Any, x: Any, y: Any) -> Callable[..., Any]:
    def choose(condition: Any, x: Any, y: Any) -> Any:
        return x if condition else y

    return choose


@overload(strict.bits)
def _bits(x: Any) -> Callable[..., Any]:
    whole, real = (np.int32, np.float32) if x == types.float32 else (np.int64, np.float64)

    def bits(x: Any) -> Any:
        return real(x).view(whole)  # Numba wants to see a type's name before .view

    return bits


@overload(strict.from_bits)
def _from_bits(n: Any, like: Any) -> Callable[..., Any]:
    # Numba computes with whole numbers of 32 bits in 64: only the lower ones count.
    whole, real = (np.int32, np.float32) if like == types.float32 else (np.int64, np.float64)

    def from_bits(n: Any, like: Any) -> Any:
        return whole(n).view(real)

    return from_bits


for function in (
    strict.power_of_two,
    strict.nearest_exponent,
    strict.exp_series,
    strict.exp,
    strict.logistic,
    strict.tanh,
    strict.log_near_one,
    strict.log,
    strict.log_1p,
):
    extending.register_jitable(function)

exp: Final = cast("OfNumbers", strict.exp)
logistic: Final = cast("OfNumbers", strict.logistic)
tanh: Final = cast("OfNumbers", strict.tanh)
log: Final = cast("OfNumbers", strict.log)
log_1p: Final = cast("OfNumbers", strict.log_1p)


@entry
def product(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """Out (m, n) = a (m, k) · b (k, n), each element's k terms in order."""
    for i in range(len(out)):
        for j in range(out.shape[1]):
            out[i, j] = 0
        for k in range(len(b)):
            for j in range(out.shape[1]):
                out[i, j] += a[i, k] * b[k, j]


@entry
def bias_gradient(delta: FloatArray, db: FloatArray) -> None:
    """Db (H,) = the sum of delta (B, H) over its rows."""
    db[:] = 0
    for i in range(len(delta)):
        for j in range(len(db)):
            db[j] += delta[i, j]


@entry
def bias_activation(z: FloatArray, b: FloatArray, activation: int, c: Constants) -> None:
    """Z (B, H) ← f(z + b)."""
    for i in range(len(z)):
        for j in range(z.shape[1]):
            value = z[i, j] + b[j]
            if activation == SIGMOID:
                value = logistic(value, c)
            elif activation == TANH:
                value = tanh(value, c)
            elif activation == RELU and value < c.zero:
                value = c.zero
            z[i, j] = value


@entry
def dropout_mask(
    kept: npt.NDArray[np.bool_],
    seed: np.uint64,
    step: np.uint64,
    layer: np.uint64,
    threshold: np.uint64,
) -> None:
    """Which units (B, H) are kept, as :mod:`fusedmlp.backend` defines it."""
    for i in range(len(kept)):
        for j in range(kept.shape[1]):
            words = philox4x32(np.uint64(j // 4), np.uint64(i), step, layer, seed)
            kept[i, j] = words[j % 4] < threshold


@entry
def masked(a: FloatArray, kept: npt.NDArray[np.bool_], scale: np.floating, c: Constants) -> None:
    """Set a (B, H) ← a ⊙ kept · scale."""
    for i in range(len(a)):
        for j in range(a.shape[1]):
            a[i, j] = a[i, j] * (c.one if kept[i, j] else c.zero) * scale


@entry
def scaled(a: FloatArray, factor: np.floating) -> None:
    """Set a ← a · factor."""
    for i in range(len(a)):
        for j in range(a.shape[1]):
            a[i, j] *= factor


@entry
def hidden_delta(delta: FloatArray, a: FloatArray, activation: int, c: Constants) -> None:
    """Delta (B, H) ← delta ⊙ f'(z), from a = f(z)."""
    for i in range(len(delta)):
        for j in range(delta.shape[1]):
            value = a[i, j]
            if activation == SIGMOID:
                delta[i, j] = delta[i, j] * value * (c.one - value)
            elif activation == TANH:
                delta[i, j] *= c.one - value * value
            elif activation == RELU:
                delta[i, j] *= c.one if value > c.zero else c.zero


@kernel
def largest(z: FloatArray) -> int:
    """Index of the first largest of z (K,); the first NaN, where there is one."""
    top = 0
    for k in range(1, len(z)):
        if z[k] > z[top] or (z[k] != z[k] and z[top] == z[top]):
            top = k
    return top


@kernel
def softmax_terms(z: FloatArray, m: np.floating, c: Constants) -> np.floating:
    """Z (K,) ← e^(z − m); return the sum."""
    total = c.zero
    for k in range(len(z)):
        z[k] = exp(z[k] - m, c)
        total += z[k]
    return total


@kernel
def count(
    loss: float | np.floating,
    is_right: bool,
    delta: FloatArray,
    weight: np.floating,
    sums: Float64Vector,
) -> None:
    """Weigh a row's delta (K,), and add its loss, whether it is right, and its weight."""
    for k in range(len(delta)):
        delta[k] *= weight
    if loss > MAX_ROW_LOSS:
        loss = MAX_ROW_LOSS
    sums[LOSS] += loss * np.float64(weight)
    sums[CORRECT] += np.float64(weight) if is_right else 0.0
    sums[WEIGHT] += np.float64(weight)


@entry
def softmax_cross_entropy(
    z: FloatArray,
    b: FloatArray,
    y: IntArray,
    w: FloatArray,
    sums: Float64Vector,
    c: Constants,
    double: Constants,
) -> None:
    """Z (B, K), the product a·W, becomes (softmax(z + b) − onehot(y))·w; sums (3,) are set.

    Parameters
    ----------
    y, w
        (B,) class numbers and weights of the batch's rows, here and below.
    c, double
        Constants of the engine's type and of float64.
    """
    sums[:] = 0
    for i in range(len(z)):
        row, label = z[i], y[i]
        for k in range(len(row)):
            row[k] += b[k]
        top = largest(row)
        m = row[top]
        margin = np.float64(m) - np.float64(row[label])
        total = softmax_terms(row, m, c)
        for k in range(len(row)):
            row[k] /= total
        row[label] -= c.one
        count(log(np.float64(total), double) + margin, top == label, row, w[i], sums)


@entry
def sigmoid_cross_entropy(
    z: FloatArray,
    b: FloatArray,
    y: FloatArray,
    w: FloatArray,
    sums: Float64Vector,
    c: Constants,
    double: Constants,
) -> None:
    """Z (B, K) becomes (σ(z + b) − y)·w, y (B, K)."""
    sums[:] = 0
    for i in range(len(z)):
        row, loss, is_right = z[i], 0.0, True
        for k in range(len(row)):
            value = row[k] + b[k]
            logit, label = np.float64(value), np.float64(y[i, k])
            is_negative = logit < 0.0
            magnitude = 0.0 - logit if is_negative else logit
            positive = 0.0 if is_negative else logit
            loss += (positive - logit * label) + log_1p(exp(0.0 - magnitude, double), double)
            is_right = is_right and (logit > 0.0) == (label > 0.5)
            row[k] = logistic(value, c) - y[i, k]
        count(loss, is_right, row, w[i], sums)


@entry
def squared_error(
    z: FloatArray,
    b: FloatArray,
    y: FloatArray,
    w: FloatArray,
    sums: Float64Vector,
    c: Constants,
    double: Constants,
) -> None:
    """Z (B, K) becomes (z + b − y)·w, y (B, K)."""
    sums[:] = 0
    for i in range(len(z)):
        row, squares = z[i], double.zero
        for k in range(len(row)):
            row[k] = (row[k] + b[k]) - y[i, k]
            squares += np.float64(row[k]) * np.float64(row[k])
        count(double.half * squares, False, row, w[i], sums)


@entry
def poisson_deviance(
    z: FloatArray,
    b: FloatArray,
    y: FloatArray,
    w: FloatArray,
    sums: Float64Vector,
    c: Constants,
    double: Constants,
) -> None:
    """Z (B, K) becomes (e^(z + b) − y)·w, y (B, K)."""
    sums[:] = 0
    for i in range(len(z)):
        row, loss = z[i], double.zero
        for k in range(len(row)):
            value, target = row[k] + b[k], np.float64(y[i, k])
            logit = np.float64(value)
            if logit > EXP_OVERFLOWS:
                logit = np.float64(EXP_OVERFLOWS)
            log_target = log(target, double) if target > double.zero else double.zero
            loss += (exp(logit, double) - target) - target * (logit - log_target)
            row[k] = exp(value, c) - y[i, k]
        count(loss, False, row, w[i], sums)


@entry
def output_activation(z: FloatArray, b: FloatArray, output: int, c: Constants) -> None:
    """Z (B, K), the product a·W, becomes the network's outputs."""
    for i in range(len(z)):
        row = z[i]
        for k in range(len(row)):
            row[k] += b[k]
        if output == SOFTMAX:
            total = softmax_terms(row, row[largest(row)], c)
            for k in range(len(row)):
                row[k] /= total
        elif output == LOGISTIC:
            for k in range(len(row)):
                row[k] = logistic(row[k], c)
        elif output == EXP:
            for k in range(len(row)):
                row[k] = exp(row[k], c)


@entry
def l2_gradient(gradient: FloatArray, theta: FloatArray, l2: np.floating) -> None:
    """G ← g + λ·θ; all arrays (n,), here and below."""
    for i in range(len(gradient)):
        gradient[i] += l2 * theta[i]


@entry
def sgd(theta: FloatArray, gradient: FloatArray, lr: np.floating) -> None:
    """θ ← θ − lr·g."""
    for i in range(len(theta)):
        theta[i] -= lr * gradient[i]


@entry
def momentum(
    theta: FloatArray,
    gradient: FloatArray,
    velocity: FloatArray,
    lr: np.floating,
    mu: np.floating,
) -> None:
    """V ← μ·v − lr·g; θ ← θ + v."""
    for i in range(len(theta)):
        velocity[i] = mu * velocity[i] - lr * gradient[i]
        theta[i] += velocity[i]


@entry
def nesterov(
    theta: FloatArray,
    gradient: FloatArray,
    velocity: FloatArray,
    lr: np.floating,
    mu: np.floating,
) -> None:
    """V ← μ·v − lr·g; θ ← θ − lr·g + μ·v."""
    for i in range(len(theta)):
        descent = lr * gradient[i]
        velocity[i] = mu * velocity[i] - descent
        theta[i] = (theta[i] - descent) + mu * velocity[i]


@entry
def adam(
    theta: FloatArray,
    gradient: FloatArray,
    first_moment: FloatArray,
    second_moment: FloatArray,
    beta1: np.floating,
    beta2: np.floating,
    rest1: np.floating,
    rest2: np.floating,
    rate: np.floating,
    correction: np.floating,
    kept: np.floating,
    eps: np.floating,
) -> None:
    """One Adam step.

    Parameters
    ----------
    rest1, rest2
        1 − β₁ and 1 − β₂.
    rate, correction, kept, eps
        lr / (1 − β₁ᵗ), 1 − β₂ᵗ, 1 − lr·decay and ε of this step.
    """
    for i in range(len(theta)):
        g = gradient[i]
        m = beta1 * first_moment[i] + rest1 * g
        v = beta2 * second_moment[i] + rest2 * (g * g)
        first_moment[i] = m
        second_moment[i] = v
        theta[i] = theta[i] * kept - rate * (m / (np.sqrt(v / correction) + eps))

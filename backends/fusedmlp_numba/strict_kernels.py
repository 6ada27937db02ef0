"""Strict mode's loops over numbers, in the order of fusedmlp.reference.arithmetic.

Nothing here is fused, tiled, threaded or written in vectors. The elementary functions are compiled
from the source of :mod:`fusedmlp.reference.arithmetic`.

Hazard: LLVM keeps to the order that is written, and to one rounding for each operation, only
because nothing here is compiled with ``fastmath``: with it, and with its flags ``contract`` and
``reassoc`` alone, sums are reordered and products fused into them. `tests/test_strict.py` notices.
A Python number among float32 ones would make Numba compute in float64, so that constants come as
arguments of the engine's type.
"""

# ruff: noqa: ANN401, ARG001 - an overload's parameters are Numba's types, which have no static
# ones, and of some the name alone matters.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import numpy as np
from numba import extending as untyped_extending
from numba import types

from fusedmlp.reference import arithmetic as strict
from fusedmlp_numba.compiler.jit import Entry
from fusedmlp_numba.compiler.object_cache import SOURCE_HASH
from fusedmlp_numba.network.dropout import philox4x32

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.reference.arithmetic import Constants
    from fusedmlp.types import FloatArray

extending: Any = untyped_extending

Function = TypeVar("Function", bound="Callable[..., Any]")


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
    strict.expm1,
    strict.logistic,
    strict.tanh,
    strict.normal_cdf,
    strict.log_near_one,
    strict.log,
    strict.log_1p,
):
    extending.register_jitable(function)


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


def each(function: Function) -> Entry:
    """Compile a function of :mod:`fusedmlp.reference.arithmetic` for all numbers of an array."""

    def loop(x: FloatArray, out: FloatArray, c: Constants) -> None:
        for i in range(len(x)):
            out[i] = function(x[i], c)

    loop.__name__ = loop.__qualname__ = f"each_{function.__name__}"
    return entry(loop)


FUNCTIONS: Final[dict[str, Entry]] = {
    function.__name__: each(function)
    for function in (
        strict.exp,
        strict.expm1,
        strict.log,
        strict.log_1p,
        strict.tanh,
        strict.logistic,
        strict.normal_cdf,
    )
}
"""Loops over arrays (n,): x, the results, and the constants of their type."""

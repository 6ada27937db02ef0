"""Strict mode's loops over numbers, in the order of fusedmlp.reference.arithmetic.

Nothing here is fused, tiled, threaded or written in vectors. The elementary functions are compiled
from the source of :mod:`fusedmlp.reference.arithmetic`. Arrays are given by their addresses, have
no gaps, and are of one type. Each function becomes an object file; see compiler/object_cache.py.

Hazard: LLVM keeps to the order that is written, and to one rounding for each operation, only
because nothing here is compiled with ``fastmath``: with it, and with its flags ``contract`` and
``reassoc`` alone, sums are reordered and products fused into them. `tests/test_strict.py` notices.
A Python number among float32 ones would make Numba compute in float64, so that constants are of the
engine's type.
"""

# ruff: noqa: ANN401, ARG001 - an overload's parameters are Numba's types, which have no static
# ones, and of some the name alone matters.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numba import extending as untyped_extending
from numba import types

from fusedmlp.reference import arithmetic as strict
from fusedmlp.reference.arithmetic import CONSTANTS
from fusedmlp_numba.compiler.jit import object_code
from fusedmlp_numba.constants import STRICT_ARGUMENTS
from fusedmlp_numba.network.dropout import philox4x32
from fusedmlp_numba.simd.views import UINT8, array_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.types import FloatDtype
    from fusedmlp_numba.compiler.object_cache import ObjectCode

extending: Any = untyped_extending

Function = TypeVar("Function", bound="Callable[..., Any]")


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


def product(dtype: FloatDtype) -> ObjectCode:
    """Compile out (m, n) = a (m, k) · b (k, n), each element's k terms in order."""
    real = np.dtype(dtype)

    def product(a: int, b: int, out: int, m: int, k: int, n: int) -> None:
        left, right, result = array_at(a, real), array_at(b, real), array_at(out, real)
        for i in range(m):
            for j in range(n):
                result[i * n + j] = 0
            for t in range(k):
                for j in range(n):
                    result[i * n + j] += left[i * k + t] * right[t * n + j]

    return object_code(product, STRICT_ARGUMENTS["product"])


def dropout_mask(dtype: FloatDtype) -> ObjectCode:
    """Compile which units (rows, columns) are kept, as :mod:`fusedmlp.backend` defines it."""

    def dropout_mask(
        kept: int, rows: int, columns: int, seed: int, step: int, layer: int, threshold: int
    ) -> None:
        kept_units = array_at(kept, UINT8)
        counter, key = (np.uint64(step), np.uint64(layer)), np.uint64(seed)
        for i in range(rows):
            for j in range(columns):
                words = philox4x32(np.uint64(j // 4), np.uint64(i), counter[0], counter[1], key)
                kept_units[i * columns + j] = words[j % 4] < np.uint64(threshold)

    return object_code(dropout_mask, STRICT_ARGUMENTS["dropout_mask"])


def elementwise(name: str, dtype: FloatDtype) -> ObjectCode:
    """Compile a function of :mod:`fusedmlp.reference.arithmetic` for all numbers of an array."""
    function, constants, real = getattr(strict, name), CONSTANTS[dtype], np.dtype(dtype)

    def loop(x: int, out: int, n: int) -> None:
        arguments, results = array_at(x, real), array_at(out, real)
        for i in range(n):
            results[i] = function(arguments[i], constants)

    loop.__qualname__ = f"each_{name}_{dtype}"
    return object_code(loop, STRICT_ARGUMENTS[name])

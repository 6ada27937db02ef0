"""Vectors, and their exp, tanh and logarithms: errors in ulp, special values, partial stores."""

from __future__ import annotations

import inspect
import operator

import numba
import numpy as np
import pytest
import scipy.special

from fusedmlp_numba.compiler.host import panel_columns
from fusedmlp_numba.compiler.jit import OPTIONS
from fusedmlp_numba.simd import elementary
from fusedmlp_numba.simd.vector_memory import (
    gather_strided,
    load,
    load_as,
    load_strided,
    store,
    store_partial,
    store_strided,
)
from fusedmlp_numba.simd.vectors import (
    broadcast,
    convert_like,
    inline_kernel,
    lane_count,
    lane_indices,
    reduce_add,
    select,
)

EXACT = [("float32", "float64"), ("float64", "longdouble")]


def mapped(function):
    """Compile a function of a vector into one of arrays of any length."""
    if inspect.isfunction(function):
        function = inline_kernel(function)

    @numba.njit(**OPTIONS)
    def loop(x, out):
        for i in range(0, len(x), lane_count(x)):
            store(out, i, function(load(x, i)))

    def call(x):
        filled = np.append(x, np.ones(-len(x) % panel_columns(x.itemsize), x.dtype))
        out = np.empty_like(filled)
        loop(filled, out)
        return out[: len(x)]

    return call


exp, tanh, log, log_1p, expm1 = (
    mapped(getattr(elementary, name)) for name in ("exp", "tanh", "log", "log_1p", "expm1")
)


@mapped
def normal_cdf(z):
    return elementary.normal_cdf(z, elementary.exp(z * z * -0.5))


def worst(function, exact, x, wide):
    """Largest distance from the exact result, in units of its last place in x's dtype."""
    actual, result = function(x), exact(x.astype(wide))
    spacing = np.spacing(np.abs(result.astype(x.dtype)))
    return (np.abs(actual.astype(wide) - result) / spacing).max()


@pytest.mark.parametrize(("dtype", "wide"), EXACT)
def test_exp_is_within_two_ulp_and_0_or_infinite_beyond(dtype, wide):
    low, high = (-126.5, 127.5) if dtype == "float32" else (-1022.5, 1023.5)
    low, high = np.log(2) * (low + 1e-4), np.log(2) * (high - 1e-4)
    x = np.concatenate([
        np.linspace(low, high, 1_000_003), np.linspace(-1, 1, 200_001),
        np.geomspace(1e-40, 1, 10_001), -np.geomspace(1e-40, 1, 10_001),
    ]).astype(dtype)  # fmt: skip
    assert worst(exp, np.exp, x, wide) <= 2.0
    below = np.array([low - 1e-3, low - 0.3, low - 1, 2 * low, -1e30, -np.inf], dtype)
    np.testing.assert_array_equal(exp(below), 0)
    above = np.array([high + 1e-3, high + 0.3, high + 1, 2 * high, 1e30, np.inf], dtype)
    np.testing.assert_array_equal(exp(above), np.inf)


@pytest.mark.parametrize(("dtype", "wide"), EXACT)
def test_tanh_is_within_four_ulp_and_odd(dtype, wide):
    x = np.concatenate([np.linspace(0, 25, 500_001), np.geomspace(1e-30, 1e30, 100_001)])
    x = x.astype(dtype)
    assert worst(tanh, np.tanh, x, wide) <= 4.0
    np.testing.assert_array_equal(tanh(-x), -tanh(x))
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0] * 5, dtype)
    np.testing.assert_array_equal(tanh(x), np.tanh(x))
    np.testing.assert_array_equal(np.signbit(tanh(x)), np.signbit(x))


@pytest.mark.parametrize(("dtype", "wide"), EXACT)
def test_expm1_is_within_four_ulp(dtype, wide):
    x = np.concatenate([np.linspace(-40, 40, 500_001), np.geomspace(1e-30, 1, 100_001)])
    x = np.concatenate([x[x != 0], -x[-100_001:]]).astype(dtype)
    assert worst(expm1, np.expm1, x, wide) <= 4.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_cdf_is_within_its_bound_in_the_tails_too(dtype):
    """Relative to float64's ndtr, which is accurate to some ulp itself."""
    z = np.linspace(-12 if dtype == "float32" else -37, 12, 400_003).astype(dtype)
    exact = scipy.special.ndtr(z.astype("float64"))
    error = np.abs(normal_cdf(z) - exact) / (np.finfo(dtype).eps * exact)
    assert (error <= 4 + 2 * z.astype("float64") ** 2).all()
    ends = np.array([np.inf, -np.inf, np.nan, 1e15, -1e15], dtype)
    np.testing.assert_array_equal(normal_cdf(ends), [1, 0, np.nan, 1, 0])


@pytest.mark.parametrize(("dtype", "wide"), EXACT)
def test_log_is_within_one_ulp(dtype, wide):
    info = np.finfo(dtype)
    exponents = np.linspace(info.minexp, info.maxexp - 1e-6, 1_000_003)
    x = np.concatenate([np.exp2(exponents), np.linspace(0.4, 3, 500_001), [1.0]]).astype(dtype)
    assert worst(log, np.log, x[x != 1], wide) <= 1.0
    np.testing.assert_array_equal(log(np.array([1, np.inf, np.nan], dtype)), [0, np.inf, np.nan])


@pytest.mark.parametrize(("dtype", "wide"), EXACT)
def test_log_1p_is_within_two_ulp(dtype, wide):
    x = np.concatenate([np.linspace(0, 1, 1_000_003)[1:], np.geomspace(1e-37, 1, 200_001)])
    assert worst(log_1p, np.log1p, x.astype(dtype), wide) <= 2.0
    np.testing.assert_array_equal(log_1p(np.array([0, np.nan], dtype)), [0, np.nan])


@pytest.mark.parametrize("function", [exp, tanh, log, log_1p])
def test_every_nan_stays_one(function):
    """Whatever else its bits say, and those are shifted about."""
    payloads = np.arange(1, 4096, dtype=np.uint32)
    for sign in (0x7F800000, 0xFF800000):
        x = np.concatenate([payloads, payloads << np.uint32(11)]) | np.uint32(sign)
        assert np.isnan(function(x.view(np.float32))).all()


NUMBERS = np.array([1.5, -2.0, np.nan, 0.0, -0.0, 1e30, 3.0, np.inf] * 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "gt", "lt", "eq"])
def test_operators_are_those_of_numpy(name, dtype):
    operation = getattr(operator, name)
    x, truth = NUMBERS.astype(dtype), name in ("gt", "lt", "eq")
    y = np.roll(x, 3)

    @numba.njit(**OPTIONS)
    def loop(x, y, out):
        for i in range(0, len(x), lane_count(x)):
            result = operation(load(x, i), load(y, i))
            if truth:
                store(out, i, select(result, load(x, i) * 0.0 + 1.0, load(x, i)))
            else:
                store(out, i, result)

    out = np.empty_like(x)
    loop(x, y, out)
    with np.errstate(all="ignore"):
        expected = operation(x, y)
        np.testing.assert_array_equal(out, np.where(expected, x * 0 + 1, x) if truth else expected)


def test_whole_numbers():
    @numba.njit(**OPTIONS)
    def compute(x, out):
        v = lane_indices(broadcast(x)) + x
        v = ((v * x) ^ (v << 3) ^ (v >> 2)) - (v | 5) + (v & 6)
        store(out, 0, v)
        return lane_count(v)

    out, x = np.zeros(16, np.uint64), np.uint64(2**63 + 12345)
    n = compute(x, out)
    v = np.arange(n, dtype=np.uint64) + x
    u = np.uint64
    expected = ((v * x) ^ (v << u(3)) ^ (v >> u(2))) - (v | u(5)) + (v & u(6))
    np.testing.assert_array_equal(out[:n], expected)
    assert (out[n:] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sum_of_lanes(dtype):
    @numba.njit(**OPTIONS)
    def compute(x):
        return reduce_add(load(x, 0))

    x = (np.arange(panel_columns(np.dtype(dtype).itemsize)) ** 2 + 1).astype(dtype)
    assert compute(x) == x.sum(dtype=np.float64).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_and_parts_of_vectors(dtype):
    @numba.njit(**OPTIONS)
    def move(x, small, rows, count, out, chosen, first, wide):
        column = load_strided(x, 2, 5, count)
        store_strided(out, 1, 3, column, count)
        store_partial(chosen, 0, gather_strided(x, 1, 5, rows, 2, count, column), count)
        store_partial(first, 0, column + load_as(small, 1, column), count)
        store_partial(wide, 0, convert_like(column, wide), count)

    n = panel_columns(np.dtype(dtype).itemsize)
    x, small = np.arange(500, dtype=dtype).reshape(100, 5), np.arange(40, dtype=np.uint8)
    rows = np.random.default_rng(0).permutation(100)
    for count in range(1, n + 3):
        out, rest = np.full((n + 3, 3), -1, dtype), [np.full(n + 3, -1.0) for _ in range(3)]
        rest = [rest[0].astype(dtype), rest[1].astype(dtype), rest[2]]
        move(x, small, rows, count, out, *rest)
        m = min(count, n)
        np.testing.assert_array_equal(out[:m, 1], x[:m, 2])
        np.testing.assert_array_equal(rest[0][:m], x[rows[2 : 2 + m], 1])
        np.testing.assert_array_equal(rest[1][:m], x[:m, 2] + np.arange(1, m + 1))
        np.testing.assert_array_equal(rest[2][:m], x[:m, 2])
        out[:m, 1] = -1
        assert (out == -1).all()
        assert all((array[m:] == -1).all() for array in rest)

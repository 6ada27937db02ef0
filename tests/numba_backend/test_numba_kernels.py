"""Every compiled kernel against its NumPy twin of the same name, on any shape, in both dtypes."""

from __future__ import annotations

import functools
import inspect

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusedmlp.backend import MAX_ROW_LOSS, keep_threshold
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp.tolerance import check_close, kernel_bound
from fusedmlp_numba import elementary, kernels
from fusedmlp_numba.caching import OPTIONS
from fusedmlp_numpy import kernels as twins

DTYPES = ("float32", "float64")

sizes = st.sampled_from([1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 64, 67])
few = settings(max_examples=25, deadline=None)


@functools.cache
def callable_from_python(kernel):
    """Kernels have no wrapper for Python: compile the same source once more, with one."""
    return numba.njit(**OPTIONS)(kernel.py_func)


def run(kernel, *arguments):
    return callable_from_python(kernel)(*arguments)


def draw(shape, dtype, seed, scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(dtype)


def test_every_twin_is_there():
    public = {
        name
        for name, value in vars(twins).items()
        if inspect.isfunction(value) and value.__module__ == twins.__name__
    }
    missing = {name for name in public if not hasattr(kernels, name)}
    assert missing == {"_weighted_sums"}  # rows are weighed one by one here


@few
@given(B=sizes, D=sizes, stored=st.sampled_from(["uint8", *DTYPES]), seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_rows_equals(dtype, B, D, stored, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (B + 3, D)).astype(stored)
    rows = rng.integers(0, B + 3, B)
    mine, theirs = np.empty((B, D), dtype), np.empty((B, D), dtype)
    run(kernels.gather_rows, x, rows, mine, stored == "uint8")
    twins.gather_rows(x, rows, theirs)
    np.testing.assert_array_equal(mine, theirs)


def test_all_pixels_equal_numpy():
    x = np.arange(256, dtype=np.uint8).reshape(1, -1)
    for dtype in DTYPES:
        out = np.empty((1, 256), dtype)
        run(kernels.gather_rows, x, np.zeros(1, np.int64), out, True)
        np.testing.assert_array_equal(out, x / np.dtype(dtype).type(255))


@few
@given(B=sizes, H=sizes, activation=st.sampled_from(HIDDEN_ACTIVATIONS), seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_activation_and_hidden_delta(dtype, B, H, activation, seed):
    z, b, delta = draw((B, H), dtype, seed), draw(H, dtype, seed + 1), draw((B, H), dtype, seed + 2)
    number, first, last = HIDDEN_ACTIVATIONS.index(activation), H // 3, H
    mine, theirs = z.copy(), z.copy()
    run(kernels.bias_activation, mine, b, number, first, last)
    twins.bias_activation(theirs, b, activation)
    np.testing.assert_array_equal(mine[:, :first], z[:, :first])
    check_close(activation, mine[:, first:], theirs[:, first:], kernel_bound(dtype))

    mine_delta, their_delta = delta.copy(), delta.copy()
    keep = 0.5  # exact: near |a| = 1 the derivative would show a rounding of a
    run(kernels.hidden_delta, mine_delta, theirs / np.dtype(dtype).type(keep), number, keep,
        first, last)  # fmt: skip
    twins.hidden_delta(their_delta, theirs.copy(), activation)
    np.testing.assert_array_equal(mine_delta[:, :first], delta[:, :first])
    check_close("delta", mine_delta[:, first:], their_delta[:, first:], kernel_bound(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_activations_of_what_is_not_finite(activation, dtype):
    z = np.array([[np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0, 100.0]] * 5, dtype)
    mine, theirs = z.copy(), z.copy()
    run(kernels.bias_activation, mine, np.zeros(8, dtype), HIDDEN_ACTIVATIONS.index(activation),
        0, 8)  # fmt: skip
    with np.errstate(over="ignore"):
        twins.bias_activation(theirs, np.zeros(8, dtype), activation)
    np.testing.assert_allclose(mine, theirs, rtol=kernel_bound(dtype), atol=np.finfo(dtype).tiny)


def targets(output, rng, rows, K, dtype):
    if output == "softmax":
        return rng.integers(0, K, rows)
    if output == "sigmoid":
        return rng.integers(0, 2, (rows, K)).astype(dtype)
    return rng.normal(size=(rows, K)).astype(dtype)


LOSSES = {
    "softmax": (kernels.softmax_cross_entropy, twins.softmax_cross_entropy),
    "sigmoid": (kernels.sigmoid_cross_entropy, twins.sigmoid_cross_entropy),
    "identity": (kernels.squared_error, twins.squared_error),
}


def both_losses(output, z, b, y, w, rows, scale=1.0):
    """(loss, correct, delta) of the compiled kernel and of its twin."""
    K, dtype = len(b), z.dtype
    compiled, twin = LOSSES[output]
    mine = np.full((len(z), K + 3), 7, dtype)  # filled-up columns as in the engine's buffers
    mine[:, :K] = z
    losses, correct = np.empty(len(z)), np.empty(len(z))
    weights = np.empty(0, dtype) if w is None else w
    run(compiled, mine, b, y, weights, rows, scale, losses, correct)
    assert (mine[:, K:] == 7).all()
    theirs = z.copy()
    with np.errstate(all="ignore"):
        loss, hits = twin(theirs, b, y[rows], None if w is None else w[rows])
        theirs *= scale
    return (losses.sum(), correct.sum(), mine[:, :K]), (loss, hits, theirs)


@few
@given(
    B=sizes, K=sizes, output=st.sampled_from(OUTPUTS), weighted=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses(dtype, B, K, output, weighted, seed):
    rng = np.random.default_rng(seed)
    z, b = draw((B, K), dtype, seed), draw(K, dtype, seed + 1)
    y = targets(output, rng, B + 4, K, dtype)
    w = rng.random(B + 4).astype(dtype) if weighted else None
    rows = rng.integers(0, B + 4, B)
    mine, theirs = both_losses(output, z, b, y, w, rows, scale=0.25)
    bound = kernel_bound(dtype, K)
    check_close("loss", [mine[0], 1.0], [theirs[0], 1.0], bound)
    check_close("correct", [mine[1], 1.0], [theirs[1], 1.0], kernel_bound("float64", B))
    # A softmax over one class has delta 0 but for rounding: measured against 1.
    check_close("delta", np.append(mine[2], 1), np.append(theirs[2], 1), bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("size", [100.0, 1e4, 1e18])
def test_saturated_logits(output, size, dtype):
    z = np.array([[size, -size, 0.0], [-size, size, size]], dtype)
    b, rows = np.zeros(3, dtype), np.arange(2)
    y = {"softmax": np.array([1, 0])}.get(output, np.array([[1, 0, 0], [1, 0, 1]], dtype))
    mine, theirs = both_losses(output, z, b, y, None, rows)
    assert np.isfinite(mine[0])
    check_close("loss", mine[0], theirs[0], kernel_bound(dtype))
    check_close("delta", mine[2], theirs[2], kernel_bound(dtype))


def test_row_losses_are_capped_and_nan_is_not():
    y, b, rows = np.zeros((1, 1)), np.zeros(1), np.zeros(1, np.int64)
    mine, theirs = both_losses("identity", np.array([[1e200]]), b, y, None, rows)
    assert mine[0] == theirs[0] == MAX_ROW_LOSS
    for output in OUTPUTS:
        K = 2
        y = {"softmax": np.array([1])}.get(output, np.zeros((1, K)))
        z = np.array([[np.nan, 1.0]])
        mine, theirs = both_losses(output, z, np.zeros(K), y, None, rows)
        assert np.isnan(mine[0])
        assert np.isnan(theirs[0])
        assert np.isnan(mine[2]).any()


@pytest.mark.parametrize("right", [0, 1, 2])
def test_the_first_of_equal_logits_is_the_prediction(right):
    z, b, rows = np.array([[1.0, 2.0, 2.0]]), np.zeros(3), np.zeros(1, np.int64)
    mine, theirs = both_losses("softmax", z, b, np.array([right]), None, rows)
    assert mine[1] == theirs[1] == float(right == 1)


@few
@given(B=sizes, K=sizes, output=st.sampled_from(OUTPUTS), seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_activation(dtype, B, K, output, seed):
    z, b = draw((B, K), dtype, seed, 10.0), draw(K, dtype, seed + 1)
    mine, theirs = np.empty((B, K), dtype), z + b
    run(kernels.output_activation, z, b, OUTPUTS.index(output), mine)
    twins.output_activation(theirs, output)
    check_close(output, mine, theirs, kernel_bound(dtype, K))


@few
@given(
    B=sizes, H=sizes, seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**40),
    layer=st.integers(0, 5), dropout=st.sampled_from([0.0, 0.1, 0.5, 0.999]), cut=st.integers(0, 9),
)  # fmt: skip
@example(B=2, H=9, seed=2**64 - 1, step=2**32 + 5, layer=1, dropout=0.5, cut=1)
def test_dropout_mask_equals(B, H, seed, step, layer, dropout, cut):
    mine, theirs = np.full((B, H), 9, np.uint8), np.empty((B, H), bool)
    twins.dropout_mask(theirs, seed, step, layer, dropout)
    u = np.uint64
    first, row = min(4 * cut, H // 4 * 4), min(cut, B)
    threshold = u(keep_threshold(dropout))
    for begin, end, columns in ((0, row, (0, first)), (0, row, (first, H)), (row, B, (0, H))):
        part = mine[begin:end]
        run(kernels.dropout_mask, part, u(seed), u(step), u(layer), threshold, *columns, begin)
    np.testing.assert_array_equal(mine, theirs)


def test_philox_known_answer():
    """The test vectors of the Random123 distribution for philox4x32-10."""
    u = np.uint64
    assert run(kernels.philox4x32, u(0), u(0), u(0), u(0), u(0)) == (
        0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8,
    )  # fmt: skip
    ones = u(0xFFFFFFFF)
    assert run(kernels.philox4x32, ones, ones, ones, ones, u(2**64 - 1)) == (
        0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD,
    )  # fmt: skip


@few
@given(n=sizes, seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam"])
def test_updates(name, dtype, n, seed):
    mine = [draw(n, dtype, seed + i, 1.0) for i in range({"sgd": 2, "adam": 4}.get(name, 3))]
    if name == "adam":
        mine[3] = np.abs(mine[3])
    theirs = [array.copy() for array in mine]
    settings = {"sgd": (0.1,), "adam": (0.01, 0.9, 0.999, 1e-8)}.get(name, (0.1, 0.9))
    corrections, decay = (0.271, 0.002997), 0.1
    if name == "adam":
        run(kernels.adam, *mine, *settings, np.array(corrections), decay)
        twins.adam(*theirs, *settings, corrections, decay, np.empty(n, dtype))
    else:
        run(getattr(kernels, name), *mine, *settings)
        getattr(twins, name)(*theirs, *settings)
    for i in (0, *range(2, len(mine))):  # the twin uses the gradient up
        check_close(f"{name} {i}", mine[i], theirs[i], kernel_bound(dtype))


@numba.njit(**OPTIONS)
def map_exp(x, out):
    for i in range(len(x)):
        out[i] = elementary.exp(x[i])


@numba.njit(**OPTIONS)
def map_tanh(x, out):
    for i in range(len(x)):
        out[i] = elementary.tanh(x[i])


def ulps(actual, exact):
    """Distance in units of the last place of the exact value's dtype."""
    spacing = np.spacing(np.abs(exact.astype(actual.dtype)))
    return np.abs(actual.astype(exact.dtype) - exact) / spacing


@pytest.mark.parametrize(
    ("dtype", "exact", "low", "high"),
    [("float32", "float64", -87.3, 88.72), ("float64", "longdouble", -708.3, 709.78)],
)
def test_exp_is_within_two_ulp(dtype, exact, low, high):
    x = np.concatenate([
        np.linspace(low, high, 1_000_003), np.linspace(-1, 1, 200_001),
        np.geomspace(1e-40, 1, 10_001), -np.geomspace(1e-40, 1, 10_001),
    ]).astype(dtype)  # fmt: skip
    out = np.empty_like(x)
    map_exp(x, out)
    assert ulps(out, np.exp(x.astype(exact))).max() <= 2.0
    # Results below the normal numbers: an ulp is the smallest subnormal there.
    info = np.finfo(dtype)
    x = np.linspace(np.log(float(info.smallest_subnormal)) + 1, low, 10_001).astype(dtype)
    out = np.empty_like(x)
    map_exp(x, out)
    assert np.abs(out - np.exp(x.astype(exact))).max() <= 2 * float(info.smallest_subnormal)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_beyond_its_range(dtype):
    huge = np.finfo(dtype).max
    x = np.array([np.nan, np.inf, -np.inf, huge, -huge, 0.0, -0.0, 1000, -1000] * 5, dtype)
    out = np.empty_like(x)
    map_exp(x, out)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, np.exp(x))


@pytest.mark.parametrize(("dtype", "exact"), [("float32", "float64"), ("float64", "longdouble")])
def test_tanh_is_within_four_ulp(dtype, exact):
    positive = np.concatenate([np.linspace(0, 25, 500_001), np.geomspace(1e-30, 1, 50_001)])
    x = np.concatenate([positive, -positive]).astype(dtype)
    out = np.empty_like(x)
    map_tanh(x, out)
    assert ulps(out, np.tanh(x.astype(exact))).max() <= 4.0
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0] * 5, dtype)
    out = np.empty_like(x)
    map_tanh(x, out)
    np.testing.assert_array_equal(out, np.tanh(x))
    np.testing.assert_array_equal(np.signbit(out), np.signbit(x))

"""Every kernel of products.cu against NumPy, run on the CPU behind the shim.

As in test_cupy_kernels.py: odd sizes, outputs that start as NaN, every launch repeated backwards
and with one block to the same bits, arrays that end at forbidden memory.
"""

from __future__ import annotations

import re

import cupy_shim
import numpy as np
import pytest

import twins
from fusedmlp.network import DERIVATIVE_NEEDS_Z, HIDDEN_ACTIVATIONS
from fusedmlp.tolerance import check_close, difference, kernel_bound
from fusedmlp_cupy.kernels import products
from fusedmlp_cupy.kernels.arguments import RATE_COLUMNS, Batch
from fusedmlp_cupy.kernels.products import PRODUCTS, STEMS, TILES
from fusedmlp_cupy.kernels.source import ORDINARY, assemble, kernel_source
from fusedmlp_cupy.tuning import Tuning

SIZES = [(1, 1, 1), (1, 37, 5), (7, 3, 1), (16, 32, 16), (17, 33, 31), (33, 97, 65), (5, 131, 40)]
"""Of products (m, k, n): below a tile, on its edge, above; fewer terms than slices, or a chunk."""

sizes = pytest.mark.parametrize("size", SIZES, ids=str)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(params=TILES)
def tile(request, monkeypatch):
    """The width of the tiles, whatever the sizes call for."""
    monkeypatch.setattr(products, "tile_of", lambda *_: request.param)
    return request.param


def random(shape, dtype, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def program_of(device, dtype):
    return device.program(dtype, PRODUCTS)


@sizes
@dtypes
@pytest.mark.parametrize("activation", ["", *HIDDEN_ACTIVATIONS])
def test_product_with_bias_and_activation(device, tile, size, dtype, activation):
    m, k, n = size
    a, b, bias = random((m, k), dtype, 0), random((k, n), dtype, 1), random(n, dtype, 2)
    out = device.empty((m, n), dtype)
    kept_z = device.empty((m, n), dtype) if activation in DERIVATIVE_NEEDS_Z else None
    extra = (device.upload(bias), activation, kept_z) if activation else ()
    arrays = device.upload(a), device.upload(b), out
    products.product(program_of(device, dtype), *arrays, *extra)
    expected = np.empty((m, n), dtype)
    twins.product(a, b, expected)
    scale = np.abs(expected).max()
    if activation:
        scale = max(scale, 1.0)
        if kept_z is not None:
            check_close("z", kept_z.get(), expected + bias, kernel_bound(dtype, k), scale)
        twins.bias_activation(expected, bias, activation)
    check_close("product", out.get(), expected, kernel_bound(dtype, k), scale)


@sizes
@dtypes
@pytest.mark.parametrize("activation", ["", *HIDDEN_ACTIVATIONS])
def test_backpropagate_delta_with_derivative(device, tile, size, dtype, activation):
    m, k, n = size
    delta, W, a = random((m, k), dtype, 0), random((n, k), dtype, 1), random((m, n), dtype, 2)
    out = device.empty((m, n), dtype)
    extra = (device.upload(a), activation) if activation else ()
    arrays = device.upload(delta), device.upload(W), out
    products.backpropagate_delta(program_of(device, dtype), *arrays, *extra)
    expected = delta @ W.T
    scale = np.abs(expected).max()
    if activation:
        twins.hidden_delta(expected, a.copy(), activation)
        scale *= max(1.0, np.abs(a * a).max())
    check_close("delta", out.get(), expected, kernel_bound(dtype, k), scale)


@sizes
@dtypes
def test_gradients(device, tile, size, dtype):
    m, k, n = size
    a, delta = random((k, m), dtype, 0), random((k, n), dtype, 1)
    dW, db = device.empty((m, n), dtype), device.empty((n,), dtype)
    products.gradients(program_of(device, dtype), device.upload(a), device.upload(delta), dW, db)
    expected = np.empty(n, dtype)
    twins.bias_gradient(delta, expected)
    bound = kernel_bound(dtype, k)
    check_close("dW", dW.get(), a.T @ delta, bound)
    check_close("db", db.get(), expected, bound, max(1.0, np.abs(delta).sum(axis=0).max()))


@sizes
@dtypes
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("has_cursor", [False, True])
def test_sgd_gradients(device, tile, size, dtype, l2, has_cursor):
    m, k, n = size
    a, delta = random((k, m), dtype, 0), random((k, n), dtype, 1)
    W, b = random((m, n), dtype, 2), random(n, dtype, 3)
    rates = np.full((4, RATE_COLUMNS), np.nan, dtype)
    rates[3, 0] = 0.1
    cursor = device.upload(np.array([2, 99])) if has_cursor else None
    batch = Batch(None, 0, 1 if has_cursor else 3, k, cursor)
    there = [device.upload(each) for each in (a, delta, W, b, rates)]
    products.sgd_gradients(program_of(device, dtype), *there, batch, l2)
    bound, lr = kernel_bound(dtype, k), np.dtype(dtype).type(0.1)
    check_close("W", there[2].get(), W - lr * (a.T @ delta + np.dtype(dtype).type(l2) * W), bound)
    check_close("b", there[3].get(), b - lr * delta.sum(axis=0), bound)


@dtypes
def test_a_nan_reaches_its_row_alone(device, tile, dtype):
    """Terms beyond the end are products of zeros, which must not turn NaN elsewhere."""
    a, b = random((3, 5), dtype, 0), random((5, 4), dtype, 1)
    a[1, 4] = np.nan
    out = device.empty((3, 4), dtype)
    products.product(program_of(device, dtype), device.upload(a), device.upload(b), out)
    assert np.isnan(out.get()).any(axis=1).tolist() == [False, True, False]


def test_sums_are_in_the_order_that_the_file_states(device, tile):
    k = 71
    a, b = random((1, k), "float32", 0), random((k, 1), "float32", 1)
    out = device.empty((1, 1), "float32")
    products.product(program_of(device, "float32"), device.upload(a), device.upload(b), out)
    slices = np.zeros(products.PRODUCT_SLICES, np.float32)
    for term, number in enumerate(a[0] * b[:, 0]):
        slices[term % products.PRODUCT_SLICES] += number
    total = slices[0]
    for each in slices[1:]:
        total += each
    assert out.get()[0, 0].tobytes() == total.tobytes()


@pytest.mark.parametrize(
    ("sound", "fault", "found"),
    [
        ("term += PRODUCT_SLICES", "term += PRODUCT_SLICES + 1", "other numbers"),
        ("(int64)term * n_lines + line", "(int64)term * n_terms + line", "outside the arrays"),
        ("inside ? from[at] : (real)0", "from[at]", "outside the arrays"),
        ("turn ? *to + mine[i][j] : mine[i][j]", "mine[i][j]", "other numbers"),
        ("row < m && at < n", "row < m", "outside the arrays"),
    ],
)
def test_a_planted_fault_is_found(kernels, device, tmp_path, monkeypatch, sound, fault, found):
    source = assemble(*ORDINARY, "kernels.cu", "products.cu")
    assert source.count(sound) == 1
    planted = cupy_shim.Kernels(source.replace(sound, fault), "float", tmp_path)
    monkeypatch.setitem(kernels, "float32", planted)
    a, b = random((17, 37), "float32", 0), random((37, 19), "float32", 1)
    out = device.empty((17, 19), "float32")
    program = program_of(device, "float32")
    arrays = device.upload(a), device.upload(b), out
    if found == "outside the arrays":
        with pytest.raises(AssertionError, match=found):
            products.product(program, *arrays)
        return
    products.product(program, *arrays)
    assert not difference(out.get(), a @ b) <= kernel_bound("float32", 37)


def test_the_tile_depends_on_the_shape_alone():
    assert products.tile_of(64, 256) == 16
    assert products.tile_of(784, 256) == 32
    assert Tuning().is_small(64, 784, 256)
    assert not Tuning().is_small(1024, 784, 1024)


def test_numbers_agree_in_source_and_launches():
    constants = dict(re.findall(r"(PRODUCT_[A-Z]+) = (\d+)", kernel_source()))
    edge, slices = products.PRODUCT_EDGE, products.PRODUCT_SLICES
    assert (int(constants["PRODUCT_EDGE"]), int(constants["PRODUCT_SLICES"])) == (edge, slices)
    assert int(constants["PRODUCT_THREADS"]) == edge * edge * slices
    assert len(PRODUCTS) == len(STEMS) * len(TILES)

"""Single launches where a training shows too little: extreme numbers, ties, orders of sums.

The kernels run on the CPU behind the shim; outputs start as NaN, and every launch is repeated in
another order of threads and with a single block. test_cupy_common.py compares all kernels with
NumPy in trainings of odd shapes, and test_cupy_strict.py bit for bit.
"""

from __future__ import annotations

import numpy as np
import pytest

import twins
from fusedmlp.backend import MAX_ROW_LOSS
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp.tolerance import check_close, kernel_bound
from fusedmlp_cupy.kernels import launches, products
from fusedmlp_cupy.kernels.arguments import Batch, Targets

OUTPUT_SHAPES = [(1, 2), (1, 3), (5, 10), (13, 31), (6, 32), (67, 33), (3, 131)]

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
outputs = pytest.mark.parametrize("output", OUTPUTS)


def random(shape, dtype, seed=0, scale=2.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_nan_is_not_swallowed(device, activation):
    program, batch = device.program("float32"), Batch(None, 0, 0, 1)
    z, delta = (device.upload(np.full((1, 3), np.nan, np.float32)) for _ in range(2))
    b = device.upload(np.zeros(3, np.float32))
    launches.bias_activation(program, z, b, activation, batch, None)
    assert np.isnan(z.get()).all()
    launches.hidden_delta(program, delta, z, activation, batch, None)
    assert np.isnan(delta.get()).all()


def output_delta(device, output, z, y, w=None, *, rows=None, weights=None, first=0):
    """Delta, losses and hits of the output kernel, the third batch of a call."""
    B, K = z.shape
    losses, correct = device.empty((first + B,), np.float64), device.empty((first + B,), np.float64)
    there = [None if each is None else device.upload(each) for each in (y, w, weights, rows)]
    targets = Targets(there[0], there[1], True, there[2], losses, correct)
    delta, b = device.upload(z), device.upload(np.zeros(K, z.dtype))
    program, batch = device.program(z.dtype.name), Batch(there[3], first, 2, B)
    launches.output_delta(program, delta, b, output, batch, targets)
    return delta.get(), losses.get(), correct.get()


@dtypes
@outputs
@pytest.mark.parametrize("shape", OUTPUT_SHAPES, ids=str)
def test_rows_of_every_width(device, dtype, output, shape):
    (B, K), first = shape, 3
    rng = np.random.default_rng(B * 1000 + K)
    y = {
        "softmax": rng.integers(0, K, B + 5),
        "sigmoid": rng.integers(0, 2, (B + 5, K)).astype(dtype),
        "exp": rng.poisson(1.0, (B + 5, K)).astype(dtype),
        "identity": random((B + 5, K), dtype, 3),
    }[output]
    z, w, order = (
        random(shape, dtype, 1, 3.0),
        rng.random(B + 5).astype(dtype),
        rng.permutation(B + 5),
    )
    rows = order[first : first + B]
    weight = float(w[rows].sum(dtype=np.float64))
    delta, losses, correct = output_delta(
        device, output, z, y, w, rows=order, weights=np.array([np.nan, np.nan, weight]), first=first
    )
    loss, right = getattr(twins, launches.OUTPUT_KERNELS[output])(
        z, np.zeros(K, dtype), y[rows], w[rows]
    )
    check_close("delta", delta, z / weight, kernel_bound(dtype, K))
    assert np.isnan(losses[:first]).all(), "losses of other rows were written"
    check_close("loss", losses[first:].sum(), loss, kernel_bound(dtype, K))
    check_close("correct", correct[first:].sum(), right, kernel_bound("float64", B))


@outputs
@pytest.mark.parametrize(
    "logits", [[1e308, -1e308, 0.0], [np.nan, 0.0, 1.0], [0.0, 0.0, 0.0], [-1e308, -1e308, 5.0]]
)
def test_extreme_logits_give_the_specified_losses(device, output, logits):
    z = np.array([logits])
    y = {
        "softmax": np.array([1]),
        "sigmoid": np.array([[0.0, 1.0, 1.0]]),
        "identity": np.array([[0.0, 1.0, 2.0]]),
        "exp": np.array([[2.0, 2.0, 0.0]]),
    }[output]
    _, losses, correct = output_delta(device, output, z, y)
    with np.errstate(all="ignore"):
        loss, right = getattr(twins, launches.OUTPUT_KERNELS[output])(z, np.zeros(3), y, None)
    np.testing.assert_allclose(losses[0], loss, rtol=kernel_bound("float64"))
    assert correct[0] == right
    assert not losses[0] > MAX_ROW_LOSS


@dtypes
@pytest.mark.parametrize("column", [0, 40])
def test_first_of_equal_logits_is_predicted(device, dtype, column):
    z = np.zeros((1, 70), dtype)
    z[0, [column, 41, 69]] = 2.0
    assert output_delta(device, "softmax", z, np.array([column]))[2][0] == 1.0


@dtypes
def test_weights_that_sum_to_nothing_give_no_gradient(device, dtype):
    z, zero = random((3, 5), dtype), np.zeros(3, dtype)
    delta, losses, _ = output_delta(device, "softmax", z, np.arange(3), zero, weights=np.zeros(3))
    assert not delta.any()
    assert not losses.any()


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 3), (600, 257), (1031, 1031), (13, 64)])
@pytest.mark.parametrize("permuted", [True, False])
def test_batch_sums_and_weights(device, n, size, permuted):
    rng = np.random.default_rng(n)
    losses, correct, w = rng.random(n), rng.random(n), rng.random(n).astype(np.float32)
    order = rng.permutation(n) if permuted else np.arange(n)
    program, n_batches = device.program("float32"), -(-n // size)
    out, sums = device.empty((2, n_batches), np.float64), device.empty((n_batches,), np.float64)
    y = device.upload(np.zeros(n, np.int64))
    targets = Targets(y, None, True, None, device.upload(losses), device.upload(correct))
    launches.batch_sums(program, targets, n, size, out)
    rows = device.upload(order) if permuted else None
    launches.batch_weights(program, device.upload(w), rows, n, size, sums)
    found = (*out.get(), sums.get())
    for array, expected in zip(found, (losses, correct, w.astype(np.float64)[order]), strict=True):
        expected = np.add.reduceat(expected, np.arange(0, n, size))
        check_close("sums", array, expected, kernel_bound("float64", size))


# --------------------------------------------------------------------------------- matrix products

NARROW, WIDE = 1, 4090
"""Columns of a product of one row, of tiles of 16 and of 32."""


@dtypes
@pytest.mark.parametrize("n", [NARROW, WIDE])
def test_a_nan_reaches_its_row_alone(device, dtype, n):
    """Terms beyond the end are products of zeros, which must not turn NaN elsewhere."""
    a, b = random((3, 5), dtype, 0), random((5, n), dtype, 1)
    a[1, 4] = np.nan
    out = device.empty((3, n), dtype)
    products.product(device.program(dtype), device.upload(a), device.upload(b), out)
    assert np.isnan(out.get()).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("n", [NARROW, WIDE])
def test_sums_are_in_the_order_that_the_file_states(device, n):
    assert products.tile_of(1, n) == (32 if n == WIDE else 16)
    a, b = random((1, 71), "float32", 0), random((71, n), "float32", 1)
    out = device.empty((1, n), "float32")
    products.product(device.program("float32"), device.upload(a), device.upload(b), out)
    slices = np.zeros((products.PRODUCT_SLICES, n), np.float32)
    for term in range(71):
        slices[term % products.PRODUCT_SLICES] += a[0, term] * b[term]
    total = slices[0]
    for each in slices[1:]:
        total = total + each
    assert out.get()[0].tobytes() == total.tobytes()

"""Every kernel against the NumPy function of its name, run on the CPU behind the shim.

Sizes are odd on purpose: 1, primes, and above the block sizes. Outputs start as NaN, every launch
is repeated in another order of threads and with a single block, which must agree bit for bit,
and reading or writing past an array's end fails.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

import twins
from fusedmlp.backend import MAX_ROW_LOSS
from fusedmlp.network import DERIVATIVE_NEEDS_Z, HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp.tolerance import check_close, kernel_bound
from fusedmlp_cupy.data import upload_inputs
from fusedmlp_cupy.kernels import launches
from fusedmlp_cupy.kernels.arguments import RATE_COLUMNS, Batch, Dropout, Targets
from fusedmlp_cupy.kernels.launches import KERNELS

DTYPES = ("float32", "float64")
SHAPES = [(1, 1), (1, 7), (5, 1), (3, 2), (13, 31), (7, 257), (67, 33), (2, 1031)]
SEED = 0xDEADBEEF_12345678

dtypes = pytest.mark.parametrize("dtype", DTYPES)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def program_of(device, dtype):
    return device.program(dtype, tuple(KERNELS))


def random(shape, dtype, seed=0, scale=2.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def whole(n, first=0, number=0):
    return Batch(None, first, number, n)


@dtypes
@shapes
@pytest.mark.parametrize("storage", ["uint8", "float32", "float64", "csr32", "csr64"])
@pytest.mark.parametrize("permuted", [True, False])
def test_gather_rows(device, dtype, shape, storage, permuted):
    B, D = shape
    rng = np.random.default_rng(1)
    N = B + 4
    if storage == "uint8":
        x = rng.integers(0, 256, (N, D), dtype=np.uint8)
    elif storage.startswith("csr"):
        x = scipy.sparse.random_array(
            (N, D), density=0.3, format="csr", rng=rng, dtype=f"float{storage[3:]}"
        )
    else:
        x = rng.standard_normal((N, D)).astype(storage)
    order = rng.permutation(N)
    first = 2
    batch = Batch(device.upload(order) if permuted else None, first, 0, B)
    out = device.empty((B, D), dtype)
    launches.gather_rows(program_of(device, dtype), upload_inputs(device, x), batch, out)
    expected = np.empty((B, D), dtype)
    rows = order[first : first + B] if permuted else np.arange(first, first + B)
    twins.gather_rows(x, rows, expected)
    np.testing.assert_array_equal(out.get(), expected)


@dtypes
def test_pixels_are_divided_not_multiplied(device, dtype):
    x = np.arange(256, dtype=np.uint8).reshape(1, -1)
    out = device.empty((1, 256), dtype)
    launches.gather_rows(program_of(device, dtype), device.upload(x), whole(1), out)
    np.testing.assert_array_equal(
        out.get()[0], np.arange(256).astype(dtype) / np.dtype(dtype).type(255)
    )


@dtypes
@shapes
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_bias_activation_and_hidden_delta(device, dtype, shape, activation, rate):
    B, H = shape
    step, layer = 2**32 + 5, 1
    steps = device.upload(np.array([99, step % 2**32], np.uint32))
    dropout = Dropout(steps, layer, SEED, rate) if rate else None
    batch = whole(B, number=1)
    program = program_of(device, dtype)
    z, b, delta = random(shape, dtype), random(H, dtype, 1), random(shape, dtype, 2)
    z[0, 0] = -200.0  # e^200 overflows float32: sigmoid must give 0

    a, needs_z = device.upload(z), activation in DERIVATIVE_NEEDS_Z
    kept_z = device.empty(shape, dtype) if needs_z else None
    launches.bias_activation(program, a, device.upload(b), activation, batch, dropout, kept_z)
    below, saved = device.upload(delta), kept_z if needs_z else a
    launches.hidden_delta(program, below, saved, activation, batch, dropout)

    kept = np.ones(shape, bool)
    if rate:
        twins.dropout_mask(kept, SEED, step, layer, rate)
    scale = 1.0 / (1.0 - rate)
    expected_z = z + b
    with np.errstate(over="ignore"):
        twins.bias_activation(z, b, activation)
    expected = z * kept * np.dtype(dtype).type(scale)
    bound = kernel_bound(dtype)
    check_close("activation", a.get(), expected, bound)
    if needs_z:
        np.testing.assert_array_equal(kept_z.get(), expected_z)
    with np.errstate(over="ignore"):
        twins.hidden_delta(delta, expected_z if needs_z else z.copy(), activation)
    check_close("delta", below.get(), delta * kept * np.dtype(dtype).type(scale), bound)


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_nan_is_not_swallowed(device, activation):
    program = program_of(device, "float32")
    z = device.upload(np.full((1, 3), np.nan, np.float32))
    b = device.upload(np.zeros(3, np.float32))
    launches.bias_activation(program, z, b, activation, whole(1), None)
    assert np.isnan(z.get()).all()
    delta = device.upload(np.full((1, 3), np.nan, np.float32))
    launches.hidden_delta(program, delta, z, activation, whole(1), None)
    assert np.isnan(delta.get()).all()


@shapes
@pytest.mark.parametrize("rate", [0.5, 0.1, 0.999, 1e-17])
def test_dropout_mask_is_bit_identical(device, shape, rate):
    B, _H = shape
    steps = np.array([7, 2**32 - 1], np.uint32)
    out = device.empty(shape, np.uint8)
    dropout = Dropout(device.upload(steps), 3, SEED, rate)
    launches.dropout_mask(program_of(device, "float32"), out, whole(B, number=1), dropout)
    expected = np.empty(shape, bool)
    twins.dropout_mask(expected, SEED, 2**32 - 1, 3, rate)
    np.testing.assert_array_equal(out.get(), expected)


OUTPUT_SHAPES = [(1, 2), (1, 3), (5, 10), (13, 31), (6, 32), (67, 33), (3, 131)]


def output_case(output, shape, dtype, weighted):
    B, K = shape
    N = B + 5
    rng = np.random.default_rng(B * 1000 + K)
    z, b = random(shape, dtype, 1, 3.0), random(K, dtype, 2)
    if output == "softmax":
        y = rng.integers(0, K, N)
    elif output == "sigmoid":
        y = rng.integers(0, 2, (N, K)).astype(dtype)
    elif output == "exp":
        y = rng.poisson(1.0, (N, K)).astype(dtype)
    else:
        y = random((N, K), dtype, 3)
    w = rng.random(N).astype(dtype) if weighted else None
    return z, b, y, w, rng.permutation(N)


@dtypes
@pytest.mark.parametrize("shape", OUTPUT_SHAPES, ids=str)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_output_kernels(device, dtype, shape, output, weighted, mean):
    B, K = shape
    z, b, y, w, order = output_case(output, shape, dtype, weighted)
    first, number = 3, 2
    program = program_of(device, dtype)
    weight = float(w[order[first : first + B]].sum(dtype=np.float64)) if weighted else float(B)
    weights = device.upload(np.array([np.nan, np.nan, weight])) if weighted else None
    losses = device.empty((B + first,), np.float64)
    correct = device.empty((B + first,), np.float64)
    targets = Targets(
        device.upload(y), device.upload(w) if weighted else None, mean, weights, losses, correct
    )
    delta = device.upload(z)
    batch = Batch(device.upload(order), first, number, B)
    launches.output_delta(program, delta, device.upload(b), output, batch, targets)

    rows = order[first : first + B]
    twin = getattr(twins, launches.OUTPUT_KERNELS[output])
    loss, right = twin(z, b, y[rows], None if w is None else w[rows])
    if mean:
        z *= 1.0 / weight
    check_close("delta", delta.get(), z, kernel_bound(dtype, K))
    assert np.isnan(losses.get()[:first]).all(), "losses of other rows were written"
    check_close("loss", losses.get()[first:].sum(), loss, kernel_bound(dtype, K))
    check_close("correct", correct.get()[first:].sum(), right, kernel_bound("float64", B))


@pytest.mark.parametrize("output", OUTPUTS)
def test_extreme_logits_give_the_specified_losses(device, output):
    program = program_of(device, "float64")
    cases = [[1e308, -1e308, 0.0], [np.nan, 0.0, 1.0], [0.0, 0.0, 0.0], [-1e308, -1e308, 5.0]]
    for values in cases:
        z, b = np.array([values]), np.zeros(3)
        y = {
            "softmax": np.array([1]),
            "sigmoid": np.array([[0.0, 1.0, 1.0]]),
            "identity": np.array([[0.0, 1.0, 2.0]]),
            "exp": np.array([[2.0, 2.0, 0.0]]),
        }[output]
        losses, correct = device.empty((1,), np.float64), device.empty((1,), np.float64)
        targets = Targets(device.upload(y), None, True, None, losses, correct)
        delta = device.upload(z)
        launches.output_delta(program, delta, device.upload(b), output, whole(1), targets)
        with np.errstate(all="ignore"):
            loss, right = getattr(twins, launches.OUTPUT_KERNELS[output])(z, b, y, None)
        np.testing.assert_allclose(losses.get()[0], loss, rtol=kernel_bound("float64"))
        assert correct.get()[0] == right
        assert not losses.get()[0] > MAX_ROW_LOSS


@dtypes
@pytest.mark.parametrize("column", [0, 40])
def test_first_of_equal_logits_is_predicted(device, dtype, column):
    K = 70
    z = np.zeros((1, K), dtype)
    z[0, [column, 41, 69]] = 2.0
    losses, correct = device.empty((1,), np.float64), device.empty((1,), np.float64)
    targets = Targets(device.upload(np.array([column])), None, True, None, losses, correct)
    b = device.upload(np.zeros(K, dtype))
    launches.output_delta(
        program_of(device, dtype), device.upload(z), b, "softmax", whole(1), targets
    )
    assert correct.get()[0] == 1.0


@dtypes
def test_weights_that_sum_to_nothing_give_no_gradient(device, dtype):
    z, zero = random((3, 5), dtype), np.zeros(3, dtype)
    rows = device.empty((3,), np.float64), device.empty((3,), np.float64)
    weights = device.upload(np.zeros(1))
    targets = Targets(device.upload(np.arange(3)), device.upload(zero), True, weights, *rows)
    delta = device.upload(z)
    b = device.upload(np.zeros(5, dtype))
    launches.output_delta(program_of(device, dtype), delta, b, "softmax", whole(3), targets)
    assert not delta.get().any()
    assert not rows[0].get().any()


@dtypes
@pytest.mark.parametrize("shape", OUTPUT_SHAPES, ids=str)
@pytest.mark.parametrize("output", OUTPUTS)
def test_output_activation(device, dtype, shape, output):
    z, b = random(shape, dtype, 1, 3.0), random(shape[1], dtype, 2)
    out = device.upload(z)
    launches.output_activation(program_of(device, dtype), out, device.upload(b), output)
    z += b
    twins.output_activation(z, output)
    check_close("outputs", out.get(), z, kernel_bound(dtype, shape[1]))


@dtypes
@shapes
def test_bias_gradient(device, dtype, shape):
    B, H = shape
    delta = random(shape, dtype)
    db = device.empty((H,), dtype)
    launches.bias_gradient(program_of(device, dtype), device.upload(delta), db)
    check_close("db", db.get(), np.add.reduce(delta, axis=0), kernel_bound(dtype, B))


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 3), (600, 257), (1031, 1031), (13, 64)])
@pytest.mark.parametrize("permuted", [True, False])
def test_batch_sums_and_weights(device, n, size, permuted):
    rng = np.random.default_rng(n)
    losses, correct, w = rng.random(n), rng.random(n), rng.random(n).astype(np.float32)
    order = rng.permutation(n)
    program = program_of(device, "float32")
    n_batches = -(-n // size)
    out = device.empty((2, n_batches), np.float64)
    y = device.upload(np.zeros(n, np.int64))
    targets = Targets(y, None, True, None, device.upload(losses), device.upload(correct))
    launches.batch_sums(program, targets, n, size, out)
    sums = device.empty((n_batches,), np.float64)
    rows = device.upload(order) if permuted else None
    launches.batch_weights(program, device.upload(w), rows, n, size, sums)

    starts = np.arange(0, n, size)
    bound = kernel_bound("float64", size)
    check_close("losses", out.get()[0], np.add.reduceat(losses, starts), bound)
    check_close("correct", out.get()[1], np.add.reduceat(correct, starts), bound)
    permuted_w = w.astype(np.float64)[order if permuted else slice(None)]
    check_close("weights", sums.get(), np.add.reduceat(permuted_w, starts), bound)


def test_a_cursor_counts_batches_and_rows(device):
    program = program_of(device, "float32")
    cursor = device.upload(np.array([99, 99]))
    launches.advance_cursor(program, cursor, 0, 0, restart=True)
    assert cursor.get().tolist() == [0, 0]
    for _ in range(2):
        launches.advance_cursor(program, cursor, 3, 21)
    assert cursor.get().tolist() == [6, 42]


@dtypes
@pytest.mark.parametrize("output", OUTPUTS)
def test_what_a_launch_is_told_counts_from_the_cursor(device, dtype, output):
    """Rows, batch weights, dropout steps and rates: the same bits from wherever it counts."""
    B, K = 5, 7
    z, b, y, w, order = output_case(output, (B, K), dtype, True)
    program = program_of(device, dtype)
    found = []
    for cursor, first, number in ((None, 3, 2), ([1, 2], 1, 1), ([2, 3], 0, 0)):
        there = None if cursor is None else device.upload(np.array(cursor))
        batch = Batch(device.upload(order), first, number, B, there)
        x = device.empty((B, K), dtype)
        launches.gather_rows(program, device.upload(random((B + 5, K), dtype, 9)), batch, x)
        masks = Dropout(device.upload(np.array([7, 8, 9], np.uint32)), 0, SEED, 0.5)
        launches.bias_activation(program, x, device.upload(b), "tanh", batch, masks)
        delta = device.upload(z)
        launches.hidden_delta(program, delta, x, "tanh", batch, masks)
        losses = device.upload(np.zeros(B + 5)), device.upload(np.zeros(B + 5))
        weights = device.upload(np.array([np.nan, np.nan, 2.5]))
        targets = Targets(device.upload(y), device.upload(w), True, weights, *losses)
        launches.output_delta(program, delta, device.upload(b), output, batch, targets)
        rates = device.upload(np.array([[np.nan] * 5] * 2 + [[0.1] * 5]).astype(dtype))
        theta = tuple(device.upload(random(9, dtype, i) ** 2) for i in range(4))
        launches.update(program, "adam", theta, 9, rates, batch, (0.1, 0.9, 0.99, 0.1, 0.01))
        results = (x, delta, *losses, *theta)
        assert not any(np.isnan(each.get()).any() for each in results)
        found.append(b"".join(each.get().tobytes() for each in results))
    assert found[0] == found[1] == found[2]


@dtypes
@pytest.mark.parametrize(("n", "n_weights"), [(1, 1), (1, 0), (257, 101), (5003, 4001)])
@pytest.mark.parametrize("l2", [0.0, 0.03])
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "lion", "l2_gradient"])
def test_updates(device, dtype, n, n_weights, l2, name):
    program = program_of(device, dtype)
    theta, gradient = random(n, dtype, 1), random(n, dtype, 2)
    slots = [random(n, dtype, 3), np.abs(random(n, dtype, 4))]
    slots = slots[: {"adam": 2, "sgd": 0, "l2_gradient": 0}.get(name, 1)]
    on_device = tuple(device.upload(array) for array in (theta, gradient, *slots))
    penalty = np.where(np.arange(n) < n_weights, l2, 0.0).astype(dtype)
    if name == "l2_gradient":
        if n_weights:
            launches.l2_gradient(program, on_device[1], on_device[0], n_weights, l2)
        check_close("gradient", on_device[1].get(), gradient + penalty * theta, kernel_bound(dtype))
        return

    lr, mu, decay, corrections = 0.07, 0.9, 0.01, (0.19, 0.002)
    row = (lr, lr / corrections[0], corrections[1], 1.0 - lr * decay, 1e-3)
    rates = device.upload(np.array([[np.nan] * RATE_COLUMNS, row]).astype(dtype))
    betas = (l2, 0.9, 0.999, 1 - 0.9, 1 - 0.999)
    constants = {"sgd": (l2,), "adam": betas, "lion": betas}
    batch = whole(0, number=1)
    launches.update(
        program, name, on_device, n_weights, rates, batch, constants.get(name, (l2, mu))
    )
    gradient += penalty * theta
    if name in ("adam", "lion"):
        own = (1e-3, corrections) if name == "adam" else ()
        for part, rate in ((slice(0, n_weights), decay), (slice(n_weights, n), 0.0)):
            arrays = [array[part] for array in (theta, gradient, *slots)]
            scratch = np.empty_like(arrays[0])
            getattr(twins, name)(*arrays, lr, 0.9, 0.999, *own, rate, scratch)
    elif name == "sgd":
        twins.sgd(theta, gradient, lr)
    else:
        getattr(twins, name)(theta, gradient, slots[0], lr, mu)
    names = ["theta", *(f"slot {i}" for i in range(len(slots)))]
    for what, actual, expected in zip(
        names, (on_device[0], *on_device[2:]), (theta, *slots), strict=True
    ):
        check_close(what, actual.get(), expected, kernel_bound(dtype))

"""Every compiled kernel against its NumPy twin of the same name, on any shape, in both dtypes.

Elementwise kernels take whole vectors: shapes are counted in them. The vectors themselves, and
exp, tanh and log, are tested in test_numba_simd.py.
"""

from __future__ import annotations

import functools
import inspect

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import twins
from fusedmlp.backend import MAX_ROW_LOSS, keep_threshold
from fusedmlp.network import DERIVATIVE_NEEDS_Z, HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp.tolerance import check_close, kernel_bound
from fusedmlp_numba.compiler.host import panel_columns
from fusedmlp_numba.constants import scratch_size
from fusedmlp_numba.network import activations, dropout, gradients, inputs, outputs, updates
from fusedmlp_numba.network.dropout import MaskStream, dropout_mask, philox4x32
from kernel_inputs import as_stored, run

DTYPES = ("float32", "float64")

sizes = st.sampled_from([1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 64, 67])
vectors = st.integers(1, 5)
few = settings(max_examples=25, deadline=None)


def lanes(dtype):
    return panel_columns(np.dtype(dtype).itemsize)


def draw(shape, dtype, seed, scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(dtype)


def test_every_twin_is_there():
    public = {
        name
        for name, value in vars(twins).items()
        if isinstance(value, functools.partial)
        or (inspect.isfunction(value) and value.__module__ == twins.__name__)
    }
    modules = activations, dropout, gradients, inputs, outputs, updates
    # Methods of ORDINARY are products and sums, which are gemm's and column_sums here.
    missing = {name for name in public if not any(hasattr(module, name) for module in modules)}
    assert missing == set()
    assert {"bias_activation", "softmax_cross_entropy", "lion"} <= public


@few
@given(B=sizes, D=sizes, stored=st.sampled_from(["uint8", *DTYPES]), seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_rows_equals(dtype, B, D, stored, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (B + 3, D)).astype(stored)
    rows = rng.integers(0, B + 3, B)
    mine, theirs = np.empty((B, D), dtype), np.empty((B, D), dtype)
    run(inputs.gather_rows, as_stored(x), D, rows, mine)
    twins.gather_rows(x, rows, theirs)
    np.testing.assert_array_equal(mine, theirs)


def test_all_pixels_equal_numpy():
    x = np.arange(256, dtype=np.uint8).reshape(1, -1)
    for dtype in DTYPES:
        out = np.empty((1, 256), dtype)
        run(inputs.gather_rows, as_stored(x), 256, np.zeros(1, np.int64), out)
        np.testing.assert_array_equal(out, x / np.dtype(dtype).type(255))


def code_of(activation):
    return HIDDEN_ACTIVATIONS.index(activation)


def cuts(n, at):
    return [(0, at), (at, n)] if 0 < at < n else [(0, n)]


def activate(z, b, activation, columns, saving=True):
    """Z becomes the activation; return what the backward pass reads: that, or the slope."""
    slope = np.full_like(z, 7) if saving else z[:0]
    run(activations.bias_activation, z, b, slope, code_of(activation), columns)
    if activation in DERIVATIVE_NEEDS_Z and saving:
        return slope
    assert (slope == 7).all()
    return z


@few
@given(
    B=sizes, width=vectors, activation=st.sampled_from(HIDDEN_ACTIVATIONS), seed=st.integers(0, 99),
    keep=st.sampled_from([1.0, 0.5, 0.75]),
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_activation_and_hidden_delta(dtype, B, width, activation, seed, keep):
    """In parts of the rows and columns, of which no bit depends."""
    H, first, number = width * lanes(dtype), width // 3 * lanes(dtype), code_of(activation)
    z, b, delta = draw((B, H), dtype, seed), draw(H, dtype, seed + 1), draw((B, H), dtype, seed + 2)
    theirs, their_z, whole, predicted = z.copy(), np.empty_like(z), z.copy(), z.copy()
    twins.bias_activation(theirs, b, activation, keep=their_z)
    saved = activate(whole, b, activation, (0, H))
    check_close(activation, whole, theirs, kernel_bound(dtype))
    for i, j in cuts(B, B // 2):
        activate(predicted[i:j], b, activation, (first, H), saving=False)
    np.testing.assert_array_equal(predicted[:, :first], z[:, :first])
    assert predicted[:, first:].tobytes() == whole[:, first:].tobytes()

    their_delta, whole, parts = delta.copy(), delta.copy(), delta.copy()
    kept = np.random.default_rng(seed).integers(0, 2, (B, H)).astype(np.uint8)
    their_saved = their_z
    if activation not in DERIVATIVE_NEEDS_Z:
        # Rounded to eighths, a·keep is exact: near |a| = 1 the derivative would show a rounding.
        their_saved = np.round(theirs * 8) / 8
        saved = their_saved / np.dtype(dtype).type(keep)
    run(activations.hidden_delta, whole, saved, kept, number, keep, (0, H))
    if keep < 1:
        their_delta *= kept
        their_delta *= 1 / keep
    twins.hidden_delta(their_delta, their_saved.copy(), activation)
    check_close("delta", np.append(whole, 1), np.append(their_delta, 1), kernel_bound(dtype))
    for i, j in cuts(B, B // 2):
        run(activations.hidden_delta, parts[i:j], saved[i:j], kept[i:j], number, keep, (first, H))
    np.testing.assert_array_equal(parts[:, :first], delta[:, :first])
    assert parts[:, first:].tobytes() == whole[:, first:].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_activations_of_what_is_not_finite(activation, dtype):
    z = np.array([np.nan, np.inf, -np.inf, 1e15, -1e15, 0.0, -0.0, 100.0] * 4, dtype)
    z, H = np.stack([np.roll(z, shift) for shift in range(5)]), len(z)
    mine, theirs, their_z = z.copy(), z.copy(), np.empty_like(z)
    delta, none = np.ones_like(z), np.zeros(H, dtype)
    saved = activate(mine, none, activation, (0, H))
    with np.errstate(over="ignore", invalid="ignore"):
        twins.bias_activation(theirs, none, activation, keep=their_z)
        np.testing.assert_allclose(
            mine, theirs, rtol=kernel_bound(dtype), atol=np.finfo(dtype).tiny
        )
        their_delta = delta * np.inf
        their_saved = their_z if activation in DERIVATIVE_NEEDS_Z else theirs
        twins.hidden_delta(their_delta, their_saved.copy(), activation)
    mine_delta, kept = delta * np.inf, np.ones((1, 1), np.uint8)
    run(activations.hidden_delta, mine_delta, saved, kept, code_of(activation), 1.0, (0, H))
    np.testing.assert_array_equal(np.isnan(mine_delta), np.isnan(their_delta))


@pytest.mark.parametrize("activation", ["elu", "leaky_relu", "gelu", "silu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_of_tiny_numbers_keep_their_relative_accuracy(activation, dtype):
    z = np.geomspace(1e-30, 1.0, 64 * lanes(dtype)).astype(dtype)
    z = np.stack([z, -z])
    mine, theirs = z.copy(), z.astype("float64")
    activate(mine, np.zeros(z.shape[1], dtype), activation, (0, z.shape[1]))
    twins.bias_activation(theirs, np.zeros(z.shape[1]), activation)
    np.testing.assert_allclose(mine, theirs, rtol=8 * np.finfo(dtype).eps)


@few
@given(B=sizes, width=vectors, seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
def test_column_sums(dtype, B, width, seed):
    H = width * lanes(dtype)
    first, delta = width // 2 * lanes(dtype), draw((B, H), dtype, seed)
    out = np.full(H, 7, dtype)
    run(gradients.column_sums, delta, out, (first, H))
    assert (out[:first] == 7).all()
    exact = np.zeros(H, dtype)  # the promised order: one row after the other
    for row in delta:
        exact += row
    np.testing.assert_array_equal(out[first:], exact[first:])


def targets(output, rng, rows, K, dtype):
    if output == "softmax":
        return rng.integers(0, K, rows)
    if output == "sigmoid":
        return rng.integers(0, 2, (rows, K)).astype(dtype)
    if output == "exp":
        return rng.poisson(1.0, (rows, K)).astype(dtype)
    return rng.normal(size=(rows, K)).astype(dtype)


LOSSES = {
    "softmax": twins.softmax_cross_entropy,
    "sigmoid": twins.sigmoid_cross_entropy,
    "identity": twins.squared_error,
    "exp": twins.poisson_deviance,
}


def losses_of(output, z, b, y, w, rows, scale=1.0, parts=None):
    """(losses, correct, delta) of the compiled kernel, in parts of the rows.

    Targets are (N,) or (N, K), weights (N,) or None. Neither filled-up columns, as the engine's
    buffers have, nor rows beyond the last are written.
    """
    (B, K), none, labelled = z.shape, np.empty(0), output == "softmax"
    delta, losses, correct = np.full((B + 1, K + 3), 7, z.dtype), *np.full((2, B + 1), 7.0)
    delta[:B, :K] = z
    for i, j in parts or [(0, B)]:
        targets = outputs.Targets(
            labels=y if labelled else np.empty(0, np.int64),
            values=none[:, None] if labelled else y,
            weights=none if w is None else w,
            rows=rows[i:j],
        )
        run(outputs.output_delta, OUTPUTS.index(output), delta[i:j], b, targets, scale,
            outputs.RowResults(losses[i:j], correct[i:j]), scratch(b))  # fmt: skip
    assert (delta[:, K:] == 7).all()
    assert all((array[B:] == 7).all() for array in (delta, losses, correct))
    return losses[:B], correct[:B], delta[:B, :K]


def scratch(b):
    return np.empty(scratch_size(len(b), b.itemsize), b.dtype)


def both_losses(output, z, b, y, w, rows, scale=1.0):
    """(loss, correct, delta) of the compiled kernel and of its twin."""
    losses, correct, delta = losses_of(output, z, b, y, w, rows, scale)
    theirs = z.copy()
    with np.errstate(all="ignore"):
        loss, hits = LOSSES[output](theirs, b, y[rows], None if w is None else w[rows])
        theirs *= scale
    return (losses.sum(), correct.sum(), delta), (loss, hits, theirs)


@few
@given(
    B=sizes, K=sizes, output=st.sampled_from(OUTPUTS), weighted=st.booleans(),
    cut=st.integers(0, 66), seed=st.integers(0, 99),
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses(dtype, B, K, output, weighted, cut, seed):
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
    whole, in_parts = (
        [array.tobytes() for array in losses_of(output, z, b, y, w, rows, 0.25, parts)]
        for parts in (cuts(B, 0), cuts(B, cut % B))
    )
    assert whole == in_parts


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
    # A rate eᶻ may be infinite, and then is in both.
    finite = np.isfinite(theirs[2])
    np.testing.assert_array_equal(mine[2][~finite], theirs[2][~finite])
    check_close("delta", mine[2][finite], theirs[2][finite], kernel_bound(dtype))


def test_row_losses_are_capped_and_nan_is_not():
    y, b, rows = np.zeros((1, 1)), np.zeros(1), np.zeros(1, np.int64)
    for z in (1e200, 1.75e150):  # an infinite loss, and one just above the cap
        mine, theirs = both_losses("identity", np.array([[z]]), b, y, None, rows)
        assert mine[0] == theirs[0] == MAX_ROW_LOSS
    for output in OUTPUTS:
        K = 2
        y = {"softmax": np.array([1])}.get(output, np.zeros((1, K)))
        z = np.array([[np.nan, 1.0]])
        mine, theirs = both_losses(output, z, np.zeros(K), y, None, rows)
        assert np.isnan(mine[0])
        assert np.isnan(theirs[0])
        assert np.isnan(mine[2]).any()


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_in_any_logit_or_row_spoils_that_row_alone(dtype, output):
    K, B = 4, 11
    y = targets(output, np.random.default_rng(0), B, K, dtype)
    for k in range(K):
        z = draw((B, K), dtype, 1)
        z[k + 3, k] = np.nan
        losses, _, delta = losses_of(output, z, np.zeros(K, dtype), y, None, np.arange(B))
        for spoilt in (np.isnan(losses), np.isnan(delta).any(axis=1)):
            np.testing.assert_array_equal(np.flatnonzero(spoilt), [k + 3])


@pytest.mark.parametrize("right", [0, 1, 2])
def test_the_first_of_equal_logits_is_the_prediction(right):
    z, b, rows = np.array([[1.0, 2.0, 2.0]]), np.zeros(3), np.zeros(1, np.int64)
    mine, theirs = both_losses("softmax", z, b, np.array([right]), None, rows)
    assert mine[1] == theirs[1] == float(right == 1)


@few
@given(
    B=sizes, K=sizes, output=st.sampled_from(OUTPUTS), cut=st.integers(0, 66),
    seed=st.integers(0, 99),
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_activation(dtype, B, K, output, cut, seed):
    z, b = draw((B, K), dtype, seed, 10.0), draw(K, dtype, seed + 1)
    theirs, results = z + b, []
    for parts in (cuts(B, 0), cuts(B, cut % B)):
        mine = np.full((B + 1, K), 7, dtype)
        for i, j in parts:
            run(outputs.output_activation, z[i:j], b, OUTPUTS.index(output), mine[i:j], scratch(b))
        assert (mine[B] == 7).all()
        results.append(mine[:B])
    twins.output_activation(theirs, output)
    check_close(output, results[0], theirs, kernel_bound(dtype, K))
    assert results[0].tobytes() == results[1].tobytes()


@few
@given(
    B=sizes, width=vectors, seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**40),
    layer=st.integers(0, 5), dropout=st.sampled_from([0.0, 0.1, 0.5, 0.999]), cut=st.integers(0, 9),
)  # fmt: skip
@example(B=2, width=3, seed=2**64 - 1, step=2**32 + 5, layer=1, dropout=0.5, cut=1)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_mask_equals(dtype, B, width, seed, step, layer, dropout, cut):
    unit = max(4, lanes(dtype))
    H, first, row = width * unit, min(cut, width) * unit, min(cut, B)
    mine, theirs = np.full((B, H), 9, np.uint8), np.empty((B, H), bool)
    twins.dropout_mask(theirs, seed, step, layer, dropout)
    a, u, factor = draw((B, H), dtype, 1), np.uint64, 1.0 / (1.0 - dropout)
    applied = a.copy()
    stream = MaskStream(u(seed), u(step), u(layer), u(keep_threshold(dropout)))
    for begin, end, columns in ((0, row, (0, first)), (0, row, (first, H)), (row, B, (0, H))):
        run(dropout_mask, mine[begin:end], applied[begin:end], stream, factor,
            columns, begin)  # fmt: skip
    np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(applied, a * theirs * np.dtype(dtype).type(factor))


def test_dropout_keeps_what_is_not_a_number_and_writes_no_column_beyond():
    H, u = lanes("float32"), np.uint64
    a, kept = np.full((3, 3 * H), np.nan, np.float32), np.full((3, 3 * H), 9, np.uint8)
    run(dropout_mask, kept, a, MaskStream(u(1), u(1), u(0), u(2**31)), 2.0, (H, 2 * H), 0)
    assert (kept[:, :H] == 9).all()
    assert (kept[:, 2 * H :] == 9).all()
    assert set(np.unique(kept[:, H : 2 * H])) == {0, 1}
    assert np.isnan(a).all()


def test_philox_known_answer():
    """The test vectors of the Random123 distribution for philox4x32-10."""
    u = np.uint64
    assert run(philox4x32, u(0), u(0), u(0), u(0), u(0)) == (
        0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8,
    )  # fmt: skip
    ones = u(0xFFFFFFFF)
    assert run(philox4x32, ones, ones, ones, ones, u(2**64 - 1)) == (
        0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD,
    )  # fmt: skip


@few
@given(n=vectors, seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "lion"])
def test_updates(name, dtype, n, seed):
    n = n * lanes(dtype)
    mine = [draw(n, dtype, seed + i, 1.0) for i in range({"sgd": 2, "adam": 4}.get(name, 3))]
    if name == "adam":
        mine[3] = np.abs(mine[3])
    theirs = [array.copy() for array in mine]
    settings = {"sgd": (0.1,), "adam": (0.01, 0.9, 0.999, 1e-8), "lion": (0.01, 0.9, 0.99)}
    settings = settings.get(name, (0.1, 0.9))
    corrections, decay, scratch = (0.271, 0.002997), 0.1, np.empty(n, dtype)
    if name in ("adam", "lion"):
        moments = updates.MomentStep(*settings[:3], decay, np.array([*corrections, 1e-8]))
        run(getattr(updates, name), *mine, moments)
        if name == "adam":
            settings = (*settings, corrections)
        getattr(twins, name)(*theirs, *settings, decay, scratch)
    else:
        run(getattr(updates, name), *mine, *settings)
        getattr(twins, name)(*theirs, *settings)
    for i in (0, *range(2, len(mine))):  # the twin uses the gradient up
        check_close(f"{name} {i}", mine[i], theirs[i], kernel_bound(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_lion_s_sign_of_zero_is_zero_and_of_nan_is_nan(dtype):
    theta, momentum = np.ones(lanes(dtype), dtype), np.zeros(lanes(dtype), dtype)
    gradient = np.zeros_like(theta)
    gradient[0], gradient[1] = np.nan, 1e-30
    run(updates.lion, theta, gradient, momentum,
        updates.MomentStep(0.25, 0.9, 0.99, 0.0, np.ones(3)))  # fmt: skip
    assert np.isnan(theta[0])
    assert theta[1] == 0.75
    assert (theta[2:] == 1).all()

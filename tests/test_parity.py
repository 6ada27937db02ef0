"""Every engine against the NumPy engine: one batch, fifty steps, any shape, any storage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective
from fusedmlp.tolerance import check_close, kernel_bound, trajectory_bound
from problems import OPTIMIZERS, engine, flat, order, problem

DTYPES = ("float32", "float64")


def term_sizes(reference, task, rows, objective):
    """Sums of the rows' absolute gradients: what a batch's gradient is made of, uncancelled."""
    plain = replace(task, network=replace(task.network, dropout=0.0))
    built, data = engine(reference, plain, objective=Objective("sum"))
    parts = [built.loss_and_gradients(data, rows[i : i + 1]) for i in range(len(rows))]
    weight = sum(sums.weights[0] for sums, _ in parts) if objective.reduction == "mean" else 1.0
    columns = zip(*(gradients for _, gradients in parts), strict=True)
    return [sum(np.abs(g) for g in column) / (weight or 1.0) for column in columns]


def compare_batch(backend, reference, task, dtype, objective=None):
    """One batch's loss and gradients agree within the bound of an operation."""
    rows = order(len(task.y))[:8]
    results = []
    for each in (backend, reference):
        built, data = engine(each, task, objective=objective, dtype=dtype)
        results.append(built.loss_and_gradients(data, rows))
    (sums, gradients), (sums_reference, gradients_reference) = results
    # The longest sum is a product over the layer's inputs, the batch, or the outputs; errors of
    # one layer pass through those after it.
    depth = max(*task.network.sizes, 8) * task.network.n_layers
    bound = kernel_bound(dtype, depth)
    check_close("loss", sums.losses, sums_reference.losses, bound)
    check_close("correct", sums.correct, sums_reference.correct, bound)
    check_close("weights", sums.weights, sums_reference.weights, bound)
    sizes = term_sizes(reference, task, rows, objective or Objective())
    for mine, theirs, terms in zip(gradients, gradients_reference, sizes, strict=True):
        assert mine.dtype == np.dtype(dtype)
        assert mine.flags.c_contiguous
        scale = max(float(terms.max()), float(np.abs(theirs).max()))
        check_close(f"gradient {mine.shape}", mine, theirs, bound, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_one_batch(compiled_backend, numpy_backend, hidden, output, dtype):
    task = problem((13, 7, 11, 5), hidden, output)
    compare_batch(compiled_backend, numpy_backend, task, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", ["uint8", "float32", "float64", "csr32", "csr64"])
def test_every_storage(compiled_backend, numpy_backend, storage, dtype):
    task = problem(storage=storage)
    compare_batch(compiled_backend, numpy_backend, task, dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_objective(compiled_backend, numpy_backend, reduction, weighted):
    task = problem(weighted=weighted)
    compare_batch(compiled_backend, numpy_backend, task, "float64", Objective(reduction, l2=0.3))


width = st.sampled_from([1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 64, 67, 97, 129])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    D=width,
    widths=st.lists(width, max_size=3),
    K=width,
    hidden=st.sampled_from(HIDDEN_ACTIVATIONS),
    output=st.sampled_from(OUTPUTS),
    dropout=st.sampled_from([0.0, 0.0, 0.25, 0.5]),
    dtype=st.sampled_from(DTYPES),
    storage=st.sampled_from(["uint8", "float32", "float64", "csr64"]),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_shape(
    compiled_backend,
    numpy_backend,
    D,
    widths,
    K,
    hidden,
    output,
    dropout,
    dtype,
    storage,
    weighted,
    seed,
):
    if output == "softmax":
        K = max(K, 2)
    task = problem(
        (D, *widths, K),
        hidden,
        output,
        dropout,
        rows=11,
        storage=storage,
        weighted=weighted,
        seed=seed,
    )
    compare_batch(compiled_backend, numpy_backend, task, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fifty_steps(compiled_backend, numpy_backend, optimizer, dropout, dtype):
    """Parameters, slots and sums stay together over 50 steps, partial batches included."""
    task = problem((13, 17, 5), dropout=dropout, rows=37)
    rows = order(37, epochs=10)
    n_steps = -(-len(rows) // 8)
    assert n_steps >= 47
    results = []
    for backend in (compiled_backend, numpy_backend):
        built, data = engine(
            backend, task, optimizer, Objective(l2=0.01), batch_size=8, dtype=dtype
        )
        lr = np.linspace(1.0, 0.1, n_steps) * OPTIMIZERS[optimizer].lr
        sums = built.train_epoch(data, rows, lr)
        results.append((sums, built.state()))
    (sums, state), (sums_reference, state_reference) = results
    bound = trajectory_bound(dtype)
    assert state.step == state_reference.step == n_steps
    check_close("losses", sums.losses, sums_reference.losses, bound)
    check_close("parameters", flat(state.parameters), flat(state_reference.parameters), bound)
    for mine, theirs in zip(state.slots, state_reference.slots, strict=True):
        check_close("slot", flat(mine), flat(theirs), bound)
    assert sums.losses[-5:].sum() < sums.losses[:5].sum(), "50 steps did not learn anything"


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_evaluate(compiled_backend, numpy_backend, dtype):
    """Outputs and metrics agree on more rows than one batch, on all rows and on some."""
    for output in OUTPUTS:
        task = problem((13, 7, 5), "tanh", output, dropout=0.5, rows=1500, weighted=True)
        results = []
        for backend in (compiled_backend, numpy_backend):
            built, data = engine(backend, task, dtype=dtype)
            some = built.evaluate(data, np.arange(3, 700, 2))
            results.append((built.forward(task.x), built.evaluate(data), some))
        mine, theirs = results
        bound = kernel_bound(dtype, 1500)
        check_close("forward", mine[0], theirs[0], bound)
        for a, b in zip(mine[1:], theirs[1:], strict=True):
            check_close("loss", a.loss, b.loss, bound)
            check_close("accuracy", [a.accuracy + 1], [b.accuracy + 1], bound)


def test_dropout_masks_are_the_same(compiled_backend, numpy_backend):
    """With identity units and weights of one, silenced units show in the gradients exactly."""
    task = problem((3, 50, 40, 2), "identity", "identity", dropout=0.5)
    silent = []
    for backend in (compiled_backend, numpy_backend):
        built, data = engine(backend, task, seed=2**40 + 17)
        steps = []
        for _ in range(3):
            _, gradients = built.loss_and_gradients(data, np.arange(1))
            steps.append([np.flatnonzero(b == 0) for b in gradients.biases[:-1]])
            built.apply_gradients(gradients, 1e-6)
        silent.append(steps)
    for mine, theirs in zip(*silent, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
            assert 0 < a.size < 50

"""Every engine against the NumPy engine: one batch, fifty steps, any shape, any storage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusedmlp import optimizers
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective
from fusedmlp.parity.checks import gradients, parity_checks
from fusedmlp.parity.comparison import compare
from fusedmlp.tolerance import check_close, trajectory_bound
from problems import OPTIMIZERS, engine, flat, order, problem
from strategies import random_problems

DTYPES = ("float32", "float64")


def compare_batch(backend, reference, task, dtype, objective=None):
    """One batch's loss and gradients agree within the bound of an operation."""
    results = [gradients(each, dtype, task, objective) for each in (backend, reference)]
    for actual, expected in zip(*results, strict=True):
        compare("gradients", (backend.name, reference.name), dtype, actual, expected).check()


def test_checks_cover_every_activation_output_and_optimizer():
    names = {check.name for check in parity_checks()}
    assert names >= {f"{hidden} of hidden units" for hidden in HIDDEN_ACTIVATIONS}
    assert names >= {f"{output} output" for output in OUTPUTS}
    assert names >= {f"training step, {optimizer}" for optimizer in optimizers.OPTIMIZER_NAMES}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("check", list(parity_checks()), ids=lambda check: check.name)
def test_every_check_of_the_certificate(compiled_backend, numpy_backend, check, dtype):
    results = [check.run(each, dtype) for each in (compiled_backend, numpy_backend)]
    assert results[0]
    for actual, expected in zip(*results, strict=True):
        assert np.any(expected.values != 0), f"{expected.name} is zero and could hide anything"
        names = (compiled_backend.name, numpy_backend.name)
        compare(check.name, names, dtype, actual, expected).check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_fresh_contiguous_arrays_of_the_engines_dtype(compiled_backend, dtype):
    built, data = engine(compiled_backend, problem((13, 7, 11, 5)), dtype=dtype)
    for gradient in built.loss_and_gradients(data, order(37)[:8])[1]:
        assert gradient.dtype == np.dtype(dtype)
        assert gradient.flags.c_contiguous


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    task=random_problems(rows=11, storages=["uint8", "float32", "float64", "csr64"]),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape(compiled_backend, numpy_backend, task, dtype):
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
    for slot, expected in zip(state.slots, state_reference.slots, strict=True):
        check_close("slot", flat(slot), flat(expected), bound)
    assert sums.losses[-5:].sum() < sums.losses[:5].sum(), "50 steps did not learn anything"

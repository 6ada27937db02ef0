"""The contract of every backend: its members, their signatures, and their behaviour."""

from __future__ import annotations

import inspect
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from fusedmlp.backend import Backend, BatchMetrics, Engine, State
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective, Parameters
from fusedmlp.registry import backend_class, known_backends
from fusedmlp.tolerance import check_close, kernel_bound, trajectory_bound
from problems import OPTIMIZERS, Problem, engine, flat, order, problem


def members(contract):
    return sorted(contract.__abstractmethods__)


@pytest.mark.parametrize("name", ["numpy", "numba", "cupy"])
def test_backends_have_the_contract_signatures(name):
    found = backend_class(name)
    assert found.name == name
    for member in members(Backend):
        signature = inspect.signature(getattr(found, member))
        if member == "__init__":
            signature = without_options(signature, found.options)
        assert signature == inspect.signature(getattr(Backend, member)), member


def without_options(signature, options):
    """Remove a backend's own options, each a keyword that is False by default."""
    parameters = dict(signature.parameters)
    for option in options:
        own = parameters.pop(option)
        assert own.kind is inspect.Parameter.KEYWORD_ONLY
        assert own.default is False
        assert own.annotation == "bool"
    return signature.replace(parameters=list(parameters.values()))


ENGINES = {
    "reference": ("fusedmlp.reference.engine", "ReferenceEngine"),
    "numba": ("fusedmlp_numba.engine", "NumbaEngine"),
    "cupy": ("fusedmlp_cupy.engine", "CupyEngine"),
}


def engine_class(name):
    module, member = ENGINES[name]
    return getattr(pytest.importorskip(module), member)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_implement_the_contract_and_nothing_beside(name):
    found = engine_class(name)
    assert found.__mro__[1:] == (Engine, *Engine.__mro__[1:]), "an engine inherits from another"
    public = {n for n in vars(found) if not n.startswith("_")}
    assert public == set(members(Engine))
    for member in members(Engine):
        theirs, ours = inspect.getattr_static(Engine, member), inspect.getattr_static(found, member)
        if isinstance(theirs, property):
            assert isinstance(ours, property)
            continue
        expected, actual = inspect.signature(theirs), inspect.signature(ours)
        # A return type may be narrower (stage returns the engine's own Data).
        assert list(actual.parameters.values()) == list(expected.parameters.values()), member


def test_three_backends_are_registered():
    assert {"numpy", "numba", "cupy"} <= set(known_backends())


def test_importing_the_package_imports_no_heavy_library():
    heavy = ["numba", "cupy", "sklearn", "scipy", "typer", "rich", "matplotlib", "torch"]
    code = f"import sys, fusedmlp; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_epoch_is_its_batches(backend, optimizer):
    """train_epoch equals loss_and_gradients and apply_gradients, batch by batch."""
    task = problem(dropout=0.3, weighted=True, rows=21)
    rows = order(21)
    whole, data = engine(backend, task, optimizer, Objective(l2=0.1))
    sums = whole.train_epoch(data, rows, np.full(3, 0.05))
    steps, data = engine(backend, task, optimizer, Objective(l2=0.1))
    losses = []
    for start in range(0, 21, 8):
        one, gradients = steps.loss_and_gradients(data, rows[start : start + 8])
        losses.append(one.losses[0])
        steps.apply_gradients(gradients, 0.05)
    bound = kernel_bound("float64", 64)
    check_close("losses", sums.losses, losses, bound)
    check_close("parameters", flat(whole.parameters()), flat(steps.parameters()), bound)
    assert sums.weights.shape == (3,)
    assert whole.state().step == steps.state().step == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sliced_epoch_has_the_same_bits(backend, dtype):
    task = problem(dropout=0.3, rows=37)
    rows, lr = order(37, 2), np.linspace(0.1, 0.2, 10)
    results = []
    for cuts in ([0, 10], [0, 1, 4, 9, 10]):
        built, data = engine(backend, task, "adam", dtype=dtype)
        parts = [built.train_epoch(data, rows[a * 8 : b * 8], lr[a:b]) for a, b in pairwise(cuts)]
        results.append((BatchMetrics.joined(parts), flat(built.parameters())))
    (whole, parameters), (sliced, parameters_sliced) = results
    np.testing.assert_array_equal(whole.losses, sliced.losses)
    np.testing.assert_array_equal(parameters, parameters_sliced)


def test_the_same_run_has_the_same_bits(backend):
    task = problem((40, 33, 10), rows=200, dropout=0.2, storage="uint8")
    results = []
    for _ in range(2):
        built, data = engine(backend, task, "momentum", dtype="float32", batch_size=16)
        built.train_epoch(data, order(200, 3), np.full(38, 0.1))
        results.append(flat(built.parameters()))
    np.testing.assert_array_equal(*results)


def test_state_moves_between_engines_of_any_backend(backend, numpy_backend):
    """k steps here and m there equal k + m steps on NumPy, slots and masks included."""
    task = problem(dropout=0.3, rows=40)
    rows, lr = order(40, 2), np.full(10, 0.01)
    whole, data = engine(numpy_backend, task, "adam")
    whole.train_epoch(data, rows, lr)
    first, data = engine(backend, task, "adam")
    first.train_epoch(data, rows[:32], lr[:4])
    second, data = engine(numpy_backend, task, "adam")
    second.load(first.state())
    second.train_epoch(data, rows[32:], lr[4:])
    bound = trajectory_bound("float64")
    check_close("parameters", flat(second.parameters()), flat(whole.parameters()), bound)


def test_parameters_are_fresh_copies(backend):
    built, _ = engine(backend, problem())
    before = flat(built.parameters())
    for array in built.parameters():
        array[...] = 7.0
    for array in built.state().parameters:
        array[...] = 7.0
    np.testing.assert_array_equal(flat(built.parameters()), before)


def test_inputs_are_never_written_to(backend):
    """Compiled code ignores that an array is read-only, so the values are compared too."""
    task = problem(weighted=True)
    arrays = task.x, task.y, task.sample_weight, order(37), np.full(5, 0.1)
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    built, data = engine(backend, task)
    built.train_epoch(data, *arrays[3:])
    built.evaluate(data, order(37))
    built.forward(task.x)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_huge_logits_have_finite_losses(backend, output, dtype):
    """Losses come from logits and are capped, so that the largest finite ones stay finite."""
    largest, K = float(np.finfo(dtype).max) / 8, 2
    x = np.array([[1.0], [-1.0], [1e-3], [0.0]])
    y = np.array([0, 1, 1, 0]) if output == "softmax" else np.array([[0, 1]] * 4)
    built, data = engine(backend, Problem(Network((1, K), output=output), x, y), dtype=dtype)
    W = np.array([[-largest, largest]], dtype)
    built.load(State(Parameters((W,), (np.zeros(K, dtype),)), (), 0))
    sums = built.evaluate(data)
    assert np.isfinite(sums.losses).all()
    assert sums.loss > 1e10
    if not built.network.predicts_values:
        outputs = built.forward(x)
        assert np.isfinite(outputs).all()
        assert ((outputs >= 0) & (outputs <= 1)).all()


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_nan_in_the_first_layer_reaches_the_loss(backend, hidden, output):
    """The trainer must receive a non-finite loss, whatever the kernels assume."""
    built, data = engine(backend, problem(hidden=hidden, output=output), dtype="float32")
    step = built.parameters()
    for array in step:
        array[...] = 0
    for sign in (1.0, -1.0):  # −∞, and then −∞ + ∞
        step.weights[0][...] = sign * np.float32(1e38)
        built.apply_gradients(step, 1e38)
    sums = built.train_epoch(data, np.arange(16), np.full(2, 0.1))
    assert np.isnan(sums.losses[0])
    assert sums.first_non_finite() == 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_training_that_diverges_returns_its_loss(backend, output):
    task = problem((5, 9, 9, 3), "relu", output, rows=8, storage="float32")
    built, data = engine(backend, task, dtype="float32")
    sums = built.train_epoch(data, np.tile(np.arange(8), 6), np.full(6, 1e38))
    assert np.isnan(sums.losses).any()


CALLS = {
    "evaluate": lambda engine, data: engine.evaluate(data),
    "loss_and_gradients": lambda engine, data: engine.loss_and_gradients(data, np.arange(2)),
    "train_epoch": lambda engine, data: engine.train_epoch(data, np.arange(8), np.ones(1)),
}


@pytest.mark.parametrize("call", CALLS)
def test_foreign_data_and_data_without_targets_are_refused(backend, call):
    task = problem()
    built, _ = engine(backend, task)
    foreign = SimpleNamespace(rows=37, labelled=True)
    for data, message in ((foreign, "another backend"), (built.stage(task.x), "without targets")):
        with pytest.raises(InvalidInputError, match=message):
            CALLS[call](built, data)


@pytest.mark.parametrize(
    ("rows", "lr", "message"),
    [
        (np.array([0, 37]), np.ones(1), "row index 37 is outside the data set's 37 rows"),
        (np.array([-1]), np.ones(1), "row index -1"),
        (np.array([0.5]), np.ones(1), "integers"),
        (np.arange(0), np.ones(0), "at least one"),
        (np.arange(9), np.ones(1), r"lr has shape \(1,\), the batches need \(2,\)"),
        (np.arange(8), np.array([np.nan]), "finite"),
        (np.arange(8), np.array([-1.0]), "at least 0"),
    ],
)
def test_wrong_rows_and_rates_are_refused(backend, rows, lr, message):
    built, data = engine(backend, problem())
    before = flat(built.parameters())
    with pytest.raises(InvalidInputError, match=message):
        built.train_epoch(data, rows, lr)
    np.testing.assert_array_equal(flat(built.parameters()), before)


def test_too_many_rows_for_a_batch_are_refused(backend):
    built, data = engine(backend, problem())
    with pytest.raises(InvalidInputError, match="more than the engine's batch size 8"):
        built.loss_and_gradients(data, np.arange(9))


def test_parameters_and_states_that_do_not_fit_are_refused(backend):
    built, _ = engine(backend, problem(), "momentum")
    other, _ = engine(backend, problem((13, 8, 5)), "momentum")
    plain, _ = engine(backend, problem(), "sgd")
    for state, message in ((other.state(), "W1 has shape"), (plain.state(), "0 optimizer slots")):
        with pytest.raises(InvalidInputError, match=message):
            built.load(state)
    bad = built.parameters()
    bad.weights[0][1, 2] = np.nan
    for call in (
        lambda: built.load(State(bad, (bad,), 0)),
        lambda: built.apply_gradients(bad, 0.1),
    ):
        with pytest.raises(InvalidInputError, match="NaN"):
            call()


def test_devices_are_described(backend):
    device = backend.device()
    assert str(device)
    assert device.facts


def test_a_device_number_is_refused_where_there_are_none():
    for name in ("numpy", "numba"):
        with pytest.raises(InvalidInputError, match=f"{name}:1 names a device"):
            backend_class(name)(device=1)
        for threads, bound in ((0, "at least 1"), (10**20, "at most 4096")):
            with pytest.raises(InvalidInputError, match=f"threads {threads} is not {bound}"):
                backend_class(name)(threads=threads)


@pytest.mark.parametrize("sizes", [(5, 1), (2, 5, 2), (300, 40, 33, 3)], ids=str)
@pytest.mark.parametrize(("optimizer", "l2"), [("sgd", 0.0), ("adam", 0.1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_squares_of_the_weights_before_each_step(backend, sizes, optimizer, l2, dtype):
    """On request, and of the weights alone: without the biases, and without any padding."""
    output = "sigmoid" if sizes[-1] == 1 else "softmax"
    arguments = problem(sizes, output=output, rows=21), optimizer, Objective(l2=l2)
    rows, rates = order(21), np.full(3, 0.05)
    plain, data = engine(backend, *arguments, dtype=dtype)
    sums = plain.train_epoch(data, rows, rates)
    assert sums.squares is None
    steps, data = engine(backend, *arguments, dtype=dtype)
    expected = []
    for n, rate in enumerate(rates):
        weights = [W.astype(np.float64) for W in steps.parameters().weights]
        expected.append(sum((W * W).sum() for W in weights))
        steps.train_epoch(data, rows[8 * n : 8 * n + 8], np.array([rate]))
    whole, data = engine(backend, *arguments, dtype=dtype, sums_squares=True)
    alone, _ = whole.loss_and_gradients(data, rows[:8])
    found = whole.train_epoch(data, rows, rates)
    bound = kernel_bound(dtype, sizes[0])
    check_close("squares", found.squares, np.array(expected), bound)
    np.testing.assert_array_equal(alone.squares, found.squares[:1])
    assert whole.evaluate(data).squares is None
    # Neither the losses nor the weights change by it.
    np.testing.assert_array_equal(found.losses, sums.losses)
    np.testing.assert_array_equal(flat(whole.parameters()), flat(plain.parameters()))
    np.testing.assert_array_equal(BatchMetrics.joined([alone, found]).squares[1:], found.squares)

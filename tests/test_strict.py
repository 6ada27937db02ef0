"""Strict mode: elementary functions against exact values, and NumPy against Numba bit by bit.

Only the elementary functions have error bounds; engines must agree exactly. Tests of the CuPy
engine are in tests/cupy_backend/test_cupy_strict.py.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bits import assert_same_bits, everything
from fusedmlp import (
    MLP,
    Objective,
    Trainer,
    load_dataset,
    make_optimizer,
    make_schedule,
    registry,
)
from fusedmlp.backend import Workload
from fusedmlp.errors import BackendUnavailableError, InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network
from fusedmlp.reference import arithmetic
from fusedmlp.reference.arithmetic import CONSTANTS, LN2
from fusedmlp.reference.operations import StrictOperations
from fusedmlp.registry import Selection, backend_class, create, select, strict_backends
from fusedmlp.tolerance import check_close, trajectory_bound
from fusedmlp.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fusedmlp_numba.functions import STRICT
from fusedmlp_numba.strict import CompiledOperations
from problems import OPTIMIZERS, STORAGES, engine, flat, order, problem
from strategies import random_problems

DTYPES = ("float32", "float64")
dtypes = pytest.mark.parametrize("dtype", DTYPES)

WORST_ULP = {"exp": 1.0, "log": 1.0, "expm1": 1.5, "tanh": 2.0, "log_1p": 2.0, "logistic": 2.5}
"""Stated error bounds; the bound of logistic adds those of exp, a sum and a quotient."""

NAMES = (*WORST_ULP, "normal_cdf")

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620")


@pytest.fixture(scope="module")
def strict_pair():
    """The backends whose bits must agree."""
    return [backend_class(name)(strict=True) for name in ("numba", "numpy")]


def assert_pair_agrees(pair, *arguments, **options):
    assert_same_bits(*(everything(backend, *arguments, **options) for backend in pair))


def arguments(name, dtype):
    """Return arguments over the range of a function: tiny, near 1, and near its limits."""
    rng, limits = np.random.default_rng(0), np.finfo(dtype)
    tiny, huge = math.log(float(limits.smallest_subnormal)), math.log(float(limits.max))
    sizes = np.exp(rng.uniform(tiny, 0, 400))
    near = rng.uniform(-3, 3, 600)
    ranges = {
        "exp": [rng.uniform(tiny, huge, 900), rng.uniform(tiny, tiny + 20, 300), sizes, near],
        "log": [np.exp(rng.uniform(tiny, huge, 600)), rng.uniform(0.5, 2.0, 600), 1 + sizes],
        "expm1": [-sizes, -np.abs(near), rng.uniform(-60, 0, 300)],
        "normal_cdf": [sizes, -sizes, near, rng.uniform(-12, 12, 600)],
        "tanh": [sizes, -sizes, near, rng.uniform(-25, 25, 300)],
        "log_1p": [sizes, rng.uniform(0, 1, 900)],
        "logistic": [-sizes, near, rng.uniform(-0.9 * huge, 40, 600)],
    }[name]
    x = np.concatenate(ranges).astype(dtype)
    return x[x > 0] if name in ("log", "log_1p") else x


def exact(name, x):
    """Return a function to 40 digits, by the correctly rounded exp and ln of decimal."""
    with localcontext() as context:
        context.prec = 120 if name == "normal_cdf" else 400 if abs(x) < 1e-9 else 60
        match name:
            case "exp":
                return x.exp()
            case "expm1":
                return x.exp() - 1
            case "log":
                return x.ln()
            case "log_1p":
                return (1 + x).ln()
            case "tanh":
                return 1 - 2 / ((2 * x).exp() + 1)
            case "logistic":
                return 1 / (1 + (-x).exp())
        # Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …); all terms have the sign of x.
        term, series, n = x, x, 1
        while abs(term) > Decimal("1e-110"):
            n += 2
            term *= x**2 / n
            series += term
        return Decimal("0.5") + (-(x**2) / 2).exp() / (2 * PI).sqrt() * series


def ulp_error(found, expected, dtype):
    limits = np.finfo(dtype)
    exponent = max(math.frexp(float(expected))[1] - 1, limits.minexp)
    return float(abs(Decimal(float(found)) - expected) / Decimal(2) ** (exponent - limits.nmant))


@dtypes
@pytest.mark.parametrize("name", NAMES)
def test_errors_are_within_the_stated_bounds(name, dtype):
    """The bound of normal_cdf is relative where x < 0, and there 6 + ½·x² ulp."""
    x, eps = arguments(name, dtype), float(np.finfo(dtype).eps)
    x = x[::5] if name == "normal_cdf" else x
    with np.errstate(all="ignore"):  # in values that choose() discards
        y = getattr(arithmetic, name)(x, CONSTANTS[dtype])
    assert y.dtype == x.dtype
    assert np.isfinite(y).all()
    for number, found in zip(x.astype(float), y, strict=True):
        expected = exact(name, Decimal(number))
        if name != "normal_cdf":
            assert not expected or ulp_error(found, expected, dtype) <= WORST_ULP[name], number
            continue
        assert abs(Decimal(float(found)) - expected) <= Decimal(1.5 * eps), number
        if number < 0:
            assert ulp_error(found, expected, dtype) <= 6 + 0.5 * number**2, number


@dtypes
def test_special_numbers(dtype):
    c, limits = CONSTANTS[dtype], np.finfo(dtype)
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, limits.max, -limits.max], dtype)
    nan, inf = np.nan, np.inf
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(arithmetic.exp(x, c), [1, 1, inf, 0, nan, inf, 0])
        np.testing.assert_array_equal(arithmetic.logistic(x, c), [0.5, 0.5, 1, 0, nan, 1, 0])
        np.testing.assert_array_equal(arithmetic.tanh(x, c), [0, 0, 1, -1, nan, 1, -1])
        np.testing.assert_array_equal(arithmetic.normal_cdf(x, c), [0.5, 0.5, 1, 0, nan, 1, 0])
        below = np.array([0.0, -0.0, -np.inf, np.nan, -limits.max], dtype)
        np.testing.assert_array_equal(arithmetic.expm1(below, c), [0, 0, -1, nan, -1])
        logs = arithmetic.log(x, c)
    np.testing.assert_array_equal(logs[:5], [-inf, -inf, inf, nan, nan])
    assert math.isclose(logs[5], math.log(float(limits.max)), rel_tol=1e-6)
    assert np.isnan(logs[6])
    tiny = np.array([limits.smallest_subnormal], dtype)
    assert arithmetic.tanh(tiny, c)[0] == arithmetic.log_1p(tiny, c)[0] == tiny[0]
    np.testing.assert_array_equal(arithmetic.log_1p(np.array([0.0, nan], dtype), c), [0, nan])


@dtypes
def test_overflow_and_underflow_of_exp(dtype):
    """Check the last finite, first infinite, last subnormal and first zero result."""
    c, limits = CONSTANTS[dtype], np.finfo(dtype)
    largest = np.array(math.log(float(limits.max)), dtype)
    edge = np.nextafter(largest, np.array([-np.inf, np.inf], dtype))
    half_of_smallest = math.log(float(limits.smallest_subnormal)) - math.log(2)
    underflow = np.array([half_of_smallest * 0.9999, half_of_smallest * 1.0001], dtype)
    with np.errstate(all="ignore"):
        assert np.isfinite(arithmetic.exp(edge, c)).tolist() == [True, False]
        assert (arithmetic.exp(underflow, c) > 0).tolist() == [True, False]


@dtypes
def test_exp_and_log_are_monotonic(dtype):
    """For consecutive numbers where the exponent of the result changes."""
    c, limits = CONSTANTS[dtype], np.finfo(dtype)
    whole = np.dtype(f"i{limits.bits // 8}")
    for function, seams in (
        (arithmetic.exp, (np.arange(limits.minexp - 20, limits.maxexp - 2) + 0.5) * math.log(2)),
        (arithmetic.log, np.sqrt(0.5) * 2.0 ** np.arange(-60, 60)),
    ):
        seam = seams.astype(dtype)[:, None].view(whole)
        x = np.sort((seam + np.arange(-200, 200, dtype=whole)).view(dtype), axis=1)
        with np.errstate(all="ignore"):
            assert (np.diff(function(x.ravel(), c).reshape(x.shape), axis=1) >= 0).all()


@dtypes
def test_the_two_parts_of_ln_2(dtype):
    with localcontext() as context:
        context.prec = 75
        gap = Decimal(LN2.numerator) / Decimal(LN2.denominator) - Decimal(2).ln()
        assert abs(gap) < Decimal("1e-69")
    c, limits = CONSTANTS[dtype], np.finfo(dtype)
    high, low = Fraction(float(c.ln2_high)), Fraction(float(c.ln2_low))
    for n in range(int(c.highest * 1.5)):
        assert Fraction(float(limits.dtype.type(n) * c.ln2_high)) == n * high
    assert abs(LN2 - high - low) <= abs(low) * Fraction(float(limits.eps))


@dtypes
@pytest.mark.parametrize("name", NAMES)
def test_compiled_functions_have_the_same_bits(name, dtype):
    """Scalars in code compiled by Numba, and arrays in NumPy."""
    function, c = getattr(arithmetic, name), CONSTANTS[dtype]
    rng, limits = np.random.default_rng(1), np.finfo(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, limits.max, limits.smallest_subnormal]
    any_bits = rng.integers(0, 2**limits.bits, 20_000, dtype=f"u{limits.bits // 8}").view(dtype)
    x = np.concatenate([arguments(name, dtype), np.array(special, dtype), any_bits])
    y = np.empty_like(x)
    STRICT[name][dtype].function(x.ctypes.data, y.ctypes.data, len(x))
    with np.errstate(all="ignore"):
        expected = function(x, c)
    assert (np.isnan(y) == np.isnan(expected)).all()
    kept = ~np.isnan(y)
    assert kept.sum() > 1000
    assert y[kept].tobytes() == expected[kept].tobytes()


@dtypes
def test_sums_are_in_order_and_round_each_term(dtype):
    """Compare with scalar loops, for terms whose sum depends on order and fusing."""
    rng = np.random.default_rng(2)
    a = (rng.standard_normal((3, 40)) * 10.0 ** rng.integers(-4, 5, (3, 40))).astype(dtype)
    b = (rng.standard_normal((40, 5)) * 10.0 ** rng.integers(-4, 5, (40, 5))).astype(dtype)
    expected = np.zeros((3, 5), dtype)
    for i, j in np.ndindex(3, 5):
        total = a.dtype.type(0)
        for k in range(40):
            total = total + a[i, k] * b[k, j]
        expected[i, j] = total
    columns = np.zeros(5, dtype)
    for row in b:
        columns = columns + row
    for operations in (StrictOperations(), CompiledOperations()):
        out, sums = np.full((3, 5), np.nan, dtype), np.full(5, np.nan, dtype)
        operations.product(a, b, out)
        operations.sum_rows(b, sums)
        assert out.tobytes() == expected.tobytes(), operations
        assert sums.tobytes() == columns.tobytes(), operations


@dtypes
def test_arrays_with_gaps(dtype):
    """Transposed and strided arrays, as arguments and as results."""
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((7, 6)).astype(dtype).T, rng.standard_normal((7, 8)).astype(dtype)
    results = []
    for operations in (StrictOperations(), CompiledOperations()):
        out, whole = np.full((12, 8), np.nan, dtype), np.full((6, 4), np.nan, dtype)
        operations.product(a, b[:, ::2], out[::2, ::2])
        operations.tanh(a[:, :4], whole.T[:4, :].T)
        results.append((out.tobytes(), whole.tobytes(), operations.exp(a).tobytes()))
        assert np.isnan(out[1::2]).all()
        assert np.isnan(out[:, 1::2]).all()
    assert results[0] == results[1]


@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_has_the_same_bits(strict_pair, optimizer, dtype):
    task = problem((13, 9, 7, 5), dropout=0.3, weighted=True)
    assert_pair_agrees(strict_pair, task, optimizer, Objective(l2=0.01), dtype, epochs=8)


@dtypes
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_every_activation_and_output_has_the_same_bits(strict_pair, hidden, output, dtype):
    task = problem((13, 7, 11, 5), hidden, output)
    assert_pair_agrees(strict_pair, task, "adam", Objective(), dtype, epochs=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    task=random_problems(rows=19, storages=STORAGES),
    dtype=st.sampled_from(DTYPES),
    objective=st.builds(
        Objective, st.sampled_from(["mean", "sum"]), l2=st.sampled_from([0.0, 0.1])
    ),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
)
def test_random_configurations_have_the_same_bits(strict_pair, task, dtype, objective, optimizer):
    network = task.network
    if network.hidden in ("relu", "identity") or network.output in ("identity", "exp"):
        optimizer = "adam"  # plain gradient descent may diverge for random data
    assert_pair_agrees(strict_pair, task, optimizer, objective, dtype)


@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_epoch_has_the_bits_of_its_batches(strict_pair, optimizer, dtype):
    """The ordinary engines fold the learning rate of plain SGD into delta; strict ones must not."""
    task, rows = problem(dropout=0.3, weighted=True, rows=21), order(21)
    for backend in strict_pair:
        (whole, data), (steps, same) = (
            engine(backend, task, optimizer, Objective(l2=0.1), dtype=dtype) for _ in range(2)
        )
        whole.train_epoch(data, rows, np.full(3, 0.05))
        for start in range(0, 21, 8):
            _, gradients = steps.loss_and_gradients(same, rows[start : start + 8])
            steps.apply_gradients(gradients, 0.05)
        assert flat(whole.parameters()).tobytes() == flat(steps.parameters()).tobytes()


def test_evaluation_of_several_chunks_has_the_same_bits(strict_pair):
    """For more rows than one chunk, with all rows and with a selection."""
    task = problem(rows=2 * arithmetic.LEAST_EVALUATION_ROWS + 5, weighted=True)
    results = []
    for backend in strict_pair:
        built, data = engine(backend, task, dtype="float32")
        sums = [built.evaluate(data, rows) for rows in (None, np.arange(3, 2000))]
        assert len(sums[0].losses) == 3
        results.append([a.tobytes() for s in sums for a in (s.losses, s.correct, s.weights)])
    assert results[0] == results[1]


def digits_model(backend, optimizer=("nesterov", 0.1), dtype="float32", *, strict=True, epochs=3):
    data = load_dataset("digits")
    mlp = MLP(
        (64, 20, 10), "sigmoid", dropout=0.2, backend=backend, dtype=dtype, seed=4, strict=strict
    )
    trainer = Trainer(
        make_optimizer(*optimizer),
        make_schedule("one-cycle"),
        epochs=epochs,
        validation=0.2,
        objective=Objective(l2=1e-4),
    )
    trainer.fit(mlp, data.x_train, data.y_train)
    return mlp, mlp.forward(data.x_test)


@dtypes
@pytest.mark.parametrize("optimizer", [("nesterov", 0.1), ("adamw", 0.01)], ids=str)
def test_a_training_on_digits_has_the_same_bits(optimizer, dtype):
    """Of the weights, of the outputs on the test set, and of all losses."""
    results = []
    for backend in ("numpy", "numba"):
        mlp, outputs = digits_model(backend, optimizer, dtype)
        records = [(r.train_loss, r.train_accuracy, r.validation_loss) for r in mlp.history.records]
        assert records[-1][0] < records[0][0], "the training did not learn anything"
        results.append((flat(mlp.parameters).tobytes(), outputs.tobytes(), records))
    assert results[0] == results[1]


@dtypes
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_strict_mode_agrees_with_ordinary_mode_within_the_bound(name, dtype):
    a, b = (
        flat(digits_model(name, dtype=dtype, strict=strict, epochs=1)[0].parameters)
        for strict in (True, False)
    )
    check_close("parameters", a, b, trajectory_bound(dtype))
    assert a.tobytes() != b.tobytes(), "strict mode was not on"


def test_bits_do_not_depend_on_the_number_of_threads():
    task = problem((30, 20, 5), rows=60)
    results = [
        everything(backend_class(name)(strict=True, threads=n), task, "adam", None, "float32")
        for name in ("numpy", "numba")
        for n in (1, 2)
    ]
    for other in results[1:]:
        assert_same_bits(other, results[0])


# ----------------------------------------------------------------------- selecting strict mode


def test_backends_with_strict_mode():
    assert strict_backends() == ("cupy", "numba", "numpy")


@pytest.mark.usefixtures("plugin")
def test_a_backend_without_strict_mode_rejects_it():
    selection = Selection.from_request("plugin", "argument")
    assert create(selection, threads=1).name == "plugin"
    with pytest.raises(
        InvalidInputError, match=r"strict .* 'plugin' has none: .* cupy, numba, numpy"
    ):
        create(selection, strict=True)


@pytest.mark.usefixtures("plugin")
def test_auto_selects_among_backends_with_strict_mode(monkeypatch):
    workload = Workload(Network((3, 2)), 8)
    assert select("auto", workload).name == "plugin"
    assert select("auto", workload, strict=True).name in ("cupy", "numba", "numpy")
    only_plugin = {"plugin": registry.known_backends()["plugin"]}
    monkeypatch.setattr(registry, "known_backends", lambda: only_plugin)
    with pytest.raises(BackendUnavailableError, match="no backend with strict mode"):
        select("auto", workload, strict=True)


def test_a_built_backend_must_match_the_strict_argument():
    ordinary, strict_one = (backend_class("numpy")(strict=value) for value in (False, True))
    x = np.ones((2, 3))
    with pytest.raises(InvalidInputError, match="built without it: build it with strict=True"):
        MLP((3, 2), backend=ordinary, strict=True).predict(x)
    MLP((3, 2), backend=strict_one, strict=True).predict(x)
    MLP((3, 2), backend=strict_one).predict(x)  # the mode of the built backend applies


def test_strict_mode_is_not_saved_in_a_model(tmp_path):
    path = tmp_path / "model"
    MLP((3, 2), strict=True, backend="numpy").save(path)
    assert MLP.load(path, backend="numpy").strict is False
    assert MLP.load(path, backend="numpy", strict=True).strict is True


def test_resuming_cannot_change_the_mode(tmp_path):
    task, path = problem((4, 3, 2), rows=32), tmp_path / "checkpoint"

    def fit(epochs, *, strict, resume=None, backend="numpy"):
        mlp = MLP((4, 3, 2), backend=backend, strict=strict)
        trainer = Trainer(epochs=epochs, batch_size=8, checkpoint=path)
        trainer.fit(mlp, task.x, task.y, resume=resume)
        return flat(mlp.parameters)

    whole = fit(4, strict=True)
    path.unlink()
    fit(2, strict=True)
    with pytest.raises(InvalidInputError, match="made with strict True, now it is False"):
        fit(4, strict=False, resume=path)
    resumed = fit(4, strict=True, resume=path, backend="numba")  # another backend, the same bits
    assert resumed.tobytes() == whole.tobytes()


def test_a_checkpoint_without_the_setting_is_not_strict(tmp_path):
    task, path = problem((4, 3, 2), rows=32), tmp_path / "checkpoint"
    settings = {"batch_size": 8, "checkpoint": path}
    Trainer(epochs=1, **settings).fit(MLP((4, 3, 2), backend="numpy"), task.x, task.y)
    new = load_checkpoint(path)
    kept = {name: value for name, value in new.settings.items() if name != "strict"}
    assert len(kept) == len(new.settings) - 1
    save_checkpoint(path, Checkpoint(new.network, new.state, new.best, new.history, kept))
    trainer = Trainer(epochs=2, **settings)
    with pytest.raises(InvalidInputError, match="made with strict False, now it is True"):
        trainer.fit(MLP((4, 3, 2), backend="numpy", strict=True), task.x, task.y, resume=path)
    trainer.fit(MLP((4, 3, 2), backend="numpy"), task.x, task.y, resume=path)

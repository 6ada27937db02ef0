"""The strict program on the CPU, bit for bit against strict mode on NumPy: no bound anywhere.

Not shown here: that a device's add, mul, div, sqrt and conversions round as IEEE 754 says.
test_cupy_nvrtc.py shows that the compiler leaves them as they are written.
"""

from __future__ import annotations

import cupy_shim
import numpy as np
import pytest

from bits import assert_same_bits, everything
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective
from fusedmlp.reference import arithmetic as strict
from fusedmlp.reference.arithmetic import CONSTANTS
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.kernels.source import kernel_source
from fusedmlp_numpy import NumpyBackend
from problems import OPTIMIZERS, STORAGES, engine, problem

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])

FUNCTIONS = (
    strict.exp,
    strict.logistic,
    strict.tanh,
    strict.log,
    strict.log_1p,
    strict.expm1,
    strict.normal_cdf,
)
ELEMENTARY = """
KERNEL elementary(const real* x, int64 n, int function, real* y)
{
    for_each(n, [=](int64 i) {
        switch (function) {
        case 0: y[i] = exponential(x[i]); break;
        case 1: y[i] = logistic(x[i]); break;
        case 2: y[i] = hyperbolic_tangent(x[i]); break;
        case 3: y[i] = logarithm(x[i]); break;
        case 4: y[i] = log_1p(x[i]); break;
        case 5: y[i] = exponential_minus_1(x[i]); break;
        case 6: y[i] = normal_cdf(x[i]); break;
        }
    });
}
"""
"""The strict program's functions in the same order."""


def agree(*arguments, **options):
    """All results of some epochs have the bits of NumPy."""
    results = [
        everything(each(strict=True), *arguments, **options) for each in (CupyBackend, NumpyBackend)
    ]
    assert_same_bits(*results)


@dtypes
@pytest.mark.parametrize("number", range(len(FUNCTIONS)), ids=lambda n: FUNCTIONS[n].__name__)
def test_the_functions_are_transcribed_bit_for_bit(shim_folder, number, dtype):
    source = kernel_source(strict=True) + ELEMENTARY
    kernels = cupy_shim.Kernels(source, cupy_shim.REALS[dtype], shim_folder)
    rng, limits = np.random.default_rng(1), np.finfo(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, limits.max, limits.smallest_subnormal, 1.0]
    any_bits = rng.integers(0, 2**limits.bits, 20_000, dtype=f"u{limits.bits // 8}").view(dtype)
    near = rng.uniform(-5, 5, 5_000), rng.uniform(0, 1, 5_000), rng.uniform(-800, 800, 5_000)
    x = np.concatenate([any_bits, *(part.astype(dtype) for part in near), np.array(special, dtype)])
    found = np.empty_like(x)
    arguments = x, np.int64(len(x)), np.int32(number), found
    kernels("elementary", (8,), (256,), arguments)
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[number](x, CONSTANTS[dtype])
    assert (np.isnan(found) == np.isnan(expected)).all()
    kept = ~np.isnan(found)
    assert kept.sum() > 5_000
    assert found[kept].tobytes() == expected[kept].tobytes()


@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(cupy, optimizer, dtype):
    task = problem((13, 9, 7, 5), dropout=0.3, weighted=True)
    agree(task, optimizer, Objective(l2=0.01), dtype, epochs=8)


@dtypes
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_every_activation_and_output(cupy, hidden, output, dtype):
    task = problem((13, 7, 11, 5), hidden, output)
    agree(task, "adam", Objective(), dtype, epochs=4)


@dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("sizes", [(5, 33, 3), (1, 1), (33, 2, 17, 8)], ids=str)
def test_no_launch_depends_on_the_grid_or_on_the_order_of_threads(
    cupy, repeated, sizes, storage, reduction, dtype
):
    """Every storage and odd shapes, each launch four times over: see cupy_shim.Kernels."""
    weighted, output = reduction == "mean", OUTPUTS[STORAGES.index(storage) % 4]
    output = "sigmoid" if sizes[-1] == 1 else output
    task = problem(
        sizes, "tanh", output, 0.5 * weighted, rows=17, storage=storage, weighted=weighted
    )
    agree(task, "adamw", Objective(reduction, 0.1), dtype, epochs=1)


def test_evaluation_takes_the_same_rows_at_a_time(cupy):
    task = problem(rows=2 * strict.LEAST_EVALUATION_ROWS + 5, weighted=True)
    found = []
    for backend in (CupyBackend(strict=True), NumpyBackend(strict=True)):
        built, data = engine(backend, task, dtype="float32")
        sums = built.evaluate(data)
        found.append((sums.losses.tobytes(), sums.correct.tobytes(), sums.weights.tobytes()))
    assert found[0] == found[1]

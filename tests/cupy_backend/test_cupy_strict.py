"""The strict program on the CPU, bit for bit against strict mode on NumPy: no bound anywhere.

Not shown here: that a device's add, mul, div, sqrt and conversions round as IEEE 754 says.
test_cupy_nvrtc.py shows that the compiler leaves them as they are written.
"""

from __future__ import annotations

import sys

import cupy_standin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bits import assert_same_bits, everything
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective
from fusedmlp.reference import arithmetic as strict
from fusedmlp.reference.arithmetic import CONSTANTS
from fusedmlp.registry import backend_class
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.kernels.launches import STRICT_KERNELS
from fusedmlp_cupy.runtime.device import CupyDevice
from problems import OPTIMIZERS, engine, problem

DTYPES = ("float32", "float64")
dtypes = pytest.mark.parametrize("dtype", DTYPES)

FUNCTIONS = (
    strict.exp,
    strict.logistic,
    strict.tanh,
    strict.log,
    strict.log_1p,
    strict.expm1,
    strict.normal_cdf,
)
"""In the order of their numbers in the kernel ``elementary``."""


@pytest.fixture(scope="module")
def strict_standin(strict_kernels):
    """A stand-in for ``cupy`` whose strict kernels run once a launch."""
    for each in strict_kernels.values():
        each.checked = False
    return cupy_standin.StandIn(None, strict_kernels)


@pytest.fixture(scope="module")
def cupy_strict(strict_standin):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", strict_standin)
        yield CupyBackend(strict=True)


@pytest.fixture(scope="module")
def numpy_strict():
    return backend_class("numpy")(strict=True)


@dtypes
@pytest.mark.parametrize("number", range(len(FUNCTIONS)), ids=lambda n: FUNCTIONS[n].__name__)
def test_the_functions_are_transcribed_bit_for_bit(strict_standin, number, dtype):
    rng, limits = np.random.default_rng(1), np.finfo(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, limits.max, limits.smallest_subnormal, 1.0]
    any_bits = rng.integers(0, 2**limits.bits, 20_000, dtype=f"u{limits.bits // 8}").view(dtype)
    near = rng.uniform(-5, 5, 5_000), rng.uniform(0, 1, 5_000), rng.uniform(-800, 800, 5_000)
    x = np.concatenate([any_bits, *(part.astype(dtype) for part in near), np.array(special, dtype)])
    device = CupyDevice(strict_standin, 0)
    with device.active():
        program = device.program(dtype, ("elementary",), strict=True)
        y = device.empty(x.shape, dtype)
        arguments = device.upload(x), np.int64(len(x)), np.int32(number), y
        program.launch("elementary", (8,), (256,), arguments)
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[number](x, CONSTANTS[dtype])
    found = y.get()
    assert (np.isnan(found) == np.isnan(expected)).all()
    kept = ~np.isnan(found)
    assert kept.sum() > 5_000
    assert found[kept].tobytes() == expected[kept].tobytes()


@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(cupy_strict, numpy_strict, optimizer, dtype):
    task = problem((13, 9, 7, 5), dropout=0.3, weighted=True)
    results = [
        everything(backend, task, optimizer, Objective(l2=0.01), dtype, epochs=8)
        for backend in (cupy_strict, numpy_strict)
    ]
    assert_same_bits(*results)


@dtypes
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_every_activation_and_output(cupy_strict, numpy_strict, hidden, output, dtype):
    task = problem((13, 7, 11, 5), hidden, output)
    results = [
        everything(backend, task, "adam", Objective(), dtype, epochs=4)
        for backend in (cupy_strict, numpy_strict)
    ]
    assert_same_bits(*results)


width = st.sampled_from([1, 2, 3, 8, 17, 33])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    D=width,
    widths=st.lists(width, max_size=2),
    K=width,
    hidden=st.sampled_from(HIDDEN_ACTIVATIONS),
    output=st.sampled_from(OUTPUTS),
    dropout=st.sampled_from([0.0, 0.5]),
    dtype=st.sampled_from(DTYPES),
    storage=st.sampled_from(["uint8", "float32", "float64", "csr32", "csr64"]),
    weighted=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 1000),
)
def test_anything(
    cupy_strict,
    numpy_strict,
    D,
    widths,
    K,
    hidden,
    output,
    dropout,
    dtype,
    storage,
    weighted,
    reduction,
    seed,
):
    if output == "softmax":
        K = max(K, 2)
    task = problem(
        (D, *widths, K),
        hidden,
        output,
        dropout,
        rows=19,
        storage=storage,
        weighted=weighted,
        seed=seed,
    )
    results = [
        everything(backend, task, "adamw", Objective(reduction, 0.1), dtype)
        for backend in (cupy_strict, numpy_strict)
    ]
    assert_same_bits(*results)


def test_evaluation_takes_the_same_rows_at_a_time(cupy_strict, numpy_strict):
    task = problem(rows=2 * strict.LEAST_EVALUATION_ROWS + 5, weighted=True)
    found = []
    for backend in (cupy_strict, numpy_strict):
        built, data = engine(backend, task, dtype="float32")
        sums = built.evaluate(data)
        found.append((sums.losses.tobytes(), sums.correct.tobytes(), sums.weights.tobytes()))
    assert found[0] == found[1]


@dtypes
def test_no_launch_depends_on_the_grid_or_on_the_order_of_threads(strict_kernels, dtype):
    """Every kernel, each launch four times over: see cupy_shim.Kernels."""
    kernels = strict_kernels[dtype]
    kernels.launched.clear()
    kernels.checked = True
    standin = cupy_standin.StandIn(None, strict_kernels)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "cupy", standin)
            backend = CupyBackend(strict=True)
            for i, optimizer in enumerate(OPTIMIZERS):
                storage = ("uint8", "float32", "float64", "csr32", "csr64")[i % 5]
                output, dropout = OUTPUTS[i % len(OUTPUTS)], (0.0, 0.0, 0.5)[i % 3]
                task = problem(
                    (5, 33, 3), "tanh", output, dropout, rows=17, storage=storage, weighted=True
                )
                everything(backend, task, optimizer, Objective(l2=0.1), dtype, epochs=1)
    finally:
        kernels.checked = False
    # dropout_mask is for comparisons only; the cursor is for groups of steps.
    assert kernels.launched == set(STRICT_KERNELS) - {"dropout_mask", "advance_cursor"}

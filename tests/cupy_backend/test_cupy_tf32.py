"""TF32 where it is requested and nowhere else, over a stand-in that rounds operands as TF32 does.

Not shown here: that cuBLAS then uses its tensor cores (test_cupy_gpu.py).
"""

from __future__ import annotations

import cupy_standin
import numpy as np
import pytest
from cupy_modes import cupy_backend
from cupy_standin import DEFAULT_PRODUCTS, TF32_PRODUCTS

from fusedmlp import MLP
from fusedmlp.backend import Workload
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network
from fusedmlp.registry import create, select
from fusedmlp.tolerance import (
    TF32_EPS,
    difference,
    kernel_bound,
    tf32_bound,
    tf32_trajectory_bound,
    trajectory_bound,
)
from fusedmlp_cupy import CupyBackend
from fusedmlp_numpy import NumpyBackend
from problems import OPTIMIZERS, engine, flat, order, problem

NETWORK = Network((61, 83, 47, 10))


def backends():
    """TF32, float32 by CuPy's own products, and the specification."""
    return CupyBackend(tf32=True), cupy_backend("eager, cuBLAS"), NumpyBackend()


@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_outputs_and_gradients_are_within_the_bound_of_tf32_alone(cupy, hidden, output):
    task = problem(NETWORK.sizes, hidden, output, rows=64)
    outputs, gradients = [], []
    for backend in backends():
        built, data = engine(backend, task, batch_size=64, dtype="float32")
        outputs.append(built.forward(task.x))
        gradients.append(flat(built.loss_and_gradients(data, np.arange(64))[1]))
    # An exp multiplies what its logits are off by with their own size.
    products = NETWORK.n_layers * (max(1.0, np.log(outputs[2]).max()) if output == "exp" else 1)
    assert kernel_bound("float32") < difference(outputs[0], outputs[2]) <= tf32_bound(products)
    assert difference(outputs[1], outputs[2]) <= kernel_bound("float32", 83) * products
    if hidden != "relu":
        # Forward and backward, each product's operands hold the errors of those before it.
        gap = difference(gradients[0], gradients[2])
        assert kernel_bound("float32", 83) < gap <= tf32_bound(2 * NETWORK.n_layers)
    assert difference(gradients[1], gradients[2]) <= kernel_bound("float32", 83) * 6


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "lion"])
def test_trajectories_are_within_their_bound(cupy, optimizer):
    # Lion steps by a sign, which rounding flips near 0: then two trajectories part by 2·lr.
    task = problem(NETWORK.sizes, "tanh", rows=320)
    found = []
    for backend in backends():
        built, data = engine(backend, task, optimizer, batch_size=64, dtype="float32")
        built.train_epoch(data, order(320, 10), np.full(50, 0.01))
        found.append(flat(built.parameters()))
    assert difference(found[0], found[2]) <= tf32_trajectory_bound()
    assert difference(found[1], found[2]) <= trajectory_bound("float32")
    assert found[0].tobytes() != found[1].tobytes()


def test_fewer_bits_than_tf32_s_break_the_bound(cupy, monkeypatch):
    def seven_bits(x):  # as many as bfloat16 keeps
        bits = np.ascontiguousarray(x).view(np.uint32)
        return ((bits + np.uint32(1 << 15)) & np.uint32(0xFFFF0000)).view(np.float32)

    task = problem((784, 10), output="identity", rows=64)
    x = task.x.astype(np.float32)
    expected = engine(NumpyBackend(), task, dtype="float32")[0].forward(x)
    gaps = []
    for rounding in (cupy_standin.tf32, seven_bits):
        monkeypatch.setattr(cupy_standin, "tf32", rounding)
        found = engine(CupyBackend(tf32=True), task, dtype="float32")[0].forward(x)
        gaps.append(difference(found, expected))
    assert gaps[0] <= tf32_bound() / 4 < gaps[1]
    assert gaps[1] > 4 * gaps[0]


def test_the_stand_in_rounds_as_tf32_does():
    x = np.array([1, 1 + 2.0**-10, 1 + 2.0**-11, 1 + 2.0**-12, -1 - 2.0**-11], np.float32)
    expected = [1, 1 + TF32_EPS, 1 + TF32_EPS, 1, -1 - TF32_EPS]
    assert cupy_standin.tf32(x).tolist() == expected


def test_others_keep_the_type_that_they_have_set(cupy):
    task, results = problem(NETWORK.sizes, rows=64), []
    for before in (DEFAULT_PRODUCTS, TF32_PRODUCTS):
        cupy.product_type = before
        for mode in ("eager, cuBLAS", "tf32"):
            built, data = engine(cupy_backend(mode), task, batch_size=64, dtype="float32")
            built.train_epoch(data, np.arange(64), np.ones(1))
            assert cupy.product_type == before
            results.append(flat(built.parameters()).tobytes())
        with pytest.raises(InvalidInputError):
            built.evaluate(None)
        assert cupy.product_type == before
    assert results[:2] == results[2:]  # though the user's own products are in TF32
    assert results[0] != results[1]


def test_it_is_off_unless_named_and_the_device_says_which(cupy):
    work = Workload(NETWORK, 64)
    for request, products in (("cupy", "float32"), ("cupy+tf32", "tf32"), ("cupy:1+tf32", "tf32")):
        device = create(select(request, work, {})).device()
        assert device.facts["products"] == products
        assert ("TF32" in str(device)) == (products == "tf32")
    mlp = MLP(NETWORK.sizes, backend="cupy+tf32")
    selection, backend = mlp.select_backend()
    assert str(selection) == "cupy+tf32"
    assert backend.device().facts["products"] == "tf32"
    x = np.random.default_rng(0).standard_normal((5, 61)).astype(np.float32)
    assert mlp.forward(x).tobytes() != MLP(NETWORK.sizes, backend="cupy").forward(x).tobytes()


def test_where_it_has_no_meaning_it_is_refused(cupy, monkeypatch):
    with pytest.raises(InvalidInputError, match="the model is float64: leave \\+tf32 out"):
        engine(CupyBackend(tf32=True), problem(), dtype="float64")
    older = cupy_standin.PROPERTIES | {"major": 7, "minor": 5}
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda _: older)
    with pytest.raises(InvalidInputError, match=r"capability 7\.5, and TF32 needs 8\.0"):
        CupyBackend(tf32=True)
    CupyBackend()


def test_the_variable_of_cupy_is_refused_unless_tf32_was_asked_for(cupy, monkeypatch):
    monkeypatch.setenv("CUPY_TF32", "1")
    with pytest.raises(InvalidInputError, match=r"CUPY_TF32=1 .* backend 'cupy\+tf32'"):
        engine(CupyBackend(), problem(), dtype="float32")
    engine(CupyBackend(tf32=True), problem(), dtype="float32")

"""The whole engine on the CPU, over a stand-in for CuPy, against the NumPy engine.

Only the module ``cupy`` is replaced; its kernels are the CUDA sources compiled by g++. Not shown
here: cuBLAS, streams, flush-to-zero.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse

from conftest import mode_and_tuning
from fusedmlp.backend import EngineSpec, State
from fusedmlp.errors import DeviceMemoryError, InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective, initialise, zeros
from fusedmlp.optimizers import OPTIMIZERS, SGD, Adam, make_optimizer
from fusedmlp.reference.engine import ReferenceEngine
from fusedmlp.reference.operations import Operations
from fusedmlp.tolerance import check_close, kernel_bound, trajectory_bound
from fusedmlp_cupy.engine import CupyEngine
from fusedmlp_cupy.kernels.launches import KERNELS
from fusedmlp_cupy.kernels.products import PRODUCTS
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.training.execution import Execution
from fusedmlp_cupy.tuning import Tuning

B, STEPS = 7, 50
SEED = 2**40 + 11


def modes(*names):
    """Run a test in each of these modes: see conftest.mode_and_tuning."""
    return pytest.mark.parametrize("mode", names, indirect=True)


def engines(
    standin,
    network,
    optimizer,
    objective=None,
    dtype="float32",
    state=None,
    size=B,
    mode=("eager", None),
    sums_squares=False,
):
    """Our engine and the NumPy engine with the same parameters."""
    objective = objective or Objective()
    spec = EngineSpec(network, optimizer, objective, size, dtype, SEED, sums_squares)
    device, (name, tuning) = CupyDevice(standin, 0), mode
    own = {"device": device, "execution": Execution(name, name, "asked for"), "tuning": tuning}
    ours = CupyEngine(spec, **own)
    reference = ReferenceEngine(spec, operations=Operations())
    if state is None:
        slots = tuple(zeros(network, dtype) for _ in optimizer.slots)
        state = State(initialise(network, 3, dtype), slots, 0)
    for engine in (ours, reference):
        engine.load(state)
    return ours, reference


def data_set(network, n, dtype, storage="own", weighted=False, seed=0):
    rng = np.random.default_rng(seed)
    D, K = network.n_inputs, network.n_outputs
    if storage == "uint8":
        x = rng.integers(0, 256, (n, D), dtype=np.uint8)
    elif storage == "csr":
        x = scipy.sparse.random_array((n, D), density=0.4, format="csr", rng=rng, dtype=dtype)
    else:
        x = rng.standard_normal((n, D)).astype(dtype if storage == "own" else storage)
    if network.output == "softmax":
        y = rng.integers(0, K, n)
    elif network.output == "sigmoid":
        y = rng.integers(0, 2, (n, K))
    elif network.output == "exp":
        y = rng.poisson(1.0, (n, K))
    else:
        y = rng.standard_normal((n, K))
    return x, y, rng.uniform(0.0, 2.0, n) if weighted else None


def check_parameters(actual, expected, bound):
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == b.dtype
        assert a.flags.c_contiguous
        check_close(f"{'Wb'[i % 2]}{i // 2 + 1}", a, b, bound)


def check_sums(actual, expected, bound):
    check_close("losses", actual.losses, expected.losses, bound)
    np.testing.assert_array_equal(actual.weights.shape, expected.weights.shape)
    check_close("weights", actual.weights, expected.weights, bound)
    assert (actual.squares is None) == (expected.squares is None)
    if expected.squares is not None:
        check_close("squares", actual.squares, expected.squares, bound)


def train_both(ours, reference, data, bound, lr=0.05):
    x, y, w = data
    n = len(y)
    size = ours.batch_size
    per_epoch = -(-n // size)
    epochs = -(-STEPS // per_epoch)
    staged = ours.stage(x, y, w), reference.stage(x, y, w)
    rng = np.random.default_rng(8)
    for _ in range(epochs):
        order = rng.permutation(n)
        rates = np.linspace(lr, lr / 2, per_epoch)
        found = [
            e.train_epoch(d, order, rates) for e, d in zip((ours, reference), staged, strict=True)
        ]
        check_sums(*found, bound)
    a, b = ours.state(), reference.state()
    assert a.step == b.step >= STEPS
    check_parameters(a.parameters, b.parameters, bound)
    for slot, expected in zip(a.slots, b.slots, strict=True):
        check_parameters(slot, expected, bound)
    # Accuracy flips a row at a time; nearly all must agree.
    assert abs(ours.evaluate(staged[0]).accuracy - reference.evaluate(staged[1]).accuracy) <= 2 / n
    return a


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trajectory_of_every_optimizer(fast, optimizer, dtype, mode):
    network = Network((11, 13, 5), "tanh", "softmax")
    options = {"dtype": dtype, "mode": mode, "sums_squares": True}
    pair = engines(fast, network, make_optimizer(optimizer), Objective("mean", 0.01), **options)
    lr = 0.005 if optimizer.startswith("adam") else 0.05
    train_both(*pair, data_set(network, 5 * B + 3, dtype), trajectory_bound(dtype), lr)


def test_trajectory_of_adam_with_epsilon_hat(fast):
    network = Network((11, 13, 5), "tanh", "softmax")
    pair = engines(fast, network, Adam(eps=1e-3, eps_hat=True), dtype="float64")
    data = data_set(network, 5 * B + 3, "float64")
    train_both(*pair, data, trajectory_bound("float64"), 0.005)


@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
@modes("eager, cuBLAS", "graph", "persistent")
def test_trajectory_of_every_activation_and_output(fast, hidden, output, mode):
    """Every other pair with dropout, so that each activation and each output has it with some."""
    has_dropout = (HIDDEN_ACTIVATIONS.index(hidden) + OUTPUTS.index(output)) % 2
    dropout = 0.4 if has_dropout else 0.0
    sizes = (9, 8, 4) if mode[0] == "persistent" else (9, 8, 6, 4)
    network = Network(sizes, hidden, output, dropout)
    pair = engines(fast, network, SGD(momentum=0.9), dtype="float64", mode=mode)
    x, y, w = data_set(network, 5 * B + 1, "float64", weighted=True)
    # Linear layers under an exp soon overflow, unless their inputs are small.
    x = x / 8 if output == "exp" else x
    train_both(*pair, (x, y, w), trajectory_bound("float64"), 0.01)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("storage", ["uint8", "float32", "float64", "csr"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@modes("eager", "graph, cuBLAS", "persistent")
def test_trajectory_of_every_storage(fast, storage, reduction, dtype, mode):
    network = Network((10, 6, 3), "relu", "softmax", 0.2)
    pair = engines(fast, network, SGD(), Objective(reduction), dtype, mode=mode)
    data = data_set(network, 4 * B + 2, dtype, storage, weighted=reduction == "sum")
    train_both(*pair, data, trajectory_bound(dtype), 0.02)


@pytest.mark.parametrize("sizes", [(1, 1), (4, 1), (1, 2, 1), (37, 300, 1)], ids=str)
@pytest.mark.parametrize("size", [1, 5])
@modes("eager", "graph")
def test_single_neurons_and_odd_widths(fast, sizes, size, mode):
    network = Network(sizes, "sigmoid", "sigmoid")
    pair = engines(fast, network, SGD(), dtype="float64", size=size, mode=mode)
    train_both(*pair, data_set(network, 11, "float64"), trajectory_bound("float64"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients(standin, output, weighted, dtype):
    network = Network((17, 33, 19, 4), "sigmoid", output, 0.25)
    objective = Objective("mean" if weighted else "sum", 0.02)
    ours, reference = engines(standin, network, SGD(), objective, dtype, size=13)
    x, y, w = data_set(network, 40, dtype, weighted=weighted)
    rows = np.random.default_rng(1).permutation(40)[:13]
    found = [e.loss_and_gradients(e.stage(x, y, w), rows) for e in (ours, reference)]
    bound = kernel_bound(dtype, 33)
    check_sums(found[0][0], found[1][0], bound)
    np.testing.assert_array_equal(found[0][0].correct, found[1][0].correct)
    check_parameters(found[0][1], found[1][1], bound)
    assert ours.state().step == 0


def test_one_epoch_is_its_gradients_applied(standin):
    """Two paths to one result: fused steps, and gradients fetched, then handed back."""
    network = Network((6, 5, 3), "tanh", "softmax", 0.3)
    objective = Objective("mean", 0.1)
    fused, _ = engines(standin, network, make_optimizer("adamw"), objective, "float64")
    split, _ = engines(standin, network, make_optimizer("adamw"), objective, "float64")
    x, y, _ = data_set(network, 3 * B, "float64")
    order = np.random.default_rng(2).permutation(3 * B)
    fused.train_epoch(fused.stage(x, y), order, np.full(3, 0.01))
    data = split.stage(x, y)
    for start in range(0, 3 * B, B):
        _, gradients = split.loss_and_gradients(data, order[start : start + B])
        split.apply_gradients(gradients, 0.01)
    a, b = fused.state(), split.state()
    assert a.step == b.step == 3
    check_parameters(a.parameters, b.parameters, kernel_bound("float64", 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@modes("eager", "graph", "graph, cuBLAS", "persistent")
def test_sliced_epoch_equals_whole_bit_for_bit(fast, dtype, mode):
    network = Network((8, 7, 4), "relu", "softmax", 0.5)
    n = 6 * B + 2
    x, y, w = data_set(network, n, dtype, "uint8", weighted=True)
    order, rates = np.random.default_rng(4).permutation(n), np.linspace(0.01, 0.02, 7)
    results = []
    for cuts in ([0, n], [0, 2 * B, 3 * B, n]):
        engine, _ = engines(fast, network, make_optimizer("adam"), dtype=dtype, mode=mode)
        data = engine.stage(x, y, w)
        sums = [
            engine.train_epoch(data, order[a:b], rates[a // B : -(-b // B)])
            for a, b in itertools.pairwise(cuts)
        ]
        results.append((engine.state(), type(sums[0]).joined(sums)))
    (a, sums_a), (b, sums_b) = results
    for one, other in zip(
        (*a.parameters, *a.slots[0], *a.slots[1]),
        (*b.parameters, *b.slots[0], *b.slots[1]),
        strict=True,
    ):
        assert one.tobytes() == other.tobytes()
    for name in ("losses", "correct", "weights"):
        assert getattr(sums_a, name).tobytes() == getattr(sums_b, name).tobytes()


def test_an_epoch_waits_for_the_device_once(fast, mode):
    """No host work hides between batches: reads and uploads do not grow with their number."""
    network = Network((5, 4, 3), dropout=0.1)
    engine, _ = engines(fast, network, make_optimizer("adam"), mode=mode)
    traffic = []
    for n_batches in (2, 20):
        data = engine.stage(*data_set(network, n_batches * B, "float32"))
        memory = fast.memory
        before = memory.uploads, memory.reads, memory.synchronisations
        engine.train_epoch(data, np.arange(n_batches * B), np.full(n_batches, 0.01))
        after = memory.uploads, memory.reads, memory.synchronisations
        traffic.append(tuple(b - a for a, b in zip(before, after, strict=True)))
    assert traffic[0] == traffic[1]
    assert traffic[0] == (3, 1, 3)  # uploads: order, steps and rates; reads: the sums


@pytest.mark.parametrize("storage", ["uint8", "float64", "csr"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_forward_and_evaluate(fast, storage, output):
    few_rows = "eager", Tuning(forward_rows=16)
    network = Network((6, 9, 3), "sigmoid", output, 0.5)
    ours, reference = engines(fast, network, SGD(), dtype="float64", mode=few_rows)
    x, y, w = data_set(network, 41, "float64", storage, weighted=True)
    bound = kernel_bound("float64", 9)
    check_close("outputs", ours.forward(x), reference.forward(x), bound)
    assert ours.forward(x[:0]).shape == (0, 3)
    staged = ours.stage(x, y, w), reference.stage(x, y, w)
    for rows in (None, np.array([40, 3, 3, 8]), np.arange(40)[::-1]):
        a, b = ours.evaluate(staged[0], rows), reference.evaluate(staged[1], rows)
        check_close("loss", a.loss, b.loss, bound)
        assert a.accuracy == pytest.approx(b.accuracy, abs=bound)
        assert a.weights.sum() == pytest.approx(b.weights.sum(), rel=bound)


def test_a_diverging_loss_comes_back_as_it_is(fast):
    network = Network((4, 5, 3), "relu", "identity")
    engine, _ = engines(fast, network, SGD(), Objective("sum"))
    x, y, _ = data_set(network, 10 * B, "float32")
    with np.errstate(all="ignore"):
        sums = engine.train_epoch(engine.stage(x, y), np.arange(10 * B), np.full(10, 1e6))
    assert sums.first_non_finite() is not None


def test_state_goes_from_engine_to_engine(fast):
    network = Network((6, 5, 3), "tanh")
    ours, reference = engines(fast, network, make_optimizer("adam"), dtype="float64")
    x, y, _ = data_set(network, 2 * B, "float64")
    ours.train_epoch(ours.stage(x, y), np.arange(2 * B), np.full(2, 0.01))
    state = ours.state()
    reference.load(state)
    again, _ = engines(fast, network, make_optimizer("adam"), dtype="float64", state=state)
    for other in (reference, again):
        back = other.state()
        assert back.step == 2
        for a, b in zip(
            (*back.parameters, *back.slots[1]), (*state.parameters, *state.slots[1]), strict=True
        ):
            assert a.tobytes() == b.tobytes()
    narrow, _ = engines(fast, network, make_optimizer("adam"), state=state)
    assert narrow.parameters().dtype == np.float32
    assert narrow.compile_seconds >= 0.0
    narrow.synchronize()


def test_wrong_data_is_refused(fast):
    network = Network((4, 3), "tanh")
    ours, reference = engines(fast, network, SGD())
    x, y, _ = data_set(network, 3 * B, "float32")
    with pytest.raises(InvalidInputError, match="another backend"):
        ours.evaluate(reference.stage(x, y))
    with pytest.raises(InvalidInputError, match="without targets"):
        ours.evaluate(ours.stage(x))
    with pytest.raises(InvalidInputError, match="more than the engine's batch size"):
        ours.loss_and_gradients(ours.stage(x, y), np.arange(B + 1))
    with pytest.raises(InvalidInputError, match="outside the data set"):
        ours.train_epoch(ours.stage(x, y), np.array([3 * B]), np.ones(1))
    with pytest.raises(InvalidInputError, match="lr has shape"):
        ours.train_epoch(ours.stage(x, y), np.arange(3), np.ones(2))
    spec = EngineSpec(network, SGD(), Objective(), B, "float32", 0)
    other = CupyEngine(spec, device=CupyDevice(fast, 1))
    with pytest.raises(InvalidInputError, match="staged on device 1"):
        ours.evaluate(other.stage(x, y))


def test_too_little_device_memory_names_the_bytes(fast):
    network = Network((4, 3))
    fast.memory.limit, fast.free = 10_000, 1000
    message = r"hold 160,000 bytes more, 1,000 of 17,179,869,184"
    with pytest.raises(DeviceMemoryError, match=message):
        engines(fast, network, SGD(), size=10_000)


def test_a_sparse_data_set_must_fit(fast):
    engine, _ = engines(fast, Network((4, 3)), SGD())
    fast.memory.limit, fast.free = 10_000, 1000
    with pytest.raises(DeviceMemoryError, match=r"hold 80,008 bytes more, 1,000 of"):
        engine.stage(scipy.sparse.csr_array(np.ones((10_000, 4), np.float32)))


def test_large_inputs_go_up_in_pieces(fast, monkeypatch):
    monkeypatch.setattr("fusedmlp_cupy.runtime.device.UPLOAD_BYTES", 100)
    network = Network((5, 3))
    engine, reference = engines(fast, network, SGD())
    x = np.random.default_rng(0).standard_normal((57, 5)).astype(np.float32)
    before = fast.memory.uploads
    data = engine.stage(x)
    assert fast.memory.uploads - before == 12
    np.testing.assert_array_equal(data.x.get(), x)
    bound = kernel_bound("float32", 5)
    check_close("outputs", engine.forward(x), reference.forward(x), bound)


def test_these_trainings_launch_every_kernel(fast, kernels):
    """The trajectories above leave no kernel out: a few of them launch all."""
    kernels["float32"].launched.clear()
    for name in ("eager", "eager, cuBLAS"):
        launch_every_kernel(fast, mode_and_tuning(name))
    never = {*KERNELS, *PRODUCTS} - kernels["float32"].launched
    # dropout_mask is for comparisons only; tiles of 32 are for wide layers.
    assert never == {"dropout_mask", *(name for name in PRODUCTS if name.endswith("_32"))}


def launch_every_kernel(fast, mode):
    cases = zip(
        ("uint8", "float32", "float64", "csr", "csr", "float32"),
        ("softmax", "sigmoid", "identity", "softmax", "softmax", "exp"),
        ("sgd", "momentum", "nesterov", "adam", "adamw", "lion"),
        ("float32",) * 4 + ("float64", "float32"),
        strict=True,
    )
    for storage, output, optimizer, csr_dtype in cases:
        network = Network((4, 3, 2), "tanh", output, 0.5 if storage == "csr" else 0.0)
        options = {"mode": mode, "sums_squares": True}
        engine, _ = engines(
            fast, network, make_optimizer(optimizer), Objective("mean", 0.1), **options
        )
        own = csr_dtype if storage == "csr" else "float32"
        data = engine.stage(*data_set(network, B, own, storage, weighted=True))
        engine.train_epoch(data, np.arange(B), np.ones(1))
        engine.loss_and_gradients(data, np.arange(B))
        engine.forward(np.zeros((1, 4), np.float32))

"""Steps captured as CUDA graphs, over a stand-in that captures as a device does.

While a stream captures, nothing runs there; a replay runs what was captured, with the numbers and
the memory of the capture. Not shown here: that the driver captures the same launches, and how long
a replay takes.
"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from test_cupy_engine import B, data_set, engines, train_both

from conftest import TUNING, cupy_backend, mode_and_tuning
from fusedmlp.errors import BackendUnavailableError, BreachedError, InvalidInputError
from fusedmlp.network import Network, Objective
from fusedmlp.optimizers import SGD, make_optimizer
from fusedmlp.tolerance import trajectory_bound
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.kernels import launches
from fusedmlp_cupy.kernels.arguments import Batch
from fusedmlp_cupy.runtime import cublas
from fusedmlp_cupy.training.execution import MODES
from fusedmlp_cupy.tuning import Tuning
from problems import engine, flat, order, problem

ROOT = Path(__file__).resolve().parents[2]
NETWORK = Network((11, 13, 5), "tanh", "softmax", 0.3)
GRAPH = mode_and_tuning("graph")
LARGE = Tuning(small_product=0)
"""Every product is a large one, for cuBLAS."""


def epochs(built, data, n_rows, n_epochs=4, size=B):
    rates = np.linspace(0.05, 0.02, -(-n_rows // size))
    rng = np.random.default_rng(5)
    return [built.train_epoch(data, rng.permutation(n_rows), rates) for _ in range(n_epochs)]


def graphs_of(built):
    """The captured graphs of an engine by group."""
    recordings = built.steps.graphs.recordings()
    return {key: recording.graph for key, recording in recordings.items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_replay_has_the_launches_and_the_bits_of_eager_steps(
    fast, kernels, monkeypatch, optimizer
):
    n = 10 * B + 3
    results, launched = [], []
    shim = kernels["float32"]
    run = shim._run
    for name in ("eager", "graph"):
        mode = mode_and_tuning(name)
        built, _ = engines(fast, NETWORK, make_optimizer(optimizer), Objective(l2=0.1), mode=mode)
        data = built.stage(*data_set(NETWORK, n, "float32", "uint8", weighted=True))
        names = []

        def noting(name, *args, names=names, **options):
            names.append(name)
            run(name, *args, **options)

        monkeypatch.setattr(shim, "_run", noting)
        sums = epochs(built, data, n)
        state = built.state()
        arrays = [*state.parameters, *(a for slot in state.slots for a in slot)]
        results.append([a.tobytes() for a in (*arrays, *(s.losses for s in sums))])
        launched.append(names)
    assert results[0] == results[1]
    assert launched[0] == launched[1]
    graphs = graphs_of(built)
    assert set(graphs) == {(3, B), (1, B), (1, 3)}  # groups, single steps, the last three rows
    replays = {key: graph.replays for key, graph in graphs.items()}
    assert replays == {(3, B): 4 * 3 - 1, (1, B): 3, (1, 3): 3}


def test_two_data_sets_have_graphs_of_their_own(fast):
    built, reference = engines(fast, NETWORK, SGD(), dtype="float64", mode=GRAPH)
    sets = [data_set(NETWORK, 4 * B, "float64", seed=seed) for seed in (0, 1)]
    for _ in range(3):
        for x, y, _ in sets:
            for each in (built, reference):
                epochs(each, each.stage(x, y), 4 * B)
    a, b = flat(built.parameters()), flat(reference.parameters())
    np.testing.assert_allclose(a, b, rtol=1e-9)
    gc.collect()
    assert not graphs_of(built), "graphs outlive their data"


def test_a_longer_call_moves_the_buffers_and_is_recorded_anew(fast):
    built, reference = engines(fast, NETWORK, SGD(), dtype="float64", mode=GRAPH)
    x, y, _ = data_set(NETWORK, 4 * B, "float64")
    data, other = built.stage(x, y), reference.stage(x, y)
    for n_rows in (4 * B, 12 * B, 4 * B):  # rows may stand in an order more than once
        rows = np.random.default_rng(n_rows).integers(0, 4 * B, n_rows)
        for _ in range(3):
            rates = np.full(n_rows // B, 0.05)
            built.train_epoch(data, rows, rates)
            reference.train_epoch(other, rows, rates)
    assert graphs_of(built)
    np.testing.assert_allclose(flat(built.parameters()), flat(reference.parameters()), rtol=1e-9)


def by_value(name, at):
    """A launch function that passes the numbers of the capture, and no cursor."""
    sound = getattr(launches, name)

    def faulty(*args):
        batch = args[at]
        frozen = Batch(batch.rows, batch.first, batch.number, batch.size)
        sound(*args[:at], frozen, *args[at + 1 :])

    return faulty


@pytest.mark.parametrize(
    ("name", "at"),
    [("update", 5), ("gather_rows", 2), ("output_delta", 4), ("bias_activation", 4)],
)
def test_a_number_that_is_frozen_into_a_graph_is_found(fast, monkeypatch, name, at):
    """Rate, row, label or mask taken from the capture instead of the device, each planted."""
    bound = trajectory_bound("float64")
    data = data_set(NETWORK, 5 * B, "float64", weighted=True)
    optimizer = SGD(momentum=0.9)
    train_both(*engines(fast, NETWORK, optimizer, dtype="float64", mode=GRAPH), data, bound)
    monkeypatch.setattr(launches, name, by_value(name, at))
    pair = engines(fast, NETWORK, optimizer, dtype="float64", mode=GRAPH)
    with pytest.raises((BreachedError, AssertionError)):
        train_both(*pair, data, bound, lr=0.5)


def test_a_cursor_that_stands_still_is_found(fast, monkeypatch):
    sound = launches.advance_cursor

    def faulty(program, cursor, batches, rows, *, restart=False):
        sound(program, cursor, 0, 0, restart=restart)

    monkeypatch.setattr(launches, "advance_cursor", faulty)
    pair = engines(fast, NETWORK, SGD(), dtype="float64", mode=GRAPH)
    with pytest.raises((BreachedError, AssertionError)):
        train_both(*pair, data_set(NETWORK, 5 * B, "float64"), trajectory_bound("float64"))


def test_memory_that_a_graph_uses_must_be_held(fast):
    built, _ = engines(fast, NETWORK, SGD(momentum=0.9), mode=GRAPH)
    data = built.stage(*data_set(NETWORK, 4 * B, "float32"))
    epochs(built, data, 4 * B)
    propagation = built._propagation
    propagation.delta = [fast.empty(each.shape, each.dtype) for each in propagation.delta]
    gc.collect()
    with pytest.raises(AssertionError, match="memory of a graph was freed"):
        epochs(built, data, 4 * B)


FORBIDDEN = {
    "a copy from the host": lambda engine, _: engine.steps._cursor.set(np.zeros(2, np.int64)),
    "a copy to the host": lambda engine, _: engine.steps._cursor.get(),
    "an allocation": lambda _, cupy: cupy.empty((1,), np.float32),
    "waiting": lambda engine, _: engine._device.synchronize(),
    "cuBLAS API during stream capture": lambda engine, cupy: cupy.dot(*engine._parameters.W[:2]),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_where_capture_fails_steps_are_eager_and_a_warning_says_why(cupy, monkeypatch, what):
    """Each operation that a capturing stream refuses, done in every step; the results are right."""
    task = problem((6, 5, 4, 3), rows=4 * 8)
    backend = CupyBackend()
    assert "steps replayed as CUDA graphs" in str(backend.device())
    built, data = engine(backend, task, batch_size=8, dtype="float64")
    expected, same = engine(CupyBackend(eager=True), task, batch_size=8, dtype="float64")
    sound = launches.advance_cursor

    def faulty(*args, **options):
        if cupy.memory.recording is not None:
            FORBIDDEN[what](built, cupy)
        sound(*args, **options)

    monkeypatch.setattr(launches, "advance_cursor", faulty)
    rows, rates = order(32, 2), np.full(8, 0.1)
    with pytest.warns(RuntimeWarning, match=f"capturing them failed: .*{what}"):
        built.train_epoch(data, rows, rates)
    expected.train_epoch(same, rows, rates)
    assert flat(built.parameters()).tobytes() == flat(expected.parameters()).tobytes()
    assert backend.device().facts["launches"] == "eager"
    assert what in backend.device().facts["launches_because"]
    assert "kernel by kernel (capturing them failed" in str(backend.device())
    built.train_epoch(data, rows, rates)  # it does not try, nor warn, again
    asked, data = engine(CupyBackend(graph=True), task, batch_size=8, dtype="float64")
    with pytest.raises(BackendUnavailableError, match=r"cupy\+graph.*leave \+graph out"):
        asked.train_epoch(data, rows, rates)


def test_without_a_separate_cublas_handle_large_products_are_eager(cupy, monkeypatch):
    def missing(_cupy):
        raise OSError("libcublas.so.13: cannot open shared object file")

    monkeypatch.setattr(cublas, "load", missing)
    small = CupyBackend(graph=True)
    engine(small, problem((6, 5, 3)), dtype="float32")
    assert small.device().facts["launches"] == "graph"  # needs no handle
    backend = cupy_backend(LARGE)
    with pytest.warns(RuntimeWarning, match="no handle for capturing: libcublas"):
        built, data = engine(backend, problem((6, 5, 3)), dtype="float32")
    built.train_epoch(data, order(37), np.full(5, 0.1))
    assert backend.device().facts["launches"] == "eager"
    with pytest.raises(BackendUnavailableError, match=r"leave \+graph out"):
        engine(cupy_backend(LARGE, graph=True), problem((6, 5, 3)), dtype="float32")


def test_a_workspace_that_is_not_set_again_is_noticed(cupy, monkeypatch):
    """Setting a handle's stream makes cuBLAS forget it, and allocate one where it must not."""
    monkeypatch.setattr(cupy.cublas_library, "cublasSetWorkspace_v2", lambda *_: 0)
    built, data = engine(cupy_backend(LARGE, graph=True), problem(), dtype="float32")
    with pytest.raises(BackendUnavailableError, match="cublasSgemm_v2 failed with status 14"):
        built.train_epoch(data, order(37, 3), np.full(14, 0.1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transposed", ["", "a", "b"])
def test_products_of_a_separate_handle(device, dtype, transposed):
    rng = np.random.default_rng(0)
    m, k, n = 5, 7, 3
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    out = device.empty((m, n), dtype)
    operands = [
        np.ascontiguousarray(x.T) if at == transposed else x
        for at, x in zip("ab", (a, b), strict=True)
    ]
    device.cublas_handle().product(*(device.upload(x) for x in operands), out, transposed)
    np.testing.assert_allclose(out.get(), a @ b, rtol=1e-5)


def test_handles_are_destroyed(cupy):
    built, _ = engine(cupy_backend(LARGE), problem(), dtype="float32")
    assert len(cupy.cublas_library.handles) == 1
    del built, _
    gc.collect()
    assert not cupy.cublas_library.handles


def test_tf32_is_captured_as_such(cupy):
    task = problem((61, 47, 10), rows=64)
    rows, rates, found = order(64, 4), np.full(4 * 2, 0.1), {}
    for name in ("cupy+tf32+graph", "cupy+graph"):
        backend = CupyBackend(tf32="tf32" in name, graph=True)
        built, data = engine(backend, task, batch_size=32, dtype="float32")
        built.train_epoch(data, rows, rates)
        assert graphs_of(built)
        found[name] = flat(built.parameters())
    assert [each["math"] for each in cupy.cublas_library.handles.values()] == []  # given back
    gap = np.abs(found["cupy+tf32+graph"] - found["cupy+graph"]).max()
    assert 1e-6 < gap < 1e-2


def test_streamed_data_is_eager(cupy, monkeypatch):
    task = problem((6, 5, 3), rows=40)
    results = []
    for streamed in (False, True):
        if streamed:
            monkeypatch.setattr("fusedmlp_cupy.data.fits", lambda *_: False)
        built, data = engine(CupyBackend(graph=True), task, batch_size=8, dtype="float32")
        built.train_epoch(data, order(40, 3), np.full(15, 0.1))
        results.append(flat(built.parameters()).tobytes())
        assert bool(graphs_of(built)) == (not streamed)
    assert results[0] == results[1]


def test_the_mode_is_requested_by_name(cupy):
    from fusedmlp.backend import Workload
    from fusedmlp.registry import create, select

    work = Workload(NETWORK, 64)
    assert set(MODES) == {"eager", "graph", "persistent"}
    for request, used in {"cupy": "graph", **{f"cupy:1+{mode}": mode for mode in MODES}}.items():
        device = create(select(request, work, {})).device()
        assert device.facts["launches"] == used
        why = "asked for" if "+" in request else "the default"
        assert device.facts["launches_because"] == why
    documents = [(ROOT / name).read_text("utf-8") for name in ("README.md", "docs/cupy.md")]
    assert all(f"`cupy+{mode}`" in text for text in documents for mode in MODES)
    strict = CupyBackend(strict=True).device()
    assert strict.facts["launches"] == "eager"
    CupyBackend(strict=True, eager=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("eager", "graph"), "graph and eager exclude each other"),
        (("graph", "persistent"), "graph and persistent exclude each other"),
        (("strict", "graph"), r"strict .* leave \+graph out"),
        (("strict", "persistent"), r"strict .* leave \+persistent out"),
        (("persistent", "tf32"), r"leave \+persistent or \+tf32 out"),
    ],
)
def test_options_that_exclude_each_other(cupy, options, message):
    with pytest.raises(InvalidInputError, match=message):
        CupyBackend(**dict.fromkeys(options, True))


def test_the_default_is_graphs_for_small_networks_too(cupy):
    """The persistent kernel runs only on request."""
    backend = cupy_backend(Tuning(**TUNING))
    built, data = engine(backend, problem((6, 5, 3)), batch_size=8, dtype="float32")
    for _ in range(2):
        built.train_epoch(data, order(37), np.full(5, 0.1))
    assert built.steps.persistent is None
    assert graphs_of(built)
    assert backend.device().facts["launches"] == "graph"

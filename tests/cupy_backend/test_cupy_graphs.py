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
from cupy_modes import cupy_backend, small_backend

from bits import assert_same_bits
from fusedmlp.backend import Workload
from fusedmlp.errors import BackendUnavailableError, InvalidInputError
from fusedmlp.network import Network, Objective
from fusedmlp.registry import create, select
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.kernels import launches
from fusedmlp_cupy.runtime import cublas
from fusedmlp_cupy.training.execution import MODES
from problems import engine, flat, order, problem

ROOT = Path(__file__).resolve().parents[2]
N = 10 * 8 + 3
"""Three groups of three steps, a single one, and three rows."""


def trained(backend, task, optimizer="adamw", *, epochs=4, each=None, n=N):
    """Everything that some calls of train_epoch leave, each on rows and rates of its own."""
    built, data = engine(backend, task, optimizer, Objective(l2=0.1), dtype="float32")
    rng, found = np.random.default_rng(5), {}
    for epoch in range(epochs):
        rows = rng.integers(0, len(task.y), n)
        sums = built.train_epoch(data, rows, np.linspace(0.05, 0.02, -(-n // 8)))
        found[f"losses {epoch}"] = sums.losses
        if each:
            each()
    state = built.state()
    parts = (state.parameters, *state.slots)
    return found | {f"{i} {j}": a for i, part in enumerate(parts) for j, a in enumerate(part)}


@pytest.fixture
def launched(built_kernels):
    """Names of the kernels that are run."""
    names = built_kernels["float32"].launched
    names.clear()
    return names


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_replay_has_the_launches_and_the_bits_of_eager_steps(cupy, launched, optimizer):
    task = problem((13, 9, 5), "tanh", dropout=0.3, rows=N, storage="uint8", weighted=True)
    eager = trained(small_backend("eager"), task, optimizer)
    one_by_one = launched.copy()
    launched.clear()
    alive = []
    found = trained(small_backend("graph"), task, optimizer, each=lambda: alive.append(cupy.graphs))
    assert_same_bits(found, eager)
    assert launched == one_by_one
    assert alive[-1] == [3, 3, 4 * 3 - 1]  # the last three rows, single steps, groups
    gc.collect()
    assert cupy.graphs == [], "graphs outlive their data"


def test_two_data_sets_have_graphs_of_their_own(cupy):
    tasks = [problem(rows=N, seed=seed) for seed in (0, 1)]
    results = []
    for mode in ("eager", "graph"):
        built, data = engine(small_backend(mode), tasks[0], "momentum")
        sets = data, built.stage(tasks[1].x, tasks[1].y)
        for _ in range(3):
            for each in sets:
                built.train_epoch(each, order(N), np.full(11, 0.05))
        results.append(flat(built.parameters()).tobytes())
    assert results[0] == results[1]
    assert len(cupy.graphs) == 2 * 3
    del sets, data, each
    gc.collect()
    assert cupy.graphs == [], "graphs outlive their data"


def test_a_longer_call_moves_the_buffers_and_is_recorded_anew(cupy):
    task, results = problem(rows=32), []
    for mode in ("eager", "graph"):
        built, data = engine(small_backend(mode), task, "momentum")
        for n_rows in (32, 96, 32):  # rows may stand in an order more than once
            rows = np.random.default_rng(n_rows).integers(0, 32, n_rows)
            for _ in range(3):
                built.train_epoch(data, rows, np.full(n_rows // 8, 0.05))
        results.append(flat(built.parameters()).tobytes())
    assert results[0] == results[1]
    assert cupy.graphs


def test_the_stand_in_notices_memory_that_is_not_held(device):
    program = device.program("float32")
    cursors = [device.upload(np.zeros(2, np.int64))]
    recording = device.record(lambda: launches.advance_cursor(program, cursors[0], 1, 8))
    assert cursors[0].get().tolist() == [0, 0]
    device.replay(recording)
    assert cursors[0].get().tolist() == [1, 8]
    cursors.clear()
    with pytest.raises(AssertionError, match="memory of a graph was freed"):
        device.replay(recording)


FORBIDDEN = {
    "a copy from the host": lambda cupy, x: x.set(np.zeros((2, 2), np.float32)),
    "a copy to the host": lambda cupy, x: x.get(),
    "an allocation": lambda cupy, x: cupy.empty((1,), np.float32),
    "waiting": lambda cupy, x: cupy.cuda.Stream.null.synchronize(),
    "cuBLAS API during stream capture": lambda cupy, x: cupy.dot(x, x),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_where_capture_fails_steps_are_eager_and_a_warning_says_why(cupy, monkeypatch, what):
    """Each operation that a capturing stream refuses, done in every step; the results are right."""
    task = problem((6, 5, 4, 3), rows=32)
    expected = trained(CupyBackend(eager=True), task, n=64)
    sound, x = launches.advance_cursor, cupy.zeros((2, 2), "float32")

    def faulty(*args, **options):
        if cupy.memory.recording is not None:
            FORBIDDEN[what](cupy, x)
        sound(*args, **options)

    monkeypatch.setattr(launches, "advance_cursor", faulty)
    backend = CupyBackend()
    assert "steps replayed as CUDA graphs" in str(backend.device())
    with pytest.warns(RuntimeWarning, match=f"capturing them failed: .*{what}") as warned:
        found = trained(backend, task, n=64)
    assert len(warned) == 1  # it does not try, nor warn, again
    assert_same_bits(found, expected)
    assert backend.device().facts["launches"] == "eager"
    assert what in backend.device().facts["launches_because"]
    assert "kernel by kernel (capturing them failed" in str(backend.device())
    with pytest.raises(BackendUnavailableError, match=r"cupy\+graph.*leave \+graph out"):
        trained(CupyBackend(graph=True), task, n=64)


def test_without_a_separate_cublas_handle_large_products_are_eager(cupy, monkeypatch):
    def missing(_cupy):
        raise OSError("libcublas.so.13: cannot open shared object file")

    monkeypatch.setattr(cublas, "load", missing)
    small, task = CupyBackend(graph=True), problem((6, 5, 3))
    engine(small, task)
    assert small.device().facts["launches"] == "graph"  # needs no handle
    backend = cupy_backend(", cuBLAS")
    with pytest.warns(RuntimeWarning, match="no handle for capturing: libcublas"):
        trained(backend, task)
    assert backend.device().facts["launches"] == "eager"
    with pytest.raises(BackendUnavailableError, match=r"leave \+graph out"):
        engine(cupy_backend("graph, cuBLAS"), task)


def test_a_function_of_cublas_that_fails_is_an_error(cupy, monkeypatch):
    monkeypatch.setattr(cupy.cublas_library, "cublasSgemm_v2", lambda *_: 14)
    with pytest.raises(RuntimeError, match="cublasSgemm_v2 failed with status 14"):
        trained(cupy_backend("graph, cuBLAS"), problem())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transposed", ["", "a", "b"])
def test_products_of_a_separate_handle(device, dtype, transposed):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 7)).astype(dtype), rng.standard_normal((7, 3)).astype(dtype)
    out = device.empty((5, 3), dtype)
    operands = [
        np.ascontiguousarray(x.T) if at == transposed else x
        for at, x in zip("ab", (a, b), strict=True)
    ]
    device.cublas_handle().product(*(device.upload(x) for x in operands), out, transposed)
    np.testing.assert_allclose(out.get(), a @ b, rtol=1e-5)


def test_tf32_is_captured_as_such_and_handles_are_destroyed(cupy):
    task, found = problem((61, 47, 10), rows=64), {}
    for mode in ("tf32+graph", "graph"):
        backend = small_backend(mode)
        engine(backend, task, dtype="float32")
        found[mode] = trained(backend, task, "sgd", n=64)["0 0"]
    gc.collect()
    assert not cupy.cublas_library.handles
    assert cupy.cublas_library.products
    assert 1e-6 < np.abs(found["tf32+graph"] - found["graph"]).max() < 1e-2


# --------------------------------------------------------- rows gathered for several steps at once


def gathers(launched):
    return sum(name.startswith("gather_rows") for name in launched)


GATHERS = [
    ("eager", 64, 2**24, 1),
    ("graph", 64, 2**24, 1),
    ("graph", 64, 2 * 8 * 64 * 4, 3),  # twice two batches, then one
    ("graph", 64, 1, 5),
    ("graph", 61, 2**24, 1),
    ("graph, cuBLAS", 64, 2**24, 1),
    ("graph, cuBLAS", 64, 2 * 8 * 64 * 4, 3),
    ("graph, cuBLAS", 61, 2**24, 5),  # batches are not aligned as cuBLAS may want them
    ("eager, cuBLAS", 61, 2**24, 5),
]
"""Mode, width of a row, bytes to gather at a time, and launches that gather five steps."""


@pytest.mark.parametrize(("mode", "width", "n_bytes", "expected"), GATHERS)
@pytest.mark.parametrize("storage", ["uint8", "csr32"])
def test_a_group_gathers_once_to_the_bits_of_each_step_alone(
    cupy, launched, mode, width, n_bytes, expected, storage
):
    task = problem((width, 5, 3), "tanh", dropout=0.3, rows=N, storage=storage, weighted=True)
    alone = trained(small_backend(mode, group_steps=5, gather_ahead_bytes=1), task)
    launched.clear()
    backend = small_backend(mode, group_steps=5, gather_ahead_bytes=n_bytes)
    assert_same_bits(trained(backend, task), alone)
    assert gathers(launched) == 4 * (2 * expected + 1)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_as_much_is_gathered_as_there_is_memory_for(cupy, launched, mode):
    task = problem((64, 5, 3), rows=N, storage="uint8")
    found, counts = [], []
    for limit in (None, 2 * 8 * 64 * 4, 3 * 8 * 64 * 4 - 1, 8 * 64 * 4):
        built, data = engine(small_backend(mode), task, "momentum", dtype="float32")
        for n in (16, 8):
            built.train_epoch(data, np.arange(n), np.full(n // 8, 0.0))  # no group yet
        launched.clear()
        cupy.memory.limit = limit
        for seed in range(3):
            built.train_epoch(data, order(N, seed=seed), np.full(11, 0.05))
        cupy.memory.limit = None
        found.append(flat(built.parameters()).tobytes())
        counts.append(gathers(launched))
    assert counts == [3 * (3 + 2)] + 3 * [3 * (9 + 2)]
    assert all(each == found[0] for each in found)


# ------------------------------------------------------------------------------- choosing the mode


def test_streamed_data_is_eager(cupy):
    task, results, alive = problem((6, 5, 3), rows=N), [], []
    for free in (2**33, 1000):
        cupy.free = free
        backend = small_backend("graph")
        results.append(trained(backend, task, each=lambda: alive.append(len(cupy.graphs))))
        gc.collect()
    assert_same_bits(*results)
    assert alive == [1, 3, 3, 3, 0, 0, 0, 0]  # groups are captured at their second use


def test_the_mode_is_requested_by_name(cupy):
    work = Workload(Network((11, 13, 5)), 64)
    assert set(MODES) == {"eager", "graph", "persistent"}
    for request, used in {"cupy": "graph", **{f"cupy:1+{mode}": mode for mode in MODES}}.items():
        device = create(select(request, work, {})).device()
        assert device.facts["launches"] == used
        why = "asked for" if "+" in request else "the default"
        assert device.facts["launches_because"] == why
    documents = [(ROOT / name).read_text("utf-8") for name in ("README.md", "docs/cupy.md")]
    assert all(f"`cupy+{mode}`" in text for text in documents for mode in MODES)
    assert CupyBackend(strict=True).device().facts["launches"] == "eager"
    CupyBackend(strict=True, eager=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("eager", "graph"), "graph and eager exclude each other"),
        (("graph", "persistent"), "graph and persistent exclude each other"),
        (("strict", "graph"), r"strict .* leave \+graph out"),
        (("strict", "persistent"), r"strict .* leave \+persistent out"),
        (("strict", "tf32"), "strict arithmetic and TF32 exclude each other"),
        (("persistent", "tf32"), r"leave \+persistent or \+tf32 out"),
    ],
)
def test_options_that_exclude_each_other(cupy, options, message):
    with pytest.raises(InvalidInputError, match=message):
        CupyBackend(**dict.fromkeys(options, True))

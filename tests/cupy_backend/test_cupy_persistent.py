"""The persistent kernel: as NumPy trains, any grid to the same bits, chosen where it can run.

Over the stand-in, whose cooperative launches have all blocks at once: three of them, of two warps,
where a test says nothing else. What only a device shows: that all blocks are resident, that the
grid's barrier is one there, and how long a step takes.
"""

from __future__ import annotations

import re
import sys
import warnings

import cupy_shim
import cupy_standin
import numpy as np
import pytest
from test_cupy_engine import data_set, engines, train_both

from fusedmlp.errors import (
    BackendUnavailableError,
    BreachedError,
    DeviceMemoryError,
    InvalidInputError,
)
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective
from fusedmlp.optimizers import OPTIMIZERS, SGD, make_optimizer
from fusedmlp.tolerance import trajectory_bound
from fusedmlp_cupy import CupyBackend, persistent
from fusedmlp_cupy.cooperative import Limits
from fusedmlp_cupy.sources import persistent_source
from problems import engine, flat, order, problem

NETWORK = Network((11, 13, 5), "tanh", "softmax", 0.3)
H200 = Limits(132, 232448, True, (9, 0))


@pytest.fixture
def cupy(fast, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fast)
    return fast


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_trajectory_of_every_activation_and_output(fast, hidden, output, dropout):
    network = Network((9, 8, 4), hidden, output, dropout)
    pair = engines(fast, network, SGD(momentum=0.9), dtype="float64", way="persistent")
    x, y, w = data_set(network, 5 * 7 + 1, "float64", weighted=True)
    x = x / 8 if output == "exp" else x
    train_both(*pair, (x, y, w), trajectory_bound("float64"), 0.01)
    assert pair[0]._steps.persistent.has_run


SHAPES = [
    ((1, 1, 1), 1),
    ((17, 1, 2), 5),
    ((5, 33, 1), 3),
    ((37, 35, 11), 67),  # more rows than a tile takes, more outputs than one turn of the lanes
    ((67, 65, 3), 13),  # several tiles to a block, in both directions
    ((3, 130, 41), 2),
]


@pytest.mark.parametrize(("sizes", "size"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_trajectory_of_odd_shapes(fast, sizes, size, dtype, optimizer):
    network = Network(sizes, "sigmoid", "softmax" if sizes[-1] > 1 else "identity", 0.2)
    objective = Objective("sum" if optimizer == "sgd" else "mean", 0.01)
    pair = engines(
        fast, network, make_optimizer(optimizer), objective, dtype, size=size, way="persistent"
    )
    data = data_set(network, 4 * size + 1, dtype, weighted=True)
    train_both(*pair, data, trajectory_bound(dtype), 0.002)
    assert pair[0]._steps.persistent.has_run


def test_threads_and_blocks_backwards_give_the_same_bits(standin):
    """Every launch twice, in both orders of threads and blocks, on memory that starts as NaN."""
    for sizes, size in (SHAPES[3], SHAPES[4]):
        network = Network(sizes, "tanh", "sigmoid", 0.3)
        built, _ = engines(standin, network, make_optimizer("adam"), size=size, way="persistent")
        data = built.stage(*data_set(network, 2 * size + 1, "float32", weighted=True))
        built.train_epoch(data, np.arange(2 * size + 1), np.full(3, 0.01))
        assert built._steps.persistent.has_run


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_grid_and_no_block_changes_a_bit(fast, monkeypatch, optimizer):
    network = Network((67, 65, 11), "tanh", "softmax", 0.3)
    data = data_set(network, 3 * 66 + 5, "float32", weighted=True)
    rates, rows = np.linspace(0.02, 0.01, 4), np.random.default_rng(2).permutation(3 * 66 + 5)
    results, grids = [], []
    for multiprocessors, threads in ((1, 64), (3, 32), (7, 96), (132, 64)):
        monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", multiprocessors)
        monkeypatch.setattr(persistent, "THREADS", threads)
        built, _ = engines(fast, network, make_optimizer(optimizer), size=66, way="persistent")
        sums = built.train_epoch(built.stage(*data), rows, rates)
        plan = built._steps.persistent._plan
        grids.append((plan.blocks, plan.held))
        state = built.state()
        arrays = (*state.parameters, *(a for slot in state.slots for a in slot))
        results.append([a.tobytes() for a in (*arrays, sums.losses, sums.correct)])
    assert grids == [(1, 15), (3, 5), (7, 3), (66, 1)]
    assert results[0] == results[1] == results[2] == results[3]


def test_many_gathers_give_the_bits_of_one(fast, monkeypatch):
    data = data_set(NETWORK, 5 * 7 + 3, "float32", "uint8")
    results, lengths = [], []
    for n_bytes, most_steps in ((2**26, 4096), (2 * 7 * 11 * 4, 4096), (1, 4096), (2**26, 3)):
        monkeypatch.setattr(persistent, "GATHERED_BYTES", n_bytes)
        monkeypatch.setattr(persistent, "MOST_STEPS", most_steps)
        built, _ = engines(fast, NETWORK, make_optimizer("adam"), way="persistent")
        sums = built.train_epoch(built.stage(*data), np.arange(38)[::-1], np.full(6, 0.01))
        results.append((flat(built.parameters()).tobytes(), sums.losses.tobytes()))
        lengths.append(built._steps.persistent.gathered.most)
    assert lengths == [4096, 2, 1, 3]
    assert results[0] == results[1] == results[2] == results[3]


def test_gathers_are_as_long_as_memory_lets_them_be(fast):
    data = data_set(NETWORK, 9 * 7 + 3, "float32", "uint8")
    results = []
    for limit in (None, 3 * 7 * 11 * 4, 7 * 11 * 4, 7 * 11 * 4 - 1):
        fast.memory.limit = None
        built, _ = engines(fast, NETWORK, make_optimizer("adam"), way="persistent")
        staged = built.stage(*data)
        built.evaluate(staged)
        rows, rates = np.arange(66)[::-1], np.full(10, 0.01)
        built.train_epoch(staged, rows[:5], rates[:1])  # all buffers but that of gathered rows
        fast.memory.limit = limit
        if limit == 7 * 11 * 4 - 1:
            with pytest.raises(DeviceMemoryError, match="cannot hold 308 bytes more"):
                built.train_epoch(staged, rows, rates)
            continue
        sums = built.train_epoch(staged, rows, rates)
        results.append(
            (built._steps.persistent.gathered.most, flat(built.parameters()), sums.losses)
        )
    assert [each[0] for each in results][1:] == [2, 1]
    for each in results[1:]:
        assert each[1].tobytes() == results[0][1].tobytes()
        assert each[2].tobytes() == results[0][2].tobytes()


FAULTS = {
    "a tile left out": ("for (int i = 1; i < down;", "for (int i = 1 + PLANTED; i < down;"),
    "columns left out": ("for (int i = 1; i < across;", "for (int i = 1 + PLANTED; i < across;"),
    "a lane left out": ("for (int lane = 1;", "for (int lane = 1 + PLANTED;"),
    "rows forgotten": ("begins ? (real)0 : so_far", "begins || PLANTED ? (real)0 : so_far"),
    "rows forgotten by a bias": (
        "begins ? (real)0 : shared.bias",
        "begins || PLANTED ? (real)0 : shared.bias",
    ),
    "inputs of another tile": ("keeps_x = B", "keeps_x = PLANTED || B"),
    "the first step's rate": ("rate_of(rates, step)", "rate_of(rates, PLANTED ? batch : step)"),
    "the first step's mask": ("steps ? steps[step]", "steps ? steps[PLANTED ? batch : step]"),
    "a step's rows again": ("x += (int64)B * D;", "x += (int64)B * D * !PLANTED;"),
    "weights not stored": (
        "e < tile.n_d * TILE_WIDTH; e += blockDim.x)\n        if (e %",
        "!PLANTED && e < tile.n_d * TILE_WIDTH; e += blockDim.x)\n        if (e %",
    ),
}
"""Text of the source, and what takes its place."""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """The kernel with all of FAULTS in it."""
    folder = tmp_path_factory.mktemp("faulty")
    return cupy_shim.planted(persistent_source(), FAULTS, "double", folder)


@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_a_planted_fault_is_found(fast, faulty, persistent_kernels, monkeypatch, fault):
    monkeypatch.setitem(persistent_kernels, "float64", faulty)
    faulty.wake(fault)
    network = Network((67, 65, 3), "tanh", "softmax", 0.3)
    pair = engines(fast, network, SGD(), dtype="float64", size=66, way="persistent")
    arguments = *pair, data_set(network, 4 * 66, "float64"), trajectory_bound("float64"), 0.1
    if not fault:
        train_both(*arguments)
        return
    with pytest.raises((BreachedError, AssertionError)):
        train_both(*arguments)


def test_a_grid_that_is_too_small_shows_in_the_loss(fast):
    """A guard in the kernel itself, should a smaller grid than was asked for ever be launched."""
    network = Network((67, 65, 3))
    built, _ = engines(fast, network, SGD(), way="persistent")
    kernel = built._steps.persistent._kernel
    launch = kernel.launch
    kernel.launch = lambda blocks, args: launch(blocks - 1, args)
    before = flat(built.parameters())
    data = built.stage(*data_set(network, 7, "float32"))
    sums = built.train_epoch(data, np.arange(7), np.ones(1))
    assert np.isnan(sums.losses).all()
    assert flat(built.parameters()).tobytes() == before.tobytes()


# --------------------------------------------------------------------------- choosing, falling back


def facts_of(backend):
    facts = backend.device().facts
    return facts["launches"], facts["launches_because"]


def test_small_networks_choose_it_and_say_why(cupy):
    backend = CupyBackend()
    built, data = engine(backend, problem((6, 5, 3)), batch_size=8, dtype="float32")
    way, why = facts_of(backend)
    assert way == "persistent"
    assert re.fullmatch(r"1 tile of weights on 3 blocks, [\d.]+ KiB of shared memory each", why)
    assert f"steps in one persistent kernel ({why})" in str(backend.device())
    built.train_epoch(data, order(37), np.full(5, 0.1))
    assert built._steps.persistent.has_run
    assert built.compile_seconds > built._program.seconds


REFUSED = {
    "this network has 2": ((6, 5, 4, 3), 8, {}),
    "this network has 0": ((6, 3), 8, {}),
    "up to 256 outputs, this network has 257": ((6, 5, 257), 8, {}),
    "16.8 million multiplications": ((256, 256, 3), 257, {}),
    "17.8 million multiplications": ((16, 4096, 256), 17, {}),
    "no cooperative launches": ((6, 5, 3), 8, {"cooperativeLaunch": 0}),
    r"do not fit on the chip: [\d,]+ bytes .* of 3 blocks, the device has 9,000": (
        (6, 5, 3),
        8,
        {"sharedMemPerBlockOptin": 9_000},
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_others_are_graphs_and_an_error_where_it_was_asked_for(cupy, monkeypatch, why):
    sizes, size, properties = REFUSED[why]
    found = cupy.cuda.runtime.getDeviceProperties(0) | properties
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda _number: found)
    task = problem(sizes)
    backend = CupyBackend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a choice by size is nothing to warn of
        engine(backend, task, batch_size=size, dtype="float32")
    way, reason = facts_of(backend)
    assert way == "graph"
    assert re.search(why, reason)
    with pytest.raises(BackendUnavailableError, match=rf"cupy\+persistent.*{why}.*leave \+pers"):
        engine(CupyBackend(persistent=True), task, batch_size=size, dtype="float32")


def test_blocks_that_are_not_resident_are_refused(cupy, monkeypatch):
    """The driver counts fewer resident blocks: registers, or somebody else's work."""
    monkeypatch.setattr(cupy, "resident", lambda _shared: 0)
    backend = CupyBackend()
    with pytest.warns(RuntimeWarning, match="runs 0 blocks of the persistent kernel at once"):
        built, data = engine(backend, problem((6, 5, 3)), batch_size=8, dtype="float32")
    assert facts_of(backend)[0] == "graph"
    built.train_epoch(data, order(37), np.full(5, 0.1))
    with pytest.raises(BackendUnavailableError, match=r"leave \+persistent out"):
        engine(CupyBackend(persistent=True), problem((6, 5, 3)), batch_size=8, dtype="float32")


@pytest.mark.parametrize(("left", "why"), [(0, "CUDA_ERROR_COOP"), (2, "3 blocks cannot be resid")])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_launch_that_is_refused_or_shrunk_falls_back(cupy, monkeypatch, left, why, streamed):
    """CuPy's warning of a smaller grid is an error before anything runs, as the driver's is."""
    monkeypatch.setattr("fusedmlp_cupy.data.fits", lambda *_: not streamed)
    task = problem((67, 65, 3))
    backend = CupyBackend()
    built, data = engine(backend, task, batch_size=8, dtype="float32")
    assert facts_of(backend)[0] == "persistent"
    expected, same = engine(CupyBackend(eager=True), task, batch_size=8, dtype="float32")
    monkeypatch.setattr(cupy, "resident", lambda _shared: 1)
    monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", left)
    rows, rates = order(37), np.full(5, 0.1)
    with pytest.warns(RuntimeWarning, match=f"the persistent kernel is refused: {why}"):
        built.train_epoch(data, rows, rates)
    expected.train_epoch(same, rows, rates)
    assert facts_of(backend)[0] == "graph"
    assert flat(built.parameters()).tobytes() == flat(expected.parameters()).tobytes()
    built.train_epoch(data, rows, rates)  # it does not try, nor warn, again


def test_a_later_launch_that_fails_is_an_error(cupy, monkeypatch):
    """Some steps have been taken: taking them again would be another training."""
    built, data = engine(CupyBackend(), problem((6, 5, 3)), batch_size=8, dtype="float32")
    built.train_epoch(data, order(37), np.full(5, 0.1))
    monkeypatch.setattr(cupy, "resident", lambda _shared: 1)
    monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", 1)
    with pytest.raises(RuntimeError, match="3 blocks cannot be resident: The grid size"):
        built.train_epoch(data, order(37), np.full(5, 0.1))


def test_two_engines_with_one_module_keep_out_of_each_other_s_way(cupy):
    """How much shared memory a function may have is the function's, which engines share."""
    wide = engine(CupyBackend(), problem((300, 200, 3)), batch_size=8, dtype="float32")
    small = engine(CupyBackend(), problem((6, 5, 3)), batch_size=8, dtype="float32")
    needs = [built._steps.persistent._plan.shared_bytes for built, _ in (wide, small)]
    assert needs[0] > 48 * 1024 > needs[1]
    for built, data in (wide, small, wide):
        built.train_epoch(data, order(37), np.full(5, 0.1))
        assert built._steps.persistent.has_run


def test_what_excludes_it(cupy):
    with pytest.raises(InvalidInputError, match=r"leave \+persistent or \+tf32 out"):
        CupyBackend(persistent=True, tf32=True)
    with pytest.raises(InvalidInputError, match="graph and persistent exclude each other"):
        CupyBackend(persistent=True, graph=True)
    with pytest.raises(InvalidInputError, match=r"leave \+persistent out"):
        CupyBackend(persistent=True, strict=True)
    backend = CupyBackend(tf32=True)
    engine(backend, problem((6, 5, 3)), dtype="float32")
    assert facts_of(backend) == ("graph", "TF32 products are cuBLAS's")


# ------------------------------------------------------------------------------------------ budgets


def test_the_cut_depends_on_the_shape_alone():
    plan = persistent.choose(Network((784, 256, 10)), 64, "float32", H200)
    assert (plan.tiles, plan.depth, plan.blocks, plan.held) == ((16, 8), 52, 128, 1)
    assert plan.shared_bytes < 48 * 1024
    small = persistent.choose(
        Network((784, 256, 10)), 64, "float32", Limits(40, 101_376, True, (8, 6))
    )
    assert (small.tiles, small.depth, small.blocks, small.held) == ((16, 8), 52, 40, 4)
    for D in (1, 15, 16, 17, 784, 5000):
        for across in (1, 8, 100, 200):
            depth = persistent.depth_of(D, across)
            assert depth % persistent.PATCH_DOWN == 0
            assert persistent.PATCH_DOWN <= depth <= persistent.MOST_DEPTH


DEVICES = {
    "A100": (Limits(108, 163 * 1024, True, (8, 0)), (53.1, 106.1)),
    "A10": (Limits(72, 99 * 1024, True, (8, 6)), (53.1, None)),
    "H200": (H200, (46.6, 93.1)),
    "RTX 5090": (Limits(170, 99 * 1024, True, (12, 0)), (46.6, 93.1)),
    "T4": (Limits(40, 64 * 1024, True, (7, 5)), (None, None)),
}
"""What they offer (CUDA programming guide), and the KiB that 784-256-10 takes in each type."""


@pytest.mark.parametrize(("limits", "expected"), DEVICES.values(), ids=DEVICES)
def test_the_shared_memory_of_a_known_network(monkeypatch, limits, expected):
    """As docs/cupy.md has it."""
    monkeypatch.setattr(persistent, "THREADS", 256)
    for dtype, kib in zip(("float32", "float64"), expected, strict=True):
        plan = persistent.choose(Network((784, 256, 10)), 64, dtype, limits)
        if kib is None:
            assert "do not fit on the chip" in plan
        else:
            assert plan.blocks <= limits.multiprocessors
            assert round(plan.shared_bytes / 1024, 1) == kib


def test_numbers_agree_in_source_and_launches():
    source = persistent_source()
    constants = dict(re.findall(r"([A-Z_]+) = (\d+)", source))
    for name in ("TILE_WIDTH", "TILE_ROWS", "PATCH_DOWN"):
        assert int(constants[name]) == getattr(persistent, name), name
    (steps,) = re.findall(r"enum \{ (STEP_[^}]+) \}", source)
    assert [name.lower() for name in re.findall(r"_(\w+)", steps)] == list(persistent.STEPS)
    assert set(cupy_shim.parameters_of(source, "float")) == {persistent.KERNEL}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_shared_memory_counted_is_the_memory_used(fast, monkeypatch, dtype):
    """One number fewer, and the last thread's is beyond the end."""
    count = persistent.shared_bytes_of
    network = Network((6, 5, 3))
    data = data_set(network, 7, dtype)
    for fewer in (0, 1):
        monkeypatch.setattr(persistent, "shared_bytes_of", lambda *a, f=fewer: count(*a) - 8 * f)
        built, _ = engines(fast, network, SGD(), dtype=dtype, way="persistent")
        if not fewer:
            built.train_epoch(built.stage(*data), np.arange(7), np.ones(1))
            continue
        with pytest.raises(AssertionError, match="outside the arrays"):
            built.train_epoch(built.stage(*data), np.arange(7), np.ones(1))

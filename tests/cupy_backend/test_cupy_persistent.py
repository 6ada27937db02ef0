"""The persistent kernel: trains as NumPy does, to the same bits on any grid, or says why not.

Over the stand-in, whose cooperative launches have all blocks at once: three blocks of two warps
unless a test says otherwise. test_cupy_engine.py compares trajectories of every optimizer,
activation, output and storage. Not shown here: that all blocks are resident, that the grid's
barrier works on a device, and how long a step takes.
"""

from __future__ import annotations

import re
from dataclasses import replace

import cupy_shim
import cupy_standin
import numpy as np
import pytest
from test_cupy_engine import data_set, engines, train_both

from conftest import TUNING, cupy_backend, mode_and_tuning
from fusedmlp.errors import BackendUnavailableError, BreachedError, DeviceMemoryError
from fusedmlp.network import Network, Objective
from fusedmlp.optimizers import OPTIMIZER_NAMES, SGD, make_optimizer
from fusedmlp.tolerance import trajectory_bound
from fusedmlp_cupy.kernels.source import persistent_source
from fusedmlp_cupy.runtime.cooperative import Limits
from fusedmlp_cupy.training import persistent, persistent_plan
from fusedmlp_cupy.tuning import Tuning
from problems import engine, flat, order, problem

NETWORK = Network((11, 13, 5), "tanh", "softmax", 0.3)
MODE = mode_and_tuning("persistent")
H200 = Limits(132, 232448, True)


def backend():
    return cupy_backend(Tuning(**TUNING), persistent=True)


def bits_of(built, sums):
    """Everything that an epoch leaves."""
    state = built.state()
    arrays = (*state.parameters, *(a for slot in state.slots for a in slot))
    return [a.tobytes() for a in (*arrays, sums.losses, sums.correct)]


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
    pair = engines(fast, network, make_optimizer(optimizer), objective, dtype, size=size, mode=MODE)
    data = data_set(network, 4 * size + 1, dtype, weighted=True)
    train_both(*pair, data, trajectory_bound(dtype), 0.002)


@pytest.mark.parametrize(("sizes", "size"), SHAPES[3:5], ids=str)
def test_threads_and_blocks_backwards_give_the_same_bits(standin, sizes, size):
    """Every launch twice, in both orders of threads and blocks, on memory that starts as NaN."""
    network = Network(sizes, "tanh", "sigmoid", 0.3)
    built, _ = engines(standin, network, make_optimizer("adam"), size=size, mode=MODE)
    data = built.stage(*data_set(network, 2 * size + 1, "float32", weighted=True))
    built.train_epoch(data, np.arange(2 * size + 1), np.full(3, 0.01))


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_no_grid_and_no_block_changes_a_bit(fast, monkeypatch, optimizer):
    network = Network((67, 65, 11), "tanh", "softmax", 0.3)
    data = data_set(network, 3 * 66 + 5, "float32", weighted=True)
    rates, rows = np.linspace(0.02, 0.01, 4), np.random.default_rng(2).permutation(3 * 66 + 5)
    results, grids = [], []
    for multiprocessors, threads in ((1, 64), (3, 32), (7, 96), (132, 64)):
        monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", multiprocessors)
        mode = "persistent", Tuning(persistent_threads=threads)
        built, _ = engines(fast, network, make_optimizer(optimizer), size=66, mode=mode)
        results.append(bits_of(built, built.train_epoch(built.stage(*data), rows, rates)))
        grids.append((built.steps.persistent.plan.blocks, built.steps.persistent.plan.held))
    assert grids == [(1, 15), (3, 5), (7, 3), (66, 1)]
    assert all(each == results[0] for each in results)


def test_many_gathers_give_the_bits_of_one(fast):
    data = data_set(NETWORK, 5 * 7 + 3, "float32", "uint8")
    results, lengths = [], []
    for n_bytes, most_steps in ((2**26, 4096), (2 * 7 * 11 * 4, 4096), (1, 4096), (2**26, 3)):
        mode = mode_and_tuning(
            "persistent", persistent_gather_bytes=n_bytes, persistent_steps=most_steps
        )
        built, _ = engines(fast, NETWORK, make_optimizer("adam"), mode=mode)
        sums = built.train_epoch(built.stage(*data), np.arange(38)[::-1], np.full(6, 0.01))
        results.append(bits_of(built, sums))
        lengths.append(built.steps.persistent.gathered.max_batches)
    assert lengths == [4096, 2, 1, 3]
    assert all(each == results[0] for each in results)


def test_gathers_are_as_long_as_memory_allows(fast):
    data = data_set(NETWORK, 9 * 7 + 3, "float32", "uint8")
    results, lengths = [], []
    for limit in (None, 3 * 7 * 11 * 4, 7 * 11 * 4, 7 * 11 * 4 - 1):
        fast.memory.limit = None
        built, _ = engines(fast, NETWORK, make_optimizer("adam"), mode=MODE)
        staged = built.stage(*data)
        built.evaluate(staged)
        rows, rates = np.arange(66)[::-1], np.full(10, 0.01)
        built.train_epoch(staged, rows[:5], rates[:1])  # all buffers but that of gathered rows
        fast.memory.limit = limit
        if limit == 7 * 11 * 4 - 1:
            with pytest.raises(DeviceMemoryError, match="cannot hold 308 bytes more"):
                built.train_epoch(staged, rows, rates)
            continue
        results.append(bits_of(built, built.train_epoch(staged, rows, rates)))
        lengths.append(built.steps.persistent.gathered.max_batches)
    assert lengths[1:] == [2, 1]
    assert all(each == results[0] for each in results)


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
    faulty.activate(fault)
    network = Network((67, 65, 3), "tanh", "softmax", 0.3)
    pair = engines(fast, network, SGD(), dtype="float64", size=66, mode=MODE)
    arguments = *pair, data_set(network, 4 * 66, "float64"), trajectory_bound("float64"), 0.1
    if not fault:
        train_both(*arguments)
        return
    with pytest.raises((BreachedError, AssertionError)):
        train_both(*arguments)


def test_a_grid_that_is_too_small_shows_in_the_loss(fast):
    """The kernel's own check, in case a grid smaller than requested is launched."""
    network = Network((67, 65, 3))
    built, _ = engines(fast, network, SGD(), mode=MODE)
    plan = built.steps.persistent.plan
    built.steps.persistent.plan = replace(plan, blocks=plan.blocks - 1)
    before = flat(built.parameters())
    data = built.stage(*data_set(network, 7, "float32"))
    sums = built.train_epoch(data, np.arange(7), np.ones(1))
    assert np.isnan(sums.losses).all()
    assert flat(built.parameters()).tobytes() == before.tobytes()


# ------------------------------------------------------------------------------ where it cannot run


def test_it_is_requested_by_name_and_reports_its_distribution(cupy):
    requested = backend()
    assert requested.device().facts["launches_because"] == "asked for"
    built, _ = engine(requested, problem((6, 5, 3)), batch_size=8, dtype="float32")
    facts = requested.device().facts
    assert facts["launches"] == "persistent"
    why = r"asked for: 1 tile of weights on 3 blocks, [\d.]+ KiB of shared memory each"
    assert re.fullmatch(why, facts["launches_because"])
    assert f"steps in one persistent kernel ({facts['launches_because']})" in str(
        requested.device()
    )
    assert built.compile_seconds >= built.steps.compile_seconds > 0


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
def test_what_it_cannot_train_is_an_error(cupy, monkeypatch, why):
    sizes, size, properties = REFUSED[why]
    found = cupy.cuda.runtime.getDeviceProperties(0) | properties
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda _number: found)
    message = rf"cupy\+persistent.*{why}.*leave \+persistent out"
    with pytest.raises(BackendUnavailableError, match=message):
        engine(backend(), problem(sizes), batch_size=size, dtype="float32")


def test_blocks_that_are_not_resident_are_an_error(cupy, monkeypatch):
    """The driver counts fewer resident blocks, because of registers or of other processes."""
    monkeypatch.setattr(cupy, "resident", lambda _shared: 0)
    message = (
        r"runs 0 blocks of the persistent kernel at once, 3 are needed: leave \+persistent out"
    )
    with pytest.raises(BackendUnavailableError, match=message):
        engine(backend(), problem((6, 5, 3)), batch_size=8, dtype="float32")


@pytest.mark.parametrize(("left", "why"), [(0, "CUDA_ERROR_COOP"), (2, "3 blocks cannot be resid")])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_launch_that_is_refused_or_shrunk_is_an_error(cupy, monkeypatch, left, why, streamed):
    """CuPy's warning of a smaller grid is an error before anything runs, as the driver's is."""
    monkeypatch.setattr("fusedmlp_cupy.data.fits", lambda *_: not streamed)
    built, data = engine(backend(), problem((67, 65, 3)), batch_size=8, dtype="float32")
    before = flat(built.parameters()).tobytes()
    monkeypatch.setattr(cupy, "resident", lambda _shared: 1)
    monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", left)
    message = rf"the device refuses it: {why}.*leave \+persistent out"
    with pytest.raises(BackendUnavailableError, match=message):
        built.train_epoch(data, order(37), np.full(5, 0.1))
    assert flat(built.parameters()).tobytes() == before


def test_a_later_launch_that_fails_is_an_error_of_its_own(cupy, monkeypatch):
    """Steps have been taken, so another mode would not repeat the training."""
    built, data = engine(backend(), problem((6, 5, 3)), batch_size=8, dtype="float32")
    built.train_epoch(data, order(37), np.full(5, 0.1))
    monkeypatch.setattr(cupy, "resident", lambda _shared: 1)
    monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", 1)
    with pytest.raises(RuntimeError, match=r"^3 blocks cannot be resident: The grid size"):
        built.train_epoch(data, order(37), np.full(5, 0.1))


def test_two_engines_share_a_module(cupy):
    """The limit of shared memory belongs to the function, which engines share."""
    wide = engine(backend(), problem((300, 200, 3)), batch_size=8, dtype="float32")
    small = engine(backend(), problem((6, 5, 3)), batch_size=8, dtype="float32")
    needs = [built.steps.persistent.plan.shared_bytes for built, _ in (wide, small)]
    assert needs[0] > 48 * 1024 > needs[1]
    for built, data in (wide, small, wide):
        built.train_epoch(data, order(37), np.full(5, 0.1))


# ------------------------------------------------------------------------------------------ budgets


def plan(limits, dtype="float32"):
    return persistent_plan.plan_persistent(Network((784, 256, 10)), 64, dtype, limits, Tuning())


def test_the_tiles_depend_on_the_shape_alone():
    large = plan(H200)
    assert (large.tiles, large.depth, large.blocks, large.held) == ((16, 8), 52, 128, 1)
    assert large.shared_bytes < 48 * 1024
    small = plan(Limits(40, 101_376, True))
    assert (small.tiles, small.depth, small.blocks, small.held) == ((16, 8), 52, 40, 4)
    for D in (1, 15, 16, 17, 784, 5000):
        for across in (1, 8, 100, 200):
            depth = persistent_plan.tile_depth(D, across)
            assert depth % persistent_plan.PATCH_DOWN == 0
            assert persistent_plan.PATCH_DOWN <= depth <= persistent_plan.MAX_DEPTH


DEVICES = {
    "A100": (Limits(108, 163 * 1024, True), (53.1, 106.1)),
    "A10": (Limits(72, 99 * 1024, True), (53.1, None)),
    "H200": (H200, (46.6, 93.1)),
    "RTX 5090": (Limits(170, 99 * 1024, True), (46.6, 93.1)),
    "T4": (Limits(40, 64 * 1024, True), (None, None)),
}
"""Their limits (CUDA programming guide), and the KiB that 784-256-10 takes in each type."""


@pytest.mark.parametrize(("limits", "expected"), DEVICES.values(), ids=DEVICES)
def test_the_shared_memory_of_a_known_network(limits, expected):
    """As in docs/cupy.md."""
    for dtype, kib in zip(("float32", "float64"), expected, strict=True):
        if kib is None:
            with pytest.raises(BackendUnavailableError, match="do not fit on the chip"):
                plan(limits, dtype)
        else:
            found = plan(limits, dtype)
            assert found.blocks <= limits.multiprocessors
            assert round(found.shared_bytes / 1024, 1) == kib


def test_numbers_agree_in_source_and_launches():
    source = persistent_source()
    constants = dict(re.findall(r"([A-Z_]+) = (\d+)", source))
    for name in ("TILE_WIDTH", "TILE_ROWS", "PATCH_DOWN"):
        assert int(constants[name]) == getattr(persistent_plan, name), name
    assert set(cupy_shim.parameters_of(source, "float")) == {persistent.KERNEL}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_shared_memory_counted_is_the_memory_used(fast, monkeypatch, dtype):
    """One number fewer, and the last thread's is beyond the end."""
    count = persistent_plan.count_shared_bytes
    network = Network((6, 5, 3))
    data = data_set(network, 7, dtype)
    for fewer in (0, 1):
        monkeypatch.setattr(
            persistent_plan, "count_shared_bytes", lambda *a, f=fewer: count(*a) - 8 * f
        )
        built, _ = engines(fast, network, SGD(), dtype=dtype, mode=MODE)
        if not fewer:
            built.train_epoch(built.stage(*data), np.arange(7), np.ones(1))
            continue
        with pytest.raises(AssertionError, match="outside the arrays"):
            built.train_epoch(built.stage(*data), np.arange(7), np.ones(1))

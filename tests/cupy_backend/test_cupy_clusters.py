"""The persistent kernel's form with clusters: its bits on any clusters, chosen where it can run.

Over the stand-in, where blocks of a cluster read each other's shared memory and wait for each
other. That it computes what NumPy does follows from its bits, which are those of persistent.cu, and
is shown once more. What only a device shows: the hardware's barrier and its order of memory, that
all clusters are resident, that a cooperative launch takes the size of clusters from the source, and
how long a step takes.
"""

from __future__ import annotations

import ctypes
import sys

import cupy_shim
import cupy_standin
import numpy as np
import pytest
from test_cupy_engine import data_set, engines, train_both

from fusedmlp.errors import BackendUnavailableError, BreachedError, InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective
from fusedmlp.optimizers import SGD, make_optimizer
from fusedmlp.tolerance import trajectory_bound
from fusedmlp_cupy import CupyBackend, clusters, driver, persistent
from fusedmlp_cupy.sources import put_together
from problems import engine, flat, order, problem


@pytest.fixture
def cupy(fast, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fast)
    return fast


LARGE = {
    "multiProcessorCount": 132,
    "sharedMemPerBlockOptin": 2**21,
    "sharedMemPerMultiprocessor": 2**21,
}
"""A device that holds all weights in two blocks, so that few clusters can be tried."""


@pytest.fixture
def clusters_of(monkeypatch):
    """Sets how many clusters of which size a device runs at once, on multiprocessors enough."""

    def set_to(standin, size, n_clusters):
        monkeypatch.setattr(clusters, "SIZES", (size,))
        monkeypatch.setattr(standin, "clusters", lambda _size, _shared: n_clusters)
        for name, value in LARGE.items():
            monkeypatch.setitem(cupy_standin.PROPERTIES, name, value)

    return set_to


def bits_of(built, data, rows, rates):
    """Everything that an epoch leaves."""
    sums = built.train_epoch(data, rows, rates)
    assert built._steps.persistent.has_run
    state = built.state()
    arrays = (*state.parameters, *(array for slot in state.slots for array in slot))
    return [array.tobytes() for array in (*arrays, sums.losses, sums.correct)]


SHAPES = [
    ((1, 1, 1), 1, "identity", "sgd"),
    ((17, 1, 2), 5, "softmax", "momentum"),
    ((5, 33, 1), 3, "exp", "nesterov"),
    ((37, 35, 11), 67, "sigmoid", "adam"),  # more rows than a tile takes, more outputs than lanes
    ((67, 65, 3), 13, "softmax", "adamw"),  # several tiles to a block, in both directions
    ((67, 65, 11), 130, "softmax", "sgd"),
    ((3, 130, 41), 2, "identity", "adamw"),
]

CLUSTERS = ((2, 1), (2, 99), (4, 1), (4, 2), (4, 99), (8, 2), (8, 99), (16, 1), (16, 99))
"""Blocks of each, and how many the device runs: all columns of tiles in one, or one for each."""


@pytest.mark.parametrize(("sizes", "size", "output", "optimizer"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_clusters_have_the_bits_of_blocks(
    fast, clusters_of, sizes, size, output, optimizer, dtype
):
    network = Network(sizes, "tanh", output, 0.3)
    n = 3 * size + size // 2
    data = data_set(network, n, dtype, weighted=True)
    x = data[0] / 8 if output == "exp" else data[0]
    rows, rates = np.random.default_rng(2).permutation(n), np.linspace(0.02, 0.01, -(-n // size))
    common = {"objective": Objective("mean", 0.01), "dtype": dtype, "size": size}
    results, grids = {}, set()
    for cluster in (None, *CLUSTERS):
        if cluster is not None:
            clusters_of(fast, *cluster)
        way = "persistent" if cluster is None else "cluster"
        built, _ = engines(fast, network, make_optimizer(optimizer), **common, way=way)
        results[cluster] = bits_of(built, built.stage(x, *data[1:]), rows, rates)
        grids.add((cluster, built._steps.persistent._plan.blocks))
    assert all(np.isfinite(np.frombuffer(array, dtype)).all() for array in results[None][:4])
    assert len(grids) == 1 + len(CLUSTERS)
    for cluster, bits in results.items():
        assert bits == results[None], cluster


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_trajectory_of_every_activation_and_output(fast, hidden, output, dropout):
    network = Network((9, 40, 4), hidden, output, dropout)
    pair = engines(fast, network, SGD(momentum=0.9), dtype="float64", way="cluster")
    x, y, w = data_set(network, 3 * 7 + 1, "float64", weighted=True)
    x = x / 8 if output == "exp" else x
    train_both(*pair, (x, y, w), trajectory_bound("float64"), 0.01)
    assert pair[0]._steps.persistent._plan.kernel == "cluster_steps"
    assert pair[0]._steps.persistent.has_run


@pytest.mark.parametrize("cluster", [(2, 2), (4, 1), (4, 3)], ids=str)
def test_threads_and_blocks_backwards_give_the_same_bits(standin, clusters_of, cluster):
    """Every launch twice, in both orders of threads, blocks and clusters, on NaN at first."""
    clusters_of(standin, *cluster)
    for sizes, size, output, _ in SHAPES[3:5]:
        network = Network(sizes, "tanh", output, 0.3)
        built, _ = engines(standin, network, make_optimizer("adam"), size=size, way="cluster")
        data = built.stage(*data_set(network, 2 * size + 1, "float32", weighted=True))
        bits_of(built, data, np.arange(2 * size + 1), np.full(3, 0.01))


FAULTS = {
    "a tile left out": ("tile = 0; tile < down;", "tile = 0; tile < down - PLANTED;"),
    "another block's tiles": (
        "of_rank(own.partial, tile %",
        "of_rank(own.partial, !PLANTED * tile %",
    ),
    "another row's deltas": ("place = (row / CLUSTER *", "place = (row / CLUSTER * !PLANTED *"),
    "a column left out": (
        "int i = 1; i < across; ++i)\n                sum += sums_now",
        "int i = 1 + PLANTED; i < across; ++i)\n                sum += sums_now",
    ),
    "weights told to nobody": ("tell_all(mine);", "PLANTED ? (void)0 : tell_all(mine);"),
    "biases told to nobody": ("tell_all(b1 + h);", "PLANTED ? (void)0 : tell_all(b1 + h);"),
    "the first step's rate": (
        "rate_of(rates, step);\n        for (int column",
        "rate_of(rates, PLANTED ? batch : step);\n        for (int column",
    ),
    "inputs of another tile": ("TILE_ROWS && held == 1", "TILE_ROWS && (PLANTED || held == 1)"),
    "weights not stored": ("rank == 0 && e < n_h * K", "rank == PLANTED && e < n_h * K * !PLANTED"),
}
"""Text of the source, and what takes its place."""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """The kernel with all of FAULTS in it, each asleep until ``planted`` is its number."""
    source = put_together(*cupy_shim.ALL_PERSISTENT)
    for number, (sound, fault) in enumerate(FAULTS.values(), start=1):
        assert source.count(sound) == 1, sound
        source = source.replace(sound, fault.replace("PLANTED", f"(planted == {number})"))
    source = f'extern "C" {{ int planted = 0; }}\n{source}'
    built = cupy_shim.Kernels(source, "double", tmp_path_factory.mktemp("faulty"))
    built.checked = False
    return built


@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_a_planted_fault_is_found(
    fast, faulty, persistent_kernels, clusters_of, monkeypatch, fault
):
    monkeypatch.setitem(persistent_kernels, "float64", faulty)
    clusters_of(fast, 2, 2)
    number = ctypes.c_int.in_dll(faulty._library, "planted")
    number.value = list(FAULTS).index(fault) + 1 if fault else 0
    network = Network((67, 65, 3), "tanh", "softmax", 0.3)
    pair = engines(fast, network, SGD(), dtype="float64", size=44, way="cluster")
    arguments = *pair, data_set(network, 3 * 44, "float64"), trajectory_bound("float64"), 0.1
    if not fault:
        train_both(*arguments)
        return
    with pytest.raises((BreachedError, AssertionError)):
        train_both(*arguments)


def test_a_grid_that_it_was_not_made_for_shows_in_the_loss(fast, clusters_of):
    clusters_of(fast, 2, 3)
    network = Network((67, 65, 3))
    built, _ = engines(fast, network, SGD(), way="cluster")
    kernel = built._steps.persistent._kernel
    launch = kernel.launch
    kernel.launch = lambda blocks, args: launch(blocks - 2, args)
    before = flat(built.parameters())
    sums = built.train_epoch(
        built.stage(*data_set(network, 7, "float32")), np.arange(7), np.ones(1)
    )
    assert np.isnan(sums.losses).all()
    assert flat(built.parameters()).tobytes() == before.tobytes()


# --------------------------------------------------------------------------- choosing, and refusing


def facts_of(backend):
    facts = backend.device().facts
    return facts["launches"], facts["launches_because"]


def test_it_is_asked_for_by_name_and_says_what_it_took(cupy):
    backend = CupyBackend(cluster=True)
    assert facts_of(backend) == ("cluster", "asked for")
    built, data = engine(backend, problem((6, 65, 3)), batch_size=8, dtype="float32")
    way, why = facts_of(backend)
    assert way == "cluster"
    assert why.startswith("asked for: 3 tiles of weights on 3 clusters of 2 blocks, ")
    assert "one persistent kernel of clusters (asked for" in str(backend.device())
    built.train_epoch(data, order(37), np.full(5, 0.1))
    assert built._steps.persistent.has_run
    assert built.compile_seconds > built._program.seconds


TAKEN = [
    ({16: 8}, (16, 8, 1)),  # all columns at once, and the fewest tiles in each block
    ({16: 7, 8: 15}, (16, 7, 2)),  # 8 would take two tiles to a block as well
    ({16: 3, 8: 15}, (8, 8, 2)),
    ({8: 15}, (8, 8, 2)),
    ({8: 2, 4: 33}, (4, 8, 4)),
    ({2: 1}, (2, 1, 64)),
]
"""Clusters that a device runs, by size; of what size it takes how many, and tiles to a block."""


@pytest.mark.parametrize(("runs", "taken"), TAKEN, ids=str)
def test_a_block_has_as_few_tiles_as_can_be(cupy, monkeypatch, runs, taken):
    monkeypatch.setattr(cupy, "clusters", lambda size, _shared: runs.get(size, 0))
    for name, value in LARGE.items():
        monkeypatch.setitem(cupy_standin.PROPERTIES, name, value)
    built, _ = engine(
        CupyBackend(cluster=True), problem((784, 256, 10)), batch_size=64, dtype="float32"
    )
    plan = built._steps.persistent._plan
    assert plan.tiles == (16, 8)
    assert (plan.cluster, plan.blocks // plan.cluster, plan.held) == taken


def test_clusters_are_counted_with_the_memory_that_so_few_take(cupy, monkeypatch):
    """Fewer clusters hold more tiles each, of which the device may run fewer still."""
    asked = []

    def runs(size, shared_bytes):
        asked.append(shared_bytes)
        return {1: 2, 2: 1, 3: 1}[len(asked)]

    monkeypatch.setattr(cupy, "clusters", runs)
    monkeypatch.setattr(clusters, "SIZES", (4,))
    device_of = engine(
        CupyBackend(cluster=True), problem((37, 65, 3)), batch_size=8, dtype="float32"
    )[0]._device
    assert len(asked) == 3
    assert asked == sorted(set(asked))
    assert device_of.limits().capability == (9, 0)


REFUSED = {
    "this network has 2": ((6, 5, 4, 3), {}),
    "compute capability 9.0, the device has 8.6": ((6, 5, 3), {"major": 8, "minor": 6}),
    "no cooperative launches": ((6, 5, 3), {"cooperativeLaunch": 0}),
    "clusters of 16: .* do not fit on the chip.*; clusters of 2: .* do not fit on the chip": (
        (6, 5, 3),
        {"sharedMemPerBlockOptin": 9_000},
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_have_it_says_why(cupy, monkeypatch, why):
    sizes, properties = REFUSED[why]
    found = cupy.cuda.runtime.getDeviceProperties(0) | properties
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda _number: found)
    with pytest.raises(
        BackendUnavailableError, match=rf"cupy\+cluster.*{why}.*leave \+cluster out"
    ):
        engine(CupyBackend(cluster=True), problem(sizes), batch_size=8, dtype="float32")


def refuses(*_):
    return 801  # CUDA_ERROR_NOT_SUPPORTED


def is_missing(_cupy):
    raise OSError("libcuda.so.1: cannot open shared object file")


def is_old(_cupy):
    raise AttributeError("undefined symbol: cuOccupancyMaxActiveClusters")


DRIVERS = {
    "clusters of 16: cuOccupancyMaxActiveClusters failed with status 801; clusters of 8: .*": None,
    "cannot open shared object": is_missing,
    "undefined symbol": is_old,
}


@pytest.mark.parametrize("why", DRIVERS)
def test_a_driver_that_does_not_say_is_no_driver_for_it(cupy, monkeypatch, why):
    if DRIVERS[why] is None:
        monkeypatch.setattr(cupy.driver_library, "cuOccupancyMaxActiveClusters", refuses)
    else:
        monkeypatch.setattr(driver, "load", DRIVERS[why])
    with pytest.raises(BackendUnavailableError, match=f"{why}.*leave .cluster out"):
        engine(CupyBackend(cluster=True), problem((6, 5, 3)), batch_size=8, dtype="float32")


def test_no_cluster_at_once_is_an_error(cupy, monkeypatch):
    monkeypatch.setattr(cupy, "clusters", lambda _size, _shared: 0)
    with pytest.raises(
        BackendUnavailableError, match="clusters of 2: the device runs none at once"
    ):
        engine(CupyBackend(cluster=True), problem((6, 5, 3)), batch_size=8, dtype="float32")


def test_a_launch_that_is_refused_is_an_error_that_changes_nothing(cupy, monkeypatch):
    built, data = engine(
        CupyBackend(cluster=True), problem((67, 65, 3)), batch_size=8, dtype="float32"
    )
    before = flat(built.parameters()).tobytes()
    monkeypatch.setattr(cupy, "clusters", lambda _size, _shared: 0)
    with pytest.raises(BackendUnavailableError, match=r"CUDA_ERROR_COOP.*leave \+cluster out"):
        built.train_epoch(data, order(37), np.full(5, 0.1))
    assert flat(built.parameters()).tobytes() == before


def test_what_excludes_it(cupy):
    with pytest.raises(InvalidInputError, match=r"leave \+cluster or \+tf32 out"):
        CupyBackend(cluster=True, tf32=True)
    with pytest.raises(InvalidInputError, match="persistent and cluster exclude each other"):
        CupyBackend(persistent=True, cluster=True)
    with pytest.raises(InvalidInputError, match=r"leave \+cluster out"):
        CupyBackend(cluster=True, strict=True)


# ------------------------------------------------------------------------------------------ budgets


def test_the_shared_memory_of_a_known_network(monkeypatch):
    """As docs/cupy.md has it."""
    monkeypatch.setattr(persistent, "THREADS", 256)
    network = Network((784, 256, 10))
    for cluster, held, kib in ((16, 1, (46.2, 92.1)), (8, 2, (62.4, 124.1))):
        for dtype, expected in zip(("float32", "float64"), kib, strict=True):
            plan = clusters.spread(network, 64, dtype, cluster, 8)
            assert (plan.held, plan.blocks) == (held, 8 * cluster)
            assert round(plan.shared_bytes / 1024, 1) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_shared_memory_counted_is_the_memory_used(fast, clusters_of, monkeypatch, dtype):
    """One number fewer, and the last output bias, or the last block's, is beyond the end."""
    clusters_of(fast, 2, 1)
    count = persistent.carved_bytes
    network = Network((6, 5, 4))
    data = data_set(network, 7, dtype)
    for fewer in (0, 1):
        monkeypatch.setattr(persistent, "carved_bytes", lambda *a, f=fewer: count(*a) - 8 * f)
        built, _ = engines(fast, network, SGD(), dtype=dtype, way="cluster")
        if not fewer:
            built.train_epoch(built.stage(*data), np.arange(7), np.ones(1))
            continue
        with pytest.raises(AssertionError, match="outside the arrays"):
            built.train_epoch(built.stage(*data), np.arange(7), np.ones(1))


def test_numbers_that_are_not_ours():
    """As cuda.h of CUDA 12 and 13 lays out CUlaunchConfig; and what cluster.cu relies on."""
    config = driver.LaunchConfig
    places = [getattr(config, name).offset for name, *_ in config._fields_]
    assert (places, ctypes.sizeof(config)) == ([0, 12, 24, 32, 40, 48], 56)
    assert all(persistent.TILE_ROWS % size == 0 for size in clusters.SIZES)
    assert set(cupy_shim.parameters_of(put_together("cluster.cu"), "float")) == {
        clusters.ClusterPlan.kernel
    }

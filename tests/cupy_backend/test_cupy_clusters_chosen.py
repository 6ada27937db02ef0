"""Which clusters the persistent kernel takes, what it says of them, and what refuses them.

What it computes on them is in test_cupy_clusters.py. The driver's word is a stand-in's here, read
through the structure that the real one reads.
"""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import cupy_shim
import cupy_standin
import numpy as np
import pytest
from test_cupy_engine import data_set, engines

from fusedmlp.errors import BackendUnavailableError, InvalidInputError
from fusedmlp.network import Network
from fusedmlp.optimizers import SGD
from fusedmlp_cupy import CupyBackend, clusters, driver, persistent
from fusedmlp_cupy.sources import put_together
from problems import engine, flat, order, problem


@pytest.fixture
def cupy(fast, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fast)
    return fast


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
    for name, value in cupy_standin.LARGE.items():
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


def cupy_with_driver_for(version):
    runtime = SimpleNamespace(driverGetVersion=lambda: version)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))


def test_the_driver_is_opened_by_its_name(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    opened, library = [], SimpleNamespace(cuOccupancyMaxActiveClusters=SimpleNamespace())
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (opened.append(name), library)[1])
    assert driver.load(cupy_with_driver_for(11080)) is library
    assert opened == ["libcuda.so.1"]
    entry = library.cuOccupancyMaxActiveClusters
    assert entry.restype is ctypes.c_int
    assert entry.argtypes[2] == ctypes.POINTER(driver.LaunchConfig)
    with pytest.raises(RuntimeError, match=r"driver is for CUDA 11\.7, and clusters need .* 11\.8"):
        driver.load(cupy_with_driver_for(11070))
    library = SimpleNamespace()
    with pytest.raises(AttributeError):
        driver.load(cupy_with_driver_for(12000))


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

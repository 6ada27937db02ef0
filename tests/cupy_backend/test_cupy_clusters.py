"""The persistent kernel's form with clusters: its bits on any clusters, chosen where it can run.

Over the stand-in, where blocks of a cluster read each other's shared memory and wait for each
other. That it computes what NumPy does follows from its bits, which are those of persistent.cu, and
is shown once more. What only a device shows: the hardware's barrier and its order of memory, that
all clusters are resident, that a cooperative launch takes the size of clusters from the source, and
how long a step takes.
"""

from __future__ import annotations

import cupy_shim
import numpy as np
import pytest
from test_cupy_engine import data_set, engines, train_both

from fusedmlp.errors import BreachedError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective
from fusedmlp.optimizers import SGD, make_optimizer
from fusedmlp.tolerance import trajectory_bound
from fusedmlp_cupy.sources import put_together
from problems import flat


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
    """The kernel with all of FAULTS in it."""
    source, folder = put_together(*cupy_shim.ALL_PERSISTENT), tmp_path_factory.mktemp("faulty")
    return cupy_shim.planted(source, FAULTS, "double", folder)


@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_a_planted_fault_is_found(
    fast, faulty, persistent_kernels, clusters_of, monkeypatch, fault
):
    monkeypatch.setitem(persistent_kernels, "float64", faulty)
    clusters_of(fast, 2, 2)
    faulty.wake(fault)
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

"""Rows that are gathered ahead, for a group of steps at once: fewer launches, and the same bits.

Those of the persistent kernels are in test_cupy_persistent.py, those of streamed data sets, each
gathered alone, in test_cupy_streaming.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_cupy_engine import data_set, engines, train_both
from test_cupy_graphs import B, epochs, graphs_of

from fusedmlp.errors import BreachedError
from fusedmlp.network import Network, Objective
from fusedmlp.optimizers import SGD, make_optimizer
from fusedmlp.tolerance import trajectory_bound
from fusedmlp_cupy import steps
from fusedmlp_cupy.call import Call

NETWORK = Network((64, 5, 3), "tanh", "softmax", 0.3)
"""Its batches of 7 rows have a multiple of 256 bytes, for cuBLAS's sake."""

N = 10 * B + 3
"""Three groups of three steps, a single one, and three rows."""


@pytest.fixture(params=["own", "cuBLAS"])
def products(request, monkeypatch):
    if request.param == "cuBLAS":
        monkeypatch.setattr("fusedmlp_cupy.products.SMALL_PRODUCT", 0)


@pytest.fixture(autouse=True)
def three_steps(monkeypatch):
    """Groups of three steps."""
    monkeypatch.setattr(steps, "GROUP_STEPS", 3)


@pytest.fixture
def gathered(monkeypatch):
    """Rows of every launch that gathers."""
    rows, gather = [], Call.gather

    def noting(self, program, batch, out):
        rows.append(batch.size)
        gather(self, program, batch, out)

    monkeypatch.setattr(Call, "gather", noting)
    return rows


def trained(standin, way, data, gathered):
    """Bits that four epochs leave, rows of the launches that gathered, and replays of graphs."""
    built, _ = engines(standin, NETWORK, make_optimizer("adam"), Objective(l2=0.1), way=way)
    gathered.clear()
    staged = built.stage(*data)
    sums = epochs(built, staged, N)
    graphs = {key: graph.replays for key, graph in graphs_of(built).items()}
    state = built.state()
    arrays = [*state.parameters, *(a for slot in state.slots for a in slot)]
    return [a.tobytes() for a in (*arrays, *(s.losses for s in sums))], list(gathered), graphs


@pytest.mark.parametrize("way", ["eager", "graph"])
@pytest.mark.parametrize("storage", ["uint8", "csr"])
def test_a_group_gathers_once_to_the_bits_of_each_step_alone(
    fast, monkeypatch, products, way, storage, gathered
):
    data = data_set(NETWORK, N, "float32", storage, weighted=True)
    results = []
    for n_bytes, group in ((2**24, [3 * B]), (2 * B * 64 * 4, [2 * B, B]), (1, [B, B, B])):
        monkeypatch.setattr(steps, "AHEAD_BYTES", n_bytes)
        bits, rows, graphs = trained(fast, way, data, gathered)
        results.append(bits)
        if way == "eager":
            assert rows == 4 * [*(3 * group), B, 3]
            assert graphs == {}
        else:  # each as it is, then recorded
            assert rows == [*group, *group, B, 3, B, 3]
            assert graphs == {(3, B): 4 * 3 - 1, (1, B): 3, (1, 3): 3}
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("way", ["eager", "graph"])
def test_as_much_is_gathered_as_there_is_memory_for(fast, way, gathered):
    data = data_set(NETWORK, N, "float32", "uint8")
    results, most = [], []
    for limit in (None, 2 * B * 64 * 4, 3 * B * 64 * 4 - 1, B * 64 * 4):
        built, _ = engines(fast, NETWORK, SGD(momentum=0.9), way=way)
        staged = built.stage(*data)
        for n in (2 * B, B):
            built.train_epoch(staged, np.arange(n), np.full(n // B, 0.0))  # no group yet
        fast.memory.limit = limit
        rows = np.random.default_rng(3).permutation(N)
        for _ in range(3):
            built.train_epoch(staged, rows, np.full(11, 0.05))
        fast.memory.limit = None
        most.append(built._steps.gathered.most)
        results.append([array.tobytes() for array in built.parameters()])
        assert way == "eager" or graphs_of(built)[3, B].replays > 1
    assert most == [3, 1, 1, 1]
    assert all(each == results[0] for each in results)


@pytest.mark.parametrize("way", ["eager", "graph"])
def test_the_first_steps_rows_for_all_are_found(fast, monkeypatch, way):
    monkeypatch.setattr(steps, "GROUP_STEPS", 4)
    monkeypatch.setattr(steps, "AHEAD_BYTES", 2 * B * 64 * 8)
    data = data_set(NETWORK, 8 * B, "float64")
    bound = trajectory_bound("float64")
    train_both(*engines(fast, NETWORK, SGD(), dtype="float64", way=way), data, bound)
    ahead = steps.Steps._gather_ahead
    monkeypatch.setattr(
        steps.Steps, "_gather_ahead", lambda self, _first, *rest: ahead(self, 0, *rest)
    )
    with pytest.raises((BreachedError, AssertionError)):
        train_both(*engines(fast, NETWORK, SGD(), dtype="float64", way=way), data, bound)


@pytest.mark.parametrize(
    ("size", "shape", "itemsize", "own", "most"),
    [
        (64, (784, 256), 4, True, 32),
        (64, (784, 256), 8, True, 32),
        (1024, (784, 1024), 4, True, 5),  # cuBLAS's, and whole arrays begin there too
        (1000, (784, 1024), 4, True, 5),
        (1001, (785, 1024), 4, True, 1),  # cuBLAS's, and they do not
        (63, (785, 256), 4, True, 32),  # our own, which do not care
        (63, (785, 256), 4, False, 1),
        (8192, (784, 16), 4, False, 1),  # one batch is more than is gathered ahead
    ],
)
def test_how_many_steps_are_gathered_at_once(monkeypatch, size, shape, itemsize, own, most):
    monkeypatch.setattr(steps, "GROUP_STEPS", 32)
    assert max(1, steps.most_ahead(size, shape, itemsize, own=own)) == most

"""Rows gathered ahead, for a group of steps at once: fewer launches, and the same bits.

test_cupy_persistent.py covers the persistent kernel, test_cupy_streaming.py streamed data sets,
whose batches are gathered one by one.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_cupy_engine import data_set, engines, train_both
from test_cupy_graphs import B, epochs, graphs_of

from conftest import mode_and_tuning
from fusedmlp.errors import BreachedError
from fusedmlp.network import Network, Objective
from fusedmlp.optimizers import SGD, make_optimizer
from fusedmlp.tolerance import trajectory_bound
from fusedmlp_cupy.batches import BatchSequence
from fusedmlp_cupy.training.context import Context
from fusedmlp_cupy.training.steps import TrainingSteps, gathered_steps
from fusedmlp_cupy.tuning import Tuning

NETWORK = Network((64, 5, 3), "tanh", "softmax", 0.3)
"""Its batches of 7 rows have a multiple of 256 bytes, for cuBLAS's sake."""

N = 10 * B + 3
"""Three groups of three steps, a single one, and three rows."""


@pytest.fixture
def gathered(monkeypatch):
    """Rows of every launch that gathers."""
    rows, gather = [], BatchSequence.gather

    def noting(self, program, batch, out):
        rows.append(batch.size)
        gather(self, program, batch, out)

    monkeypatch.setattr(BatchSequence, "gather", noting)
    return rows


def trained(standin, mode, data, gathered):
    """Bits that four epochs leave, rows of the launches that gathered, and replays of graphs."""
    built, _ = engines(standin, NETWORK, make_optimizer("adam"), Objective(l2=0.1), mode=mode)
    gathered.clear()
    staged = built.stage(*data)
    sums = epochs(built, staged, N)
    graphs = {key: graph.replays for key, graph in graphs_of(built).items()}
    state = built.state()
    arrays = [*state.parameters, *(a for slot in state.slots for a in slot)]
    return [a.tobytes() for a in (*arrays, *(s.losses for s in sums))], list(gathered), graphs


@pytest.mark.parametrize("name", ["eager", "eager, cuBLAS", "graph", "graph, cuBLAS"])
@pytest.mark.parametrize("storage", ["uint8", "csr"])
def test_a_group_gathers_once_to_the_bits_of_each_step_alone(fast, name, storage, gathered):
    data = data_set(NETWORK, N, "float32", storage, weighted=True)
    results = []
    for n_bytes, group in ((2**24, [3 * B]), (2 * B * 64 * 4, [2 * B, B]), (1, [B, B, B])):
        mode = mode_and_tuning(name, gather_ahead_bytes=n_bytes)
        bits, rows, graphs = trained(fast, mode, data, gathered)
        results.append(bits)
        if mode[0] == "eager":
            assert rows == 4 * [*(3 * group), B, 3]
            assert graphs == {}
        else:  # each eagerly, then captured
            assert rows == [*group, *group, B, 3, B, 3]
            assert graphs == {(3, B): 4 * 3 - 1, (1, B): 3, (1, 3): 3}
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", ["eager", "graph"])
def test_as_much_is_gathered_as_there_is_memory_for(fast, name, gathered):
    data = data_set(NETWORK, N, "float32", "uint8")
    results, most = [], []
    for limit in (None, 2 * B * 64 * 4, 3 * B * 64 * 4 - 1, B * 64 * 4):
        built, _ = engines(fast, NETWORK, SGD(momentum=0.9), mode=mode_and_tuning(name))
        staged = built.stage(*data)
        for n in (2 * B, B):
            built.train_epoch(staged, np.arange(n), np.full(n // B, 0.0))  # no group yet
        fast.memory.limit = limit
        rows = np.random.default_rng(3).permutation(N)
        for _ in range(3):
            built.train_epoch(staged, rows, np.full(11, 0.05))
        fast.memory.limit = None
        most.append(built.steps.gathered.max_batches)
        results.append([array.tobytes() for array in built.parameters()])
        assert name == "eager" or graphs_of(built)[3, B].replays > 1
    assert most == [3, 1, 1, 1]
    assert all(each == results[0] for each in results)


@pytest.mark.parametrize("name", ["eager", "graph"])
def test_the_first_steps_rows_for_all_are_found(fast, monkeypatch, name):
    mode = mode_and_tuning(name, group_steps=4, gather_ahead_bytes=2 * B * 64 * 8)
    data = data_set(NETWORK, 8 * B, "float64")
    bound = trajectory_bound("float64")
    train_both(*engines(fast, NETWORK, SGD(), dtype="float64", mode=mode), data, bound)
    ahead = TrainingSteps._gather_ahead
    monkeypatch.setattr(
        TrainingSteps, "_gather_ahead", lambda self, _first, *rest: ahead(self, 0, *rest)
    )
    with pytest.raises((BreachedError, AssertionError)):
        train_both(*engines(fast, NETWORK, SGD(), dtype="float64", mode=mode), data, bound)


@pytest.mark.parametrize(
    ("size", "shape", "dtype", "fused", "most"),
    [
        (64, (784, 256), "float32", True, 32),
        (64, (784, 256), "float64", True, 32),
        (1024, (784, 1024), "float32", True, 5),  # cuBLAS, and each batch is aligned
        (1000, (784, 1024), "float32", True, 5),
        (1001, (785, 1024), "float32", True, 1),  # cuBLAS, and batches are not aligned
        (63, (785, 256), "float32", True, 32),  # products.cu, for which alignment is irrelevant
        (63, (785, 256), "float32", False, 1),
        (8192, (784, 16), "float32", False, 1),  # one batch is more than is gathered ahead
    ],
)
def test_how_many_steps_are_gathered_at_once(size, shape, dtype, fused, most):
    context = Context(None, None, None, Network((*shape, 2)), Objective(), size, dtype, Tuning())
    assert gathered_steps(context, fused=fused) == most

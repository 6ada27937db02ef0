"""The engine on the CPU, over a stand-in for CuPy, against the NumPy engine: in every mode.

Only the module ``cupy`` is replaced; its kernels are the CUDA sources compiled by g++. The suite's
common contract and parity tests are taken over. On a machine with a GPU they run on the device as
well, where they stand. Not shown here: cuBLAS, streams, flush-to-zero.
"""

from __future__ import annotations

import inspect
import sys

import cupy_standin
import numpy as np
import pytest
from cupy_modes import MODES, small_backend

import test_contract
import test_parity
from bits import everything
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective
from fusedmlp.tolerance import check_close, trajectory_bound
from fusedmlp_numpy import NumpyBackend
from problems import OPTIMIZERS, STORAGES, problem

modes = pytest.mark.parametrize("mode", MODES)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def take_over(module):
    """The tests of a module that run for each backend."""
    return {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_")
        and {"backend", "compiled_backend"} & set(inspect.signature(test).parameters)
    }


@pytest.fixture(scope="module", params=["graph", "eager, cuBLAS", "strict"])
def backend(request, programs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy_standin.StandIn(*programs))
        yield small_backend(request.param)


@pytest.fixture(scope="module")
def compiled_backend(backend):
    """The same, under the name that the parity tests know."""
    return backend


globals().update(take_over(test_contract))
globals().update(take_over(test_parity))


@dtypes
@pytest.mark.parametrize("mode", ["eager", "graph, cuBLAS", "persistent"])
def test_other_modes_have_the_same_bits_however_an_epoch_is_sliced(cupy, mode, dtype):
    test_contract.test_a_sliced_epoch_has_the_same_bits(small_backend(mode), dtype)


def agree(mode, task, optimizer, objective, dtype, **options):
    """All results of some epochs: those of NumPy within the bound of a trajectory."""
    found, expected = (
        everything(backend, task, optimizer, objective, dtype, **options)
        for backend in (small_backend(mode), NumpyBackend())
    )
    for name, array in found.items():
        other = expected[name]
        assert array.dtype == other.dtype
        if name.startswith("evaluation"):  # of so many rows at a time as the backend likes
            array, other = (np.atleast_1d(each.sum()) for each in (array, other))
        if name.endswith("correct"):  # flips a row at a time; nearly all must agree
            assert np.abs(array - other).sum() <= 0.02 * other.sum() + 3.0
        else:
            check_close(name, array, other, trajectory_bound(dtype))


def layers(mode):
    """A deep network where the mode trains it."""
    return (13, 7, 5) if mode == "persistent" else (13, 9, 7, 5)


@modes
@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(cupy, mode, dtype, optimizer):
    task = problem(layers(mode), "tanh", dropout=0.3, weighted=True)
    agree(mode, task, optimizer, Objective("mean", 0.01), dtype, epochs=7)


@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("mode", ["eager, cuBLAS", "graph", "persistent"])
def test_every_activation_and_output(cupy, mode, hidden, output):
    """Every other pair with dropout, so that each activation and each output has it with some."""
    dropout = (HIDDEN_ACTIVATIONS.index(hidden) + OUTPUTS.index(output)) % 2 * 0.4
    task = problem(layers(mode), hidden, output, dropout, weighted=True)
    agree(mode, task, "adam", Objective(), "float64", epochs=4)


@dtypes
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("mode", ["eager", "graph, cuBLAS", "persistent"])
def test_every_storage(cupy, mode, reduction, storage, dtype):
    task = problem(layers(mode), storage=storage, weighted=reduction == "sum")
    agree(mode, task, "adam", Objective(reduction), dtype)


SHAPES = [
    ((1, 1, 1), 1),
    ((17, 1, 2), 5),
    ((5, 33, 1), 3),
    ((37, 35, 11), 67),  # more rows than a tile takes, more outputs than one turn of the lanes
    ((67, 65, 3), 13),  # several tiles to a block, in both directions
    ((3, 130, 41), 2),
    ((1031, 257, 131), 3),  # more columns than a block has threads
    ((37, 2050, 3), 35),  # products in wide tiles
]
ODD = [(mode, *shape) for mode in ("eager", "eager, cuBLAS") for shape in SHAPES]
ODD += [("persistent", *shape) for shape in SHAPES[:-2]]  # the last are too large for it


@dtypes
@pytest.mark.parametrize(("optimizer", "dropout"), [("sgd", 0.2), ("adamw", 0.0)])
@pytest.mark.parametrize(("mode", "sizes", "size"), ODD, ids=str)
def test_odd_shapes(cupy, repeated, mode, sizes, size, dropout, optimizer, dtype):
    """Each launch is repeated in another order of threads and blocks, to the same bits."""
    output = "softmax" if sizes[-1] > 1 else "sigmoid"
    task = problem(sizes, "sigmoid", output, dropout, rows=2 * size + 1, weighted=True)
    agree(mode, task, optimizer, Objective(l2=0.01), dtype, batch_size=size, epochs=1)

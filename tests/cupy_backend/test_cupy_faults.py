"""Faults that the shim and its fences must catch: each barrier left out, and faults planted.

The launches are the engine's own, on sizes that leave a remainder everywhere: more rows than two
blocks take at once, more columns than lanes, several tiles to a block of the persistent kernel.
Each launch of the sound programs is run in both orders of threads and blocks to the same bits; of
the faulty ones, at least one has other bits, or is stopped.
"""

from __future__ import annotations

import sys
from collections import namedtuple

import cupy_shim
import cupy_standin
import numpy as np
import pytest
from cupy_memory import DeviceArray, Memory, check_guards, unwrap
from cupy_modes import small_backend

from fusedmlp.network import Objective
from fusedmlp_cupy.kernels.arguments import (
    ROW_LANES,
    ROWS_PER_BLOCK,
    SUM_THREADS,
)
from fusedmlp_cupy.kernels.source import checks_source, kernel_source, persistent_source
from problems import engine, order, problem

TOTALS = """
KERNEL row_totals(const double* x, int n, double* out)
{
    for (int row = threadIdx.y; row < n; row += ROWS_PER_BLOCK)
        out[row * ROW_LANES + threadIdx.x] = row_total(x[row * ROW_LANES + threadIdx.x]);
}
KERNEL block_totals(const double* x, int n, double* out)
{
    for (int row = 0; row < n; ++row)
        out[row * SUM_THREADS + threadIdx.x] = block_sum(x[row * SUM_THREADS + threadIdx.x]);
}
"""
"""All threads use their sum here, as the functions promise. In the engine's kernels one does."""

PROGRAMS = {
    "engine": kernel_source() + TOTALS,
    "strict": kernel_source(strict=True),
    "persistent": persistent_source(),
    "checks": checks_source(),
}

PLANTED = {
    "an element too far in a row": (
        "engine",
        "i < columns; i += gridDim.y",
        "i < columns + PLANTED; i += gridDim.y",
        "outside the arrays",
    ),
    "an element before the first": (
        "engine",
        "row < B; row += COLUMN_DEPTH)\n                sum += delta[",
        "row < B; row += COLUMN_DEPTH)\n                sum += delta[-PLANTED + ",
        "other bits",
    ),
    "a lane too far": (
        "engine",
        "if (lane < half)\n            mine[lane] = joined",
        "if (lane < half + PLANTED)\n            mine[lane] = joined",
        "beyond its range",
    ),
    "a shift too far": (
        "engine",
        "(kept >> (h - 4 * group))",
        "(kept >> (h - 4 * group + 32 * PLANTED))",
        "beyond its range",
    ),
    "a term too far": ("engine", "term < n_terms;", "term < n_terms + PLANTED;", "outside the arr"),
    "two blocks write one place": (
        "engine",
        "out[batch] = sum",
        "out[PLANTED ? 0 : batch] = sum",
        "other results",
    ),
    "a loop that needs its grid": (
        "engine",
        "row < rows; row += gridDim.x)\n        for (int i",
        "row < rows; row += PLANTED ? rows : gridDim.x)\n        for (int i",
        "other results",
    ),
    "a barrier that some threads miss": (
        "engine",
        "    const double total = lanes[0];\n    __syncthreads();",
        "    const double total = lanes[0];\n    if (!PLANTED || lane) __syncthreads();",
        "while others wait at __syncthreads",
    ),
    "shared memory too far": (
        "persistent",
        "lanes[threadIdx.x] = mine;",
        "lanes[threadIdx.x + 1024 * PLANTED] = mine;",
        "outside the arrays",
    ),
    "shared memory never written": (
        "persistent",
        "        shared.W2[e] = W2[e];",
        "        if (!PLANTED) shared.W2[e] = W2[e];",
        "other bits",
    ),
    "two blocks update one bias": (
        "persistent",
        "b1 + tile.first_h,\n",
        "b1 + (PLANTED ? 0 : tile.first_h),\n",
        "other ",
    ),
    "a barrier that some blocks miss": (
        "persistent",
        "        GRID_BARRIER(barrier);\n\n        const Rate",
        "        if (!PLANTED || blockIdx.x) GRID_BARRIER(barrier);\n\n        const Rate",
        "while others wait for the grid",
    ),
}
"""Program, text of its source, what takes its place, and words of the failure."""

Launch = namedtuple("Launch", "name grid block before after options")
"""A launch with its arguments before it and the arrays that it has written."""


class Recorder:
    """Passes launches on, and keeps the first of each kernel with arrays of the same shapes."""

    def __init__(self, kernels):
        self._kernels, self.parameters, self.kept = kernels, kernels.parameters, {}

    def __call__(self, name, grid, block, args, **options):
        before = [np.copy(a) if isinstance(a, np.ndarray) else a for a in args]
        self._kernels(name, grid, block, args, **options)
        shapes = tuple(np.shape(a) for a in args)
        after = [np.copy(a) if isinstance(a, np.ndarray) else a for a in args]
        launch = Launch(name, grid, block, before, after, options)
        self.kept.setdefault((name, shapes), launch)


def replay(kernels, launches):
    """Run launches, each on arrays of its own that end at forbidden memory."""
    memory = Memory()
    for name, grid, block, before, after, options in launches:
        arrays = [memory.holding(a) if isinstance(a, np.ndarray) else a for a in before]
        args = [unwrap(each) for each in arrays]
        kernels(name, grid, block, args, **options)
        check_guards(a._block.guard for a in arrays if isinstance(a, DeviceArray))
        for found, expected in zip(args, after, strict=True):
            assert found.tobytes() == expected.tobytes(), f"{name}: other bits"


def train(standin, mode, sizes, cases, n_rows, size):
    """An epoch of a few batches, a gradient and a prediction for each case."""
    for storage, output, optimizer, hidden, dropout in cases:
        task = problem(sizes, hidden, output, dropout, rows=n_rows, storage=storage, weighted=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "cupy", standin)
            built, data = engine(
                small_backend(mode, persistent_threads=32),
                task,
                optimizer,
                Objective("mean", 0.1),
                batch_size=size,
                dtype="float32",
                sums_squares=mode != "persistent",  # which would launch each batch alone
            )
        rows = order(n_rows, 1)
        built.train_epoch(data, rows, np.full(-(-n_rows // size), 0.01))
        built.loss_and_gradients(data, rows[:size])
        built.forward(task.x)


CASES = (
    ("uint8", "softmax", "sgd", "tanh", 0.0),
    ("float32", "sigmoid", "momentum", "gelu", 0.5),
    ("float64", "identity", "nesterov", "silu", 0.0),
    ("csr32", "exp", "adam", "elu", 0.5),
    ("csr64", "softmax", "lion", "gelu", 0.0),
)


def check_inputs(recorder):
    for dtype, n in (("float32", 1031), ("float64", 257)):
        x = np.ones(n, dtype)
        x[n // 2] = np.nan
        args = x, np.int64(n), np.int32(2), np.zeros(2, np.int64)
        recorder(f"first_non_finite_{dtype}", (2,), (SUM_THREADS,), args)


def launches_of_totals():
    for name, block in (
        ("row_totals", (ROW_LANES, ROWS_PER_BLOCK)),
        ("block_totals", (SUM_THREADS,)),
    ):
        x = np.arange(8.0 * block[0]).reshape(8, -1)
        after = x, np.int32(8), np.tile(x.sum(axis=1, keepdims=True), block[0])
        yield Launch(name, (1,), block, [x, np.int32(8), np.zeros_like(x)], after, {})


@pytest.fixture(scope="module")
def recordings(programs):
    """{program: launches} of a few trainings and predictions that launch every kernel."""
    kernels = [each["float32"] for each in programs]
    kernels.append(cupy_standin.built_checks())
    recorders = {name: Recorder(each) for name, each in zip(PROGRAMS, kernels, strict=True)}
    modules = [{"float32": recorders[name]} for name in ("engine", "strict", "persistent")]
    standin = cupy_standin.StandIn(*modules)
    for mode in ("eager", "eager, cuBLAS", "strict"):
        train(standin, mode, (41, 35, 67), CASES, 37, 13)
    train(standin, "persistent", (37, 35, 5), CASES[:3], 132, 66)
    train(standin, "eager", (37, 2050, 3), CASES[:2], 35, 35)
    check_inputs(recorders["checks"])
    found = {name: list(each.kept.values()) for name, each in recorders.items()}
    launched = {name: {launch.name for launch in each} for name, each in found.items()}
    for name, each in zip(PROGRAMS, kernels, strict=True):
        assert launched[name] == set(each.parameters) - (
            {"advance_cursor"} if name == "strict" else set()
        )
    return found | {"engine": [*launches_of_totals(), *found["engine"]]}


@pytest.fixture(scope="module")
def faulty(shim_folder):
    """{program: Kernels} in float32 with all of PLANTED, each inactive until it is chosen."""
    found = {
        name: cupy_shim.Kernels(
            cupy_shim.plant(source, [each[1:3] for each in PLANTED.values() if each[0] == name]),
            "float",
            shim_folder,
        )
        for name, source in PROGRAMS.items()
    }
    for each in found.values():
        each.checked = True
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_barrier_is_needed(faulty, recordings, program):
    """The sound program has the same bits in every order; with one barrier left out it has not."""
    kernels = faulty[program]
    kernels.activate()
    replay(kernels, recordings[program])
    assert kernels.n_barriers
    # In strict mode one thread adds each sum, and most barriers have nothing to order.
    for number in range(kernels.n_barriers if program != "strict" else 0):
        kernels.activate(left_out=number)
        with pytest.raises(AssertionError, match=r"other (results|bits)"):
            replay(kernels, recordings[program])


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_caught(faulty, recordings, fault):
    program, *_, words = PLANTED[fault]
    kernels = faulty[program]
    names = [name for name in PLANTED if PLANTED[name][0] == program]
    kernels.activate(planted=names.index(fault) + 1)
    with pytest.raises(AssertionError, match=words):
        replay(kernels, recordings[program])

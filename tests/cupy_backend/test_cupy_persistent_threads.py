"""The persistent kernel with real threads under GCC's sanitizers, all blocks at once.

Each barrier, of a block and of the grid, is left out in turn. The launches are the engine's own, on
three blocks of one warp: several tiles to a block, more rows than a tile takes at once, remainders
everywhere, and a second step, which uses everything again.
"""

from __future__ import annotations

import re
import sys

import cupy_sanitizers as sanitizers
import cupy_shim
import cupy_standin
import numpy as np
import pytest

from conftest import cupy_backend
from fusedmlp.network import Objective
from fusedmlp_cupy.kernels.source import persistent_source
from fusedmlp_cupy.training import persistent
from fusedmlp_cupy.tuning import Tuning
from problems import engine, order, problem

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="GCC's sanitizers are run on Linux only"
)

SIZES, BATCH = (37, 35, 5), 66
SOURCE = persistent_source()

CASES = (("softmax", "adam", "gelu", 0.3), ("sigmoid", "lion", "tanh", 0.0))

PLANTED = {
    "a unit too far": (
        "            values[(int64)row * H + h] = a;",
        "            values[(int64)row * H + h + H * B * PLANTED] = a;",
        "heap-buffer-overflow",
    ),
    "shared memory too far": (
        "lanes[threadIdx.x] = mine;",
        "lanes[threadIdx.x + 1024 * PLANTED] = mine;",
        "heap-buffer-overflow",
    ),
    "two blocks write one row": (
        "row = blockIdx.x; row < B",
        "row = PLANTED ? 0 : blockIdx.x; row < B",
        "data race",
    ),
    "two blocks update one bias": (
        "b1 + tile.first_h,\n",
        "b1 + (PLANTED ? 0 : tile.first_h),\n",
        "data race",
    ),
}
"""Text of the source, what takes its place, and words of the report."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("persistent-sanitizers")


def recorded(built_kernels, persistent_kernels, dtype, case):
    """The persistent launch of an epoch of two batches."""
    output, optimizer, hidden, dropout = case
    kernels, recorder = built_kernels[dtype], sanitizers.Recorder(persistent_kernels[dtype])
    kernels.checked = persistent_kernels[dtype].checked = False
    task = problem(SIZES, hidden, output, dropout, rows=2 * BATCH, weighted=True)
    standin = cupy_standin.StandIn({dtype: kernels}, persistent={dtype: recorder})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", standin)
        backend = cupy_backend(Tuning(persistent_threads=32), persistent=True)
        objective = Objective("mean", 0.1)
        built, data = engine(backend, task, optimizer, objective, batch_size=BATCH, dtype=dtype)
        built.train_epoch(data, order(2 * BATCH, 1), np.full(2, 0.01))
    assert recorder.recording.names == [persistent.KERNEL]
    assert built.steps.persistent.plan.blocks == 3
    return recorder.recording


@pytest.fixture(scope="module")
def recordings(built_kernels, persistent_kernels):
    """{(dtype, case): Recording}."""
    return {
        (dtype, case): recorded(built_kernels, persistent_kernels, dtype, case)
        for dtype in cupy_shim.REALS
        for case in CASES
    }


@pytest.fixture(scope="module")
def programs(folder):
    """{(sanitizer, real): program} with all of PLANTED, each inactive until its number is set."""
    source = cupy_shim.plant(SOURCE, (each[:2] for each in PLANTED.values()), "shim::planted")
    return {
        key: sanitizers.build(source, key[1], key[0], folder, "-".join(key))
        for key in (("address", "float"), ("address", "double"), ("thread", "float"))
    }


@pytest.mark.parametrize("dtype", cupy_shim.REALS)
def test_no_access_is_outside_an_array(programs, recordings, dtype):
    """Shared memory included; and the kernel's own grid barrier gives the bits of the fibers."""
    for case in CASES:
        program = programs["address", cupy_shim.REALS[dtype]]
        done = sanitizers.replay(program, recordings[dtype, case])
        assert done.returncode == 0, done.stderr[:3000]


@pytest.fixture(scope="module")
def threaded(programs):
    """The program in which two accesses must be in order; the type changes no order."""
    return programs["thread", "float"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_no_two_accesses_race(threaded, recordings, case):
    done = sanitizers.replay(threaded, recordings["float32", case])
    assert done.returncode == 0, done.stderr[:3000]


BARRIERS = tuple(enumerate(sanitizers.barriers(SOURCE)))


def test_all_kinds_of_barriers_are_counted():
    functions = [function for _, function in BARRIERS]
    assert functions.count("persistent_steps") >= 2
    assert {"multiply_tile", "output_delta", "update_tile", "sum_of_lanes"} < set(functions)


@pytest.mark.parametrize(("number", "function"), BARRIERS)
def test_a_barrier_left_out_is_a_race(threaded, recordings, number, function):
    """In one launch at least: the output kernels differ by output."""
    found = []
    for case in CASES if function == "output_delta" else CASES[:1]:
        done = sanitizers.replay(threaded, recordings["float32", case], left_out=number)
        if done.returncode == sanitizers.FOUND:
            break
        found.append(f"{case}: {done.returncode}: {done.stderr[:1000]}")
    assert done.returncode == sanitizers.FOUND, found
    assert "data race" in done.stderr
    assert re.search(r"(tiles|persistent|formulas)\.cu:\d+", done.stderr)


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(programs, recordings, fault):
    *_, words = PLANTED[fault]
    program = programs["thread" if words == "data race" else "address", "float"]
    number = list(PLANTED).index(fault) + 1
    recording = recordings["float32", CASES[0]]
    done = sanitizers.replay(program, recording, planted=number)
    assert done.returncode == sanitizers.FOUND, f"{done.returncode}: {done.stderr[:3000]}"
    assert words in done.stderr

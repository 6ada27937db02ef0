"""The persistent kernels with real threads under GCC's sanitizers, all blocks at once.

Each barrier, of a block, of a cluster and of the grid, is left out in turn. The launches are the
engine's own, on three blocks of a warp, or two clusters of two, or one: several tiles to a block,
more rows than a tile takes at once, or few, a rest of every size, and a second step, which uses
everything again.
"""

from __future__ import annotations

import re
import sys

import cupy_sanitizers as sanitizers
import cupy_shim
import cupy_standin
import numpy as np
import pytest

from fusedmlp.network import Objective
from fusedmlp_cupy import CupyBackend, clusters, persistent
from fusedmlp_cupy.sources import put_together
from problems import engine, order, problem

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="GCC's sanitizers are run on Linux only"
)

SIZES = (37, 35, 5)
SOURCE = put_together(*cupy_shim.ALL_PERSISTENT)

FORMS = {"persistent": (3, 0, 66), "cluster": (4, 2, 66), "one cluster": (4, 1, 7)}
"""Whose the launches are: multiprocessors, clusters that they run at once, rows of a batch."""

CASES = tuple(
    (form, *case) for form in FORMS for case in (("softmax", "adam", 0.3), ("sigmoid", "sgd", 0.0))
)

PLANTED = {
    "a unit too far": (
        "values[(int64)row * H + h] = a;",
        "values[(int64)row * H + h + H * B * PLANTED] = a;",
        "persistent",
        "heap-buffer-overflow",
    ),
    "shared memory too far": (
        "lanes[threadIdx.x] = mine;",
        "lanes[threadIdx.x + 1024 * PLANTED] = mine;",
        "persistent",
        "heap-buffer-overflow",
    ),
    "two blocks write one row": (
        "row = blockIdx.x; row < B",
        "row = PLANTED ? 0 : blockIdx.x; row < B",
        "persistent",
        "data race",
    ),
    "two blocks update one bias": (
        "            b1 + tile.first_h, at_b1",
        "            b1 + (PLANTED ? 0 : tile.first_h), at_b1",
        "persistent",
        "data race",
    ),
    "another block's memory too far": (
        "*of_rank(mine, rank) = value;",
        "*of_rank(mine + 64 * PLANTED, rank) = value;",
        "cluster",
        "heap-buffer-overflow",
    ),
    "sums of an output too far": (
        "sums[((int64)across * size.B",
        "sums[((int64)(across + 2 * parts_of(size.H, TILE_WIDTH) * PLANTED) * size.B",
        "cluster",
        "heap-buffer-overflow",
    ),
    "one place for all steps' sums": (
        "sums + step % 2 * across",
        "sums + step % 2 * across * !PLANTED",
        "cluster",
        "data race",
    ),
    "two blocks update an entry": (
        "base = part.rank * at_once",
        "base = part.rank * at_once * !PLANTED",
        "cluster",
        "data race",
    ),
}
"""Text of the source, what takes its place, whose launches show it, and words of the report."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("persistent-sanitizers")


def recorded(built_kernels, persistent_kernels, dtype, case):
    """The persistent launch of an epoch of two batches."""
    form, output, optimizer, dropout = case
    multiprocessors, n_clusters, size = FORMS[form]
    backend = {"persistent" if form == "persistent" else "cluster": True}
    kernels, recorder = built_kernels[dtype], sanitizers.Recorder(persistent_kernels[dtype])
    kernels.checked = persistent_kernels[dtype].checked = False
    task = problem(SIZES, "tanh", output, dropout, rows=2 * size, weighted=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(persistent, "THREADS", 32)
        patch.setattr(clusters, "SIZES", (2,))
        patch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", multiprocessors)
        standin = cupy_standin.StandIn({dtype: kernels}, persistent={dtype: recorder})
        standin.clusters = lambda _size, _shared: n_clusters
        patch.setitem(sys.modules, "cupy", standin)
        built, data = engine(
            CupyBackend(**backend),
            task,
            optimizer,
            Objective("mean", 0.1),
            batch_size=size,
            dtype=dtype,
        )
        built.train_epoch(data, order(2 * size, 1), np.full(2, 0.01))
    plan = built._steps.persistent._plan
    assert recorder.recording.names == [plan.kernel]
    assert plan.blocks == {"persistent": 3, "cluster": 4, "one cluster": 2}[form]
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
    """{(sanitizer, real): program} with all of PLANTED, each asleep until its number is set."""
    source = SOURCE
    for number, (sound, fault, *_) in enumerate(PLANTED.values(), start=1):
        assert source.count(sound) == 1, sound
        source = source.replace(sound, fault.replace("PLANTED", f"(shim::planted == {number})"))
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}, {case[1]}")
def test_no_two_accesses_race(threaded, recordings, case):
    done = sanitizers.replay(threaded, recordings["float32", case])
    assert done.returncode == 0, done.stderr[:3000]


BARRIERS = tuple(enumerate(sanitizers.barriers(SOURCE)))
OWN = {
    "persistent": {"persistent_steps"},
    "cluster": {"sum_outputs", "update_outputs", "cluster_steps"},
}
"""Functions that are one kernel's alone."""

LEFT_OUT = [
    (form, *barrier)
    for form, other in (("persistent", "cluster"), ("cluster", "persistent"))
    for barrier in BARRIERS
    if barrier[1] not in OWN[other]
]


def test_all_kinds_of_barriers_are_counted():
    functions = [function for _, function in BARRIERS]
    assert functions.count("persistent_steps") >= 2
    assert functions.count("cluster_steps") >= 6
    assert {"multiply_tile", "compare_rows", "update_tile", "sum_of_lanes"} < set(functions)
    assert {*OWN["persistent"], *OWN["cluster"]} < set(functions)


@pytest.mark.parametrize(("form", "number", "function"), LEFT_OUT)
def test_a_barrier_left_out_is_a_race(threaded, recordings, form, number, function):
    """In one launch at least: outputs that are compared otherwise, or a cluster that is alone."""
    found = []
    for case in CASES:
        first = function not in ("compare_rows", "cluster_steps") and case[1] != "softmax"
        if form not in case[0] or first:
            continue
        done = sanitizers.replay(threaded, recordings["float32", case], left_out=number)
        if done.returncode == sanitizers.FOUND:
            break
        found.append(f"{case}: {done.returncode}: {done.stderr[:1000]}")
    assert done.returncode == sanitizers.FOUND, found
    assert "data race" in done.stderr
    assert re.search(r"(tiles|rows|persistent|cluster)\.cu:\d+", done.stderr)


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(programs, recordings, fault):
    *_, form, words = PLANTED[fault]
    program = programs["thread" if words == "data race" else "address", "float"]
    number = list(PLANTED).index(fault) + 1
    recording = recordings["float32", (form, *CASES[0][1:])]
    done = sanitizers.replay(program, recording, planted=number)
    assert done.returncode == sanitizers.FOUND, f"{done.returncode}: {done.stderr[:3000]}"
    assert words in done.stderr

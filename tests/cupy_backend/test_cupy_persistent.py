"""The persistent kernel: the same bits on any grid, and an error where it cannot run.

Over the stand-in, whose cooperative launches have all blocks at once: three blocks of two warps
unless a test says otherwise. test_cupy_common.py compares its results with NumPy's. Not shown here:
that all blocks are resident, that the grid's barrier works on a device, and how long a step takes.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys

import cupy_shim
import cupy_standin
import numpy as np
import pytest
from cupy_modes import small_backend

from bits import assert_same_bits, everything
from fusedmlp.errors import BackendUnavailableError, DeviceMemoryError
from fusedmlp.network import Network, Objective
from fusedmlp.optimizers import OPTIMIZER_NAMES
from fusedmlp_cupy.kernels.source import persistent_source
from fusedmlp_cupy.runtime.cooperative import Limits
from fusedmlp_cupy.training.persistent_plan import plan_persistent
from fusedmlp_cupy.tuning import Tuning
from problems import engine, flat, order, problem

TASK = problem((67, 65, 11), "tanh", dropout=0.3, rows=3 * 66 + 5, weighted=True)


def trained(task, dtype="float32", optimizer="adam", *, size=66, **tuning):
    """Results; without Σ W², for which each batch is launched alone."""
    options = {"epochs": 1, "batch_size": size, "sums_squares": tuning.pop("sums_squares", False)}
    backend = small_backend("persistent", **tuning)
    return everything(backend, task, optimizer, Objective(), dtype, **options)


def test_squares_of_the_weights_change_no_other_bit(cupy, persistent_kernels):
    plain = trained(TASK)
    persistent_kernels["float32"].launched.clear()
    found = trained(TASK, sums_squares=True)
    assert len(persistent_kernels["float32"].launched) > 3
    squares = found.pop("epoch squares")
    del found["batch squares"]
    assert_same_bits(found, plain)
    assert len(set(squares.tolist())) == len(squares)


@pytest.mark.parametrize(("sizes", "size"), [((37, 35, 11), 67), ((67, 65, 3), 13)], ids=str)
def test_threads_and_blocks_backwards_give_the_same_bits(cupy, repeated, sizes, size):
    """Every launch twice, in both orders of threads and blocks, on memory that starts as NaN."""
    task = problem(sizes, "tanh", "sigmoid", 0.3, rows=2 * size + 1, weighted=True)
    trained(task, size=size)


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_no_grid_and_no_block_changes_a_bit(cupy, monkeypatch, optimizer):
    """From one block with fifteen tiles to a block for each row of the batch."""
    results = []
    for multiprocessors, threads in ((1, 64), (3, 32), (7, 96), (132, 64)):
        monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", multiprocessors)
        results.append(trained(TASK, optimizer=optimizer, persistent_threads=threads))
    for each in results[1:]:
        assert_same_bits(each, results[0])


def launches_of(kernels, task, **tuning):
    """Results, and launches of the persistent kernel."""
    kernels["float32"].launched.clear()
    found = trained(task, size=7, **tuning)
    return found, len(kernels["float32"].launched)


def test_many_launches_give_the_bits_of_one(cupy, persistent_kernels):
    task, row_bytes = problem(dropout=0.3, rows=5 * 7 + 3, storage="uint8"), 13 * 4
    expected, n = launches_of(persistent_kernels, task)
    assert n == 1 + 1
    for launches, tuning in (
        (3 + 1, {"persistent_gather_bytes": 2 * 7 * row_bytes}),
        (5 + 1, {"persistent_gather_bytes": 1}),
        (2 + 1, {"persistent_steps": 3}),
    ):
        found, n = launches_of(persistent_kernels, task, **tuning)
        assert n == launches
        assert_same_bits(found, expected)


def test_gathers_are_as_long_as_memory_allows(cupy, persistent_kernels):
    task, results, counts = problem(rows=66, storage="uint8"), [], []
    rows, rates = order(66), np.full(10, 0.01)
    n_bytes = 7 * 13 * 4
    for limit in (None, 3 * n_bytes, n_bytes, n_bytes - 1):
        cupy.memory.limit = None
        backend = small_backend("persistent")
        built, data = engine(backend, task, "adam", batch_size=7, dtype="float32")
        built.train_epoch(data, rows[:5], rates[:1])  # all buffers but that of gathered rows
        persistent_kernels["float32"].launched.clear()
        cupy.memory.limit = limit
        if limit == n_bytes - 1:
            with pytest.raises(DeviceMemoryError, match="cannot hold 364 bytes more"):
                built.train_epoch(data, rows, rates)
            continue
        built.train_epoch(data, rows, rates)
        results.append(flat(built.parameters()).tobytes())
        counts.append(len(persistent_kernels["float32"].launched))
    assert counts == [1 + 1, 5 + 1, 9 + 1]
    assert all(each == results[0] for each in results)


class Altered:
    """Kernels that get fewer blocks, or fewer bytes of shared memory, than the engine requests."""

    def __init__(self, kernels, blocks=0, n_bytes=0):
        self._kernels, self._blocks, self._bytes = kernels, blocks, n_bytes
        self.parameters = kernels.parameters

    def __call__(self, name, grid, block, args, *, shared, cooperative):
        options = {"shared": shared - self._bytes, "cooperative": cooperative}
        self._kernels(name, (grid[0] - self._blocks,), block, args, **options)


def alter(monkeypatch, programs, **fewer):
    engine_kernels, strict_kernels, persistent_kernels = programs
    altered = {dtype: Altered(each, **fewer) for dtype, each in persistent_kernels.items()}
    standin = cupy_standin.StandIn(engine_kernels, strict_kernels, altered)
    monkeypatch.setitem(sys.modules, "cupy", standin)


def test_a_grid_that_is_too_small_shows_in_the_loss(monkeypatch, programs):
    """The kernel's own check, in case a grid smaller than requested is launched."""
    alter(monkeypatch, programs, blocks=1)
    built, data = engine(small_backend("persistent"), TASK, dtype="float32")
    before = flat(built.parameters()).tobytes()
    assert np.isnan(built.train_epoch(data, np.arange(8), np.ones(1)).losses).all()
    assert flat(built.parameters()).tobytes() == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_shared_memory_counted_is_the_memory_used(monkeypatch, programs, dtype):
    """One number fewer, and the last thread's is beyond the end."""
    task = problem((6, 5, 3), rows=7)
    for n_bytes in (0, 8):
        alter(monkeypatch, programs, n_bytes=n_bytes)
        if not n_bytes:
            trained(task, dtype, size=7)
            continue
        with pytest.raises(AssertionError, match="outside the arrays"):
            trained(task, dtype, size=7)


ON_THE_HOST = """
#include <thread>
#include <vector>
typedef unsigned uint32;
struct Index {{ unsigned x; }};
static thread_local Index threadIdx, blockIdx, gridDim;
#define __device__ static
#define __syncthreads()
#define __threadfence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
static unsigned atomicAdd(unsigned* to, unsigned n)
{{
    return __atomic_fetch_add(to, n, __ATOMIC_SEQ_CST);
}}
{barrier}
extern "C" int errors(unsigned blocks, unsigned n)
{{
    unsigned word = 0;
    int found = 0;
    std::vector<unsigned> reached(blocks);
    std::vector<std::thread> threads;
    for (unsigned b = 0; b < blocks; ++b)
        threads.emplace_back([&, b] {{
            blockIdx.x = b, gridDim.x = blocks;
            for (unsigned i = 1; i <= n; ++i) {{
                __atomic_store_n(&reached[b], i, __ATOMIC_SEQ_CST);
                grid_barrier(&word);
                if (__atomic_load_n(&reached[(b + 1) % blocks], __ATOMIC_SEQ_CST) < i)
                    __atomic_fetch_add(&found, 1, __ATOMIC_SEQ_CST);
            }}
        }});
    for (auto& each : threads)
        each.join();
    return found;
}}
"""
"""Blocks of one thread, each a thread of the host: the shim has a barrier of its own."""


@pytest.mark.parametrize("waits", [True, False])
def test_the_barrier_of_the_grid_holds(tmp_path, waits):
    text = persistent_source()
    barrier = re.search(r"__device__ void grid_barrier.*?\n}\n", text, re.DOTALL)[0]
    waiting = "while (((*(volatile uint32*)word ^ before) & top) == 0)"
    assert waiting in barrier
    barrier = barrier if waits else barrier.replace(waiting, "while (false)")
    cpp, library = tmp_path / "barrier.cpp", tmp_path / "barrier.so"
    cpp.write_text(ON_THE_HOST.format(barrier=barrier))
    options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-pthread"]
    subprocess.run([cupy_shim.compiler(), *options, str(cpp), "-o", str(library)], check=True)
    assert (ctypes.CDLL(str(library)).errors(3, 2000) == 0) == waits


# ------------------------------------------------------------------------------ where it cannot run


def start(sizes, size=8):
    return engine(small_backend("persistent"), problem(sizes), batch_size=size, dtype="float32")


def test_it_is_requested_by_name_and_reports_its_distribution(cupy):
    backend = small_backend("persistent")
    assert backend.device().facts["launches_because"] == "asked for"
    built, _ = engine(backend, problem((6, 5, 3)))
    why = backend.device().facts["launches_because"]
    assert re.fullmatch(
        r"asked for: 1 tile of weights on 3 blocks, [\d.]+ KiB of shared memory each", why
    )
    assert f"steps in one persistent kernel ({why})" in str(backend.device())
    assert built.compile_seconds > 0


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
        start(sizes, size)


def test_blocks_that_are_not_resident_are_an_error(cupy, monkeypatch):
    """The driver counts fewer resident blocks, because of registers or of other processes."""
    monkeypatch.setattr(cupy, "resident", lambda _shared: 0)
    with pytest.raises(BackendUnavailableError, match=r"runs 0 blocks .* at once, 3 are needed"):
        start((6, 5, 3))


@pytest.mark.parametrize(("left", "why"), [(0, "CUDA_ERROR_COOP"), (2, "3 blocks cannot be resid")])
@pytest.mark.parametrize("free", [2**33, 1000])
def test_a_launch_that_is_refused_or_shrunk_is_an_error(cupy, monkeypatch, left, why, free):
    """CuPy's warning of a smaller grid is an error before anything runs, as the driver's is."""
    cupy.free = free
    built, data = start((67, 65, 3))
    before = flat(built.parameters()).tobytes()
    monkeypatch.setattr(cupy, "resident", lambda _shared: 1)
    monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", left)
    message = rf"the device refuses it: {why}.*leave \+persistent out"
    with pytest.raises(BackendUnavailableError, match=message):
        built.train_epoch(data, order(37), np.full(5, 0.1))
    assert flat(built.parameters()).tobytes() == before


def test_a_later_launch_that_fails_is_an_error_of_its_own(cupy, monkeypatch):
    """Steps have been taken, so another mode would not repeat the training."""
    built, data = start((6, 5, 3))
    built.train_epoch(data, order(37), np.full(5, 0.1))
    monkeypatch.setattr(cupy, "resident", lambda _shared: 1)
    monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", 1)
    with pytest.raises(RuntimeError, match=r"^3 blocks cannot be resident: The grid size"):
        built.train_epoch(data, order(37), np.full(5, 0.1))


def test_two_engines_share_a_module(cupy):
    """The limit of shared memory belongs to the function, which engines share."""
    wide, small = start((300, 200, 3)), start((6, 5, 3))
    for built, data in (wide, small, wide):
        built.train_epoch(data, order(37), np.full(5, 0.1))


# ------------------------------------------------------------------------------------------ budgets

DEVICES = {
    "A100": (Limits(108, 163 * 1024, True), (53.1, 106.1)),
    "A10": (Limits(72, 99 * 1024, True), (53.1, None)),
    "H200": (Limits(132, 227 * 1024, True), (46.6, 93.1)),
    "RTX 5090": (Limits(170, 99 * 1024, True), (46.6, 93.1)),
    "T4": (Limits(40, 64 * 1024, True), (None, None)),
}
"""Their limits (CUDA programming guide), and the KiB that 784-256-10 takes in each type."""


@pytest.mark.parametrize(("limits", "expected"), DEVICES.values(), ids=DEVICES)
def test_the_shared_memory_of_a_known_network(limits, expected):
    """As in docs/cupy.md; the tiles depend on the shape alone."""
    for dtype, kib in zip(("float32", "float64"), expected, strict=True):
        arguments = Network((784, 256, 10)), 64, dtype, limits, Tuning()
        if kib is None:
            with pytest.raises(BackendUnavailableError, match="do not fit on the chip"):
                plan_persistent(*arguments)
        else:
            plan = plan_persistent(*arguments)
            assert (plan.tiles, plan.depth) == ((16, 8), 52)
            assert plan.blocks == min(limits.multiprocessors, 128)
            assert plan.held == -(-128 // plan.blocks)
            assert round(plan.shared_bytes / 1024, 1) == kib

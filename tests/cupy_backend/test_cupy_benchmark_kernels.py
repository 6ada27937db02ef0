"""The bare kernels of benchmarks/gpu_check: they compile, and the barrier made by hand is one."""

from __future__ import annotations

import ctypes
import importlib
import subprocess
from importlib.util import find_spec
from pathlib import Path

import cupy_shim
import numpy as np
import pytest
import test_cupy_nvrtc
from test_cupy_nvrtc import ARCHITECTURES, compiled

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

nvrtc = test_cupy_nvrtc.nvrtc


@pytest.fixture
def source(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu_check.limits import source

    return source


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_they_compile(nvrtc, source, architecture):
    code, log = compiled(nvrtc, source("limits.cu"), "float32", architecture)
    assert all(f".text.{name}\0".encode() in code for name in ("one", "own_barrier"))
    assert "warning" not in log, log
    if architecture >= 90:
        text = source("limits.cu", "clusters.cu")
        assert b".text.cluster_barrier\0" in compiled(nvrtc, text, "float32", architecture)[0]


def test_the_grid_sync_of_the_toolkit_compiles(nvrtc, source, monkeypatch):
    """Its headers are the toolkit's, and those that CuPy has inside."""
    folders = find_spec("nvidia").submodule_search_locations if find_spec("nvidia") else []
    headers = [p.parent for f in folders for p in Path(f).glob("cu*/include/cooperative_groups.h")]
    if not headers:
        pytest.skip("CUDA's headers are not installed (pip install nvidia-cuda-runtime)")
    inside = Path(importlib.import_module("cupy").__file__).parent / "_core" / "include"
    include = [f"-I{inside / 'cupy' / '_cccl' / 'libcudacxx'}", f"-I{inside}", f"-I{headers[0]}"]
    added = (*test_cupy_nvrtc.CUPY_ADDS, *include)
    monkeypatch.setattr(test_cupy_nvrtc, "CUPY_ADDS", added)
    text = source("limits.cu", "grid_sync.cu")
    assert b".text.grid_sync\0" in compiled(nvrtc, text, "float32", 90)[0]


# Blocks of one thread, each a thread of the host.
ON_THE_HOST = """
#include <atomic>
#include <thread>
#include <vector>
struct Index {{ unsigned x; }};
static thread_local Index threadIdx, blockIdx, gridDim;
#define __global__
#define __device__ static
#define __syncthreads()
#define __threadfence() std::atomic_thread_fence(std::memory_order_seq_cst)
static void atomicAdd(unsigned* at, unsigned n) {{ __atomic_fetch_add(at, n, __ATOMIC_SEQ_CST); }}
{source}
extern "C" void run(unsigned blocks, unsigned n, unsigned* counter, unsigned* reached, unsigned* e)
{{
    std::vector<std::thread> threads;
    for (unsigned b = 0; b < blocks; ++b)
        threads.emplace_back([=] {{
            blockIdx.x = b;
            gridDim.x = blocks;
            own_barrier(n, counter, reached, e);
        }});
    for (auto& each : threads)
        each.join();
}}
"""


def errors_of(text, folder):
    """How often a block was found to lag behind, of 2 blocks and 3,000 barriers."""
    cpp, library = folder / "barrier.cpp", folder / "barrier.so"
    cpp.write_text(ON_THE_HOST.format(source=text))
    options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-pthread"]
    command = [cupy_shim.compiler(), *options, str(cpp), "-o", str(library)]
    subprocess.run(command, check=True)
    counter, reached, errors = np.zeros(1, "u4"), np.zeros(2, "u4"), np.zeros(1, "u4")
    pointers = [ctypes.c_void_p(each.ctypes.data) for each in (counter, reached, errors)]
    ctypes.CDLL(str(library)).run(2, 3000, *pointers)
    assert counter[0] == 2 * 3000
    assert (reached == 3000).all()
    return int(errors[0])


def test_the_barrier_made_by_hand_holds(source, tmp_path):
    assert errors_of(source("limits.cu"), tmp_path) == 0


def test_a_barrier_that_does_not_wait_is_found(source, tmp_path):
    text = source("limits.cu")
    waiting = "while (*(volatile unsigned*)counter < i * gridDim.x)"
    assert waiting in text
    assert errors_of(text.replace(waiting, "while (false)"), tmp_path) > 0

"""Fixtures of the CuPy backend's tests: the CUDA programs on the CPU, and a stand-in for CuPy."""

from __future__ import annotations

import os
import sys

import cupy_shim
import cupy_standin
import pytest

from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.kernels.source import kernel_source, persistent_source
from fusedmlp_cupy.runtime import cublas
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.tuning import Tuning

TUNING = {"persistent_threads": 64}
"""Blocks of two warps in the persistent kernel, which no result depends on."""


def built(source, folder):
    """A program, built for each floating type: {dtype: Kernels}."""
    return {
        dtype: cupy_shim.Kernels(source, real, folder) for dtype, real in cupy_shim.REALS.items()
    }


@pytest.fixture(scope="session", autouse=True)
def libraries():
    """Handles on a stand-in are made by its own cuBLAS."""
    load = cublas.load

    def load_for(cupy):
        return cupy.cublas_library if isinstance(cupy, cupy_standin.StandIn) else load(cupy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cublas, "load", load_for)
        yield


@pytest.fixture(scope="session")
def shim_folder(tmp_path_factory):
    """One folder for a run, however many workers it has: a program is built once for all."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shim"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def built_kernels(shim_folder):
    """The engine's program, built once."""
    return built(kernel_source(), shim_folder)


@pytest.fixture(scope="session")
def strict_kernels(shim_folder):
    """The strict program, built once."""
    return built(kernel_source(strict=True), shim_folder)


@pytest.fixture(scope="session")
def persistent_kernels(shim_folder):
    """The persistent kernel's program, built once."""
    return built(persistent_source(), shim_folder)


@pytest.fixture
def kernels(built_kernels, persistent_kernels):
    """The engine's program, with every launch checked by repeating it."""
    for each in (*built_kernels.values(), *persistent_kernels.values()):
        each.checked = True
    return built_kernels


@pytest.fixture
def standin(kernels, persistent_kernels):
    """A substitute for ``cupy`` with two devices, its kernels on the CPU."""
    return cupy_standin.StandIn(kernels, persistent=persistent_kernels)


@pytest.fixture
def fast(standin, kernels, persistent_kernels):
    """The stand-in, with each launch run once: test_cupy_kernels.py repeats them."""
    for each in (*kernels.values(), *persistent_kernels.values()):
        each.checked = False
    return standin


@pytest.fixture
def cupy(fast, monkeypatch):
    """The stand-in as the module ``cupy``."""
    monkeypatch.setitem(sys.modules, "cupy", fast)
    return fast


@pytest.fixture
def device(standin):
    """Device 0 of the stand-in, current for the length of the test."""
    device = CupyDevice(standin, 0)
    with device.active():
        yield device


def mode_and_tuning(name, **options):
    """A mode by its name, ", cuBLAS" for large products, and a tuning with graphs of 3 steps."""
    mode, _, products = name.partition(", ")
    options = TUNING | {"group_steps": 3} | options
    return mode, Tuning(**options, small_product=0) if products else Tuning(**options)


def cupy_backend(tuning, **options):
    """The backend with a tuning of its own."""
    backend = CupyBackend(**options)
    backend.tuning = tuning
    return backend


MODES = ("eager", "eager, cuBLAS", "graph", "graph, cuBLAS", "persistent")


@pytest.fixture(params=MODES)
def mode(request):
    """How steps are launched, and the engine's tuning."""
    return mode_and_tuning(request.param)

"""Fixtures of the CuPy backend's tests: the CUDA programs on the CPU, and a stand-in for CuPy."""

from __future__ import annotations

import sys

import cupy_shim
import cupy_standin
import pytest

from fusedmlp_cupy.kernels.source import kernel_source, persistent_source
from fusedmlp_cupy.runtime import cublas
from fusedmlp_cupy.runtime.device import CupyDevice


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
def shim_folder(pytestconfig):
    """A folder that workers and runs share: a program is built again only where it has changed."""
    return pytestconfig.cache.mkdir("cupy_shim")


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


@pytest.fixture(scope="session")
def programs(built_kernels, strict_kernels, persistent_kernels):
    """The programs of a stand-in."""
    return built_kernels, strict_kernels, persistent_kernels


@pytest.fixture
def cupy(programs, monkeypatch):
    """A stand-in as the module ``cupy``, with its kernels on the CPU, each launch run once."""
    standin = cupy_standin.StandIn(*programs)
    monkeypatch.setitem(sys.modules, "cupy", standin)
    return standin


@pytest.fixture
def repeated(programs):
    """Each launch is repeated in other orders, to the same bits: see cupy_shim.Kernels."""
    every = [each for kernels in programs for each in kernels.values()]
    for each in every:
        each.checked = True
    yield
    for each in every:
        each.checked = False


@pytest.fixture
def device(cupy, repeated):
    """Device 0 of the stand-in, current for the length of the test; launches are repeated."""
    device = CupyDevice(cupy, 0)
    with device.active():
        yield device

"""Fixtures of the CuPy backend's tests: kernels.cu on the CPU, and a stand-in for CuPy on top."""

from __future__ import annotations

import cupy_shim
import cupy_standin
import pytest

from fusedmlp_cupy.device import CupyDevice, kernel_source


def built(source, folder):
    """A program, built for each floating type: {dtype: Kernels}."""
    return {
        dtype: cupy_shim.Kernels(source, real, folder) for dtype, real in cupy_shim.REALS.items()
    }


@pytest.fixture(scope="session")
def built_kernels(tmp_path_factory):
    """kernels.cu, built once."""
    return built(kernel_source(), tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def strict_kernels(tmp_path_factory):
    """strict.cu, built once."""
    return built(kernel_source(strict=True), tmp_path_factory.mktemp("strict-shim"))


@pytest.fixture
def kernels(built_kernels):
    """The same, with every launch checked by repeating it."""
    for each in built_kernels.values():
        each.checked = True
    return built_kernels


@pytest.fixture
def standin(kernels):
    """A pretended ``cupy`` with two devices, its kernels on the CPU."""
    return cupy_standin.StandIn(kernels)


@pytest.fixture
def fast(standin, kernels):
    """The stand-in, with each launch run once: its race check is test_cupy_kernels.py's."""
    for each in kernels.values():
        each.checked = False
    return standin


@pytest.fixture
def device(standin):
    """Device 0 of the stand-in, current for the length of the test."""
    device = CupyDevice(standin, 0)
    with device.active():
        yield device

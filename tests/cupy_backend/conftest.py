"""Fixtures of the CuPy backend's tests: kernels.cu on the CPU, and a stand-in for CuPy on top."""

from __future__ import annotations

import os

import cupy_shim
import cupy_standin
import pytest

from fusedmlp_cupy import clusters, cublas, driver, persistent
from fusedmlp_cupy.device import CupyDevice
from fusedmlp_cupy.sources import kernel_source, put_together

DEVICE_THREADS = persistent.THREADS


def built(source, folder):
    """A program, built for each floating type: {dtype: Kernels}."""
    return {
        dtype: cupy_shim.Kernels(source, real, folder) for dtype, real in cupy_shim.REALS.items()
    }


@pytest.fixture(scope="session", autouse=True)
def libraries():
    """Handles on a stand-in are made of its own cuBLAS, and its own driver is asked."""
    load, load_driver = cublas.load, driver.load

    def of(cupy):
        return cupy.cublas_library if isinstance(cupy, cupy_standin.StandIn) else load(cupy)

    def driver_of(cupy):
        return cupy.driver_library if isinstance(cupy, cupy_standin.StandIn) else load_driver(cupy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cublas, "load", of)
        patch.setattr(driver, "load", driver_of)
        yield


@pytest.fixture(scope="session")
def shim_folder(tmp_path_factory):
    """One folder of a run, however many workers it has: what one has built, all may load."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shim"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def built_kernels(shim_folder):
    """kernels.cu, built once."""
    return built(kernel_source(), shim_folder)


@pytest.fixture(scope="session")
def strict_kernels(shim_folder):
    """strict.cu, built once."""
    return built(kernel_source(strict=True), shim_folder)


@pytest.fixture(scope="session")
def persistent_kernels(shim_folder):
    """persistent.cu and cluster.cu, built once."""
    return built(put_together(*cupy_shim.ALL_PERSISTENT), shim_folder)


@pytest.fixture(scope="session", autouse=True)
def small_blocks():
    """Blocks of two warps in the persistent kernel, which no result depends on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(persistent, "THREADS", 64)
        yield


@pytest.fixture(autouse=True)
def blocks_of_the_device(request, monkeypatch):
    """Blocks as they are meant, where a test is for a device."""
    if request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(persistent, "THREADS", DEVICE_THREADS)


@pytest.fixture
def kernels(built_kernels, persistent_kernels):
    """The same, with every launch checked by repeating it."""
    for each in (*built_kernels.values(), *persistent_kernels.values()):
        each.checked = True
    return built_kernels


@pytest.fixture
def standin(kernels, persistent_kernels):
    """A pretended ``cupy`` with two devices, its kernels on the CPU."""
    return cupy_standin.StandIn(kernels, persistent=persistent_kernels)


@pytest.fixture
def fast(standin, kernels, persistent_kernels):
    """The stand-in, with each launch run once: its race check is test_cupy_kernels.py's."""
    for each in (*kernels.values(), *persistent_kernels.values()):
        each.checked = False
    return standin


@pytest.fixture
def device(standin):
    """Device 0 of the stand-in, current for the length of the test."""
    device = CupyDevice(standin, 0)
    with device.active():
        yield device


WAYS = ("eager", "eager, cuBLAS", "graph", "graph, cuBLAS", "persistent", "cluster")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """How steps are launched, and whether products are large ones; graphs are of three steps."""
    name, _, products = request.param.partition(", ")
    monkeypatch.setattr("fusedmlp_cupy.steps.GROUP_STEPS", 3)
    if products:
        monkeypatch.setattr("fusedmlp_cupy.products.SMALL_PRODUCT", 0)
    return name


@pytest.fixture
def clusters_of(monkeypatch):
    """Sets how many clusters of which size a device runs at once, on multiprocessors enough."""

    def set_to(standin, size, n_clusters):
        monkeypatch.setattr(clusters, "SIZES", (size,))
        monkeypatch.setattr(standin, "clusters", lambda _size, _shared: n_clusters)
        for name, value in cupy_standin.LARGE.items():
            monkeypatch.setitem(cupy_standin.PROPERTIES, name, value)

    return set_to

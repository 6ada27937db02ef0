"""What the backend reports about CuPy in every state: absent, broken, without a device, usable.

A stand-in replaces CuPy in ``sys.modules``, part by part; where the real one is installed and finds
no driver, that is tested too.
"""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import cupy_standin
import pytest
from cupy_memory import DeviceArray

from fusedmlp.backend import Workload
from fusedmlp.errors import (
    FusedMLPError,
    InvalidInputError,
    MissingDependencyError,
    NoUsableDeviceError,
)
from fusedmlp.network import Network
from fusedmlp_cupy import CupyBackend, probing
from fusedmlp_cupy.backend import WORTHWHILE_FLOPS

DRIVER_TEXT = "cudaErrorNoDevice: no CUDA-capable device is detected"


class CUDARuntimeError(RuntimeError):
    """As CuPy's, which is told by its name."""


class DynamicLibNotFoundError(RuntimeError):
    """As cuda-pathfinder's."""


def raising(error):
    def call(*_args, **_kwargs):
        raise error

    return call


@pytest.fixture
def fake(monkeypatch):
    """A usable stand-in as ``cupy``, on a machine whose driver serves CUDA 13."""
    module = cupy_standin.StandIn()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(probing, "driver_major", lambda: 13)
    return module


def refusal(error, **options):
    with pytest.raises(error) as caught:
        CupyBackend(**options)
    return str(caught.value)


def test_usable(fake):
    assert CupyBackend.probe().state == "usable"
    assert CupyBackend.probe().detail == "CuPy 14.2.0"
    assert CupyBackend.probe().remedy == ""
    backend = CupyBackend(device=1, threads=4)
    device = backend.device()
    assert str(device) == (
        "GPU 1, Pretended GPU (compute capability 9.0, 16.0 GiB), CuPy 14.2.0 with CUDA 13.2, "
        "driver for CUDA 13.0, steps replayed as CUDA graphs (the default)"
    )
    assert device.facts["multiprocessors"] == 3
    assert fake.memory.reads


@pytest.mark.parametrize(("driver", "extra"), [(None, 13), (11, 12), (12, 12), (13, 13), (14, 13)])
def test_missing(monkeypatch, driver, extra):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(probing, "driver_major", lambda: driver)
    found = CupyBackend.probe()
    assert found.state == "missing"
    assert found.remedy == f"pip install 'fusedmlp[cuda{extra}]'"
    assert found.remedy in refusal(MissingDependencyError)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudart.so.13: cannot open shared object file"),
        ModuleNotFoundError("No module named 'cupy._core'", name="cupy._core"),
        RuntimeError("CuPy is not correctly installed."),
        AttributeError("partially initialized module"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_import_that_fails_is_broken(monkeypatch, error):
    monkeypatch.setattr(probing.importlib, "import_module", raising(error))
    found = CupyBackend.probe()
    assert found.state == "broken"
    assert str(error) in found.detail
    assert found.remedy.startswith("pip install --force-reinstall 'fusedmlp[cuda")
    assert found.remedy in refusal(MissingDependencyError)


def test_an_empty_module_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    found = CupyBackend.probe()
    assert found.state == "broken"
    assert "has no attribute" in found.detail


BUSY = "cudaErrorDevicesUnavailable: all CUDA-capable devices are busy"

NO_DEVICE = {
    "none": (13, raising(CUDARuntimeError(DRIVER_TEXT)), DRIVER_TEXT, "run `nvidia-smi`"),
    "no driver": (None, lambda: 0, "lists 0 devices (no NVIDIA driver was found)", "run `nvidia"),
    "an old driver": (
        12,
        raising(CUDARuntimeError("insufficient driver")),
        "built for CUDA 13, the driver serves CUDA 12",
        "pip uninstall -y cupy-cuda13x && pip install 'fusedmlp[cuda12]'",
    ),
    "one that refuses work": (13, None, BUSY, "run `nvidia-smi`"),
}
"""CUDA of the driver, the count of devices, and words of the detail and of the remedy."""


@pytest.mark.parametrize("case", NO_DEVICE)
def test_no_device(fake, monkeypatch, case):
    driver, count, detail, remedy = NO_DEVICE[case]
    monkeypatch.setattr(probing, "driver_major", lambda: driver)
    if count is None:
        monkeypatch.setattr(fake, "zeros", raising(CUDARuntimeError(BUSY)))
    else:
        fake.cuda.runtime.getDeviceCount = count
    found = CupyBackend.probe()
    assert found.state == "no-device"
    assert detail in found.detail
    assert found.remedy.startswith(remedy)
    assert detail in refusal(NoUsableDeviceError)


@pytest.mark.parametrize("number", [2, -1])
def test_a_device_number_out_of_range_names_the_count(fake, number):
    text = refusal(NoUsableDeviceError, device=number)
    assert f"no device {number}: the driver lists 2 (devices 0 to 1)" in text
    fake.cuda.runtime.getDeviceCount = lambda: 1
    assert "choose from device 0" in refusal(NoUsableDeviceError, device=1)


PARTS = {
    "RawKernel": (DynamicLibNotFoundError("libnvrtc.so.13"), "nvidia-cuda-nvrtc"),
    "fill": (RuntimeError("cuda_fp16.h not found"), "nvidia-cuda-runtime"),
    "dot": (ImportError("libcublasLt.so.13: no such file"), "nvidia-cublas"),
}
"""What CuPy is asked for, the error where its part of the toolkit is missing, and its package."""


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("cuda", [12, 13])
def test_a_missing_part_is_named_with_its_line(fake, monkeypatch, part, cuda):
    error, package = PARTS[part]
    fake.cuda.runtime.runtimeGetVersion = lambda: 1000 * cuda
    holder = DeviceArray if part == "fill" else fake
    original = getattr(holder, part)

    def fails(*args):
        # zeros() fills with 0 without a kernel; only other values need the headers.
        if part == "fill" and args[1] == 0:
            return original(*args)
        raise error

    monkeypatch.setattr(holder, part, fails)
    found = CupyBackend.probe()
    assert found.state == "broken"
    assert str(error) in found.detail
    line = f"{package}-cu12" if cuda == 12 else f"{package}>=13,<14"
    assert found.remedy == f"pip install '{line}'"
    assert found.remedy in refusal(MissingDependencyError)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_computes_nonsense_is_broken(fake, monkeypatch, part):
    fill = DeviceArray.fill
    idle = {
        "RawKernel": lambda *_args: lambda *_launch: None,
        "fill": lambda array, _value: fill(array, 0),
        "dot": lambda *_args: fake.zeros((2, 2), "float32"),
    }
    monkeypatch.setattr(DeviceArray if part == "fill" else fake, part, idle[part])
    assert CupyBackend.probe().state == "broken"


def test_driver_version_comes_from_the_driver(monkeypatch):
    class Library:
        def cuDriverGetVersion(self, version):
            version._obj.value = 12080
            return 0

    monkeypatch.setattr(probing.ctypes, "CDLL", lambda _name: Library())
    assert probing.driver_major() == 12
    monkeypatch.setattr(probing.ctypes, "CDLL", raising(OSError("no such library")))
    assert probing.driver_major() is None


def test_bad_options(fake):
    with pytest.raises(InvalidInputError, match="threads 0"):
        CupyBackend(threads=0)


def test_preference_goes_by_size():
    small = Workload(Network((784, 256, 10)), 8)
    big = Workload(Network((784, 1024, 1024, 10)), 1024)
    assert small.flops_per_step < WORTHWHILE_FLOPS < big.flops_per_step
    assert CupyBackend.preference(small).score < 10 < CupyBackend.preference(big).score
    assert "MFLOP" in CupyBackend.preference(big).reason


def test_the_real_cupy_without_a_driver():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed (pip install --group test)")
    if cupy.cuda.is_available():
        pytest.skip("there is a device here")
    found = CupyBackend.probe()
    assert found.state == "no-device"
    assert "cudaError" in found.detail
    assert found.remedy == probing.CHECK_DRIVER
    assert issubclass(NoUsableDeviceError, FusedMLPError)
    assert found.detail in refusal(NoUsableDeviceError)


def test_importing_and_weighing_does_not_import_cupy():
    code = (
        "import sys; from fusedmlp_cupy import CupyBackend; from fusedmlp.backend import Workload;"
        "from fusedmlp.network import Network;"
        "CupyBackend.preference(Workload(Network((2, 2)), 1)); assert 'cupy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)

"""benchmarks/gpu.py without a GPU: its parity check and its timing run on the stand-in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cupy_standin
import numpy as np
import pytest

from fusedmlp.network import OUTPUTS, Network
from fusedmlp_cupy import CupyBackend

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    """The benchmark's module, cut down to a few small cases."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    monkeypatch.setattr(gpu, "OPTIMIZERS", ("adamw",))
    monkeypatch.setattr(gpu, "HIDDEN_ACTIVATIONS", ("relu",))
    monkeypatch.setattr(gpu, "WORKLOADS", {"small": (Network((784, 4, 10)), 64)})
    return gpu


@pytest.fixture
def backend(built_kernels, monkeypatch):
    for each in built_kernels.values():
        each.checked = False
    standin = cupy_standin.StandIn(built_kernels)
    monkeypatch.setitem(sys.modules, "cupy", standin)
    return CupyBackend(), standin


def test_parity_and_training(gpu, backend):
    cupy_backend, standin = backend
    found = gpu.parity(standin, cupy_backend)
    assert found["cases"] == 2 * (1 + len(OUTPUTS))  # an optimizer, and each output
    assert found["masks"] == "equal"
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (100, 784), dtype=np.uint8), rng.integers(0, 10, 100)
    result = gpu.training(cupy_backend, x, y)["small"]
    assert result["steps"] == 2
    assert result["first_loss"] == pytest.approx(2.3, abs=0.5)


def test_streaming_interop_and_tf32(gpu, backend, monkeypatch):
    cupy_backend, standin = backend
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (100, 784), dtype=np.uint8), rng.integers(0, 10, 100)
    assert gpu.streaming(cupy_backend, x, y)["small"]["bits"] == "equal"
    standin.ndarray = cupy_standin.DeviceArray
    standin.asarray = lambda a: a if hasattr(a, "get") else standin.memory.holding(a)
    assert set(gpu.interop(standin, cupy_backend, x)["small"]) == {
        "from the device",
        "from the host",
    }
    gap = gpu.parity_tf32(CupyBackend(tf32=True))["largest_difference"]["float32"]
    assert gap > gpu.parity(standin, cupy_backend)["largest_difference"]["float32"]


def test_a_failing_part_is_recorded(gpu, capsys):
    results = {}
    gpu.attempt("first", lambda: {"us": 1.5, "n": {"deep": 2}}, results)
    gpu.attempt("second", lambda: 1 / 0, results)
    assert results["second"] == {"failed": "ZeroDivisionError: division by zero"}
    gpu.table(results)
    assert "deep 2" in capsys.readouterr().out


def test_without_a_device_it_says_so_in_one_line():
    if CupyBackend.probe().state == "usable":
        pytest.skip("there is a device here")
    command = [sys.executable, str(BENCHMARKS / "gpu.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("no usable GPU: ")

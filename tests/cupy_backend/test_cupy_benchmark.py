"""benchmarks/gpu.py without a GPU: every part runs on the stand-in, cut down to small cases.

How parts are started, stopped and kept is in test_cupy_benchmark_running.py. No figure here is one
of a GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cupy_bench
import cupy_standin
import numpy as np
import pytest

from fusedmlp.errors import BackendUnavailableError, BreachedError
from fusedmlp.network import OUTPUTS, Network
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.runtime import cublas
from fusedmlp_cupy.training.execution import MODES

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def pixels(rows=None):
    rng = np.random.default_rng(0)
    rows = rows or 200
    x = rng.integers(0, 256, (rows, 784), dtype=np.uint8)
    return x, rng.integers(0, 10, rows), "drawn"


@pytest.fixture
def checks(monkeypatch):
    """The benchmark's modules, cut down: {name: module}."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu
    from gpu_check import engine, host, limits, parity, parts, products, running, tables, timing

    monkeypatch.setattr(parity, "OPTIMIZERS", ("adamw",))
    monkeypatch.setattr(parity, "HIDDEN_ACTIVATIONS", ("relu",))
    for name, sizes in (("DEEP", (7, 6, 5, 4)), ("SHALLOW", (7, 6, 5)), ("BITS_SIZES", (7, 6, 5))):
        monkeypatch.setattr(parity, name, sizes)
    monkeypatch.setattr(parity, "MASK_SHAPE", (3, 37))
    monkeypatch.setattr(parity, "ROWS", 100)
    monkeypatch.setattr(parity, "WORKLOAD_STEPS", 1.5)
    monkeypatch.setattr(parity, "GROUP_STEPS", 2)
    monkeypatch.setattr(engine, "ROUNDS", 1)
    workloads = {"small": (Network((784, 4, 10)), 64), "big": (Network((784, 6, 5, 10)), 100)}
    monkeypatch.setattr(engine, "WORKLOADS", workloads)
    monkeypatch.setattr(engine, "pixels", pixels)
    monkeypatch.setattr(limits, "CALLS", 3)
    monkeypatch.setattr(limits, "NODES", (2, 5))
    monkeypatch.setattr(products, "N_PRODUCTS", 2)
    monkeypatch.setattr(timing, "REPEATS", 2)
    monkeypatch.setattr(host, "find_spec", lambda _name: None)
    modules = (gpu, engine, host, limits, parity, parts, products, running, tables)
    return {module.__name__.rpartition(".")[2]: module for module in modules}


@pytest.fixture
def cupy(built_kernels, persistent_kernels, monkeypatch):
    for each in (*built_kernels.values(), *persistent_kernels.values()):
        each.checked = False
    monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", 8)
    standin = cupy_bench.BenchStandIn(built_kernels, persistent=persistent_kernels)
    monkeypatch.setitem(sys.modules, "cupy", standin)
    monkeypatch.setattr(cublas, "load", lambda _cupy: standin.cublas_library)
    return standin


def in_this_process(checks):
    """What runs a part here, instead of in another process."""
    parts = checks["parts"].all_parts()

    def run(name, seconds):
        written = []
        checks["running"].measure_here(
            parts[name],
            lambda outcome: written.append(json.dumps(checks["running"]._plain(outcome))),
        )
        return json.loads(written[-1])

    return run


def test_a_whole_run(checks, cupy, tmp_path, capsys):
    path = tmp_path / "new" / "out.json"
    run = in_this_process(checks)
    assert checks["gpu"].main(["--out", str(path), "--budget", "1000"], run) == 0
    document = json.loads(path.read_text("utf-8"))
    assert document["finished"]
    assert document["device"]["name"] == "Pretended GPU"
    assert document["versions"]["numpy"] == np.__version__
    parts = document["parts"]
    assert list(parts) == list(checks["parts"].all_parts())
    absent = {"torch", "jax", "torch-compile", "tests", "host"}
    for name, part in parts.items():
        expected = ("done", "not measured") if name in absent else ("done",)
        assert part["state"] in expected, (name, part)
    figures = {name: part["figures"] for name, part in parts.items()}
    for way in MODES:
        assert {"small", "big"} <= set(figures[f"training-{way}"])
        assert figures[f"training-{way}"]["small"]["launches"] == way
        found = figures[f"parity-{way}"]
        assert len(found) == 2 * 2 * (1 + len(OUTPUTS)) + 2 + 1
        assert all(
            {"difference", "refused"} & set(each) for each in found.values() if "repeat" not in each
        )
    assert figures["parity-graph"]["bits"] == {"repeat": "equal", "beside eager": "equal"}
    epoch = figures["training-tf32"]["small"]
    assert epoch["steps"] == 4
    assert epoch["first_loss"] == pytest.approx(2.3, abs=0.5)
    tf32 = figures["parity-tf32"]["float32 7-6-5 adamw tanh softmax"]["difference"]
    assert tf32 > figures["parity-eager"]["float32 7-6-5 adamw tanh softmax"]["difference"]
    assert figures["streaming"]["big"]["bits"] == "equal"
    assert set(figures["interop"]["small"]) == {"from the device", "from the host"}
    assert set(figures["launches"]) == {"RawKernel", "elementwise", "matmul", "dot"}
    assert figures["graphs"]["5 nodes"]["instantiate_s"] > 0
    assert figures["products-float32"]["big, step"]["us"] > 0
    assert "us_own" in figures["products-float32"]["small, dW 1"]
    assert figures["handle"]["TF32, form b"] == {"records": True, "bits": "equal"}
    assert cupy.cooperative == {"one": False, "cluster_barrier": False} | dict.fromkeys(
        ("own_barrier", "grid_sync"), True
    )
    printed = capsys.readouterr()
    assert "fusedmlp graph" in printed.out
    assert f"written to {path}" in printed.out
    assert "handle: done after" in printed.err


def test_without_capability_nothing_of_tf32_and_clusters_is_measured(
    checks, cupy, monkeypatch, tmp_path
):
    older = cupy_standin.PROPERTIES | {"major": 7, "minor": 5}
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda _: older)
    path = tmp_path / "out.json"
    names = "parity-tf32,training-tf32,products-tf32,barriers"
    words = ["--out", str(path), "--parts", names]
    assert checks["gpu"].main(words, in_this_process(checks)) == 0
    parts = json.loads(path.read_text("utf-8"))["parts"]
    assert parts.pop("device")["state"] == "done"
    assert "9.0" in parts.pop("barriers")["figures"]["clusters of 8, 128 blocks"]["not measured"]
    assert {part["state"] for part in parts.values()} == {"not measured"}
    assert all("7.5" in part["why"] for part in parts.values())


def test_a_barrier_that_does_not_hold_breaches(checks, cupy, tmp_path):
    cupy.kernels["own_barrier"] = cupy_bench.broken_barrier
    path = tmp_path / "out.json"
    words = ["--out", str(path), "--parts", "barriers"]
    assert checks["gpu"].main(words, in_this_process(checks)) == 4
    figures = json.loads(path.read_text("utf-8"))["parts"]["barriers"]["figures"]
    assert "went on before its neighbour" in figures["own_barrier, 128 blocks"]["failed"]
    assert "us" in figures["grid_sync, 128 blocks"]  # the others go on


def test_fewer_blocks_than_told_fail(checks, cupy):
    """CuPy warns, and launches fewer, where a cooperative grid does not fit."""

    def shrinking(_grid, _args):
        import warnings

        warnings.warn("The grid size will be reduced", stacklevel=2)

    cupy.kernels["grid_sync"] = shrinking
    found = in_this_process(checks)("barriers", 10)
    assert found["state"] == "failed"
    assert "will be reduced" in found["figures"]["grid_sync, 128 blocks"]["failed"]


def test_a_difference_from_numpy_breaches_and_the_other_cases_are_kept(checks, cupy, monkeypatch):
    sound = checks["parity"].difference

    def differing(a, b):
        return 1.0 if a.dtype == np.float32 else sound(a, b)

    monkeypatch.setattr(checks["parity"], "difference", differing)
    found = in_this_process(checks)("parity-graph", 10)
    assert (found["state"], found["exit_code"]) == ("failed", 4)
    assert "the bound is" in found["figures"]["float32 7-6-5 adamw tanh softmax"]["failed"]
    assert "difference" in found["figures"]["float64 7-6-5 adamw tanh softmax"]


def test_graphs_with_other_bits_than_eager_steps_breach(checks, cupy, monkeypatch):
    sound = CupyBackend.compile

    def different(self, *args, **options):
        engine = sound(self, *args, **options)
        if self.device().facts["launches"] == "eager":
            engine.seed += 1  # other masks
        return engine

    checks["parity"].compare_bits({"graph": True})
    monkeypatch.setattr(CupyBackend, "compile", different)
    with pytest.raises(BreachedError, match="other bits than eager steps"):
        checks["parity"].compare_bits({"graph": True})


def test_a_network_that_a_way_refuses_is_named(checks, cupy, monkeypatch):
    sound = CupyBackend.compile

    def refusing(self, network, *args, **options):
        if network.n_layers > self.most:
            raise BackendUnavailableError("too deep for it")
        return sound(self, network, *args, **options)

    monkeypatch.setattr(CupyBackend, "compile", refusing)
    monkeypatch.setattr(CupyBackend, "most", 2, raising=False)
    found = in_this_process(checks)("training-eager", 10)
    assert found["state"] == "done"
    assert found["figures"]["big"] == {"refused": "too deep for it"}
    monkeypatch.setattr(CupyBackend, "most", 1)  # a way that is for nothing
    assert in_this_process(checks)("training-eager", 10)["state"] == "failed"


def test_without_a_device_it_says_so_in_one_line(tmp_path):
    if CupyBackend.probe().state == "usable":
        pytest.skip("there is a device here")
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("no usable GPU: ")
    assert list(tmp_path.iterdir()) == []

"""benchmarks/gpu.py without a GPU: parts on the stand-in, processes, budget, exit codes, table.

No figure here is that of a GPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import cupy_bench
import cupy_standin
import numpy as np
import pytest

from fusedmlp.bench import document as documents
from fusedmlp.bench import parity, prepare
from fusedmlp.bench.subjects import Subject
from fusedmlp.bench.tasks import Task
from fusedmlp.errors import BreachedError
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.runtime import cublas
from fusedmlp_cupy.tuning import Tuning
from fusedmlp_numpy import NumpyBackend

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def gpu():
    import gpu

    return gpu


@pytest.fixture
def process():
    import gpu_process

    return gpu_process


@pytest.fixture
def cupy(built_kernels, persistent_kernels, monkeypatch):
    for each in (*built_kernels.values(), *persistent_kernels.values()):
        each.checked = False
    standin = cupy_bench.BenchStandIn(built_kernels, persistent=persistent_kernels)
    monkeypatch.setitem(sys.modules, "cupy", standin)
    monkeypatch.setattr(cublas, "load", lambda _cupy: standin.cublas_library)
    return standin


@pytest.fixture
def parts(monkeypatch, cupy):
    """The parts, cut down to small cases."""
    import gpu_parts

    small = {
        "OPTIMIZER_NAMES": ("adamw",), "HIDDEN_ACTIVATIONS": ("relu",), "DEEP": (7, 6, 5, 4),
        "SHALLOW": (7, 6, 5), "ROWS": 100, "WORKLOAD_STEPS": 1.5, "N_PRODUCTS": 2,
        "REPEATS": 2, "GROUP_STEPS": 2, "BATCH": 20,
        "SMALL": Task("small", sizes=(784, 4, 10)),
        "BIG": Task("big", sizes=(784, 6, 5, 10), batch_size=100),
    }  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(gpu_parts, name, value)
    monkeypatch.setattr("fusedmlp_cupy.backend.Tuning", lambda: Tuning(group_steps=2))
    return gpu_parts


def measured(process, part):
    """Figures and final state of a part that runs in this process."""
    written = []
    final = process.measure(part, written.append)
    return dict(written), final


@pytest.mark.parametrize("option", ["eager", "graph", "persistent", "tf32"])
def test_every_way_has_the_results_of_numpy(parts, process, option):
    dtypes = ("float32",) if option == "tf32" else ("float32", "float64")
    figures, final = measured(process, lambda: parts.parity(option, dtypes))
    assert final == {"state": "done", "exit_code": 0}
    assert figures.pop("bits")["repeat"] == "equal"
    assert len(figures) == len(dtypes) * 2 * (1 + 4) + 2
    assert all({"difference", "refused"} & set(each) for each in figures.values())


def test_graphs_with_other_bits_than_eager_steps_breach(parts, monkeypatch):
    sound = CupyBackend.compile

    def different(self, *args, **options):
        engine = sound(self, *args, **options)
        if self.device().facts["launches"] == "eager":
            engine.seed += 1  # other masks
        return engine

    monkeypatch.setattr(CupyBackend, "compile", different)
    with pytest.raises(BreachedError, match="other bits than eager steps"):
        parts.bits("graph")


def test_a_difference_from_numpy_breaches_and_the_other_cases_are_kept(parts, process, monkeypatch):
    monkeypatch.setattr(parts, "difference", lambda a, _b: float(a.dtype == np.float32))
    figures, final = measured(process, lambda: parts.parity("graph"))
    assert (final["state"], final["exit_code"]) == ("failed", 4)
    assert "the bound is" in figures["float32 7-6-5 adamw tanh softmax"]["failed"]
    assert "difference" in figures["float64 7-6-5 adamw tanh softmax"]


def test_the_products_of_a_step_are_measured(parts, process):
    figures, final = measured(process, parts.ceilings)
    assert final["state"] == "done", final
    assert set(figures) == {"small", "big"}
    assert figures["big"]["us"] > 0


def test_without_capability_nothing_of_tf32_is_measured(parts, process, cupy, monkeypatch):
    older = cupy_standin.PROPERTIES | {"major": 7, "minor": 5}
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda _: older)
    for part in (lambda: parts.parity("tf32"), lambda: parts.ceilings("tf32")):
        _, final = measured(process, part)
        assert final["state"] == "not measured"
        assert "7.5" in final["why"]


def test_the_device_is_described(parts, process):
    figures, _ = measured(process, parts.device)
    assert figures["device"]["name"] == "Pretended GPU"
    assert figures["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize("name", ["cupy", "cupy+graph", "cupy+eager", "cupy+tf32"])
def test_the_engine_s_adapter_trains_as_numpy_does(cupy, name):
    from adapters.cupy_engine import CupyEngine

    task = Task("tiny", sizes=(6, 8, 3), inputs="normal", batch_size=8, rows=40, samples=40)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 6), np.float32), rng.integers(0, 3, 40)
    run = CupyEngine(1, name).runner(task, prepare.prepare(task, lambda _: rows, NumpyBackend()))
    assert parity.breach(task, run.parity()) is None
    assert run.round(1)["samples"] == 40


def test_epochs_are_measured_by_the_harness(gpu, capsys):
    found, outcome = documents.new({}, []), {}
    plain = Subject("a", "adapters.workshop_numpy:WorkshopNumpy", "numpy")
    task = Task("tiny", sizes=(784, 8, 10), rows=200, samples=200)
    subjects = [plain, replace(plain, name="b", library="absent")]
    gpu.measure_epochs(found, 60.0, outcome, lambda: subjects, lambda: [task])
    assert (outcome["state"], outcome["figures"]["subjects"]["breaches"]) == ("done", 0)
    assert found["skipped"] == {"b": "absent is not installed"}
    ceiling = {"figures": {"tiny": {"us": 1.0}}, "state": "done", "seconds": 1.0}
    failed = {"state": "failed", "seconds": 1.0, "figures": {}, "why": "boom"}
    parity_part = {"a": {"difference": 1e-9, "bound": 1e-6}, "b": {"refused": "too deep"}}
    found |= {
        "device": {"text": "GPU 0"},
        "parts": {
            "ceilings-float32": ceiling,
            "parity-graph": ceiling | {"figures": parity_part},
            "tests": failed,
        },
    }
    text = "\n".join(gpu.table(found))
    assert "tiny " in text
    assert "%" in next(line for line in text.splitlines() if line.startswith("  a"))
    assert "1 cases, nearest to its bound a: difference 1e-09" in text
    assert "parity-graph: b: refused too deep" in text
    assert "tests: failed after 1.0 s: boom" in text


class Time:
    """A clock that only the fake parts move."""

    now = 100.0

    def __call__(self):
        return self.now


def fake(clock, outcomes, asked, path=None):
    """Run parts by taking (seconds, outcome) from a table; a part that takes longer is stopped."""

    def run(_document, name, _part, seconds, outcome):
        if path is not None and path.exists():  # written after every part
            assert list(json.loads(path.read_text())["parts"]) == list(asked)
        asked[name] = seconds
        takes, given = outcomes.get(name, (1.0, {}))
        clock.now += min(takes, seconds)
        if isinstance(given, BaseException):
            raise given
        device = {"device": {"name": "Pretended GPU", "text": "GPU 0"}}
        outcome |= {"figures": device if name == "device" else {"n": {"us": 1.0}}}
        stopped = {"state": "stopped", "why": "took more"}
        outcome |= stopped if takes > seconds else {"state": "done"} | given

    return run


def test_parts_fail_are_stopped_and_skipped_and_the_others_go_on(gpu, tmp_path, capsys):
    clock, asked, path = Time(), {}, tmp_path / "new" / "out.json"
    outcomes = {
        "parity-eager": (2.0, {"state": "failed", "why": "boom", "exit_code": 1}),
        "parity-graph": (0.5, OSError("no process")),
        "parity-persistent": (1e9, {}),
        "parity-tf32": (0.1, {"state": "not measured", "why": "no TF32"}),
        "epochs": (1e9, {}),
    }
    words = ["--out", str(path), "--budget", "180"]
    assert gpu.main(words, fake(clock, outcomes, asked, path), clock) == 1
    assert clock.now <= 100 + 180
    document = json.loads(path.read_text("utf-8"))
    assert document["finished"]
    states = {name: part["state"] for name, part in document["parts"].items()}
    assert states == {
        "device": "done", "parity-eager": "failed", "parity-graph": "failed",
        "parity-persistent": "stopped", "parity-tf32": "not measured", "epochs": "stopped",
        "ceilings-float32": "skipped", "ceilings-tf32": "skipped", "tests": "skipped",
    }  # fmt: skip
    assert document["parts"]["parity-persistent"]["figures"]  # what it had
    assert asked["parity-persistent"] == 40
    assert 5 < asked["epochs"] < gpu.EPOCH_SECONDS  # the rest of the budget
    printed = capsys.readouterr()
    for text in ("boom", "no process", "no TF32", "of the budget's 180 were left"):
        assert text in printed.out, text
        assert text in printed.err, text


def test_a_breach_takes_precedence(gpu, tmp_path):
    outcomes = {"ceilings-float32": (1.0, {"state": "failed", "exit_code": 1})}
    words = ["--out", str(tmp_path / "out.json"), "--parts", "ceilings,tests"]
    assert gpu.main(words, fake(Time(), outcomes, {}), Time()) == 1
    outcomes["tests"] = (1.0, {"state": "failed", "exit_code": 4})
    assert gpu.main(words, fake(Time(), outcomes, {}), Time()) == 4


def test_without_a_device_nothing_else_is_run_or_written(gpu, tmp_path, capsys):
    def run(_document, name, _part, _seconds, outcome):
        assert name == "device"
        outcome |= {"state": "failed", "figures": {}, "why": "none"}

    assert gpu.main(["--out", str(tmp_path / "out.json")], run, Time()) == 3
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "no usable GPU: none\n")


def test_names_of_files_and_wrong_options(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    assert gpu.main([], fake(Time(), {}, {}), Time()) == 0
    assert gpu.main(["--parts", "tests"], fake(Time(), {}, {}), Time()) == 0
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == ["gpu-pretended-gpu-parts.json", "gpu-pretended-gpu.json"]
    monkeypatch.setenv("CUPY_TF32", "1")
    for words, text in (([], "unset it"), (["--budget", "0"], "--budget 0")):
        with pytest.raises(SystemExit, match="2"):
            gpu.main(words)
        assert text in capsys.readouterr().err
    monkeypatch.delenv("CUPY_TF32")
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--parts", "jxa"])
    assert "no part 'jxa'" in capsys.readouterr().err


def test_the_documentation_names_every_part(gpu):
    page = (ROOT / "docs" / "cupy.md").read_text("utf-8")
    for name in gpu.all_parts():
        family = name.partition("-")[0]
        assert name == "device" or f"`{name}`" in page or f"`{family}-…`" in page, name


def test_a_failing_part_keeps_its_figures(process):
    def part():
        yield "first", {"us": np.float32(1.5).item()}
        warnings.warn("not so fast", RuntimeWarning, stacklevel=1)
        raise BreachedError("too far")

    figures, final = measured(process, part)
    assert figures == {"first": {"us": 1.5}}
    assert (final["state"], final["why"], final["exit_code"]) == ("failed", "too far", 4)
    assert final["warnings"] == ["RuntimeWarning: not so fast"]

    def missing():
        raise process.NotHereError("no card")

    named = [("bad", lambda: {"us": 1 / 0}), ("missing", missing), ("sound", lambda: {"us": 1.0})]
    figures, final = measured(process, lambda: process.cases(named))
    assert final["why"] == "ZeroDivisionError: division by zero"
    assert figures["missing"] == {"not measured": "no card"}
    assert figures["sound"] == {"us": 1.0}


def gone(pid):
    """Whether a process ends soon; it is killed here where it does not."""
    status = Path(f"/proc/{pid}/status")
    for _ in range(200):
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.05)
    os.kill(int(pid), signal.SIGKILL)
    return False


def with_child(path, ending):
    """A part that starts a process, notes a figure, and ends in a way."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(child.pid))
    yield "first", {"us": 1.0}
    if ending == "never":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if ending == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if ending == "exit":
        os._exit(7)


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


@needs_proc
@pytest.mark.parametrize(
    ("ending", "state", "why"),
    [
        ("never", "stopped", "took more than its 90 s"),
        ("return", "done", None),  # its child is ended with it
        ("crash", "failed", "signal 11"),
        ("exit", "failed", "status 7"),
    ],
)
def test_a_part_and_its_children_are_ended(process, tmp_path, ending, state, why):
    pid, outcome = tmp_path / "pid", {}

    def clock():
        """Its time is over once it has begun."""
        return 1e9 if ending == "never" and pid.exists() else 0.0

    process.run(partial(with_child, str(pid), ending), 90.0, outcome, clock)
    assert (outcome["state"], outcome["figures"]) == (state, {"first": {"us": 1.0}}), outcome
    assert why is None or why in outcome["why"]
    assert gone(pid.read_text())


ENDLESS = """
import os, pathlib, sys, time
sys.path.insert(0, {benchmarks!r})
import gpu
def device():
    yield "device", {{"name": "Pretended GPU", "text": "GPU 0"}}
def endless():
    yield "first", {{"us": 1.0}}
    pathlib.Path({ready!r}).write_text(str(os.getpid()))
    time.sleep(600)
if __name__ == "__main__":
    gpu.all_parts = lambda: {{"device": (60, device), "endless": (300, endless)}}
    gpu.interrupt_on_signals()
    sys.exit(gpu.main())
"""


@needs_proc
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_signal_ends_the_part_and_keeps_its_figures(tmp_path, name):
    script, ready, out = (tmp_path / each for each in ("script.py", "ready", "out.json"))
    script.write_text(ENDLESS.format(benchmarks=str(BENCHMARKS), ready=str(ready)))
    # The suite may run where signals are ignored, which a child would inherit.
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGHUP, signal.SIGINT)}
    process = subprocess.Popen(
        [sys.executable, str(script), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for each, handler in before.items():
        signal.signal(each, handler)
    try:
        for _ in range(1200):
            if ready.exists() and ready.read_text():
                break
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert gone(ready.read_text())
    document = json.loads(out.read_text("utf-8"))
    assert document["parts"]["device"]["state"] == "done"
    if name != "SIGKILL":
        assert process.returncode == 130, printed
        assert document["parts"]["endless"]["figures"] == {"first": {"us": 1.0}}
        assert "written to" in printed


def test_the_tests_are_counted_by_their_results(tmp_path):
    """In a process of its own, since pytest runs in it."""
    (tmp_path / "test_a.py").write_text(
        "import pytest\n\ndef test_one(): pass\n\ndef test_two(): assert 1 == 2\n\n"
        "@pytest.mark.skip\ndef test_three(): pass\n\n"
        "def test_four(nothing_by_this_name): pass\n"
    )
    code = f"""
sys.path[:0] = [{str(BENCHMARKS)!r}]
import gpu, gpu_parts, gpu_process, json
written = []
words = ["-q", "-p", "no:cacheprovider", "--rootdir", {str(tmp_path)!r}, {str(tmp_path)!r}]
final = gpu_process.measure(lambda: gpu_parts.counted(words), written.append)
print(json.dumps([dict(written), final]))
"""
    done = run_without([], code)
    figures, final = json.loads(done.stdout.splitlines()[-1])
    assert final["why"] == "RuntimeError: pytest ended with status 1"
    assert figures["counts"] == {"passed": 1, "failed": 2, "skipped": 1}
    assert {name.partition("::")[2] for name in figures["failed"]} == {"test_two", "test_four"}


def run_without(missing, code):
    """Run code in a process in which some modules cannot be imported."""
    head = f"import sys\nfor name in {missing}:\n    sys.modules[name] = None\n"
    return subprocess.run(
        [sys.executable, "-c", head + code],
        cwd=ROOT,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_numpy_and_cupy_suffice(parts):
    """Without the libraries of the suite: the device's own tests, the parts and the harness."""
    missing = [name for name in parts.SUITE_MODULES if name != "pytest_timeout"]
    missing += ["threadpoolctl", "platformdirs", "typer", "rich", "safetensors", "matplotlib"]
    words = parts.pytest_words(everything=False)
    done = run_without(
        missing, f"import pytest; sys.exit(pytest.main([*{words}, '--collect-only']))"
    )
    assert done.returncode == 0, done.stdout
    assert "<Module test_cupy_gpu.py>" in done.stdout
    code = f"sys.path.insert(0, {str(BENCHMARKS)!r}); import gpu; gpu.all_parts(); gpu.subjects()"
    code += "; import fusedmlp.bench.scheduler, adapters.cupy_engine"
    done = run_without(missing, code)
    assert done.returncode == 0, done.stderr


def test_without_a_device_or_numpy_it_says_so_in_one_line(tmp_path):
    code = f"import runpy; runpy.run_path({str(BENCHMARKS / 'gpu.py')!r}, run_name='__main__')"
    done = run_without(["numpy"], code)
    assert (done.returncode, done.stderr) == (3, "numpy is not installed: pip install numpy\n")
    if CupyBackend.probe().state == "usable":
        pytest.skip("there is a device here")
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith("no usable GPU: ")
    assert list(tmp_path.iterdir()) == []

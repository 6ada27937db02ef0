"""The processes of benchmarks/gpu.py: ended in time with their children, and what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def running(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu_check import running

    return running


def child(code):
    """A command that runs code with the outcome's path as ``path``."""
    head = "import json, os, pathlib, signal, subprocess, sys, time\n"
    return [sys.executable, "-c", f"{head}path = pathlib.Path(sys.argv[1])\n{code}"]


def test_a_process_that_takes_too_long_is_ended_with_its_own_children(running, tmp_path):
    pid = tmp_path / "pid"
    code = f"""
path.write_text(json.dumps({{"state": "running", "figures": {{"first": {{"us": 1.0}}}}}}))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(pid)!r}).write_text(str(other.pid))
time.sleep(600)
"""
    began = time.monotonic()
    outcome = running.run_process(child(code), 1.5)
    assert time.monotonic() - began < 60
    assert outcome["state"] == "stopped"
    assert outcome["figures"] == {"first": {"us": 1.0}}
    status = Path(f"/proc/{pid.read_text()}/status")
    for _ in range(100):
        if not status.exists() or "State:\tZ" in status.read_text():
            break
        time.sleep(0.05)
    else:
        os.kill(int(pid.read_text()), 9)
        pytest.fail("the process's own child is still there")


def test_a_process_that_falls_over_is_named_with_what_it_had(running):
    outcome = running.run_process(
        child(
            'path.write_text(json.dumps({"state": "running", "figures": {"first": {}}}))\n'
            'print("an illegal address", flush=True)\n'
            "os.kill(os.getpid(), signal.SIGSEGV)"
        ),
        60,
    )
    assert outcome["state"] == "failed"
    assert outcome["why"] == "its process ended with signal 11"
    assert outcome["figures"] == {"first": {}}
    assert outcome["log"] == ["an illegal address"]
    assert running.run_process(child("sys.exit(7)"), 60)["why"].endswith("status 7")


def test_a_signal_ends_the_part_and_keeps_its_figures(running, tmp_path):
    """The whole command, with a part that waits for ever, told to end."""
    script = tmp_path / "script.py"
    out, ready = tmp_path / "out.json", tmp_path / "ready"
    script.write_text(f"""
import sys, time, pathlib
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu
from gpu_check import parts
from gpu_check.running import Part

def device():
    yield "device", {{"name": "Pretended GPU", "text": "GPU 0"}}

def endless():
    yield "first", {{"us": 1.0}}
    yield "second", {{"us": 2.0}}
    pathlib.Path({str(ready)!r}).touch()
    time.sleep(600)

parts.all_parts = lambda: {{"device": Part(30, device), "endless": Part(300, endless)}}
gpu.__file__ = __file__
sys.exit(gpu.main())
""")
    process = subprocess.Popen(
        [sys.executable, str(script), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for _ in range(600):
        if ready.exists():
            break
        time.sleep(0.05)
    process.terminate()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    document = json.loads(out.read_text("utf-8"))
    assert document["interrupted"]
    assert list(document["parts"]["endless"]["figures"]) == ["first", "second"]
    assert document["parts"]["endless"]["why"] == "interrupted"
    assert "written to" in printed


def test_the_suite_s_tests_are_counted_as_they_end(running):
    from gpu_check import host

    lines = [
        "tests/test_a.py::test_one[cupy-a b] PASSED   [ 25%]",
        "tests/test_a.py::test_two FAILED             [ 50%]",
        "tests/test_a.py::test_three SKIPPED (why)    [ 75%]",
        "1 failed",
    ]
    code = f"import sys; print({chr(10).join(lines)!r}); sys.exit(1)"
    part = running.Part(1, lambda: host.counted([sys.executable, "-c", code]))
    written = []
    assert running.measure_here(part, lambda outcome: written.append(dict(outcome))) == 1
    assert written[-1]["why"] == "RuntimeError: pytest ended with status 1: 1 failed"
    figures = written[-1]["figures"]
    assert figures["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert figures["failed"]["tests"] == ["tests/test_a.py::test_two"]

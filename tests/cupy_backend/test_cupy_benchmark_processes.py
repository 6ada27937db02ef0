"""The processes of benchmarks/gpu.py: ended in time with their children, and what is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="whether a process is gone is read from /proc"
)


def child(code):
    """A command that runs code with the outcome's path as ``path``."""
    head = "import json, os, pathlib, signal, subprocess, sys, time\n"
    return [sys.executable, "-c", f"{head}path = pathlib.Path(sys.argv[1])\n{code}"]


def gone(pid):
    """Whether a process ends soon, of itself; it is ended here where it does not."""
    status = Path(f"/proc/{pid}/status")
    for _ in range(200):
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.05)
    os.kill(int(pid), 9)
    return False


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
    assert gone(pid.read_text())


def test_what_a_part_leaves_behind_is_ended(running, tmp_path):
    pid = tmp_path / "pid"
    code = f"""
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(pid)!r}).write_text(str(other.pid))
path.write_text(json.dumps({{"state": "done", "figures": {{}}}}))
"""
    assert running.run_process(child(code), 60) == {"state": "done", "figures": {}}
    assert gone(pid.read_text())


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


@pytest.fixture
def endless(tmp_path):
    """The whole command, with a part that has measured twice and then waits for ever."""
    script, ready = tmp_path / "script.py", tmp_path / "ready"
    out = tmp_path / "out.json"
    script.write_text(f"""
import os, sys, time, pathlib
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu
from gpu_check import parts
from gpu_check.running import Part

def device():
    yield "device", {{"name": "Pretended GPU", "text": "GPU 0"}}

def endless():
    yield "first", {{"us": 1.0}}
    yield "second", {{"us": 2.0}}
    pathlib.Path({str(ready)!r}).write_text(str(os.getpid()))
    time.sleep(600)

parts.all_parts = lambda: {{"device": Part(30, device), "endless": Part(300, endless)}}
gpu.__file__ = __file__
sys.exit(gpu.main())
""")
    # The suite may itself run under nohup, or in a script's background, where SIGINT is ignored: a
    # child would inherit that.
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGHUP, signal.SIGINT)}
    process = subprocess.Popen(
        [sys.executable, str(script), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for each, handler in before.items():
        signal.signal(each, handler)
    for _ in range(600):
        if ready.exists() and ready.read_text():
            break
        time.sleep(0.05)
    yield process, out, ready.read_text()
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_part_and_keeps_its_figures(endless, name):
    process, out, pid = endless
    process.send_signal(getattr(signal, name))
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    document = json.loads(out.read_text("utf-8"))
    assert document["interrupted"]
    assert list(document["parts"]["endless"]["figures"]) == ["first", "second"]
    assert document["parts"]["endless"]["why"] == "interrupted"
    assert "written to" in printed
    assert gone(pid)


def test_a_run_that_is_killed_outright_takes_its_part_along(endless):
    process, out, pid = endless
    process.kill()
    process.wait(60)
    assert gone(pid)
    assert json.loads(out.read_text("utf-8"))["parts"]["device"]["state"] == "done"


def test_hanging_up_is_ignored_under_nohup(running, monkeypatch):
    import gpu

    found = {signal.SIGHUP: signal.SIG_IGN, signal.SIGTERM: signal.SIG_DFL}
    monkeypatch.setattr(signal, "getsignal", found.get)
    monkeypatch.setattr(signal, "signal", found.__setitem__)
    gpu.end_in_order()
    assert found == {signal.SIGHUP: signal.SIG_IGN, signal.SIGTERM: signal.default_int_handler}

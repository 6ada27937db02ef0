"""``fusedmlp bench``: output, files, verdicts and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from clihelp import contents

from fusedmlp.errors import ExitCode

TINY = (
    "bench", "--quick", "--dataset", "digits", "--networks", "64-8-10", "--batch-sizes", "32",
    "--threads", "1",
)  # fmt: skip

PLUGIN = """
import os, time
from dataclasses import replace
from fusedmlp.network import Parameters
from fusedmlp_numpy import NumpyBackend
from fusedmlp.reference.engine import ReferenceEngine
from fusedmlp.reference.operations import Operations

class SleepingEngine(ReferenceEngine):
    def train_epoch(self, *args):
        time.sleep(float(os.environ.get("SLEEP", "0")))
        return super().train_epoch(*args)

class FlippedEngine(ReferenceEngine):
    def train_epoch(self, *args):
        before, sums = self.state(), super().train_epoch(*args)
        after = self.state()
        ends = [2 * b - a for a, b in zip(after.parameters, before.parameters)]
        flipped = Parameters(tuple(ends[::2]), tuple(ends[1::2]))
        self.load(replace(after, parameters=flipped))
        return sums

class DyingEngine(ReferenceEngine):
    def train_epoch(self, *args):
        os._exit(7)

class Sleeping(NumpyBackend):
    engine = SleepingEngine
    def compile(self, *args, **kwargs):
        return self.engine(*args, **kwargs, operations=Operations())

class Flipped(Sleeping):
    engine = FlippedEngine

class Dying(Sleeping):
    engine = DyingEngine
"""


@pytest.fixture
def plugins(tmp_path_factory, monkeypatch):
    """Three backends of another package: a slow one, one that is wrong, and one that crashes."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "odd_backends.py").write_text(textwrap.dedent(PLUGIN))
    info = folder / "odd_backends-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-backends\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fusedmlp.backends]\nsleeping = odd_backends:Sleeping\nflipped = odd_backends:Flipped\n"
        "dying = odd_backends:Dying\n"
    )
    monkeypatch.syspath_prepend(folder)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    yield
    sys.modules.pop("odd_backends", None)


@pytest.mark.slow
def test_all_outputs_have_the_same_figures(cli, tmp_path):
    page = tmp_path / "page.html"
    outcome = cli(*TINY, "--backends", "numpy,numba", "--json", "--html", page)
    assert outcome.code == 0, outcome.stderr
    document = outcome.document
    assert (document["schema"], document["kind"]) == (1, "fusedmlp-bench")
    assert document["dataset"]["name"] == "digits"
    summary = document["summary"]
    assert {each["engine"] for each in summary} == {"numpy", "numba"}
    assert {each["section"] for each in summary} == {"training", "prediction"}
    assert all(each["samples_per_s"] > 0 and each["gflops"] > 0 for each in summary)
    training = [each for each in summary if each["section"] == "training"]
    assert {each["network"] for each in training} == {"64-8-10"}
    assert next(each for each in training if each["engine"] == "numpy")["ratio"] == 1.0

    text = page.read_text("utf-8")
    for each in summary:
        assert f">{each['gflops']:,.1f}</td>" in text, each
        assert f">{each['samples_per_s']:,.0f}</td>" in text
    assert text.count("<svg") == 1
    assert "1 round, too few for a comparison" in text
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#)", text)
    assert "@import" not in text
    assert document["environment"]["cpu"] is None or document["environment"]["cpu"] in text


def test_the_table_fits_a_narrow_terminal(cli, monkeypatch):
    outcome = cli(*TINY, "--backends", "numpy", "--dtypes", "float32,float64")
    assert outcome.code == 0, outcome.stderr
    assert re.search(r"float64 \(2 of 4\), about \d.* left$", outcome.stderr, re.MULTILINE)
    head = next(line for line in outcome.stdout.splitlines() if line.startswith("network"))
    assert head.split() == [
        "network", "batch", "dtype", "engine", "samples/s", "spread", "×", "numpy", "GFLOP/s",
    ]  # fmt: skip
    assert len(head) <= 80
    assert outcome.stdout.count("64-8-10") == 5  # both types, both tables, and the headline


@pytest.mark.slow
@pytest.mark.usefixtures("plugins")
def test_compare_ends_with_4_for_a_slower_backend_only(cli, tmp_path, monkeypatch):
    before = tmp_path / "before.json"
    args = (*TINY, "--backends", "sleeping")
    outcome = cli(*args, "--json")
    assert outcome.code == 0, outcome.stderr
    before.write_text(outcome.stdout)
    outcome = cli(*args, "--compare", before, "--threshold", 0.01)
    assert outcome.code == 0, outcome.stderr
    assert "held" in outcome.stdout

    monkeypatch.setenv("SLEEP", "0.5")
    page = tmp_path / "page.html"
    outcome = cli(*args, "--compare", before, "--html", page)
    assert outcome.code == ExitCode.BREACHED
    assert "slower" in outcome.stdout
    assert "sleeping on 64-8-10, batch 32, float32, 0.0" in outcome.stderr
    assert 'class="verdict bad"' in page.read_text("utf-8")


@pytest.mark.usefixtures("plugins")
def test_a_backend_that_fails_parity_is_not_timed(cli):
    outcome = cli(*TINY, "--backends", "numpy,flipped", "--json")
    outcome.failed(ExitCode.BREACHED, "nothing was timed", "fusedmlp-flipped", "64-8-10")
    assert "fusedmlp-numpy on" not in outcome.stderr


@pytest.mark.usefixtures("plugins")
def test_a_backend_that_crashes_is_named_and_fails(cli):
    outcome = cli(*TINY, "--backends", "dying")
    outcome.failed(ExitCode.FAILURE, "no training could be measured", "dying", "exit status 7")
    outcome = cli(*TINY, "--backends", "numpy,dying")
    assert outcome.code == ExitCode.FAILURE
    assert "exit status 7" in outcome.stdout
    assert "64-8-10" in outcome.stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--backends tpu", ExitCode.USAGE, ("'tpu'", "numpy", "numba")),
        ("--backends numpy,numpy", ExitCode.USAGE, ("once",)),
        ("--rounds 0", ExitCode.USAGE, ("rounds 0", "at least 1")),
        ("--networks 784", ExitCode.USAGE, ("'784'", "784-256-10")),
        ("--networks 784-0-10", ExitCode.USAGE, ("'784-0-10'",)),
        ("--networks 784-8-10", ExitCode.USAGE, ("784-8-10", "64 inputs", "64-256-10")),
        ("--batch-sizes 0", ExitCode.USAGE, ("batch size 0", "1 to")),
        ("--batch-sizes 32,x", ExitCode.USAGE, ("'32,x'", "whole numbers")),
        ("--batch-sizes 100000", ExitCode.USAGE, ("100000", "1 to")),
        ("--dtypes float16", ExitCode.USAGE, ("'float16'", "float64")),
        ("--threads 0", ExitCode.USAGE, ("threads 0",)),
        ("--threads 4096", ExitCode.USAGE, ("threads 4096",)),
        ("--threshold 0", ExitCode.USAGE, ("threshold 0", "above 0")),
        ("--threshold nan", ExitCode.USAGE, ("threshold nan",)),
        ("--dataset cifar", ExitCode.USAGE, ("'cifar'", "mnist")),
        ("--dataset gone.npz", ExitCode.DATA_UNAVAILABLE, ("gone.npz",)),
        ("--html file/page.html", ExitCode.FAILURE, ("file", "choose another folder")),
        ("--html /dev/null/figures.html", ExitCode.FAILURE, ("/dev/null", "choose another folder")),
        ("--html .", ExitCode.USAGE, ("is a folder",)),
        ("--compare gone.json", ExitCode.USAGE, ("gone.json", "No such file")),
        ("--compare file", ExitCode.USAGE, ("truncated or not JSON", "bench --json")),
        ("--compare list.json", ExitCode.USAGE, ("list.json", "not a result")),
        ("--compare other.json", ExitCode.USAGE, ("other.json", "schema 99", "reads 1")),
        ("--compare peers.json", ExitCode.USAGE, ("peers.json", "fusedmlp-bench")),
        ("--compare half.json", ExitCode.USAGE, ("half.json", "damaged", "tasks")),
        ("--compare empty.json", ExitCode.USAGE, ("empty.json", "none of the tasks")),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_measured(cli, tmp_path, options, code, words):
    good = {"schema": 1, "kind": "fusedmlp-bench", "command": ["fusedmlp", "bench"]}
    files = {
        "file": '{"schema": 1, "ki',
        "list.json": "[1]",
        "other.json": json.dumps(good | {"schema": 99}),
        "peers.json": json.dumps({"schema": 1, "tasks": []}),
        "half.json": json.dumps(good),
        "empty.json": json.dumps(good | {"tasks": [], "predictions": []}),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    base = () if "--dataset" in options else ("--dataset", "digits")
    before = contents(tmp_path)
    cli("bench", *base, *options.split()).failed(code, *words)
    assert contents(tmp_path) == before


def test_a_missing_backend_is_3_and_a_missing_library_is_1(cli, monkeypatch):
    from fusedmlp import registry
    from fusedmlp.backend import Availability
    from fusedmlp.report import page

    found = {"cupy": Availability("missing", "no CuPy", "pip install it")}
    monkeypatch.setattr(registry, "availability", lambda: found)
    outcome = cli(*TINY, "--backends", "cupy:1")
    outcome.failed(ExitCode.BACKEND_UNAVAILABLE, "no CuPy", "pip install it")
    monkeypatch.undo()
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    outcome = cli(*TINY, "--backends", "numpy", "--html", "page.html")
    outcome.failed(ExitCode.FAILURE, "pip install 'fusedmlp[report]'")


def test_real_targets_have_no_throughput(cli, npz):
    import numpy as np

    path = npz("real.npz", x=np.zeros((8, 2)), y=np.linspace(0, 1, 8))
    cli("bench", "--dataset", path).failed(ExitCode.USAGE, "regression", "classes")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_with_130_and_leaves_no_process(tmp_path):
    command = [sys.executable, "-m", "fusedmlp", *TINY, "--backends", "numpy", "--rounds", "1000"]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for line in child.stderr:
            if "batch 32" in line:
                break
        os.killpg(child.pid, signal.SIGINT)  # like a terminal, which signals the workers too
        stdout, stderr = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == ExitCode.INTERRUPTED, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("workers outlived the command")

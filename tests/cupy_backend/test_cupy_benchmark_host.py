"""What benchmarks/gpu.py prints, and what it asks of the host: cards, pytest, and NumPy itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def host(running):
    from gpu_check import host

    return host


@pytest.fixture
def tables(running):
    from gpu_check import tables

    return tables


def epoch(us, loss=0.5, **more):
    timed = {"median_s": us * 1e-3, "us_a_step": us, "tflops": 0.25}
    return timed | {"first_loss": loss} | more


def part(**figures):
    return {"state": "done", "seconds": 1.0, "figures": figures}


@pytest.fixture
def document():
    """Of a run in which everybody trains alike."""
    return {
        "command": "python benchmarks/gpu.py",
        "device": {"text": "GPU 0, Pretended GPU", "name": "Pretended GPU"},
        "versions": {"python": "3.11", "torch": None},
        "nvidia-smi": {"cards": [{"driver_version": "1.2"}]},
        "parts": {
            "device": part(device={}),
            "training-eager": part(small=epoch(80.0)),
            "training-graph": part(small=epoch(16.0), big={"refused": "too deep"}),
            "training-tf32": part(small=epoch(10.0, 0.5001)),
            "torch": part(**{"small, torch graph": epoch(40.0), "version": {"torch": "2"}}),
            "host": part(**{"small, numpy": epoch(900.0, 2.2)}),
            "products-float32": part(**{"small, step": {"us": 8.0}}),
            "products-tf32": part(**{"small, step": {"us": 5.0}}),
            "parity-graph": part(a={"difference": 1e-9, "bound": 1e-6}, b={"refused": "too deep"}),
            "jax": part() | {"state": "stopped", "why": "took more than its 60 s"},
        },
    }


def test_the_table_has_the_fastest_first_beside_the_ceiling_and_all_else(tables, document):
    lines = tables.table(document)
    rows = [line.split() for line in lines if line.startswith("  ") and "%" in line]
    assert [(row[:-5], row[-5], row[-2]) for row in rows] == [
        (["fusedmlp", "tf32"], "10.0", "50%"),
        (["fusedmlp", "graph"], "16.0", "50%"),
        (["torch", "graph"], "40.0", "20%"),
        (["fusedmlp", "eager"], "80.0", "10%"),
    ]
    text = "\n".join(lines)
    assert lines[:3] == [
        "GPU 0, Pretended GPU",
        "card: driver_version 1.2",
        "versions: python 3.11",
    ]
    assert "training-graph: big: refused too deep" in text
    assert "1 cases, nearest to its bound a: difference 1e-09" in text
    assert "stopped: took more than its 60 s" in text
    assert "NOT THE SAME" not in text


@pytest.mark.parametrize("loss", [0.51, 0.49, float("nan"), "nan"])
@pytest.mark.parametrize("who", ["torch", "training-graph"])
def test_another_training_is_named(tables, document, who, loss):
    (name,) = (name for name in document["parts"][who]["figures"] if name.startswith("small"))
    document["parts"][who]["figures"][name]["first_loss"] = loss
    (found,) = tables.strangers(document["parts"])
    assert found.startswith("small, torch graph:" if who == "torch" else "small, fusedmlp graph:")
    assert f"NOT THE SAME TRAINING: {found}" in tables.table(document)


def test_nothing_is_compared_where_the_engine_was_not_measured(tables, document):
    only = {name: document["parts"][name] for name in ("torch", "host", "jax")}
    assert tables.strangers(only) == []


def test_calls_are_timed_once_they_are_warm(running):
    from gpu_check.timing import rounds_of

    calls = []

    def call():
        calls.append(1)
        if len(calls) <= 2:
            time.sleep(0.2)

    found = rounds_of(call, rounds=3)
    assert len(calls) == 5
    assert found["max_s"] < 0.2


@pytest.mark.skipif(os.name != "posix", reason="the pretended tool is a shell script")
def test_the_cards_are_read_from_the_driver_s_tool(host, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "FileNotFoundError" in host.cards()[0]["not known"]
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Card A, 580.1, Enabled'\necho 'Card B, 580.1, Disabled'\n")
    tool.chmod(0o755)
    assert host.cards() == [
        {"name": "Card A", "driver_version": "580.1", "persistence_mode": "Enabled"},
        {"name": "Card B", "driver_version": "580.1", "persistence_mode": "Disabled"},
    ]


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


def test_the_page_names_every_part_and_exit_code(running):
    import gpu
    from gpu_check import parts

    page = (BENCHMARKS.parent / "docs" / "cupy.md").read_text("utf-8")
    for name in parts.all_parts():
        family = name.partition("-")[0]
        named = (f"`{name}`", f"`{family}-…`")
        assert name == parts.DEVICE or any(each in page for each in named), name
    table = page.partition("| exit code | |")[2]
    for code in running.ExitCode:
        known = code is not running.ExitCode.DATA_UNAVAILABLE
        assert (f"\n| {code} | " in table) == known
        assert (f"\n    {code:<3}  " in gpu.__doc__) == known


BARE = """
import sys
for name in {missing}:
    sys.modules[name] = None
import pytest
sys.exit(pytest.main([*{words}, "--collect-only"]))
"""


def test_the_device_s_own_tests_need_no_other_library_than_pytest(host):
    """Nothing that the suite needs beside it is there; plugins are not either."""
    missing = [name for name in host.SUITE_MODULES if name != "pytest_timeout"]
    missing += ["threadpoolctl", "platformdirs", "typer", "safetensors", "matplotlib", "onnx"]
    code = BARE.format(missing=missing, words=host.pytest_words(everything=False))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BENCHMARKS.parent,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for file in ("test_cupy_gpu.py", "test_cupy_persistent_gpu.py"):
        assert f"<Module {file}>" in done.stdout


def test_without_numpy_it_says_so_in_one_line():
    code = (
        "import runpy, sys; sys.modules['numpy'] = None\n"
        f"runpy.run_path({str(BENCHMARKS / 'gpu.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "numpy is not installed: pip install numpy\n"

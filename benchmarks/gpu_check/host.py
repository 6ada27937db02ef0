"""What stands beside the GPU: the machine's own facts, its CPU engines, the GPU's test suite."""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from fusedmlp_cupy import CupyBackend
from fusedmlp_numpy import NumpyBackend
from gpu_check import engine
from gpu_check.running import NotHereError, several

ROOT = Path(__file__).resolve().parents[2]
TEST_MODULES = ("pytest", "pytest_timeout", "hypothesis", "scipy", "sklearn", "numba")
PACKAGES = ("numpy", "torch", "jax", "numba")
RESULT = re.compile(r"^(tests/\S.*?) (PASSED|FAILED|SKIPPED|ERROR)\b")


def facts():
    """The device, what the engine will do there, and the versions of everything."""
    device = CupyBackend().device()
    yield "device", {"text": str(device), **device.facts}
    yield "versions", {"python": platform.python_version()} | {n: versions(n) for n in PACKAGES}
    yield (
        "machine",
        {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "commit": commit(),
            "data": engine.pixels(64)[2],
        },
    )


def versions(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit():
    """The checkout's commit, with a + behind it where files differ from it; None without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def cpu_engines():
    """The host's engines on a part of the data: NumPy, and Numba from 1 thread up."""
    x, y, _ = engine.pixels()

    def train(backend, network, size, n_steps, rounds):
        rows = slice(0, n_steps * size)
        return engine.train(backend, network, size, x[rows], y[rows], rounds=rounds)

    workloads = engine.WORKLOADS.items()
    yield from several(
        (f"{name}, numpy", partial(train, NumpyBackend(), *work, 8 if name == "big" else 100, 2))
        for name, work in workloads
    )
    if find_spec("numba") is None:
        raise NotHereError("numba is not installed")
    numba_backend = importlib.import_module("fusedmlp_numba").NumbaBackend
    threads = [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]
    yield from several(
        (
            f"{name}, numba, {n} threads",
            partial(train, numba_backend(threads=n), *work, 16 if name == "big" else 200, 3),
        )
        for n in threads
        for name, work in workloads
    )


def suite():
    """Run the tests that need a GPU, the device's own first; count them as they end."""
    missing = [name for name in TEST_MODULES if find_spec(name) is None]
    if versions("fusedmlp") is None:
        missing.append("fusedmlp itself")
    if missing:
        raise NotHereError(f"{', '.join(missing)} not installed (pip install -e . --group test)")
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-m", "gpu"]
    files = ["tests/cupy_backend/test_cupy_gpu.py", "tests"]
    yield from counted([*command, "-p", "no:cacheprovider", *files])


def counted(command):
    """Run pytest and follow its lines: how many tests passed, and which did not."""
    counts: dict[str, int] = {}
    failed, lines = [], []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            lines.append(line.rstrip())
            if found := RESULT.match(line):
                name, result = found.groups()
                counts[result.lower()] = counts.get(result.lower(), 0) + 1
                if result in ("FAILED", "ERROR"):
                    failed.append(name)
                yield "counts", dict(counts)
    if failed:
        yield "failed", {"tests": failed, "end": lines[-200:]}
    if process.returncode:
        end = lines[-1] if lines else "no output"
        raise RuntimeError(f"pytest ended with status {process.returncode}: {end}")

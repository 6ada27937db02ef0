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
from gpu_check.running import NotHereError, several, text_of

ROOT = Path(__file__).resolve().parents[2]
OWN_TESTS = Path("tests", "cupy_backend")
SUITE_MODULES = ("pytest_timeout", "hypothesis", "scipy", "sklearn", "numba")
PACKAGES = ("numpy", "torch", "jax", "jaxlib", "numba", "pytest")
SMI_FIELDS = (
    "name,driver_version,persistence_mode,clocks.max.sm,clocks.max.mem,power.limit,"
    "temperature.gpu,utilization.gpu,memory.used,memory.total"
)
RESULT = re.compile(r"^(tests/\S.*?) (PASSED|FAILED|SKIPPED|ERROR)\b")


def facts():
    """The device, what the engine will do there, and the versions of everything."""
    device = CupyBackend().device()
    yield "device", {"text": str(device), **device.facts}
    yield "versions", {"python": platform.python_version()} | {n: versions(n) for n in PACKAGES}
    yield "nvidia-smi", {"cards": cards()}
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


def cards():
    """What the driver's own tool says of each card before the run; it changes nothing there."""
    command = ["nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return [{"not known": text_of(error)}]
    names = SMI_FIELDS.split(",")
    lines = [line.split(", ") for line in found.stdout.splitlines()]
    return [dict(zip(names, values, strict=False)) for values in lines]


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
    if find_spec("pytest") is None:
        raise NotHereError("pytest is not installed")
    missing = [name for name in SUITE_MODULES if find_spec(name) is None]
    if versions("fusedmlp") is None:
        missing.append("fusedmlp itself")
    if missing:
        why = f"{', '.join(missing)} not installed (pip install -e . --group test)"
        yield "only the device's own", {"because": why}
    command = [sys.executable, "-m", "pytest", *pytest_words(everything=not missing)]
    yield from counted(command)


def pytest_words(*, everything):
    """Words for pytest: the whole suite's GPU tests, or the device's own with pytest alone."""
    files = sorted(path.name for path in (ROOT / OWN_TESTS).glob("test_cupy*_gpu.py"))
    words = ["-v", "--tb=short", "-m", "gpu", "-p", "no:cacheprovider"]
    words += [str(OWN_TESTS / name) for name in files]
    if everything:
        return [*words, "tests"]
    # The folder's own conftest.py is enough for them, and no plugin is asked for.
    alone = ["-o", "addopts=", "-W", "ignore::pytest.PytestConfigWarning"]
    return [*alone, f"--confcutdir={OWN_TESTS}", *words]


def counted(command):
    """Run pytest and follow its lines: how many tests passed, and which did not."""
    counts: dict[str, int] = {}
    failed, lines = [], []
    folders = [str(ROOT / "src"), str(ROOT / "backends"), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(filter(None, folders))
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
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

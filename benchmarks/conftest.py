"""Options, data, backends and the machine's peak, shared by the benchmarks."""

from __future__ import annotations

import contextlib
import os
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pytest

from fusedmlp.bench.contestants import thread_counts
from fusedmlp.bench.libraries.peak import Peak
from fusedmlp.bench.tasks import Task
from fusedmlp.registry import availability, backend_class, known_backends
from workloads import mnist_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from fusedmlp.backend import Backend

PACKAGES = ("fusedmlp", "numpy", "numba", "llvmlite", "cupy-cuda13x", "cupy-cuda12x")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="few rows and one round: prove that every benchmark runs, measure nothing",
    )


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session")
def rounds(quick: bool) -> dict[str, int]:
    """What ``benchmark.pedantic`` is told, besides iterations."""
    return {"rounds": 1, "warmup_rounds": 0} if quick else {"rounds": 5, "warmup_rounds": 1}


@pytest.fixture(scope="session")
def mnist(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    return mnist_rows(4_096 if quick else 60_000)


@pytest.fixture(scope="session", params=known_backends())
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that is usable here, on as many threads as there are cores."""
    found = availability()[request.param]
    if found.state != "usable":
        pytest.skip(f"{request.param} is {found.state}: {found.detail[:120]}")
    return backend_class(request.param)(threads=thread_counts()[-1])


@pytest.fixture(scope="session")
def peak_flops(quick: bool) -> float:
    """Fused multiply-adds a second in float32, of all cores: the median of some calls."""
    reach = Peak(thread_counts()[-1]).limit(Task("peak"))
    rates = []
    for _ in range(1 if quick else 5):
        began = time.perf_counter()
        rates.append(reach() / (time.perf_counter() - began))
    return sorted(rates)[len(rates) // 2]


@pytest.fixture
def record(benchmark, peak_flops: float, versions: dict[str, str]) -> Callable[..., None]:
    """Note what follows from the median of a benchmark, and where it was taken."""

    def note(backend: Backend, samples: int, flops: float, **words: object) -> None:
        device = backend.device()
        rate = flops / benchmark.stats.stats.median
        on_cpu = "compute_capability" not in device.facts
        benchmark.extra_info |= {
            "backend": backend.name,
            "device": str(device),
            "samples_per_s": samples / benchmark.stats.stats.median,
            "gflops": rate / 1e9,
            "share_of_peak": rate / peak_flops if on_cpu else None,
            "versions": versions,
            **words,
        }

    return note


@pytest.fixture(scope="session", autouse=True)
def _say_what_else_may_disturb() -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1.0:
        print(f"\nthe machine is busy (load {load:.1f}): quote ratios, not these times")


@pytest.fixture(scope="session")
def versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found

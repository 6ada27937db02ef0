"""Options, backends and the machine's peak, shared by the pytest-benchmark suite."""

from __future__ import annotations

import os
import time

import pytest

from fusedmlp.bench.backend_adapter import BackendAdapter
from fusedmlp.bench.parity import breach
from fusedmlp.bench.peak import Peak
from fusedmlp.bench.prepare import named_rows, prepare
from fusedmlp.bench.runner import make_runner
from fusedmlp.bench.subjects import thread_counts
from fusedmlp.bench.worker import Worker
from fusedmlp.registry import availability, backend_class, known_backends
from workloads import SMALL, quick


def pytest_addoption(parser):
    parser.addoption(
        "--quick",
        action="store_true",
        help="few rows and one round: prove that every benchmark runs, measure nothing",
    )


def pytest_sessionstart():
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1.0:
        print(f"the machine is busy (load {load:.1f}): quote ratios, not these times")


@pytest.fixture(scope="session")
def is_quick(request):
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session", params=known_backends())
def adapter(request):
    """Each backend that is usable here, on as many threads as there are cores."""
    found = availability()[request.param]
    if found.state != "usable":
        pytest.skip(f"{request.param} is {found.state}: {found.detail[:120]}")
    return BackendAdapter(thread_counts()[-1], request.param)


@pytest.fixture(scope="session")
def peak_flops(is_quick):
    """Fused multiply-adds per second in float32, of all cores: the median of some calls."""
    reach, rates = Peak(thread_counts()[-1]).peak(SMALL), []
    for _ in range(1 if is_quick else 5):
        began = time.perf_counter()
        rates.append(reach() / (time.perf_counter() - began))
    return sorted(rates)[len(rates) // 2]


@pytest.fixture
def note(benchmark, adapter):
    """Add facts to a benchmark's JSON."""

    def add(**facts):
        about = Worker(adapter).greeting()
        benchmark.extra_info |= {"backend": adapter.backend.name} | about | facts

    return add


@pytest.fixture
def measure(benchmark, adapter, is_quick, peak_flops, note):
    """Check a backend's parity on a task, then measure it."""

    def run(task):
        task = quick(task) if is_quick else task
        inputs = prepare(task, named_rows, backend_class("numpy")())
        runner = make_runner(adapter, task, lambda: inputs)
        problem = breach(task, runner.parity())
        assert problem is None, problem
        rounds = {"rounds": 1} if is_quick else {"rounds": 5, "warmup_rounds": 1}
        benchmark.pedantic(runner.call, args=(0,), **rounds)
        seconds = benchmark.stats.stats.median
        rate = task.flops_per_sample * task.samples / seconds
        note(
            samples_per_s=task.samples / seconds,
            gflops=rate / 1e9,
            share_of_peak=None if adapter.device()[1] else rate / peak_flops,
        )

    return run

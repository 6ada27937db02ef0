"""Options and backends, shared by the pytest-benchmark suite."""

from __future__ import annotations

import os

import pytest

from fusedmlp.bench.backend_adapter import BackendAdapter
from fusedmlp.bench.machine import n_cores
from fusedmlp.bench.parity import breach
from fusedmlp.bench.prepare import prepare
from fusedmlp.bench.worker import Session
from fusedmlp.registry import availability, backend_class, known_backends
from workloads import quick, rows_of


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
    return BackendAdapter(n_cores(), request.param)


@pytest.fixture
def note(benchmark, adapter):
    """Add facts to a benchmark's JSON."""

    def add(**facts):
        about = Session(adapter).greeting()._asdict()
        benchmark.extra_info |= {"backend": adapter.backend.name} | about | facts

    return add


@pytest.fixture
def measure(benchmark, adapter, is_quick, note):
    """Check a backend's parity on a task, then measure it."""

    def run(task):
        task = quick(task) if is_quick else task
        runner = adapter.runner(task, prepare(task, rows_of, backend_class("numpy")()))
        problem = breach(task, runner.parity())
        assert problem is None, problem
        rounds = {"rounds": 1} if is_quick else {"rounds": 5, "warmup_rounds": 1}
        benchmark.pedantic(runner.call, args=(0,), **rounds)
        rate = task.samples / benchmark.stats.stats.median
        note(samples_per_s=rate, gflops=task.flops_per_sample * rate / 1e9)

    return run

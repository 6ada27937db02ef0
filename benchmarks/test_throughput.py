"""Training throughput on MNIST, by backend: an epoch at a time, parity checked first.

``nox -s benchmarks`` runs it; samples/s and versions are in the JSON's ``extra_info``.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fusedmlp.registry import availability, backend_class, known_backends
from fusedmlp.tolerance import check_close, trajectory_bound
from workloads import WORKLOADS, Workload, build, epoch

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def check_parity(name: str, workload: Workload, x: np.ndarray, y: np.ndarray) -> None:
    """Ten steps leave the backend where they leave NumPy, or nothing is timed."""
    rows = min(len(y), 10 * workload.batch_size)
    short = replace(workload, rows=rows)
    ends = []
    for each in (name, "numpy"):
        engine, data = build(backend_class(each)(), short, x[:rows], y[:rows])
        epoch(engine, data, short)
        ends.append(np.concatenate([a.ravel() for a in engine.parameters()]))
    check_close(f"{name} on {workload.name}", ends[0], ends[1], trajectory_bound("float32"))


@pytest.mark.parametrize("name", known_backends())
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_epoch(
    benchmark: BenchmarkFixture,
    name: str,
    workload: Workload,
    mnist: tuple[np.ndarray, np.ndarray],
    quick: bool,
) -> None:
    found = availability()[name]
    if found.state != "usable":
        pytest.skip(f"{name} is {found.state}: {found.detail[:120]}")
    x, y = mnist
    workload = replace(workload, rows=min(workload.rows, len(y)))
    x, y = x[: workload.rows], y[: workload.rows]
    check_parity(name, workload, x, y)
    backend = backend_class(name)()
    engine, data = build(backend, workload, x, y)
    benchmark.group = workload.name
    benchmark.pedantic(
        epoch,
        args=(engine, data, workload),
        rounds=1 if quick else 5,
        warmup_rounds=0 if quick else 1,
    )
    seconds = benchmark.stats.stats.median
    benchmark.extra_info |= {
        "backend": name,
        "device": str(backend.device()),
        "samples_per_s": workload.rows / seconds,
        "gflops": workload.network.flops_per_row * workload.rows / seconds / 1e9,
        "compile_seconds": engine.compile_seconds,
        "versions": {package: version(package) for package in ("fusedmlp", "numpy", "numba")},
    }

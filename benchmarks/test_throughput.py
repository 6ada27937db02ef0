"""Epochs of training and whole predictions on MNIST, by backend; parity is checked first.

``nox -s benchmarks`` runs it; samples/s, share of the peak and versions are in ``extra_info``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fusedmlp import MLP
from fusedmlp.network import initialise
from fusedmlp.registry import backend_class
from fusedmlp.tolerance import check_close, trajectory_bound
from problems import flat
from workloads import SMALL, WORKLOADS, Workload, build, epoch

if TYPE_CHECKING:
    from fusedmlp.backend import Backend

PREDICTED_ROWS = 10_000


def check_parity(backend: Backend, workload: Workload, x: np.ndarray, y: np.ndarray) -> None:
    """Ten steps leave the backend where they leave NumPy, or nothing is timed."""
    rows = min(len(y), 10 * workload.batch_size)
    short = replace(workload, rows=rows)
    ends = []
    for each in (backend, backend_class("numpy")()):
        engine, data = build(each, short, x[:rows], y[:rows])
        epoch(engine, data, short)
        ends.append(flat(engine.parameters()))
    check_close(f"{backend.name} on {workload.name}", *ends, trajectory_bound("float32"))


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_epoch(benchmark, record, backend, workload, mnist, rounds) -> None:
    x, y = mnist
    workload = replace(workload, rows=min(workload.rows, len(y)))
    x, y = x[: workload.rows], y[: workload.rows]
    check_parity(backend, workload, x, y)
    engine, data = build(backend, workload, x, y)
    benchmark.group = f"epoch, {workload.name}: {workload.network}, batch {workload.batch_size}"
    benchmark.pedantic(epoch, args=(engine, data, workload), **rounds)
    flops = workload.network.flops_per_row * workload.rows
    record(backend, workload.rows, flops, compile_seconds=engine.compile_seconds)


@pytest.mark.parametrize("rows", [1, PREDICTED_ROWS])
def test_predict(benchmark, record, backend, rows, mnist, rounds, quick) -> None:
    x = mnist[0][:rows] / np.float32(255)
    network = SMALL.network
    mlp = MLP(network.sizes, network.hidden, backend=backend, dtype="float32")
    mlp.parameters = initialise(network, 0, "float32")
    expected = MLP(network.sizes, network.hidden, backend="numpy", dtype="float32")
    expected.parameters = mlp.parameters
    reference = expected.predict_proba(x[:100])
    check_close("probabilities", mlp.predict_proba(x[:100]), reference, trajectory_bound("float32"))
    benchmark.group = f"predict, {len(x):,} row{'s' * (len(x) > 1)}: {network}"
    calls = 1 if quick or rows > 1 else 1_000
    benchmark.pedantic(
        mlp.predict_proba, args=(x,), iterations=calls, **_without_warmup(rounds, calls)
    )
    flops = sum(2 * fan_in * fan_out for fan_in, fan_out in network.layer_shapes) * len(x)
    record(backend, len(x), flops)


def _without_warmup(rounds: dict[str, int], calls: int) -> dict[str, int]:
    """Many calls in a round are their own warm-up, which pedantic would multiply."""
    return rounds if calls == 1 else rounds | {"warmup_rounds": 0}

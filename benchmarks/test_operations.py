"""Each operation of an engine on a batch of 784-256-10, by backend; parity is checked first.

The inputs are dense, so that no zeros can be skipped.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from workloads import NORMAL

CALLS = 50
"""In a round, since single calls are too short for a timer."""

BATCH = replace(NORMAL, rows=2_048, samples=64)
OPERATIONS = {
    "forward": BATCH,
    "gradients": BATCH,
    "update": BATCH,
    "evaluate": replace(BATCH, samples=BATCH.rows),
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_operation(benchmark, measure, kind):
    benchmark.group = f"operation, {kind}"
    measure(replace(OPERATIONS[kind], name=kind, kind=kind), CALLS)


def test_step(benchmark, measure):
    benchmark.group = "operation, a whole step"
    measure(replace(BATCH, name="step"), CALLS)

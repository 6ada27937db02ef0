"""Time from the start of a process to a test accuracy of 97 % and 98 % on MNIST, by backend.

It includes Python, imports, compiled code from the cache, the data and the evaluations. The warm-up
round fills the cache.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("first_accuracy.py")
QUICK_BOUND = 0.5


@pytest.mark.parametrize("accuracy", [0.97, 0.98])
def test_time_to_accuracy(benchmark, adapter, note, accuracy, is_quick):
    bound, rows = (QUICK_BOUND, 4_096) if is_quick else (accuracy, 60_000)
    outputs = []

    def train():
        command = [sys.executable, str(SCRIPT), adapter.backend.name, str(bound), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        outputs.append(done.stdout)

    benchmark.group = f"time to {accuracy:.0%} from the start of the process"
    benchmark.pedantic(train, rounds=1 if is_quick else 3, warmup_rounds=0 if is_quick else 1)
    epochs, reached = outputs[-1].split()
    note(epochs=int(epochs), accuracy=float(reached))

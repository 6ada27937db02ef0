"""What a second thread of the numba backend gains on each workload, one against two, interleaved.

Not a throughput figure: those are in test_throughput.py. Equal bits are checked before anything is
timed:  python benchmarks/threads.py
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from fusedmlp.registry import backend_class
from workloads import WORKLOADS, build, epoch, mnist_rows


def main(rounds: int = 5) -> None:
    """Print the median ratio of an epoch's time on one thread to that on two."""
    x, y = mnist_rows(max(workload.rows for workload in WORKLOADS))
    for workload in WORKLOADS:
        rows = slice(0, workload.rows)
        runs = [
            build(backend_class("numba")(threads=threads), workload, x[rows], y[rows])
            for threads in (1, 2)
        ]
        ratios = []
        for round_ in range(rounds + 1):
            seconds = []
            for engine, data in runs:
                began = time.perf_counter()
                epoch(engine, data, workload, round_)
                seconds.append(time.perf_counter() - began)
            one, two = (engine.parameters() for engine, _ in runs)
            if not all(np.array_equal(a, b) for a, b in zip(one, two, strict=True)):
                raise SystemExit(f"{workload.name}: one and two threads differ")
            if round_:
                ratios.append(seconds[0] / seconds[1])
        print(f"{workload.name}: two threads are {statistics.median(ratios):.2f} times as fast")


if __name__ == "__main__":
    main()

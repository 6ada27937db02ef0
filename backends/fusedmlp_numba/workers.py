"""The threads of one call: each runs the same compiled function as the calling thread.

They run without the GIL, and synchronise in compiled code (network/barrier.py). Threads live for
one call: there is no pool, so that a process may fork between calls.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fusedmlp_numba.constants import FAILED

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.types import IntArray


def run_workers(work: Callable[[int], object], workers: int, barrier: IntArray) -> None:
    """Call ``work`` with each worker's index: 0 on this thread, the others on new threads.

    Parameters
    ----------
    barrier
        The barrier's counters. Where a worker raises, or a thread does not start, the barrier is
        marked as failed, which ends the other workers. The first exception is raised again once
        all have ended.
    """
    failures: list[BaseException] = []

    def guarded(worker: int) -> None:
        try:
            work(worker)
        except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
            failures.append(error)
            barrier[FAILED] = 1

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(1, workers)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        guarded(0)
    except BaseException:
        barrier[FAILED] = 1
        raise
    finally:
        for thread in started:
            thread.join()
    if failures:
        raise failures[0]

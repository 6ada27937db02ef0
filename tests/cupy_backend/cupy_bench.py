"""A stand-in for ``cupy`` with what benchmarks/gpu_parts.py needs besides the engine's own needs.

Events return the host's time.
"""

from __future__ import annotations

import time

import cupy_standin


class Event(cupy_standin.Event):
    """A point in a stream, with its time."""

    def __init__(self, disable_timing=False):
        super().__init__(disable_timing=True)
        self.time = 0.0

    def record(self, stream):
        super().record(stream)
        self.time = time.perf_counter()


class BenchStandIn(cupy_standin.StandIn):
    """The stand-in, with timed events."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.cuda.Event = Event
        self.cuda.get_elapsed_time = lambda begin, end: 1e3 * (end.time - begin.time)

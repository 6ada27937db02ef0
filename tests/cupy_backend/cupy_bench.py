"""A stand-in for ``cupy`` with what benchmarks/gpu_check asks of it beside the engine's own needs.

Its kernels are Python functions of the same names, called with the arguments that the CUDA source
declares; events tell the host's time. What a GPU does in them is not shown here.
"""

from __future__ import annotations

import re
import time

import cupy_standin
import numpy as np


def one(_grid, args):
    args[0].__iadd__(1)


def barrier(grid, args):
    n, counter, reached, _errors = args
    assert n.dtype == np.uint32
    assert counter[0] == 0, "the counter was not reset"
    assert len(reached) == grid[0]
    assert (reached == 0).all()
    counter[0] = n * grid[0]


def broken_barrier(_grid, args):
    args[3][0] += 1


class Event:
    """A point in a stream: its time, or what the engine's streams need."""

    def __init__(self, disable_timing=False):
        self._ordering = cupy_standin.Event(disable_timing=True)
        self.time = None if disable_timing else 0.0

    def record(self, stream):
        self._ordering.record(stream)
        if self.time is not None:
            self.time = time.perf_counter()

    def synchronize(self):
        self._ordering.synchronize()

    @property
    def _stream(self):
        return self._ordering._stream

    @property
    def _point(self):
        return self._ordering._point


class BenchStandIn(cupy_standin.StandIn):
    """The stand-in, with bare kernels, timed events and arrays from the host."""

    ndarray = cupy_standin.DeviceArray

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.cuda.Event = Event
        self.cuda.get_elapsed_time = lambda begin, end: 1e3 * (end.time - begin.time)
        barriers = dict.fromkeys(("own_barrier", "grid_sync", "cluster_barrier"), barrier)
        self.kernels = {"one": one} | barriers
        self.cooperative = {}

    def RawKernel(self, code, name, *, enable_cooperative_groups=False):
        if name not in self.kernels:
            return super().RawKernel(code, name)
        self.cooperative[name] = enable_cooperative_groups
        (declared,) = re.findall(rf"\b{name}\(([^)]*)\)", code)
        n_parameters = declared.count(",") + 1

        def run(grid, block, args):
            assert len(args) == n_parameters, f"{name} takes {n_parameters} arguments"
            assert 1 <= np.prod(block) <= 1024
            self.kernels[name](grid, args)

        def launch(grid, block, args):
            arrays = [each for each in args if isinstance(each, cupy_standin.DeviceArray)]
            values = tuple(cupy_standin.unwrap(each) for each in args)
            self.queue(lambda: run(grid, block, values), arrays)

        return launch

    def add(self, a, b, out):
        hosts = [cupy_standin.unwrap(each) for each in (a, b, out)]
        self.queue(lambda: np.add(*hosts[:2], out=hosts[2]), [a, b, out])

    def matmul(self, a, b, out):
        return self.dot(a, b, out)

    def asarray(self, array):
        if isinstance(array, np.ndarray):
            return self.memory.holding(array)
        return super().asarray(array)

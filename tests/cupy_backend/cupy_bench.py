"""A stand-in for ``cupy`` with what benchmarks/gpu_parts.py needs besides the engine's own needs.

Its bare kernels are Python functions, called with the arguments that the CUDA source declares;
events return the host's time.
"""

from __future__ import annotations

import re
import time

import cupy_standin
import numpy as np


def one(_grid, args):
    args[0].__iadd__(1)


def grid_barrier(grid, args):
    n, counter, reached, _errors = args
    assert n.dtype == np.uint32
    assert counter[0] == 0, "the counter was not reset"
    assert len(reached) == grid[0]
    assert (reached == 0).all()
    counter[0] = n * grid[0]


class Event(cupy_standin.Event):
    """A point in a stream, with its time."""

    def __init__(self, disable_timing=False):
        super().__init__(disable_timing=True)
        self.time = 0.0

    def record(self, stream):
        super().record(stream)
        self.time = time.perf_counter()


class BenchStandIn(cupy_standin.StandIn):
    """The stand-in, with bare kernels, timed events and arrays from the host."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.cuda.Event = Event
        self.cuda.get_elapsed_time = lambda begin, end: 1e3 * (end.time - begin.time)
        self.kernels = {"one": one, "grid_barrier": grid_barrier}
        self.cooperative = {}

    def RawKernel(self, code, name, *, enable_cooperative_groups=False):
        if name not in self.kernels:
            return super().RawKernel(code, name)
        self.cooperative[name] = enable_cooperative_groups
        (declared,) = re.findall(rf"\b{name}\(([^)]*)\)", code)

        def run(grid, block, args):
            assert len(args) == declared.count(",") + 1
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

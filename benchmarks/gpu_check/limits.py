"""What bounds a step on a GPU: launches, nodes of graphs and barriers; products.py has the rest.

No engine is measured here, only CuPy and the device. Every function is a part: see running.py.
"""

from __future__ import annotations

import importlib
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from fusedmlp.errors import BreachedError
from fusedmlp_cupy.runtime.device import CupyDevice
from gpu_check.running import NotHereError, several
from gpu_check.timing import on_device, per_call, rounds_of

CALLS = 2000
NODES = (1000, 4000)
BARRIERS = (500, 1500)
BARRIER_THREADS = 256
CLUSTER_BLOCKS = 8
CLUSTER_CAPABILITY = (9, 0)


def source(*names):
    """Text of this folder's CUDA files, one behind the other."""
    folder = Path(__file__).parent
    return "".join((folder / name).read_text("utf-8") for name in names)


def launches():
    """Microseconds of one small call: on the host alone, and with the device's part."""
    cupy = importlib.import_module("cupy")
    with CupyDevice(cupy, 0).active():
        kernel = cupy.RawKernel(source("limits.cu"), "one")
        x = cupy.zeros(32, "float32")
        a, b, c = (cupy.zeros((32, 32), "float32") for _ in range(3))
        calls = {
            "RawKernel": lambda: kernel((1,), (32,), (x,)),
            "elementwise": lambda: cupy.add(x, x, out=x),
            "matmul": lambda: cupy.matmul(a, b, out=c),
            "dot": lambda: cupy.dot(a, b, out=c),
        }
        yield from several(
            (name, partial(per_call, cupy, call, CALLS)) for name, call in calls.items()
        )


def graphs():
    """Microseconds a node of a graph of tiny kernels; seconds to record and to instantiate it."""
    cupy = importlib.import_module("cupy")
    with CupyDevice(cupy, 0).active():
        kernel = cupy.RawKernel(source("limits.cu"), "one")
        x = cupy.zeros(32, "float32")
        kernel((1,), (32,), (x,))  # loads it
        seconds = {}
        for n_nodes in NODES:
            found = graph_of(cupy, lambda: kernel((1,), (32,), (x,)), n_nodes)
            seconds[n_nodes] = found["median_s"]
            yield f"{n_nodes} nodes", found
        fewer, more = NODES
        yield "each further node", {"us": 1e6 * (seconds[more] - seconds[fewer]) / (more - fewer)}


def graph_of(cupy, launch, n_nodes):
    """Record so many launches, and time the replay. CuPy instantiates where recording ends."""
    null = cupy.cuda.Stream.null
    marks = [time.perf_counter()]
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        for _ in range(n_nodes):
            launch()
        marks.append(time.perf_counter())
        graph = stream.end_capture()
        marks.append(time.perf_counter())

    def replay():
        graph.launch(null)
        null.synchronize()

    replay()
    marks.append(time.perf_counter())
    recorded, instantiated, first = np.diff(marks).tolist()
    timed = rounds_of(replay, 10)
    return timed | {
        "us_a_node": 1e6 * timed["median_s"] / n_nodes,
        "record_s": recorded,
        "instantiate_s": instantiated,
        "first_replay_s": first,
    }


def barriers():
    """Microseconds of a barrier: cooperative groups' grid sync, one by hand, and a cluster's."""
    cupy = importlib.import_module("cupy")
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    capability = int(properties["major"]), int(properties["minor"])
    n_blocks = sorted({128, int(properties["multiProcessorCount"])})

    def clusters():
        if capability < CLUSTER_CAPABILITY:
            raise NotHereError("clusters need compute capability 9.0")
        return barrier(cupy, "cluster_barrier", ("clusters.cu",), 128)

    with CupyDevice(cupy, 0).active():
        cases = [
            (f"{name}, {blocks} blocks", partial(barrier, cupy, name, files, blocks))
            for blocks in n_blocks
            for name, files in (("own_barrier", ()), ("grid_sync", ("grid_sync.cu",)))
        ]
        yield from several([*cases, (f"clusters of {CLUSTER_BLOCKS}, 128 blocks", clusters)])


def barrier(cupy, name, files, n_blocks):
    """Time one kind of barrier by two numbers of it in one launch, and see that it holds."""
    cooperative = name != "cluster_barrier"
    code = source("limits.cu", *files)
    kernel = cupy.RawKernel(code, name, enable_cooperative_groups=cooperative)
    counter, errors = cupy.zeros(1, "uint32"), cupy.zeros(1, "uint32")
    reached = cupy.zeros(n_blocks, "uint32")

    def passing(n):
        counter.fill(0)
        reached.fill(0)
        kernel((n_blocks,), (BARRIER_THREADS,), (np.uint32(n), counter, reached, errors))

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # CuPy warns where it takes fewer blocks than it is told
        fewer, more = (on_device(cupy, partial(passing, n)) for n in BARRIERS)
    n_errors = int(errors.get()[0])
    if n_errors:
        raise BreachedError(f"{name}: {n_errors} times a block went on before its neighbour")
    return {"us": 1e6 * (more - fewer) / (BARRIERS[1] - BARRIERS[0])}

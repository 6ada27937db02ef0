"""What bounds a step on a GPU: launches, graph nodes and matrix products, for gpu.py.

No engine is measured here, only CuPy and the device. Every function takes the module ``cupy``.
"""

from __future__ import annotations

import statistics
import time

ROUNDS = 5
SECONDS_A_ROUND = 2.0

PRODUCTS = {
    "small forward": (64, 784, 256),
    "small dW": (784, 64, 256),
    "big forward 1": (1024, 784, 1024),
    "big forward 2": (1024, 1024, 1024),
    "big dW 1": (784, 1024, 1024),
}
"""Matrix products (m, k, n) of the two networks."""


def rounds_of(call, rounds=ROUNDS, seconds=SECONDS_A_ROUND):
    """Median, least and most seconds of a call that waits for its own end, after a warm-up."""
    call()
    times = []
    limit = time.perf_counter() + rounds * seconds
    while len(times) < rounds and (not times or time.perf_counter() < limit):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times)}


def latencies(cupy):
    """Microseconds of one small call: on the host alone, and with the device's part."""
    code = 'extern "C" __global__ void one(float* x) { x[threadIdx.x] += 1.0f; }'
    kernel = cupy.RawKernel(code, "one")
    x = cupy.zeros(32, "float32")
    a, b, c = (cupy.zeros((32, 32), "float32") for _ in range(3))
    calls = {
        "RawKernel": lambda: kernel((1,), (32,), (x,)),
        "elementwise": lambda: cupy.add(x, x, out=x),
        "matmul": lambda: cupy.matmul(a, b, out=c),
        "dot": lambda: cupy.dot(a, b, out=c),
    }
    return {name: per_call(cupy, call, 2000) for name, call in calls.items()}


def per_call(cupy, call, n):
    """Microseconds a call, to queue it and to finish it, from the best of five rounds."""
    queued, finished = [], []
    for _ in range(6):
        cupy.cuda.Device().synchronize()
        began = time.perf_counter()
        for _ in range(n):
            call()
        queued.append(time.perf_counter() - began)
        cupy.cuda.Device().synchronize()
        finished.append(time.perf_counter() - began)
    return {"us_queued": 1e6 * min(queued[1:]) / n, "us": 1e6 * min(finished[1:]) / n}


def graphs(cupy):
    """Microseconds a node of a graph of tiny kernels, and seconds to capture it."""
    code = 'extern "C" __global__ void one(float* x) { x[threadIdx.x] += 1.0f; }'
    kernel = cupy.RawKernel(code, "one")
    x = cupy.zeros(32, "float32")
    kernel((1,), (32,), (x,))
    results = {}
    for n_nodes in (1000, 4000):
        with cupy.cuda.Stream(non_blocking=True) as stream:
            began = time.perf_counter()
            stream.begin_capture()
            for _ in range(n_nodes):
                kernel((1,), (32,), (x,))
            graph = stream.end_capture()
            captured = time.perf_counter() - began

            def replay(graph=graph, stream=stream):
                graph.launch(stream)
                stream.synchronize()

            timed = rounds_of(replay, 10)
        results[f"{n_nodes} nodes"] = {
            "us_a_node": 1e6 * timed["median_s"] / n_nodes,
            "capture_s": captured,
        }
    return results


def products(cupy):
    """Microseconds and TFLOP/s of the networks' matrix products, by the device's own clock."""
    results = {}
    for name, (m, k, n) in PRODUCTS.items():
        a = cupy.ones((m, k), "float32")
        b = cupy.ones((k, n), "float32")
        c = cupy.empty((m, n), "float32")
        times = []
        for _ in range(6):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record()
            for _ in range(200):
                cupy.dot(a, b, out=c)
            end.record()
            end.synchronize()
            times.append(cupy.cuda.get_elapsed_time(begin, end) / 200)
        best = min(times[1:]) * 1e-3
        results[name] = {"us": 1e6 * best, "tflops": 2 * m * k * n / best / 1e12}
    return results

"""How calls are timed: by the host's clock, or by the device's own where only its work counts."""

from __future__ import annotations

import statistics
import time

ROUNDS = 5
SECONDS_A_ROUND = 2.0
REPEATS = 6

WARM_UPS = 2
"""Calls before the first that counts: what is recorded is recorded at its second use."""


def rounds_of(call, rounds=ROUNDS, seconds=SECONDS_A_ROUND):
    """Median, least and most seconds of a call that waits for its own end, after warm-ups."""
    for _ in range(WARM_UPS):
        call()
    times = []
    limit = time.perf_counter() + rounds * seconds
    while len(times) < rounds and (not times or time.perf_counter() < limit):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times)}


def epoch_figures(network, size, n_rows, timed, losses):
    """What follows from the time of an epoch over n_rows rows; the same for us and for peers."""
    seconds, n_steps = timed["median_s"], -(-n_rows // size)
    return timed | {
        "steps": n_steps,
        "us_a_step": 1e6 * seconds / n_steps,
        "samples_a_second": n_rows / seconds,
        "tflops": network.flops_per_row * n_rows / seconds / 1e12,
        "first_loss": float(losses[0]),
    }


def per_call(cupy, call, n):
    """Microseconds a call, to queue it and to finish it, from the best of five rounds."""
    stream = cupy.cuda.Stream.null
    queued, finished = [], []
    for _ in range(REPEATS):
        stream.synchronize()
        began = time.perf_counter()
        for _ in range(n):
            call()
        queued.append(time.perf_counter() - began)
        stream.synchronize()
        finished.append(time.perf_counter() - began)
    return {"us_queued": 1e6 * min(queued[1:]) / n, "us": 1e6 * min(finished[1:]) / n}


def on_device(cupy, call):
    """Seconds that the device takes for what a call queues: the best of five, after a warm-up."""
    stream = cupy.cuda.Stream.null
    times = []
    for _ in range(REPEATS):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record(stream)
        call()
        end.record(stream)
        end.synchronize()
        times.append(1e-3 * cupy.cuda.get_elapsed_time(begin, end))
    return min(times[1:])

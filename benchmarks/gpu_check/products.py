"""Ceilings of the matrix products of the measured networks, and whether cuBLAS can be recorded.

No engine is measured here: the products alone, in every form and shape that a step has.
"""

from __future__ import annotations

import importlib
from functools import partial

import numpy as np

from fusedmlp.errors import BreachedError
from fusedmlp_cupy.kernels import products as own
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.tuning import Tuning
from gpu_check import engine
from gpu_check.running import several
from gpu_check.timing import on_device

N_PRODUCTS = 50


def products_of(network, size):
    """Products of one step: (name, form, m, k, n) with out (m, n), as layers.py asks for them."""
    found = []
    for layer, (D, H) in enumerate(network.layer_shapes):
        found.append((f"forward {layer + 1}", "", size, D, H))
        if layer:
            found.append((f"delta {layer}", "b", size, H, D))
        found.append((f"dW {layer + 1}", "a", D, size, H))
    return found


def ceilings(*, tf32=False):
    """Microseconds and TFLOP/s of each product, and of a step's together.

    ``us_queued`` is CuPy's ``dot``, one call after another; ``us`` those of our own handle in a
    graph, so that no launch is in it; ``us_own`` the kernels of products.cu, where they are used.
    """
    cupy = importlib.import_module("cupy")
    if tf32:
        engine.backend_with(tf32=True)
    device = CupyDevice(cupy, 0, tf32=tf32)
    with device.active():
        blas = device.cublas_handle()
        program = None if tf32 else device.program("float32", own.PRODUCTS)
        for name, (network, size) in engine.WORKLOADS.items():
            cases = [
                (f"{name}, {each}", partial(ceiling, cupy, device, blas, program, *shape))
                for each, *shape in products_of(network, size)
            ]
            microseconds = []
            for each, found in several(cases):
                yield each, found
                microseconds.append(found.get("us"))
            total, flops = sum(microseconds), network.flops_per_row * size
            yield f"{name}, step", {"us": total, "tflops": flops / total / 1e6}


def ceiling(cupy, device, blas, program, form, m, k, n):
    """Time one product in each way."""
    a, b, out = operands(device, form, m, k, n)
    queued = on_device(cupy, lambda: repeat(lambda: device.product(a, b, out, form)))
    recorded = recorded_seconds(cupy, device, lambda: blas.product(a, b, out, form), blas)
    found = {
        "us_queued": 1e6 * queued / N_PRODUCTS,
        "us": 1e6 * recorded / N_PRODUCTS,
        "tflops": 2e-12 * m * k * n * N_PRODUCTS / recorded,
    }
    if program is not None and Tuning().is_small(m, k, n):
        launch = own_launch(device, program, form, a, b, out)
        launch()  # loads the kernel
        seconds = recorded_seconds(cupy, device, launch, None)
        found["us_own"] = 1e6 * seconds / N_PRODUCTS
    return found


def operands(device, form, m, k, n):
    """Random matrices in C order, and room for their product."""
    rng = np.random.default_rng(0)
    shapes = ((k, m) if form == "a" else (m, k), (n, k) if form == "b" else (k, n))
    a, b = (device.upload(rng.standard_normal(shape).astype(np.float32)) for shape in shapes)
    return a, b, device.empty((m, n), np.float32)


def own_launch(device, program, form, a, b, out):
    """A function that queues the same product in the kernels of products.cu."""
    if form == "a":
        sums = device.empty((out.shape[1],), np.float32)
        return lambda: own.gradients(program, a, b, out, sums)
    if form == "b":
        return lambda: own.backpropagate_delta(program, a, b, out)
    return lambda: own.product(program, a, b, out)


def repeat(launch):
    for _ in range(N_PRODUCTS):
        launch()


def recorded_seconds(cupy, device, launch, blas):
    """Seconds of a replay of many launches."""
    recording = device.record(lambda: repeat(launch), blas)
    return on_device(cupy, lambda: device.replay(recording))


def handle():
    """Whether a cuBLAS handle of our own can be recorded, and computes the same when replayed."""
    cupy = importlib.import_module("cupy")
    cases = [
        (f"{kind}, form {form or 'ab'}", partial(replayed, cupy, form, tf32=kind == "TF32"))
        for kind in ("float32", "TF32")
        for form in ("", "a", "b")
    ]
    yield from several(cases)


def replayed(cupy, form, *, tf32):
    """One product of the large network: queued, and replayed into an output that was emptied."""
    if tf32:
        engine.backend_with(tf32=True)
    device = CupyDevice(cupy, 0, tf32=tf32)
    network, size = max(engine.WORKLOADS.values(), key=lambda each: each[1])
    m, k, n = size, network.sizes[0], network.sizes[1]
    with device.active():
        blas = device.cublas_handle()
        a, b, out = operands(device, form, m, k, n)
        blas.product(a, b, out, form)
        queued = device.download(out)
        device.copy_in(out, np.zeros((m, n), np.float32))
        recording = device.record(lambda: blas.product(a, b, out, form), blas)
        device.replay(recording)
        found = device.download(out)
    if found.tobytes() != queued.tobytes():
        raise BreachedError("a replayed product has other bits than the queued one")
    return {"records": True, "bits": "equal"}

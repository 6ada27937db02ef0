"""The same networks in JAX on the same device: one compiled scan over an epoch's batches.

As torch_peer.py: the same weights, rows and order as the engine, the data on the device.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from fusedmlp.network import initialise
from gpu_check import engine
from gpu_check.running import NotHereError, several
from gpu_check.timing import epoch_figures, rounds_of

LR = 0.1
ROUNDS = 3
PRECISIONS = {"scan": "float32", "scan, TF32": "tensorfloat32"}


def scans(platform="gpu"):
    """Both networks, products in full float32 and in TF32."""
    try:
        import jax
    except ImportError as error:
        raise NotHereError(f"jax: {error}") from error
    if jax.default_backend() != platform:
        raise NotHereError(f"jax {jax.__version__} runs on {jax.default_backend()} here")
    yield "version", {"jax": jax.__version__}
    x, y, _ = engine.pixels()
    cases = [
        (f"{name}, jax {way}", partial(epochs, jax, network, size, x, y, precision))
        for way, precision in PRECISIONS.items()
        for name, (network, size) in engine.WORKLOADS.items()
    ]
    yield from several(cases)


def epochs(jax, network, size, x, y, precision):
    """Time epochs of SGD over whole batches."""
    from jax import numpy as jnp

    drawn = initialise(network, 0, "float32")
    start = [(jnp.array(W), jnp.array(b)) for W, b in zip(drawn.weights, drawn.biases, strict=True)]
    pixels, labels = jnp.array(x), jnp.array(y)
    hidden = jax.nn.sigmoid if network.hidden == "sigmoid" else jax.nn.relu
    n_steps = len(x) // size
    order = np.random.default_rng(0).permutation(len(x))[: n_steps * size]
    order = jnp.array(order.reshape(n_steps, size))

    def loss_of(layers, pixels, labels, rows):
        a = pixels[rows].astype(jnp.float32) / 255
        for W, b in layers[:-1]:
            a = hidden(a @ W + b)
        W, b = layers[-1]
        logs = jax.nn.log_softmax(a @ W + b)
        return -jnp.take_along_axis(logs, labels[rows][:, None], axis=1).mean()

    def epoch_of(layers, pixels, labels, order):
        def step(layers, rows):
            loss, gradients = jax.value_and_grad(loss_of)(layers, pixels, labels, rows)
            return jax.tree.map(lambda p, g: p - LR * g, layers, gradients), loss

        return jax.lax.scan(step, layers, order)

    with jax.default_matmul_precision(precision):
        began = time.perf_counter()
        compiled = jax.jit(epoch_of).lower(start, pixels, labels, order).compile()
        compile_s = time.perf_counter() - began
    layers, losses = start, []

    def epoch():
        nonlocal layers
        layers, found = compiled(layers, pixels, labels, order)
        losses.append(float(found.mean()))

    found = epoch_figures(network, size, n_steps * size, rounds_of(epoch, ROUNDS), losses)
    return found | {"compile_s": compile_s}

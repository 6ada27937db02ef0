"""The same networks in PyTorch and JAX on the same device, as gpu.py measures them.

Not a tutorial of either: each trains from the same weights on the same rows in the same order as
the engine, keeps the data on the device, and does nothing per step that it need not. Its first
epoch's loss is recorded, so that one sees that it computes the same thing.
"""

from __future__ import annotations

import importlib
import time

import numpy as np

from fusedmlp.network import initialise
from gpu_limits import rounds_of

LR = 0.1
STEPS_A_GRAPH = 100


def run(peer, workloads, x, y):
    """Measure one peer on both networks, or say that it is not installed."""
    try:
        module = importlib.import_module(peer)
    except ModuleNotFoundError as error:
        return {"not measured": str(error)}
    measure = {"torch": torch_ways, "jax": jax_scan}[peer]
    results = {"version": module.__version__}
    for name, (network, size) in workloads.items():
        results |= {f"{name}, {way}": r for way, r in measure(network, size, x, y).items()}
    return results


def figures(network, size, n_rows, timed, losses):
    """What gpu.py says of the engine, for a peer that trains whole batches of n_rows rows."""
    seconds = timed["median_s"]
    return timed | {
        "steps": n_rows // size,
        "us_a_step": 1e6 * seconds / (n_rows // size),
        "samples_a_second": n_rows / seconds,
        "tflops": network.flops_per_row * n_rows / seconds / 1e12,
        "first_loss": losses[0],
    }


def torch_ways(network, size, x, y):
    """Eager steps, and CUDA graphs of a hundred steps; float32, then TF32 for the graphs."""
    import torch

    results = {}
    for way in ("eager", "graph", "graph, TF32"):
        torch.backends.cuda.matmul.allow_tf32 = way.endswith("TF32")
        results[way] = torch_epochs(torch, network, size, x, y, graph=way != "eager")
    torch.backends.cuda.matmul.allow_tf32 = False
    return results


def torch_epochs(torch, network, size, x, y, *, graph):
    """Time epochs of SGD. The pixels stay uint8 on the device and are divided batch by batch."""
    drawn = initialise(network, 0, "float32")
    weights = [torch.tensor(W, device="cuda", requires_grad=True) for W in drawn.weights]
    biases = [torch.tensor(b, device="cuda", requires_grad=True) for b in drawn.biases]
    pixels, labels = torch.tensor(x, device="cuda"), torch.tensor(y, device="cuda").long()
    hidden = torch.sigmoid if network.hidden == "sigmoid" else torch.relu
    total = torch.zeros((), device="cuda")

    def step(rows):
        a = pixels[rows].float().div_(255)
        for W, b in zip(weights[:-1], biases[:-1], strict=True):
            a = hidden(torch.addmm(b, a, W))
        logits = torch.addmm(biases[-1], a, weights[-1])
        loss = torch.nn.functional.cross_entropy(logits, labels[rows])
        parameters = [*weights, *biases]
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-LR)
            total.add_(loss)

    n_steps = len(x) // size
    in_graph = min(STEPS_A_GRAPH, n_steps) if graph else 1
    n_steps -= n_steps % in_graph
    order = np.random.default_rng(0).permutation(len(x))[: n_steps * size]
    order = torch.tensor(order, device="cuda").view(-1, in_graph, size)
    call = captured(torch, step, order[0], [*weights, *biases]) if graph else None
    losses = []

    def epoch():
        total.zero_()
        for rows in order:
            if call is None:
                step(rows[0])
            else:
                call(rows)
        losses.append(total.item() / n_steps)

    timed = rounds_of(epoch, 3)
    return figures(network, size, n_steps * size, timed, losses)


def captured(torch, step, rows, parameters):
    """A graph of one step for each of the given rows; the parameters are as before."""
    static, kept = rows.clone(), [p.detach().clone() for p in parameters]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(static[0])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for each in static:
            step(each)
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)

    def call(rows):
        static.copy_(rows)
        graph.replay()

    return call


def jax_scan(network, size, x, y):
    """One compiled scan over the epoch's batches, products in full float32."""
    import jax
    from jax import numpy as jnp

    drawn = initialise(network, 0, "float32")
    start = [(jnp.array(W), jnp.array(b)) for W, b in zip(drawn.weights, drawn.biases, strict=True)]
    pixels, labels = jnp.array(x), jnp.array(y)
    hidden = jax.nn.sigmoid if network.hidden == "sigmoid" else jax.nn.relu
    n_steps = len(x) // size
    order = np.random.default_rng(0).permutation(len(x))[: n_steps * size]
    order = jnp.array(order.reshape(n_steps, size))

    def loss_of(layers, rows):
        a = pixels[rows].astype(jnp.float32) / 255
        for W, b in layers[:-1]:
            a = hidden(a @ W + b)
        W, b = layers[-1]
        logs = jax.nn.log_softmax(a @ W + b)
        return -jnp.take_along_axis(logs, labels[rows][:, None], axis=1).mean()

    def step(layers, rows):
        loss, gradients = jax.value_and_grad(loss_of)(layers, rows)
        return jax.tree.map(lambda p, g: p - LR * g, layers, gradients), loss

    with jax.default_matmul_precision("float32"):
        epoch_of = jax.jit(lambda layers: jax.lax.scan(step, layers, order))
        began = time.perf_counter()
        compiled = epoch_of.lower(start).compile()
        compile_s = time.perf_counter() - began
    layers, losses = start, []

    def epoch():
        nonlocal layers
        layers, found = compiled(layers)
        losses.append(float(found.mean()))

    timed = rounds_of(epoch, 3)
    found = figures(network, size, n_steps * size, timed, losses)
    return {"scan": found | {"compile_s": compile_s}}

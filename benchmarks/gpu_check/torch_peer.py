"""The same networks in PyTorch on the same device, as engine.py measures ours.

Not a tutorial: it trains from the same weights on the same rows in the same order as the engine,
keeps the data on the device, and does nothing per step that it need not. The first epoch's loss is
recorded, so that one sees that it computes the same thing.
"""

from __future__ import annotations

import shutil
from functools import partial

import numpy as np

from fusedmlp.network import initialise
from gpu_check import engine
from gpu_check.running import NotHereError, several
from gpu_check.timing import epoch_figures, rounds_of

LR = 0.1
STEPS_A_GRAPH = 100
ROUNDS = 3


def imported(device):
    """PyTorch, if it is here and has the device."""
    try:
        import torch
    except ImportError as error:
        raise NotHereError(f"torch: {error}") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise NotHereError(f"torch {torch.__version__} finds no CUDA device")
    return torch


def plain(device="cuda"):
    """Eager steps, and CUDA graphs of a hundred steps; float32, then TF32 for the graphs."""
    ways = "eager", "graph", "graph, TF32"
    yield from measured([(name, way) for way in ways for name in engine.WORKLOADS], device)


def compiled(device="cuda"):
    """``torch.compile`` of the whole step, tuned as far as it goes: it takes most of a minute each.

    TF32 only where it pays, for the large network.
    """
    if shutil.which("c++") is None and shutil.which("g++") is None:
        raise NotHereError("torch.compile needs a C++ compiler")
    names = list(engine.WORKLOADS)
    cases = [(name, "compile") for name in names]
    yield from measured([*cases, (names[-1], "compile, TF32")], device)


def measured(cases, device):
    """Each case: a network's name, and a way to run its steps."""
    torch = imported(device)
    yield "version", {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    x, y, _ = engine.pixels()
    yield from several(
        (
            f"{name}, torch {way}",
            partial(epochs, torch, *engine.WORKLOADS[name], x, y, way, device),
        )
        for name, way in cases
    )


def epochs(torch, network, size, x, y, way, device):
    """Time epochs of SGD over whole batches, whose rows are cut before the clock runs."""
    torch.set_float32_matmul_precision("high" if way.endswith("TF32") else "highest")
    training = Training(torch, network, x, y, device)
    way = way.partition(",")[0]
    n_steps = len(x) // size
    order = np.random.default_rng(0).permutation(len(x))[: n_steps * size]
    order = torch.tensor(order, device=device).view(n_steps, size)
    kept = [p.detach().clone() for p in training.parameters]
    if way == "graph":
        groups = order.split(STEPS_A_GRAPH)  # the last one may be shorter
        lengths = {len(rows): rows for rows in groups}
        graphs = {n: training.captured(rows) for n, rows in lengths.items()}
        calls = [partial(graphs[len(rows)], rows) for rows in groups]
    else:
        step = training.compiled(order[0]) if way == "compile" else training.step
        calls = [partial(step, rows) for rows in order.unbind()]
    with torch.no_grad():
        for parameter, value in zip(training.parameters, kept, strict=True):
            parameter.copy_(value)
    losses = []

    def epoch():
        training.total.zero_()
        for call in calls:
            call()
        losses.append(training.total.item() / n_steps)

    found = epoch_figures(network, size, n_steps * size, rounds_of(epoch, ROUNDS), losses)
    return found | training.facts


class Training:
    """Parameters, data and a step. The pixels stay uint8 there and are divided batch by batch."""

    def __init__(self, torch, network, x, y, device):
        self.torch = torch
        drawn = initialise(network, 0, "float32")
        layers = zip(drawn.weights, drawn.biases, strict=True)
        self.parameters = [
            torch.tensor(array, device=device, requires_grad=True)
            for layer in layers
            for array in layer
        ]
        self.x, self.y = torch.tensor(x, device=device), torch.tensor(y, device=device).long()
        self.hidden = torch.sigmoid if network.hidden == "sigmoid" else torch.relu
        self.total = torch.zeros((), device=device)
        self.facts = {}

    def loss_of(self, parameters, rows):
        a = self.x[rows].float() / 255
        for W, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            a = self.hidden(self.torch.addmm(b, a, W))
        logits = self.torch.addmm(parameters[-1], a, parameters[-2])
        return self.torch.nn.functional.cross_entropy(logits, self.y[rows])

    def step(self, rows):
        torch = self.torch
        loss = self.loss_of(self.parameters, rows)
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            torch._foreach_add_(self.parameters, gradients, alpha=-LR)
            self.total.add_(loss)

    def captured(self, rows):
        """A graph of one step for each of the given rows."""
        torch, static = self.torch, rows.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step(static[0])
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for each in static:
                self.step(each)

        def call(rows):
            static.copy_(rows)
            graph.replay()

        return call

    def compiled(self, rows):
        """The compiled step. Its gradients come from ``torch.func``, so that all is one graph."""
        from torch import _dynamo

        torch = self.torch
        parameters = [p.detach() for p in self.parameters]

        def whole(parameters, total, rows):
            gradients, loss = torch.func.grad_and_value(self.loss_of)(parameters, rows)
            torch._foreach_add_(parameters, gradients, alpha=-LR)
            total.add_(loss)

        for tensor in (*parameters, self.total):  # or it makes no CUDA graph of what changes them
            _dynamo.mark_static_address(tensor)
        torch.compiler.reset()
        counters = _dynamo.utils.counters["inductor"]
        counters.clear()
        step = torch.compile(whole, mode="max-autotune", dynamic=False)

        def call(rows):
            with torch.no_grad():
                step(parameters, self.total, rows)

        for _ in range(4):
            call(rows)
        self.facts["cudagraph_skips"] = int(counters["cudagraph_skips"])
        return call

"""Everything there is to measure on a machine with an NVIDIA GPU, in one command:

    python benchmarks/gpu.py

It needs this checkout, NumPy and CuPy; an installed fusedmlp is used, else the checkout's sources.
It first checks that the CuPy engine agrees with NumPy, then times the engine (data on the device,
streamed, in TF32), what bounds it (launches, products, graphs), its peers where they are installed
(gpu_peers.py), and the host.
One table on the screen, one JSON file; under eight minutes. A part that fails is recorded and the
others go on. Exit status: 0, 1 where a part failed, 3 without a usable device.
"""
# ruff: noqa: E402 - the sources must be found before they are imported

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

HERE = Path(__file__).resolve().parent
if find_spec("fusedmlp") is None:
    sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent / "backends")]
if find_spec("threadpoolctl") is None:
    sys.exit(
        "threadpoolctl is not installed, the NumPy backend needs it: pip install threadpoolctl"
    )

import numpy as np

import gpu_peers
import workloads
from fusedmlp.backend import State
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective, initialise, zeros
from fusedmlp.optimizers import OPTIMIZERS, SGD, make_optimizer
from fusedmlp.tolerance import check_close, tf32_trajectory_bound, trajectory_bound
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.device import CupyDevice
from fusedmlp_cupy.kernels import KERNELS, Batch, Dropout, dropout_mask
from fusedmlp_numpy import NumpyBackend, kernels
from gpu_limits import ROUNDS, graphs, latencies, products, rounds_of

WORKLOADS = {each.name: (each.network, each.batch_size) for each in workloads.WORKLOADS}
MNIST_ROWS = 60_000


def pixels(rows):
    """MNIST from a folder or the cache, or synthetic pixels, a fifth of them lit: (x, y, name)."""
    try:
        from fusedmlp.datasets import load_dataset

        source = "dir" if os.environ.get("FUSEDMLP_DATA") else "cache"
        data = load_dataset("mnist", source=source)
        return data.x_train[:rows], data.y_train[:rows], "MNIST"
    except Exception as error:  # noqa: BLE001 - any reason will do to take synthetic pixels
        print(f"MNIST is not here ({error}): synthetic pixels instead", file=sys.stderr)
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (rows, 784), dtype=np.uint8) * (rng.random((rows, 784)) < 0.19)
    return x.astype(np.uint8), rng.integers(0, 10, rows), "synthetic"


def build(backend, network, batch_size, x, y, optimizer=None, dtype="float32", w=None):
    """An engine with drawn weights and biases, and its staged data."""
    optimizer = optimizer or SGD(0.1)
    engine = backend.compile(
        network, optimizer, Objective(), batch_size=batch_size, dtype=dtype, seed=7
    )
    slots = tuple(zeros(network, dtype) for _ in optimizer.slots)
    engine.load(State(initialise(network, 0, dtype), slots, 0))
    return engine, engine.stage(x, y, w)


def parity(cupy, backend):
    """Thirty steps of every optimizer, activation and output in both types, and the masks."""
    found = trajectories(backend, ("float32", "float64"), trajectory_bound)
    check_masks(cupy)
    return found | {"masks": "equal"}


def parity_tf32(backend):
    """The same trajectories in TF32, within its own bound, which float32's results meet as well."""
    return trajectories(backend, ("float32",), lambda _dtype: tf32_trajectory_bound())


def trajectories(backend, dtypes, bound_of):
    """Compare with NumPy in each type, within a bound; return the largest difference."""
    rng = np.random.default_rng(1)
    worst = {}
    cases = [(o, "tanh", "softmax") for o in OPTIMIZERS]
    cases += [("momentum", *pair) for pair in product(HIDDEN_ACTIVATIONS, OUTPUTS)]
    for dtype, (optimizer, hidden, output) in product(dtypes, cases):
        network = Network((37, 65, 33, 5), hidden, output, 0.2)
        x = rng.standard_normal((200, 37)).astype(dtype)
        y = {
            "softmax": rng.integers(0, 5, 200),
            "sigmoid": rng.integers(0, 2, (200, 5)),
            "identity": rng.standard_normal((200, 5)),
            "exp": rng.poisson(1.0, (200, 5)),
        }[output]
        w, order = rng.uniform(0, 2, 200), np.tile(rng.permutation(200), 6)
        results = []
        for each in (backend, NumpyBackend()):
            engine, data = build(each, network, 40, x, y, make_optimizer(optimizer), dtype, w)
            sums = engine.train_epoch(data, order, np.full(30, 0.01))
            results.append((engine.state(), sums))
        (state, sums), (reference, reference_sums) = results
        bound, name = bound_of(dtype), f"{dtype} {optimizer} {hidden} {output}"
        pairs = [(sums.losses, reference_sums.losses)]
        pairs += zip(state.parameters, reference.parameters, strict=True)
        found = max(check_close(name, a, b, bound) for a, b in pairs)
        worst[dtype] = max(found, worst.get(dtype, 0.0))
    return {"cases": len(dtypes) * len(cases), "largest_difference": worst}


def check_masks(cupy):
    """Raise where a dropout mask differs from the specification's in any unit."""
    device = CupyDevice(cupy, 0)
    with device.active():
        out = device.empty((129, 1031), np.uint8)
        dropout = Dropout(device.upload(np.array([3], np.uint32)), 1, 2**40 + 1, 0.3)
        program = device.program("float32", tuple(KERNELS))
        dropout_mask(program, out, Batch(None, 0, 0, 129), dropout)
        mask = device.download(out)
    expected = np.empty(mask.shape, bool)
    kernels.dropout_mask(expected, 2**40 + 1, 3, 1, 0.3)
    if not np.array_equal(mask, expected):
        raise RuntimeError("the dropout masks differ from the specification's")


def training(backend, x, y):
    """Seconds of an MNIST-sized epoch of both networks, and what follows from them."""
    return {
        name: train(backend, network, size, x, y) for name, (network, size) in WORKLOADS.items()
    }


def streaming(backend, x, y):
    """Epochs whose inputs go up chunk by chunk: their time, and the bits of resident ones."""
    results = {}
    for name, (network, size) in WORKLOADS.items():
        order = np.random.default_rng(0).permutation(len(x))
        rates = np.full(-(-len(x) // size), 0.1)
        states = []
        for streamed in (False, True):
            engine, data = build(backend, network, size, x, y)
            data = replace(data, x=x) if streamed else data
            engine.train_epoch(data, order, rates)
            states.append([array.tobytes() for array in engine.parameters()])
        if states[0] != states[1]:
            raise RuntimeError(f"{name}: streamed epochs have other bits than resident ones")
        results[name] = train(backend, network, size, x, y, streamed=True) | {"bits": "equal"}
    return results


def interop(cupy, backend, x):
    """Predictions for an array on the device: left there, with the bits of those from the host."""
    results = {}
    for name, (network, size) in WORKLOADS.items():
        engine, _ = build(backend, network, size, x[:size], np.zeros(size, np.int64))
        there = cupy.asarray(x)
        found = engine.forward(there)
        if not isinstance(found, cupy.ndarray):
            raise TypeError(f"{name}: forward gave a {type(found).__name__} for a CuPy array")
        if found.get().tobytes() != engine.forward(x).tobytes():
            raise RuntimeError(f"{name}: other bits for an array on the device")
        results[name] = {
            "from the device": rounds_of(lambda e=engine, a=there: e.forward(a)),
            "from the host": rounds_of(lambda e=engine: e.forward(x)),
        }
    return results


def train(backend, network, size, x, y, *, rounds=ROUNDS, streamed=False):
    """Time one epoch over x, which may be kept on the host and streamed."""
    engine, data = build(backend, network, size, x, y)
    data = replace(data, x=x) if streamed else data
    order = np.random.default_rng(0).permutation(len(x))
    n_steps = -(-len(x) // size)
    losses = []

    def epoch():
        losses.append(engine.train_epoch(data, order, np.full(n_steps, 0.1)).loss)
        engine.synchronize()

    result = rounds_of(epoch, rounds)
    seconds = result["median_s"]
    return result | {
        "steps": n_steps,
        "us_a_step": 1e6 * seconds / n_steps,
        "samples_a_second": len(x) / seconds,
        "tflops": network.flops_per_row * len(x) / seconds / 1e12,
        "compile_s": engine.compile_seconds,
        "first_loss": losses[0],
    }


def products_tf32():
    """The same with TF32. CuPy reads its switch once in a process, so this takes another one."""
    command = [sys.executable, str(Path(__file__).resolve()), "--products-only"]
    environment = os.environ | {"CUPY_TF32": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])
    return json.loads(done.stdout)


def host(x, y):
    """The host's engines on a part of the data: NumPy, and Numba from 1 thread up."""
    results = {}
    for name, (network, size) in WORKLOADS.items():
        n = 8 * size if name == "big" else 100 * size
        results[f"numpy {name}"] = train(NumpyBackend(), network, size, x[:n], y[:n], rounds=2)
    try:
        numba_backend = importlib.import_module("fusedmlp_numba").NumbaBackend
    except (ImportError, AttributeError) as error:
        return results | {"numba": f"not available: {error}"}
    for threads in (1, 2, 4, 8, 16):
        if threads > (os.cpu_count() or 1):
            break
        for name, (network, size) in WORKLOADS.items():
            n = 16 * size if name == "big" else 200 * size
            backend = numba_backend(threads=threads)
            key = f"numba {name}, {threads} threads"
            results[key] = train(backend, network, size, x[:n], y[:n], rounds=3)
    return results


def attempt(name, part, results):
    """Run one part; keep its result, or its error as text, and let the others go on."""
    began = time.perf_counter()
    print(f"{name} …", file=sys.stderr, flush=True)
    try:
        results[name] = part()
    except Exception as error:  # noqa: BLE001 - one failure must not lose the rest
        results[name] = {"failed": f"{type(error).__name__}: {error}"}
        print(f"{name} failed: {error}", file=sys.stderr)
    results.setdefault("seconds", {})[name] = round(time.perf_counter() - began, 1)


def table(results, indent=""):
    """Print nested results, a line a figure."""
    for key, value in results.items():
        if not isinstance(value, dict):
            text = f"{value:,.4g}" if isinstance(value, float) else value
            print(f"{indent}{key:<{max(1, 34 - len(indent))}} {text}")
        elif all(not isinstance(entry, dict) for entry in value.values()):
            figures = (
                f"{name} {entry:,.4g}" if isinstance(entry, float) else f"{name} {entry}"
                for name, entry in value.items()
            )
            print(f"{indent}{key:<{max(1, 34 - len(indent))}} {'  '.join(figures)}")
        else:
            print(f"{indent}{key}")
            table(value, indent + "  ")


def main():
    """Run all parts; see the file's first lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="default benchmarks/results/gpu-<device>.json")
    parser.add_argument("--products-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = CupyBackend.probe()
    if found.state != "usable":
        print(f"no usable GPU: {found.detail}. Remedy: {found.remedy}", file=sys.stderr)
        return 3
    cupy = importlib.import_module("cupy")
    if options.products_only:
        print(json.dumps(products(cupy)))
        return 0

    backend = CupyBackend()
    device = backend.device()
    x, y, data_name = pixels(MNIST_ROWS)
    results = {
        "device": str(device),
        "facts": dict(device.facts),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpus": os.cpu_count(),
        "data": data_name,
    }
    attempt("parity", lambda: parity(cupy, backend), results)
    attempt("training", lambda: training(backend, x, y), results)
    results["launches"] = str(backend.device())  # as it came out, and not as it was planned
    eager = CupyBackend(eager=True)
    attempt("parity eager", lambda: parity(cupy, eager), results)
    attempt("training eager", lambda: training(eager, x, y), results)
    attempt("streaming", lambda: streaming(backend, x, y), results)
    attempt("interop", lambda: interop(cupy, backend, x), results)
    if float(device.facts["compute_capability"]) >= 8.0:
        tf32 = CupyBackend(tf32=True)
        attempt("parity TF32", lambda: parity_tf32(tf32), results)
        attempt("training TF32", lambda: training(tf32, x, y), results)
    attempt("latencies", lambda: latencies(cupy), results)
    attempt("graphs", lambda: graphs(cupy), results)
    attempt("products float32", lambda: products(cupy), results)
    attempt("products TF32", products_tf32, results)
    for peer in ("torch", "jax"):
        attempt(peer, lambda peer=peer: gpu_peers.run(peer, WORKLOADS, x, y), results)
    attempt("host", lambda: host(x, y), results)

    slug = re.sub(r"[^a-z0-9]+", "-", str(device.facts["name"]).lower()).strip("-")
    path = options.output or HERE / "results" / f"gpu-{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    table(results)
    print(f"written to {path}")
    return int(any(isinstance(r, dict) and "failed" in r for r in results.values()))


if __name__ == "__main__":
    sys.exit(main())

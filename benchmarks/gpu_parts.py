"""The parts of the GPU check that run in processes of their own: device, parity, latencies, tests.

Each part is a function that yields names and figures. Epochs are measured by the benchmark harness
instead, see gpu.py. Needs CuPy and NumPy; the tests need pytest too.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np

from fusedmlp.bench.adapter import UnsupportedError
from fusedmlp.errors import BackendUnavailableError, BreachedError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp.optimizers import OPTIMIZER_NAMES, make_optimizer
from fusedmlp.parity.problems import engine, flat, problem
from fusedmlp.tolerance import difference, tf32_trajectory_bound, trajectory_bound
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.tuning import Tuning
from fusedmlp_numpy import NumpyBackend
from part_process import NotHereError, cases, text_of
from workloads import BIG, SMALL

ROOT = Path(__file__).resolve().parents[1]
KERNELS = Path(__file__).with_name("gpu_limits.cu")
OWN_TESTS = Path("tests", "cupy_backend")
SUITE_MODULES = ("pytest_timeout", "hypothesis", "scipy", "sklearn", "numba")
PACKAGES = ("numpy", "torch", "jax", "jaxlib", "numba", "pytest")
RESULT = re.compile(r"^(tests/\S.*?) (PASSED|FAILED|SKIPPED|ERROR)\b")

GROUP_STEPS = Tuning().group_steps
WAYS = ("eager", "graph", "persistent")
"""Ways to launch steps, each an option of the backend."""

DEEP, SHALLOW = (37, 65, 33, 5), (37, 65, 5)
ROWS, BATCH, CALLS = 1000, 45, 2
"""Two calls of 22 whole batches and one of 10 rows: within ``tolerance.TRAJECTORY_STEPS``."""

WORKLOAD_STEPS = 3.5
"""Steps of the large networks, which take long on the host."""

N_LAUNCHES, N_NODES, N_BARRIERS, N_PRODUCTS = 2000, (1000, 4000), (500, 1500), 50
REPEATS = 6
BARRIER_THREADS = 256


def device():
    """Device with driver, and versions."""
    found = CupyBackend().device()
    yield "device", {"text": str(found), **found.facts}
    yield "versions", {"python": platform.python_version()} | {n: _version(n) for n in PACKAGES}


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def backend_with(option):
    """Build the backend with an option, where the device has it."""
    if option == "tf32":
        capability = CupyBackend().device().facts["compute_capability"]
        if float(capability) < 8.0:
            raise NotHereError(f"compute capability {capability}: TF32 needs 8.0")
    return CupyBackend(**{option: True})


def trajectory(backend, task, optimizer, dtype, batch, rows):
    """Train for two calls; return the losses of each and the parameters after the last."""
    try:
        built, data = engine(backend, task, optimizer, batch_size=batch, dtype=dtype)
    except BackendUnavailableError as error:
        raise UnsupportedError(str(error)) from error
    rng, rates = np.random.default_rng(1), np.full(-(-rows // batch), 0.01)
    # The second call uses what the first has recorded, at another place in the data.
    orders = [rng.integers(0, len(task.y), rows) for _ in range(CALLS)]
    losses = [built.train_epoch(data, order, rates).losses for order in orders]
    return [*losses, flat(built.parameters())]


def compare(backend, bound, arguments):
    """Return the largest difference from NumPy, of losses and of parameters."""
    try:
        found = trajectory(backend, *arguments)
    except UnsupportedError as error:
        return {"refused": text_of(error)}
    expected = trajectory(NumpyBackend(), *arguments)
    gap = max(difference(a, b) for a, b in zip(found, expected, strict=True))
    if not gap <= bound:
        raise BreachedError(f"differs from NumPy by {gap:.3g}, the bound is {bound:.3g}")
    return {"difference": float(gap), "bound": float(bound)}


def bits(option):
    """Compare runs bit for bit, over enough steps for groups of them: two runs, and eager steps.

    Graphs hold the launches of eager steps and have their bits. Another way may sum in another
    order: its difference is noted.
    """
    task = problem((784, 64, 10), dropout=0.2, rows=500, storage="uint8")
    rows, found = BATCH * (2 * GROUP_STEPS + 3) - 7, []
    backends = [CupyBackend(**{name: True}) for name in (option, option, "eager")]
    for backend in backends:
        adamw = make_optimizer("adamw")
        arrays = trajectory(backend, task, adamw, "float32", BATCH, rows)
        found.append(np.concatenate([np.ravel(array) for array in arrays]))
    once, again, eager = found
    if once.tobytes() != again.tobytes():
        raise BreachedError("a second run has other bits than the first")
    if option == "graph" and once.tobytes() != eager.tobytes():
        raise BreachedError("replayed graphs have other bits than eager steps")
    facts = backends[0].device().facts
    launches = {key: facts[key] for key in ("launches", "launches_because") if key in facts}
    return {"repeat": "equal", "from eager": float(difference(once, eager))} | launches


def parity(option, dtypes=("float32", "float64")):
    """Compare trainings with NumPy, and runs bit for bit.

    Every optimizer on a shallow and a deep network, every activation with every output, and the
    measured networks.
    """
    backend, named = backend_with(option), []
    for dtype in dtypes:
        bound = tf32_trajectory_bound() if option == "tf32" else trajectory_bound(dtype)
        settings = [(optimizer, "tanh", "softmax") for optimizer in OPTIMIZER_NAMES]
        settings += [("momentum", *pair) for pair in product(HIDDEN_ACTIVATIONS, OUTPUTS)]
        for sizes, (optimizer, hidden, output) in product((SHALLOW, DEEP), settings):
            dropout = 0.2 if sizes is DEEP else 0.0
            task = problem(sizes, hidden, output, dropout, rows=200, storage="uint8", weighted=True)
            name = f"{dtype} {'-'.join(map(str, sizes))} {optimizer} {hidden} {output}"
            chosen = task, make_optimizer(optimizer), dtype, BATCH, ROWS
            named.append((name, partial(compare, backend, bound, chosen)))
    for work in (SMALL, BIG):
        task = problem(work.network.sizes, work.network.hidden, rows=200, storage="uint8")
        rows = int(WORKLOAD_STEPS * work.batch_size)
        chosen = task, make_optimizer("sgd"), "float32", work.batch_size, rows
        bound = tf32_trajectory_bound() if option == "tf32" else trajectory_bound("float32")
        named.append((f"{work.name} sgd", partial(compare, backend, bound, chosen)))
    named.append(("bits", partial(bits, option)))
    yield from cases(named)


def latencies():
    """Microseconds of a launch, of a node in a CUDA graph, and of a barrier of the grid."""
    cupy = importlib.import_module("cupy")
    with CupyDevice(cupy, 0).active():
        source = KERNELS.read_text("utf-8")
        kernel, x = cupy.RawKernel(source, "one"), cupy.zeros(32, "float32")
        a, b, c = (cupy.zeros((32, 32), "float32") for _ in range(3))
        calls = {
            "launch": lambda: kernel((1,), (32,), (x,)),
            "elementwise": lambda: cupy.add(x, x, out=x),
            "matmul": lambda: cupy.matmul(a, b, out=c),
        }
        named = [(name, partial(per_call, cupy, call)) for name, call in calls.items()]
        named.append(("graph node", partial(graph_node, cupy, calls["launch"])))
        blocks = int(cupy.cuda.runtime.getDeviceProperties(0)["multiProcessorCount"])
        named.append((f"barrier of {blocks} blocks", partial(barrier, cupy, source, blocks)))
        yield from cases(named)


def per_call(cupy, call):
    """Return µs of a call, to queue it and to finish it: the best of some rounds."""
    stream = cupy.cuda.Stream.null
    queued, finished = [], []
    for _ in range(REPEATS):
        stream.synchronize()
        began = time.perf_counter()
        for _ in range(N_LAUNCHES):
            call()
        queued.append(time.perf_counter() - began)
        stream.synchronize()
        finished.append(time.perf_counter() - began)
    return {"us_queued": 1e6 * min(queued) / N_LAUNCHES, "us": 1e6 * min(finished) / N_LAUNCHES}


def graph_node(cupy, launch):
    """Return µs of each further node of a graph of small kernels, and seconds to build it."""
    seconds, build = [], 0.0
    for n_nodes in N_NODES:
        began = time.perf_counter()
        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
            for _ in range(n_nodes):
                launch()
            graph = stream.end_capture()
        build = time.perf_counter() - began
        seconds.append(on_device(cupy, lambda graph=graph: graph.launch(cupy.cuda.Stream.null)))
    fewer, more = N_NODES
    return {"us": 1e6 * (seconds[1] - seconds[0]) / (more - fewer), "build_s": build}


def on_device(cupy, call):
    """Return seconds that the device takes for queued work: the best of some, after a warm-up."""
    stream, times = cupy.cuda.Stream.null, []
    for _ in range(REPEATS):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record(stream)
        call()
        end.record(stream)
        end.synchronize()
        times.append(1e-3 * cupy.cuda.get_elapsed_time(begin, end))
    return min(times[1:])


def barrier(cupy, source, n_blocks):
    """Return µs of one barrier, from two numbers of barriers in one launch; check that it holds."""
    kernel = cupy.RawKernel(source, "grid_barrier", enable_cooperative_groups=True)
    counter, errors = cupy.zeros(1, "uint32"), cupy.zeros(1, "uint32")
    reached = cupy.zeros(n_blocks, "uint32")

    def launch(n):
        counter.fill(0)
        reached.fill(0)
        kernel((n_blocks,), (BARRIER_THREADS,), (np.uint32(n), counter, reached, errors))

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # CuPy warns where it launches fewer blocks
        fewer, more = (on_device(cupy, partial(launch, n)) for n in N_BARRIERS)
    n_errors = int(errors.get()[0])
    if n_errors:
        raise BreachedError(f"{n_errors} times a block went on before its neighbour")
    return {"us": 1e6 * (more - fewer) / (N_BARRIERS[1] - N_BARRIERS[0])}


def ceilings(option=None):
    """Microseconds and TFLOP/s of a step's matrix products alone, replayed in a graph."""
    cupy = importlib.import_module("cupy")
    if option is not None:
        backend_with(option)
    found = CupyDevice(cupy, 0, tf32=option == "tf32")
    with found.active():
        yield from cases(
            (work.name, partial(ceiling, cupy, found, work.network, work.batch_size))
            for work in (SMALL, BIG)
        )


def ceiling(cupy, device, network, batch):
    """Time each product of a step in cuBLAS; return the sum of their medians."""
    blas, rng, seconds = device.cublas_handle(), np.random.default_rng(0), 0.0

    def array(*shape):
        return device.upload(rng.standard_normal(shape).astype(np.float32))

    for layer, (D, H) in enumerate(network.layer_shapes):
        x, W, delta = array(batch, D), array(D, H), array(batch, H)
        forms = [(x, W, (batch, H), ""), (x, delta, (D, H), "a")]
        if layer:
            forms.append((delta, W, (batch, D), "b"))
        for a, b, shape, form in forms:
            out = device.empty(shape, np.float32)
            repeated = partial(_repeat, partial(blas.product, a, b, out, form))
            recording = device.record(repeated, blas)
            seconds += on_device(cupy, partial(device.replay, recording)) / N_PRODUCTS
    return {"us": 1e6 * seconds, "tflops": network.flops_per_row * batch / seconds / 1e12}


def _repeat(launch):
    for _ in range(N_PRODUCTS):
        launch()


def tests():
    """Run the tests marked ``gpu``, the device's own first; count them as they end."""
    if find_spec("pytest") is None:
        raise NotHereError("pytest is not installed")
    missing = [name for name in SUITE_MODULES if find_spec(name) is None]
    missing += ["fusedmlp itself"] * (_version("fusedmlp") is None)
    if missing:
        why = f"{', '.join(missing)} not installed (pip install -e . --group test)"
        yield "only the device's own", {"because": why}
    yield from counted([sys.executable, "-m", "pytest", *pytest_words(everything=not missing)])


def pytest_words(*, everything):
    """Return pytest's arguments: the whole suite, or the device's own tests with pytest alone."""
    files = sorted(path.name for path in (ROOT / OWN_TESTS).glob("test_cupy*_gpu.py"))
    words = ["-v", "--tb=short", "-m", "gpu", "-p", "no:cacheprovider"]
    words += [str(OWN_TESTS / name) for name in files]
    if everything:
        return [*words, "tests"]
    # The folder's own conftest.py suffices for them, without plugins.
    alone = ["-o", "addopts=", "-W", "ignore::pytest.PytestConfigWarning"]
    return [*alone, f"--confcutdir={OWN_TESTS}", *words]


def counted(command):
    """Run pytest and follow its lines: how many tests passed, and which did not."""
    counts, failed, lines = {}, [], []
    folders = [str(ROOT / "src"), str(ROOT / "backends"), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(filter(None, folders))
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            lines.append(line.rstrip())
            if found := RESULT.match(line):
                name, result = found.groups()
                counts[result.lower()] = counts.get(result.lower(), 0) + 1
                if result in ("FAILED", "ERROR"):
                    failed.append(name)
                yield "counts", dict(counts)
    if failed:
        yield "failed", {"tests": failed, "end": lines[-200:]}
    if process.returncode:
        end = lines[-1] if lines else "no output"
        raise RuntimeError(f"pytest ended with status {process.returncode}: {end}")

"""The parts of the GPU check that run in processes of their own: device, parity, ceilings, tests.

Each part is a function that yields names and figures. Epochs are measured by the benchmark harness
instead, see gpu.py. Needs CuPy and NumPy; the tests need pytest too.
"""

from __future__ import annotations

import importlib
import platform
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
from gpu_process import NotHereError, cases, text_of
from workloads import BIG, SMALL

ROOT = Path(__file__).resolve().parents[1]
OWN_TESTS = ROOT / "tests" / "cupy_backend"
SUITE_MODULES = ("pytest_timeout", "hypothesis", "scipy", "sklearn", "numba")
PACKAGES = ("numpy", "torch", "jax", "jaxlib", "numba", "pytest")

GROUP_STEPS = Tuning().group_steps
WAYS = ("eager", "graph", "persistent")
"""Ways to launch steps, each an option of the backend."""

DEEP, SHALLOW = (37, 65, 33, 5), (37, 65, 5)
ROWS, BATCH, CALLS = 1000, 45, 2
"""Two calls of 22 whole batches and one of 10 rows: within ``tolerance.TRAJECTORY_STEPS``."""

WORKLOAD_STEPS = 3.5
"""Steps of the large networks, which take long on the host."""

N_PRODUCTS, REPEATS = 50, 6


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
    yield from counted(pytest_words(everything=not missing))


def pytest_words(*, everything):
    """Return pytest's arguments: the whole suite, or the device's own tests with pytest alone."""
    files = sorted(str(path) for path in OWN_TESTS.glob("test_cupy*_gpu.py"))
    words = ["-v", "--tb=short", "-m", "gpu", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *files]
    if everything:
        return [*words, str(ROOT / "tests")]
    # The folder's own conftest.py suffices for them, without plugins.
    alone = ["-o", "addopts=", "-W", "ignore::pytest.PytestConfigWarning"]
    return [*alone, f"--confcutdir={OWN_TESTS}", *words]


class Counter:
    """A pytest plugin that counts tests by result, and keeps what failed."""

    def __init__(self):
        self.counts, self.failed = {"passed": 0, "failed": 0, "skipped": 0}, {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.outcome == "failed":
            self.failed[report.nodeid] = report.longreprtext


def counted(words):
    """Run pytest here: how many tests passed, and which did not."""
    import pytest

    counter = Counter()
    status = pytest.main(words, plugins=[counter])
    yield "counts", counter.counts
    if counter.failed:
        yield "failed", counter.failed
    if status:
        raise RuntimeError(f"pytest ended with status {int(status)}")

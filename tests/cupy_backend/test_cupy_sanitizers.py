"""The programs with real threads under GCC's sanitizers: no race, no access outside an array.

Faults are planted and found: each barrier left out in turn, indices one too far, an element that
two blocks write. The launches are the engine's own, on sizes that leave a remainder everywhere:
more rows than two blocks take at once, more columns than lanes.
"""

from __future__ import annotations

import re
import sys

import cupy_sanitizers as sanitizers
import cupy_shim
import cupy_standin
import numpy as np
import pytest

from conftest import cupy_backend
from fusedmlp.network import OUTPUTS, Objective
from fusedmlp_cupy.kernels import products
from fusedmlp_cupy.kernels.arguments import RATE_COLUMNS, SUM_THREADS, Batch, Dropout
from fusedmlp_cupy.kernels.launches import KERNELS, STRICT_KERNELS, dropout_mask
from fusedmlp_cupy.kernels.products import PRODUCTS
from fusedmlp_cupy.kernels.source import checks_source, kernel_source
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.tuning import Tuning
from problems import engine, order, problem

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="GCC's sanitizers are run on Linux only"
)

ROWS, BATCH = 37, 13
LAUNCHED_IN_STRICT = [
    name for name in STRICT_KERNELS if name not in ("dropout_mask", "advance_cursor")
]
SIZES = (41, 35, 67)

PLANTED = {
    "an element too far in a row": (
        "gather_rows_float32",
        "i < columns; i += gridDim.y",
        "i < columns + PLANTED; i += gridDim.y",
        "heap-buffer-overflow",
    ),
    "a row too far": ("bias_gradient", "row < B; row += C", "row < B + PLANTED; row += C", "heap-"),
    "a parameter too far": (
        "update",
        "i < n; i += stride",
        "i < n + PLANTED; i += stride",
        "heap-",
    ),
    "a lane too far": (
        "squared_error",
        "if (lane < half)\n            mine[lane] = joined",
        "if (lane < half + PLANTED)\n            mine[lane] = joined",
        "use-after-poison",
    ),
    "a shift too far": (
        "dropout_mask",
        "(kept >> (h - 4 * group))",
        "(kept >> (h - 4 * group + 32 * PLANTED))",
        "shift exponent",
    ),
    "a term too far": (
        "gradients_16",
        "term < n_terms;",
        "term < n_terms + PLANTED;",
        "heap-buffer-overflow",
    ),
    "two blocks write one place": (
        "batch_weights",
        "out[batch] = sum",
        "out[PLANTED ? 0 : batch] = sum",
        "data race",
    ),
}
"""Kernel that shows it, text of the source, what takes its place, and words of the report."""

SHOWN_BY = {
    "gather_sparse": ("gather_rows_csr_float32",),
    "row_total": ("squared_error",),
    "bias_gradient": ("bias_gradient",),
    "block_sum": ("batch_sums",),
    "product": ("sgd_gradients_32",),  # of more terms than a chunk
}
"""Kernels in which a barrier of each function is missed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sanitizers")


@pytest.fixture(scope="module")
def recordings(built_kernels):
    """{dtype: Recording} of a few trainings and predictions that launch every kernel."""
    for each in built_kernels.values():
        each.checked = False
    found = {}
    for dtype, kernels in built_kernels.items():
        recorder = sanitizers.Recorder(kernels)
        standin = cupy_standin.StandIn({dtype: recorder})
        for tuning in (Tuning(), Tuning(small_product=0)):
            record(standin, dtype, tuning)
        record_a_mask(standin, dtype)
        record_products(standin, dtype)
        assert set(recorder.recording.names) == {*KERNELS, *PRODUCTS}
        found[dtype] = recorder.recording
    return found


@pytest.fixture(scope="module")
def strict_recording(strict_kernels):
    """The same of the strict program in float32."""
    kernels = strict_kernels["float32"]
    kernels.checked = False
    recorder = sanitizers.Recorder(kernels)
    record(cupy_standin.StandIn(None, {"float32": recorder}), "float32", Tuning(), strict=True)
    assert set(recorder.recording.names) == set(LAUNCHED_IN_STRICT)
    return recorder.recording


def record(standin, dtype, tuning, **options):
    cases = zip(
        ("uint8", "float32", "float64", "csr32", "csr64"),
        (*OUTPUTS, "softmax"),
        ("sgd", "momentum", "nesterov", "adam", "lion"),
        ("tanh", "gelu", "silu", "elu", "gelu"),
        (0.0, 0.5, 0.0, 0.5, 0.0),
        strict=True,
    )
    for storage, output, optimizer, hidden, dropout in cases:
        task = problem(SIZES, hidden, output, dropout, rows=ROWS, storage=storage, weighted=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "cupy", standin)
            built, data = engine(
                cupy_backend(tuning, **options),
                task,
                optimizer,
                Objective("mean", 0.1),
                batch_size=BATCH,
                dtype=dtype,
                sums_squares=True,
            )
        rows = order(ROWS, 1)
        built.train_epoch(data, rows, np.full(-(-ROWS // BATCH), 0.01))
        built.loss_and_gradients(data, rows[:BATCH])
        built.forward(task.x)


def record_a_mask(standin, dtype):
    device = CupyDevice(standin, 0)
    with device.active():
        masks = Dropout(device.upload(np.array([3], np.uint32)), 1, 5, 0.3)
        program = device.program(dtype, tuple(KERNELS))
        dropout_mask(program, device.empty((BATCH, 35), np.uint8), Batch(None, 0, 0, BATCH), masks)


def record_products(standin, dtype):
    """Both widths of tiles, with more terms than a chunk has and more tiles than blocks."""
    device = CupyDevice(standin, 0)
    for tile in products.TILES:
        with pytest.MonkeyPatch.context() as patch, device.active():
            patch.setattr(products, "tile_of", lambda *_, tile=tile: tile)
            program = device.program(dtype, PRODUCTS)
            m, k, n = 35, 37, 67
            rng = np.random.default_rng(tile)
            shapes = (m, k), (k, n), (m, n), (n,), (2, RATE_COLUMNS), (k, m), (n, k)
            a, b, out, bias, rates, a_across, b_across = (
                device.upload(rng.random(shape).astype(dtype)) for shape in shapes
            )
            values, sums = (
                device.upload(rng.random((m, n)).astype(dtype)),
                device.upload(bias.get()),
            )
            products.product(program, a, b, out, bias, "tanh")
            products.backpropagate_delta(program, a, b_across, out, values, "tanh")
            products.gradients(program, a_across, b, out, sums)
            batch = Batch(None, 0, 1, k)
            products.sgd_gradients(program, a_across, b, out, bias, rates, batch, 0.1)


@pytest.mark.parametrize("dtype", cupy_shim.REALS)
def test_no_access_is_outside_an_array(folder, recordings, dtype):
    real = cupy_shim.REALS[dtype]
    program = sanitizers.build(kernel_source(), real, "address", folder, f"address-{real}")
    done = sanitizers.replay(program, recordings[dtype])
    assert done.returncode == 0, done.stderr[:3000]


@pytest.fixture(scope="module")
def threaded(folder):
    """The program in which two accesses must be in order; the type changes no order."""
    return sanitizers.build(kernel_source(), "float", "thread", folder, "thread-float")


def test_no_two_accesses_race(threaded, recordings):
    done = sanitizers.replay(threaded, recordings["float32"].one_of(*KERNELS, *PRODUCTS))
    assert done.returncode == 0, done.stderr[:3000]


@pytest.mark.parametrize("sanitizer", sanitizers.SANITIZERS)
def test_nothing_is_found_in_strict_mode(folder, strict_recording, sanitizer):
    name = f"strict-{sanitizer}"
    program = sanitizers.build(kernel_source(strict=True), "float", sanitizer, folder, name)
    done = sanitizers.replay(program, strict_recording.one_of(*LAUNCHED_IN_STRICT))
    assert done.returncode == 0, done.stderr[:3000]


@pytest.mark.parametrize(
    ("number", "function"), tuple(enumerate(sanitizers.barriers(kernel_source())))
)
def test_a_barrier_left_out_is_a_race(threaded, recordings, number, function):
    """Each ``__syncthreads()`` of the source in turn: none is superfluous."""
    names = SHOWN_BY[function]
    done = sanitizers.replay(threaded, recordings["float32"].one_of(*names), left_out=number)
    assert done.returncode == sanitizers.FOUND, f"{done.returncode}: {done.stderr[:3000]}"
    assert "data race" in done.stderr
    assert re.search(r"(kernels|outputs|updates|formulas|products)\.cu:\d+", done.stderr)


@pytest.fixture(scope="module")
def faulty(folder):
    """{sanitizer: program} of a source with all of PLANTED, each inactive until chosen."""
    faults = (each[1:3] for each in PLANTED.values())
    source = cupy_shim.plant(kernel_source(), faults, "shim::planted")
    return {
        sanitizer: sanitizers.build(source, "float", sanitizer, folder, f"faulty-{sanitizer}")
        for sanitizer in sanitizers.SANITIZERS
    }


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(faulty, recordings, fault):
    kernel, _, _, words = PLANTED[fault]
    recording = recordings["float32"].one_of(kernel)
    program = faulty["thread" if words == "data race" else "address"]
    assert sanitizers.replay(program, recording).returncode == 0
    done = sanitizers.replay(program, recording, planted=list(PLANTED).index(fault) + 1)
    assert done.returncode == sanitizers.FOUND, f"{done.returncode}: {done.stderr[:3000]}"
    assert words in done.stderr
    assert re.search(r"(kernels|outputs|updates|formulas|products)\.cu:\d+", done.stderr)


@pytest.mark.parametrize("sanitizer", sanitizers.SANITIZERS)
def test_the_checks_of_arrays_on_the_device(folder, sanitizer):
    recorder = sanitizers.Recorder(cupy_standin.built_checks())
    for dtype, n in (("float32", 1031), ("float64", 257)):
        x = np.ones(n, dtype)
        x[n // 2] = np.nan
        args = x, np.int64(n), np.int32(3), np.zeros(3, np.int64)
        recorder(f"first_non_finite_{dtype}", (3,), (SUM_THREADS,), args)
    name = f"checks-{sanitizer}"
    program = sanitizers.build(checks_source(), "float", sanitizer, folder, name)
    done = sanitizers.replay(program, recorder.recording)
    assert done.returncode == 0, done.stderr[:3000]
    for number, _ in enumerate(sanitizers.barriers(checks_source())):
        done = sanitizers.replay(program, recorder.recording, left_out=number)
        assert (done.returncode == sanitizers.FOUND) == (sanitizer == "thread")


def test_other_bits_are_noticed(threaded, recordings):
    recording = recordings["float32"].one_of("bias_gradient")
    ((written,),) = recording.written
    recording.written = [[bytes([written[0] ^ 1]) + written[1:]]]
    with pytest.raises(AssertionError, match="other bits than on fibers"):
        sanitizers.replay(threaded, recording)


def test_a_missing_library_skips_with_its_reason_and_fails_in_ci(monkeypatch, tmp_path):
    monkeypatch.setitem(sanitizers.SANITIZERS, "thread", ["-fsanitize=nothing-that-exists"])
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no working -fsanitize=thread: .+"):
        sanitizers.compiler("thread", tmp_path)
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match=r"no working -fsanitize=thread: .+"):
        sanitizers.compiler("thread", tmp_path)

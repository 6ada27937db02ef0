"""Arrays of other libraries, on a pretended device and on the host, in and out of the model."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from cupy_memory import DeviceArray
from cupy_modes import small_backend
from cupy_standin import built_checks

from fusedmlp import MLP, Trainer
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import OUTPUTS
from fusedmlp.optimizers import SGD
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.kernels.arguments import SUM_THREADS
from fusedmlp_numpy import NumpyBackend
from problems import engine, flat, order, problem

SIZES = (6, 5, 3)


class Lent:
    """Another library's array on a device, with only its interface."""

    def __init__(self, array):
        self.lent, self.shape, self.dtype = array, array.shape, array.dtype
        self.__cuda_array_interface__ = array.__cuda_array_interface__


class LentByDLPack:
    """Another library's array on a device, by DLPack alone."""

    def __init__(self, array, kind=2):
        self.lent, self.shape, self.dtype = array, array.shape, array.dtype
        self._kind = kind

    def __dlpack_device__(self):
        return self._kind, self.lent.device.id

    def __dlpack__(self, *, stream=None):
        assert stream == 1, "the default stream is the one that reads it"
        return self.lent


class OnHost:
    """An array in host memory that speaks DLPack alone, as the array API standard asks."""

    def __init__(self, array):
        self._array = array

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **words):
        return self._array.__dlpack__(**words)


FORMS = {"cupy": lambda array: array, "interface": Lent, "dlpack": LentByDLPack}
"""An array on device 0 as each library would hold it."""

forms = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def pair(cupy):
    """Engines of a network: ours and the reference's."""
    return [engine(each, problem(SIZES))[0] for each in (small_backend(), NumpyBackend())]


@forms
@pytest.mark.parametrize("storage", ["uint8", "float32", "float64"])
def test_inputs_on_the_device_are_used_in_place(cupy, form, storage):
    task = problem(SIZES, rows=40, storage=storage, weighted=True)
    built, expected = engine(small_backend(), task)
    start = built.state()
    given = FORMS[form](cupy.memory.holding(task.x))
    before, read = cupy.memory.uploads, cupy.memory.reads
    waits, stream = cupy.memory.synchronisations, cupy.cuda.Stream.null
    with stream:  # the caller's
        staged = built.stage(given, task.y, task.sample_weight)
    assert cupy.memory.uploads - before == 2  # y and w
    assert cupy.memory.synchronisations - waits == 2 + 1  # and for the caller's stream
    assert cupy.memory.reads - read == (storage != "uint8")  # what the check found
    results = []
    for data in (expected, staged):
        built.load(start)
        sums = built.train_epoch(data, order(40), np.full(5, 0.1))
        results.append(sums.losses.tobytes() + flat(built.parameters()).tobytes())
    assert results[0] == results[1]


@forms
@pytest.mark.parametrize("output", OUTPUTS)
def test_forward_leaves_outputs_on_the_device(cupy, form, output):
    task = problem((6, 9, 3), "sigmoid", output, rows=41, storage="float32")
    built, _ = engine(small_backend(), task, dtype="float32")
    expected = built.forward(task.x)
    uploads, reads = cupy.memory.uploads, cupy.memory.reads
    found = built.forward(FORMS[form](cupy.memory.holding(task.x)))
    assert cupy.memory.uploads == uploads
    assert cupy.memory.reads == reads + 1  # what the check found
    assert isinstance(found, DeviceArray)
    assert found.get().tobytes() == expected.tobytes()
    none = FORMS[form](cupy.memory.holding(task.x[:0]))
    assert built.forward(none).shape == (0, 3)


@pytest.mark.parametrize("name", ["targets", "weights", "both"])
def test_targets_and_weights_on_the_device(cupy, name):
    task = problem(SIZES, rows=20, weighted=True)
    built, data = engine(small_backend(), task)
    holding, y, w = cupy.memory.holding, task.y, task.sample_weight
    there_y = holding(y) if name != "weights" else y
    there_w = holding(w) if name != "targets" else w
    found = built.evaluate(built.stage(holding(task.x), there_y, there_w))
    assert found.losses.tobytes() == built.evaluate(data).losses.tobytes()
    with pytest.raises(InvalidInputError, match=r"y\[3\] is 7"):
        built.stage(task.x, holding(np.where(np.arange(20) == 3, 7, y)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_device_s_own_check_names_the_first_bad_number(cupy, pair, bad, dtype):
    for n, row, column in ((1, 0, 5), (50, 0, 0), (43, 42, 3), (200_003, 199_999, 3)):
        x = np.zeros((n, 6), dtype)
        x[0, 0] = np.finfo(dtype).max
        x[row, column] = bad
        x[-1, 5] = np.nan
        messages = []
        for each, given in zip(pair, (cupy.memory.holding(x), x), strict=True):
            with pytest.raises(InvalidInputError, match=r"inputs must be finite") as caught:
                each.forward(given)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


@pytest.mark.parametrize(("n", "parts"), [(1, 1), (255, 1), (256, 2), (1031, 3), (5003, 7)])
def test_the_check_on_every_grid(monkeypatch, n, parts):
    checks = built_checks()
    monkeypatch.setattr(checks, "checked", True)
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    for bad in (None, 0, n // 2, n - 1):
        values = x.copy()
        if bad is not None:
            values[bad:] = np.nan
        out = np.full(parts, -1)
        args = values, np.int64(n), np.int32(parts), out
        checks("first_non_finite_float32", (parts,), (SUM_THREADS,), args)
        assert out.min() == (n if bad is None else bad)


@pytest.mark.parametrize("dtype", ["int64", "float16", "bool"])
def test_other_numbers_are_converted_on_the_device(cupy, pair, dtype):
    ours, _ = pair
    x = np.random.default_rng(0).integers(0, 2, (12, 6)).astype(dtype)
    uploads = cupy.memory.uploads
    found = ours.forward(cupy.memory.holding(x))
    assert cupy.memory.uploads == uploads
    assert found.get().tobytes() == ours.forward(x).tobytes()
    turned = cupy.memory.holding(np.asfortranarray(x.T)).T
    assert ours.forward(turned).get().tobytes() == found.get().tobytes()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((4, 7)), "7 columns"),
        (np.ones(6), "x has shape"),
        (np.ones((4, 6), complex), "dtype complex128"),
        (np.ones((0, 6)), "empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_do_not_fit_are_refused_as_on_the_host(cupy, pair, x, message):
    messages = []
    for each, given in zip(pair, (cupy.memory.holding(x), x), strict=True):
        with pytest.raises(InvalidInputError, match=message) as caught:
            each.stage(given)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_arrays_elsewhere_and_sparse_ones_on_the_device_are_refused(cupy, pair):
    ours, holding = pair[0], cupy.memory.holding
    with pytest.raises(InvalidInputError, match=r"lies on device 1, .* use backend 'cupy:1'"):
        ours.stage(holding(np.ones((4, 6)), device=1))
    with pytest.raises(InvalidInputError, match="DLPack's type 4, which is not CUDA's"):
        ours.stage(LentByDLPack(holding(np.ones((4, 6))), kind=4))
    sparse = scipy.sparse.csr_array(np.eye(6, dtype=np.float32))
    sparse.data = holding(sparse.data)
    for each in pair:
        with pytest.raises(InvalidInputError, match=r"x.get\(\) of CuPy"):
            each.stage(sparse)


@forms
def test_a_cpu_backend_refuses_inputs_on_a_device(cupy, form):
    mlp = MLP(SIZES, backend="numpy")
    x = FORMS[form](cupy.memory.holding(np.ones((4, 6), np.float32)))
    for call in (mlp.predict, mlp.predict_proba, mlp.forward, lambda x: mlp.evaluate(x, [0] * 4)):
        with pytest.raises(InvalidInputError, match=r"GPU memory.*x\.get\(\).*backend 'cupy'"):
            call(x)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int32"])
def test_host_arrays_of_other_libraries_simply_work(pair, dtype):
    x = np.random.default_rng(0).integers(0, 9, (12, 6)).astype(dtype)
    for each in pair:
        found = each.forward(OnHost(x))
        assert isinstance(found, np.ndarray)
        assert found.tobytes() == each.forward(x).tobytes()


def test_what_numpy_does_not_take_is_refused_in_words(pair):
    class Strange:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("call detach() first")

    for each in pair:
        with pytest.raises(InvalidInputError, match=r"Strange that NumPy cannot convert: call det"):
            each.forward(Strange())
        with pytest.raises(InvalidInputError, match="that NumPy cannot convert"):
            each.forward([[1.0] * 6, [2.0]])


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize(
    ("output", "K"), [("softmax", 3), ("sigmoid", 1), ("sigmoid", 3), ("identity", 1), ("exp", 2)]
)
def test_predictions_have_the_kind_of_the_inputs(cupy, output, K, device):
    mlp = MLP((6, 5, K), output=output, backend=f"cupy:{device}", seed=2)
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    methods = [mlp.forward, mlp.predict]
    methods += [mlp.predict_proba] if output in ("softmax", "sigmoid") else []
    for method in methods:
        here, there = method(x), method(cupy.memory.holding(x, device))
        assert isinstance(here, np.ndarray)
        assert isinstance(there, DeviceArray)
        assert (there.dtype, there.device.id) == (here.dtype, device)
        np.testing.assert_array_equal(there.get(), here)
    with pytest.raises(InvalidInputError, match=rf"this engine runs on device {device}"):
        mlp.predict(cupy.memory.holding(x, 1 - device))


@pytest.mark.parametrize(("output", "labels"), [("softmax", "abc"), ("sigmoid", "ny")])
def test_labels_of_inputs_on_the_device_are_on_the_host(cupy, output, labels):
    mlp = MLP((6, 5, 3 if output == "softmax" else 1), output=output, backend="cupy", seed=2)
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    expected = np.array(list(labels))[mlp.predict(x)]
    mlp.labels = list(labels)
    for given in (x, cupy.memory.holding(x)):
        found = mlp.predict(given)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, expected)
    on_device = mlp.evaluate(cupy.memory.holding(x), expected)
    assert on_device == mlp.evaluate(x, expected)
    assert on_device.accuracy == 1.0


def test_training_and_checkpoints_take_arrays_on_the_device(cupy, tmp_path):
    task, path = problem(SIZES, rows=40, weighted=True), tmp_path / "checkpoint.safetensors"
    here, results = (task.x, task.y, task.sample_weight), []
    for x, y, w in (here, tuple(cupy.memory.holding(each) for each in here)):
        mlp = MLP(SIZES, backend=CupyBackend(), seed=2)
        settings = {"epochs": 2, "batch_size": 8, "validation": 0.2, "class_weight": "balanced"}
        trainer = Trainer(SGD(0.1), checkpoint=path, **settings)
        trainer.fit(mlp, x, y, sample_weight=w, resume=path if results else None)
        results.append(flat(mlp.parameters).tobytes())
    assert results[0] == results[1]  # resumed at its end, with the same data by its fingerprint

"""Arrays of other libraries, on a pretended device and on the host, in and out of the model."""

from __future__ import annotations

import cupy_shim
import cupy_standin
import numpy as np
import pytest
import scipy.sparse
from test_cupy_engine import data_set, engines

from fusedmlp import MLP, Trainer
from fusedmlp.backend import State
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import OUTPUTS, Network, Objective
from fusedmlp.optimizers import SGD
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.device_inputs import CHECKS
from fusedmlp_cupy.kernels.arguments import SUM_THREADS
from fusedmlp_cupy.kernels.source import checks_source
from fusedmlp_cupy.tuning import Tuning

NETWORK = Network((6, 5, 3), "tanh")


class Lent:
    """Another library's array on a device, with only its interface."""

    def __init__(self, array, protocol):
        self.lent, self.shape, self.dtype = array, array.shape, array.dtype
        if protocol == "interface":
            self.__cuda_array_interface__ = array.__cuda_array_interface__

    def __getitem__(self, index):
        return Lent(self.lent[index], "dlpack")

    def get(self):
        return self.lent.get()


class LentByDLPack(Lent):
    kind = 2

    def __dlpack_device__(self):
        return self.kind, self.lent.device.id

    def __dlpack__(self, *, stream=None):
        assert stream == 1, "the default stream is the one that reads it"
        return self.lent


class OnHost:
    """An array in host memory that speaks DLPack alone, as the array API standard asks."""

    def __init__(self, array, kind=1):
        self._array, self._kind = array, kind

    def __dlpack_device__(self):
        return self._kind, 0

    def __dlpack__(self, **words):
        return self._array.__dlpack__(**words)


def forms(standin, x):
    """One array as each library would hold it on device 0."""
    array = standin.memory.holding(x)
    return {
        "cupy": array,
        "interface": Lent(array, "interface"),
        "dlpack": LentByDLPack(array, "dlpack"),
    }


FORMS = ("cupy", "interface", "dlpack")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("storage", ["uint8", "float32", "float64"])
def test_inputs_on_the_device_are_used_in_place(fast, form, storage):
    ours, _ = engines(fast, NETWORK, SGD(), dtype="float64")
    x, y, w = data_set(NETWORK, 40, "float64", storage, weighted=True)
    expected = ours.stage(x, y, w)
    given = forms(fast, x)[form]
    before, read = fast.memory.uploads, fast.memory.reads
    staged = ours.stage(given, y, w)
    assert fast.memory.uploads - before == 2  # y and w
    assert fast.memory.reads - read == (storage != "uint8")  # what the check found
    assert np.shares_memory(staged.x._host, getattr(given, "lent", given)._host)
    order, rates = np.random.default_rng(0).permutation(40), np.full(6, 0.1)
    results = []
    start = ours.state()
    for data in (expected, staged):
        ours.load(start)
        sums = ours.train_epoch(data, order, rates)
        results.append([sums.losses.tobytes(), *(p.tobytes() for p in ours.parameters())])
    assert results[0] == results[1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_forward_leaves_outputs_on_the_device(fast, form, output):
    network = Network((6, 9, 3), "sigmoid", output)
    ours, _ = engines(fast, network, SGD(), mode=("eager", Tuning(forward_rows=16)))
    x = data_set(network, 41, "float32")[0]
    expected = ours.forward(x)
    uploads, reads = fast.memory.uploads, fast.memory.reads
    found = ours.forward(forms(fast, x)[form])
    assert fast.memory.uploads == uploads
    assert fast.memory.reads == reads + 1  # what the check found
    assert isinstance(found, cupy_standin.DeviceArray)
    assert found.get().tobytes() == expected.tobytes()
    none = ours.forward(forms(fast, x)[form].__getitem__(slice(0, 0))) if form == "cupy" else None
    assert none is None or none.shape == (0, 3)


@pytest.mark.parametrize("name", ["targets", "weights", "both"])
def test_targets_and_weights_on_the_device(fast, name):
    ours, _ = engines(fast, NETWORK, SGD(), dtype="float64")
    x, y, w = data_set(NETWORK, 20, "float64", weighted=True)
    expected = ours.evaluate(ours.stage(x, y, w))
    there_y = fast.memory.holding(y) if name != "weights" else y
    there_w = fast.memory.holding(w) if name != "targets" else w
    found = ours.evaluate(ours.stage(fast.memory.holding(x), there_y, there_w))
    assert found.losses.tobytes() == expected.losses.tobytes()
    with pytest.raises(InvalidInputError, match=r"y\[3\] is 7"):
        ours.stage(x, fast.memory.holding(np.where(np.arange(20) == 3, 7, y)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_device_s_own_check_names_the_first_bad_number(fast, bad, dtype):
    ours, reference = engines(fast, NETWORK, SGD())
    for n, row, column in ((1, 0, 5), (50, 0, 0), (200_003, 199_999, 3)):
        x = np.zeros((n, 6), dtype)
        x[0, 0] = np.finfo(dtype).max
        x[row, column] = bad
        x[-1, 5] = np.nan
        messages = []
        for engine, given in ((ours, fast.memory.holding(x)), (reference, x)):
            with pytest.raises(InvalidInputError, match=r"inputs must be finite") as caught:
                engine.forward(given)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


@pytest.mark.parametrize(("n", "parts"), [(1, 1), (255, 1), (256, 2), (1031, 3), (5003, 7)])
def test_the_check_on_every_grid(kernels, standin, n, parts):
    checks = cupy_standin.built_checks()
    checks.checked = True
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    for bad in (None, 0, n // 2, n - 1):
        values = x.copy()
        if bad is not None:
            values[bad:] = np.nan
        out = np.full(parts, -1)
        args = values, np.int64(n), np.int32(parts), out
        checks("first_non_finite_float32", (parts,), (SUM_THREADS,), args)
        assert out.min() == (n if bad is None else bad)


def test_every_check_is_listed():
    assert set(cupy_shim.parameters_of(checks_source(), "float")) == set(CHECKS)
    assert f"SUM_THREADS = {SUM_THREADS} " in checks_source()


@pytest.mark.parametrize("dtype", ["int64", "float16", "bool"])
def test_other_numbers_are_converted_on_the_device(fast, dtype):
    ours, _ = engines(fast, NETWORK, SGD())
    x = np.random.default_rng(0).integers(0, 2, (12, 6)).astype(dtype)
    uploads = fast.memory.uploads
    found = ours.forward(fast.memory.holding(x))
    assert fast.memory.uploads == uploads
    assert found.get().tobytes() == ours.forward(x).tobytes()
    turned = fast.memory.holding(np.asfortranarray(x.T)).T
    assert ours.forward(turned).get().tobytes() == found.get().tobytes()


def test_arrays_that_do_not_fit_are_refused(fast):
    ours, reference = engines(fast, NETWORK, SGD())
    holding = fast.memory.holding
    for x, message in (
        (np.ones((4, 7)), "7 columns"),
        (np.ones(6), "x has shape"),
        (np.ones((4, 6), complex), "dtype complex128"),
        (np.ones((0, 6)), "empty"),
    ):
        with pytest.raises(InvalidInputError, match=message) as there:
            ours.stage(holding(x))
        with pytest.raises(InvalidInputError, match=message) as here:
            reference.stage(x)
        assert str(there.value) == str(here.value)
    with pytest.raises(InvalidInputError, match=r"lies on device 1, .* use backend 'cupy:1'"):
        ours.stage(holding(np.ones((4, 6)), device=1))
    opencl = LentByDLPack(holding(np.ones((4, 6))), "dlpack")
    opencl.kind = 4
    with pytest.raises(InvalidInputError, match="DLPack's type 4, which is not CUDA's"):
        ours.stage(opencl)


def test_sparse_matrices_on_the_device_are_refused(fast):
    ours, reference = engines(fast, NETWORK, SGD())
    there = scipy.sparse.csr_array(np.eye(6, dtype=np.float32))
    there.data = fast.memory.holding(there.data)
    for engine in (ours, reference):
        with pytest.raises(InvalidInputError, match=r"x.get\(\) of CuPy"):
            engine.stage(there)


@pytest.mark.parametrize("form", FORMS)
def test_a_cpu_backend_refuses_inputs_on_a_device(fast, form):
    mlp = MLP(NETWORK.sizes, backend="numpy")
    x = forms(fast, np.ones((4, 6), np.float32))[form]
    for call in (mlp.predict, mlp.predict_proba, mlp.forward, lambda x: mlp.evaluate(x, [0] * 4)):
        with pytest.raises(InvalidInputError, match=r"GPU memory.*x\.get\(\).*backend 'cupy'"):
            call(x)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int32"])
def test_host_arrays_of_other_libraries_simply_work(fast, dtype):
    x = np.random.default_rng(0).integers(0, 9, (12, 6)).astype(dtype)
    for engine in engines(fast, NETWORK, SGD()):
        expected = engine.forward(x)
        found = engine.forward(OnHost(x))
        assert isinstance(found, np.ndarray)
        assert found.tobytes() == expected.tobytes()


def test_what_numpy_does_not_take_is_refused_in_words(fast):
    class Strange:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("call detach() first")

    for engine in engines(fast, NETWORK, SGD()):
        with pytest.raises(InvalidInputError, match=r"Strange that NumPy cannot convert: call det"):
            engine.forward(Strange())
        with pytest.raises(InvalidInputError, match="that NumPy cannot convert"):
            engine.forward([[1.0] * 6, [2.0]])


@pytest.fixture
def model(cupy):
    return lambda output="softmax", sizes=(6, 5, 3): MLP(
        sizes, output=output, backend=CupyBackend(), seed=2
    )


@pytest.mark.parametrize(
    ("output", "K"), [("softmax", 3), ("sigmoid", 1), ("sigmoid", 3), ("identity", 1), ("exp", 2)]
)
def test_predictions_have_the_kind_of_the_inputs(fast, model, output, K):
    mlp = model(output, (6, 5, K))
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    methods = [mlp.forward, mlp.predict]
    methods += [mlp.predict_proba] if output in ("softmax", "sigmoid") else []
    for method in methods:
        here, there = method(x), method(fast.memory.holding(x))
        assert isinstance(here, np.ndarray)
        assert isinstance(there, cupy_standin.DeviceArray)
        assert there.dtype == here.dtype
        np.testing.assert_array_equal(there.get(), here)


@pytest.mark.parametrize(("output", "labels"), [("softmax", "abc"), ("sigmoid", "ny")])
def test_labels_of_inputs_on_the_device_are_on_the_host(fast, model, output, labels):
    mlp = model(output, (6, 5, 3 if output == "softmax" else 1))
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    expected = np.array(list(labels))[mlp.predict(x)]
    mlp.labels = list(labels)
    for given in (x, fast.memory.holding(x)):
        found = mlp.predict(given)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, expected)
    on_device = mlp.evaluate(fast.memory.holding(x), expected)
    assert on_device == mlp.evaluate(x, expected)
    assert on_device.accuracy == 1.0


@pytest.mark.parametrize(("output", "K"), [("softmax", 3), ("sigmoid", 1), ("identity", 2)])
def test_predictions_on_another_device_than_the_current(fast, cupy, output, K):
    mlp = MLP((6, 5, K), output=output, backend="cupy:1", seed=2)
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    found = mlp.predict(fast.memory.holding(x, device=1))
    assert found.device.id == 1
    np.testing.assert_array_equal(found.get(), mlp.predict(x))
    with pytest.raises(InvalidInputError, match="lies on device 0, this engine runs on device 1"):
        mlp.predict(fast.memory.holding(x))


def test_training_and_checkpoints_take_arrays_on_the_device(fast, model, tmp_path):
    x, y, w = data_set(NETWORK, 40, "float32", weighted=True)
    there = tuple(fast.memory.holding(each) for each in (x, y, w))
    results = []
    for a, b, c in ((x, y, w), there):
        mlp = model()
        path = tmp_path / "checkpoint.safetensors"
        trainer = Trainer(
            SGD(0.1),
            epochs=2,
            batch_size=8,
            validation=0.2,
            checkpoint=path,
            class_weight="balanced",
        )
        trainer.fit(mlp, a, b, sample_weight=c, resume=path if results else None)
        results.append([p.tobytes() for p in mlp.parameters])
    assert results[0] == results[1]  # resumed at its end, with the same data by its fingerprint


def test_cpu_and_gpu_agree_on_arrays_on_the_device(fast):
    ours, reference = engines(fast, NETWORK, SGD(), Objective(), "float64")
    x, y, _ = data_set(NETWORK, 14, "float64")
    ours.load(State(reference.parameters(), (), 0))
    a = ours.evaluate(ours.stage(fast.memory.holding(x), y))
    b = reference.evaluate(reference.stage(x, y))
    np.testing.assert_allclose(a.losses.sum(), b.losses.sum(), rtol=1e-12)

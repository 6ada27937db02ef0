"""Estimator files: round trips, continued training, and refusal of malformed files."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pytest
import scipy.sparse
import skops.io
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fusedmlp.errors import FileFormatError, InvalidInputError, StorageError
from fusedmlp.io.onnx import export
from fusedmlp.io.parameter_files import write_arrays
from fusedmlp.sklearn import MLPClassifier, MLPRegressor
from fusedmlp.sklearn.files import ESTIMATOR_FORMAT
from stored import parts

pytestmark = pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")

X, Y = load_iris(return_X_y=True)
NEWER = ESTIMATOR_FORMAT.version + 1
LABELS = {
    "whole": np.array([-3, 5, 2**62])[Y],
    "bytes": np.array([1, 2, 3], np.uint8)[Y],
    "text": np.array(["ant", "Biene", "ζῷον"])[Y],
    "objects": np.array(["ant", "bee", "cow"], dtype=object)[Y],
    "real": np.array([-1.0, 0.0, 4.0])[Y],
    "truth": Y == 1,
    "one": np.full(150, "only"),
}
ADAM = {"solver": "adam"}
SOLVERS = (
    ADAM,
    {"solver": "sgd"},
    {"solver": "sgd", "momentum": 0.0, "learning_rate": "invscaling"},
    {"solver": "sgd", "learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1},
)


def classifier(**parameters):
    given = {"random_state": 0, "backend": "numpy", "max_iter": 5} | parameters
    return MLPClassifier((6, 5), **given)


def again(estimator, path, backend="numpy"):
    estimator.save(path / "estimator.safetensors")
    return type(estimator).load(path / "estimator.safetensors", backend=backend)


def public(estimator):
    """All fitted attributes that scikit-learn documents, as something that compares."""
    return {
        name: np.asarray(value, dtype=object if isinstance(value, list) else None).tolist()
        for name, value in vars(estimator).items()
        if name.endswith("_") and name not in ("coefs_", "intercepts_")
    }


def assert_same(loaded, estimator):
    assert public(loaded) == public(estimator)
    for a, b in zip(
        loaded.coefs_ + loaded.intercepts_, estimator.coefs_ + estimator.intercepts_, strict=True
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("labels", LABELS)
def test_classifiers_come_back(labels, dtype, tmp_path):
    x, y = X.astype(dtype), LABELS[labels]
    estimator = classifier(early_stopping=True).fit(x, y)
    loaded = again(estimator, tmp_path)
    assert_same(loaded, estimator)
    predicted = loaded.predict(x)
    np.testing.assert_array_equal(predicted, estimator.predict(x))
    assert predicted.dtype.kind == estimator.predict(x).dtype.kind
    np.testing.assert_array_equal(loaded.predict_proba(x), estimator.predict_proba(x))
    assert loaded.score(x, y) == estimator.score(x, y)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("targets", [1, 3])
def test_regressors_come_back(solver, loss, targets, tmp_path):
    y = X[:, 0] if targets == 1 else X[:, :3]
    estimator = MLPRegressor(loss, (4,), solver=solver, max_iter=4, random_state=0).fit(X, y)
    loaded = again(estimator, tmp_path, backend=None)
    assert_same(loaded, estimator)
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X))


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_several_labels_a_row_come_back(form, tmp_path):
    x, y = make_multilabel_classification(60, 6, n_classes=4, random_state=0)
    y = form(y)
    estimator = classifier().fit(x, y)
    loaded = again(estimator, tmp_path)
    assert type(loaded.predict(x)) is type(estimator.predict(x))
    assert scipy.sparse.issparse(loaded.predict(x)) == scipy.sparse.issparse(y)
    assert abs(loaded.predict(x) - estimator.predict(x)).sum() == 0
    loaded.partial_fit(x, y)
    np.testing.assert_array_equal(loaded.coefs_[0], estimator.partial_fit(x, y).coefs_[0])


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: ",".join(map(str, solver.values())))
def test_partial_fit_goes_on_with_the_same_bits(labels, solver, tmp_path):
    y = LABELS[labels]
    estimator = classifier(**solver, dropout=0.3)
    for _ in range(4):
        estimator.partial_fit(X, y, classes=np.unique(y))
    loaded = again(estimator, tmp_path)
    for each in (estimator, loaded):
        for part in (slice(0, 90), slice(90, 150)):
            each.partial_fit(X[part], y[part])
    assert_same(loaded, estimator)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("form", [*range(pickle.HIGHEST_PROTOCOL + 1), "skops", "joblib"])
def test_other_writers_take_a_fitted_estimator(form, solver, tmp_path):
    """Every protocol of pickle, also the old ones, and skops as it takes scikit-learn's."""
    estimator = make_pipeline(StandardScaler(), classifier(solver=solver)).fit(X, Y)
    estimator.predict(X)
    if form == "skops":
        content = skops.io.dumps(estimator)
        untrusted = skops.io.get_untrusted_types(data=content)
        loaded = skops.io.loads(content, trusted=untrusted)
    elif form == "joblib":
        joblib.dump(estimator, tmp_path / "file")
        loaded = joblib.load(tmp_path / "file")
    else:
        loaded = pickle.loads(pickle.dumps(estimator, protocol=form))
    np.testing.assert_array_equal(loaded.predict_proba(X), estimator.predict_proba(X))
    if solver != "lbfgs":
        assert_same(loaded[-1].partial_fit(X, Y), estimator[-1].partial_fit(X, Y))


def test_warm_start_goes_on_with_the_same_bits(tmp_path):
    estimator = classifier(warm_start=True).fit(X, Y)
    loaded = again(estimator, tmp_path)
    assert_same(loaded.fit(X, Y), estimator.fit(X, Y))


def test_a_generator_goes_on_where_it_was(tmp_path):
    estimator = classifier(random_state=np.random.RandomState(3)).partial_fit(
        X, Y, classes=[0, 1, 2]
    )
    estimator.random_state.normal()  # leaves a second number behind
    loaded = again(estimator, tmp_path)
    assert loaded.random_state.normal() == estimator.random_state.normal()
    assert_same(loaded.partial_fit(X, Y), estimator.partial_fit(X, Y))


def test_parameters_come_back(tmp_path):
    given = {
        "hidden_layer_sizes": np.array([3, 4]),
        "alpha": np.float32(0.25),
        "learning_rate_init": np.float16(0.01),
        "n_iter_no_change": np.inf,
        "class_weight": {0: 1.0, 1: np.float32(0.5), 2: 3},
        "batch_size": np.int64(32),
        "validation_fraction": 0.2,
        "threads": 1,
    }
    estimator = MLPClassifier(**given, max_iter=2, backend="numba").fit(X, Y)
    assert {type(value) for value in (*estimator.loss_curve_, estimator.loss_)} == {float}
    loaded = again(estimator, tmp_path)
    assert_same(loaded, estimator)
    found, expected = loaded.get_params(), estimator.get_params()
    assert found.pop("hidden_layer_sizes") == tuple(expected.pop("hidden_layer_sizes"))
    assert (found.pop("backend"), found.pop("threads")) == ("numpy", None)
    assert found == {name: v for name, v in expected.items() if name not in ("backend", "threads")}
    clone(loaded).fit(X, Y)
    text = classifier(class_weight={"ant": 2.0}).fit(X, LABELS["objects"])
    assert again(text, tmp_path).class_weight == {"ant": 2.0}


def test_feature_names_come_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    loaded = again(classifier().fit(frame, Y), tmp_path)
    assert loaded.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    loaded.predict(frame)
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame.rename(columns={"a": "z"}))


def test_from_fit_through_a_file_and_onnx_to_onnxruntime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    x, numbers = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), np.array([f"digit {n}" for n in range(10)])[numbers]
    estimator = MLPClassifier((32,), max_iter=40, random_state=0, backend="numba").fit(x, y)
    loaded = again(estimator, tmp_path)
    export(loaded, tmp_path / "digits.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "digits.onnx", providers=["CPUExecutionProvider"]
    )
    label, probabilities = session.run(["label", "probabilities"], {"X": x})
    np.testing.assert_array_equal(label, estimator.predict(x))
    np.testing.assert_array_equal(label, loaded.predict(x))  # which was exported before
    np.testing.assert_allclose(probabilities, estimator.predict_proba(x), atol=1e-6)
    assert estimator.score(x, y) > 0.9


def test_what_cannot_be_saved_raises(tmp_path):
    path = tmp_path / "estimator"
    with pytest.raises(NotFittedError):
        classifier().save(path)
    odd = classifier().fit(X, Y)
    odd.classes_ = np.array([None, 1, "a"], dtype=object)
    with pytest.raises(InvalidInputError, match="neither numbers nor text"):
        odd.save(path)
    odd.classes_ = np.arange(3)
    with pytest.raises(InvalidInputError, match="alpha=<object"):
        odd.set_params(alpha=object()).save(path)
    assert not path.exists()
    with pytest.raises(StorageError, match="no file"):
        MLPClassifier.load(path)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "estimator.safetensors"
    classifier().fit(X, LABELS["text"]).save(path)
    return path


def changed(path, change):
    """Rewrite a file with another header."""
    header, arrays = parts(path)
    change(header)
    write_arrays(path, header.pop("kind"), header.pop("version"), header, arrays)


def at(*keys, value):
    """A change of one place in the header."""

    def change(header):
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


def labels(*values, dtype="text", kind="multiclass"):
    return at("labels", value={"dtype": dtype, "values": list(values), "kind": kind})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("version", value=NEWER), "format version 2, .* up to 1: upgrade"),
        (at("kind", value="other"), "holds 'other', expected 'fusedmlp-estimator'"),
        (at("estimator", value="MLPRegressor"), "holds 'MLPRegressor', not 'MLPClassifier'"),
        (at("network", "sizes", value=[4, 6, 5, 10**12]), "shape .*its header promises"),
        (at("network", "sizes", value=[10**6, 10**6, 5, 3]), r"shape .*promises \(10{6},\)"),
        (at("network", "sizes", value=[4, 6, 3]), r"biases.1' has shape \(5,\), .* \(3,\)"),
        (at("network", "sizes", value=[4, 6, 5, 3, 3]), "has shape None"),
        (at("network", value=5), "header is not sound"),
        (at("network", "hidden", value="tanh"), "do not go with"),
        (at("out_activation", value="logistic"), "do not go with"),
        (at("optimizer", "slots", value=10**9), "1000000000 slots"),
        (at("optimizer", "slots", value=1), "has shape .*promises None"),
        (at("optimizer", "step", value=-1), "-1 is not a whole number"),
        (at("optimizer", "rate", value={}), "schedule"),
        (at("optimizer", "rate", "now", value="x"), "'x' is not a number"),
        (at("parameters", "alpha", value=-1), "alpha"),
        (at("parameters", "alpha", value="os.system"), "alpha"),
        (at("parameters", "surprise", value=1), "surprise"),
        (at("parameters", "backend", value="numpy"), "backend"),
        (at("parameters", "random_state", value={"random_state": {}}), "not a sound"),
        (at("parameters", "random_state", value={"random_state": {
            "bit_generator": "MT19937", "state": {"key": [1], "pos": 0}, "has_gauss": 0, "gauss": 0,
        }}), "not a sound"),
        (at("feature_names", value=["a", "b"]), "are not 4 texts"),
        (at("feature_names", value=[1, 2, 3, 4]), "are not 4 texts"),
        (at("numbers", "loss_curve_", value=["x"]), "'x' is not a number"),
        (at("numbers", "n_iter_", value=1.5), "not a whole number"),
        (at("numbers", "predict", value=1), "predict"),
        (at("numbers", value={"n_iter_": 1}), "it has no t_, loss_curve_, best_loss_"),
        (at("numbers", "t_", value=None), "None is not a whole number"),
        (at("numbers", "best_loss_", value=None), "do not go together"),
        (at("numbers", "validation_scores_", value=[0.5]), "do not go together"),
        (at("labels", value=None), "not a sound"),
        (at("labels", "sparse", value="yes"), "'yes' is neither true nor false"),
        (labels("a", "b"), "2 labels of kind 'multiclass' do not fit"),
        (labels("a", "b", "c", kind="binary"), "do not fit"),
        (labels("a", "b", "c", kind="odd"), "odd"),
        (labels("a", "c", "b"), "not in order"),
        (labels("a", "a", "b"), "not distinct"),
        (labels("a", "b", 3), "not a list of str"),
        (labels(1, 2, 2.5, dtype="int64"), "not a list of int"),
        (labels(1, 2, 300, dtype="uint8"), "not a sound"),
        (labels(1, 2, 3, dtype="O"), "neither numbers nor text"),
        (labels(1, 2, 3, dtype="<U1000000000"), "not understood"),
        (labels(1, 2, 3, dtype="U500000"), "neither numbers nor text"),
        (labels(1, 2, 3, dtype="no type"), "not a sound"),
    ],
)  # fmt: skip
def test_malformed_headers_are_refused(saved, change, message):
    changed(saved, change)
    with pytest.raises(FileFormatError, match=message):
        MLPClassifier.load(saved)


def test_malformed_arrays_are_refused(saved):
    header, arrays = parts(saved)
    kind, version = header.pop("kind"), header.pop("version")
    for change, message in (
        ({"biases.0": np.full(6, np.nan)}, "NaN"),
        ({"biases.0": np.zeros(6, np.float32)}, "several types"),
        ({"biases.0": np.zeros(7)}, r"has shape \(7,\), its header promises \(6,\)"),
        ({"more": np.zeros(1)}, "promises None"),
    ):
        write_arrays(saved, kind, version, header, arrays | change)
        with pytest.raises(FileFormatError, match=message):
            MLPClassifier.load(saved)

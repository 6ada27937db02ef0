"""onnxruntime computes the same labels and probabilities from exported models."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn.neural_network
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning

from fusedmlp import MLP
from fusedmlp.errors import InvalidInputError, StorageError
from fusedmlp.io.onnx import OPSET, export
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp.preprocessing import Preprocessing, Table
from fusedmlp.sklearn import MLPClassifier, MLPRegressor

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LABELS = {
    "whole": np.array([3, 5, 11]),
    "text": np.array(["ant", "bee", "cow"]),
    "objects": np.array(["ant", "bee", "cow"], dtype=object),
    "real": np.array([0.5, 1.5, 2.5]),
    "truth": np.array([False, True]),
}


def run(model, x):
    """All outputs by name."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"X": x}), strict=True))


def fitted(kind, x, y, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kind((7, 6), max_iter=15, random_state=0, backend="numba", **parameters).fit(x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("n_classes", [1, 2, 3])
def test_classifiers(dtype, activation, labels, n_classes):
    if n_classes > len(LABELS[labels]):
        pytest.skip("true and false are two")
    x, numbers = make_classification(
        90, 5, n_informative=4, n_redundant=0, n_classes=max(2, n_classes), random_state=1
    )
    x, y = x.astype(dtype), LABELS[labels][numbers if n_classes > 1 else numbers * 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # real labels look like targets
        estimator = fitted(
            MLPClassifier, x, y if labels != "real" else y * 2, activation=activation
        )
    found = run(export(estimator), x)
    assert list(found) == ["label", "probabilities"]
    np.testing.assert_array_equal(found["label"], estimator.predict(x))
    np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(x), atol=1e-6)
    assert found["probabilities"].dtype == dtype
    assert len(run(export(estimator), x[:1])["label"]) == 1  # N is free


def test_a_single_class_is_every_row_s_label():
    x = np.random.default_rng(0).normal(size=(20, 3))
    estimator = fitted(MLPClassifier, x, ["only"] * 20)
    estimator.intercepts_[-1] = estimator.intercepts_[-1] + 100.0  # a probability of 1
    assert set(run(export(estimator), x)["label"]) == {"only"} == set(estimator.predict(x))


@pytest.mark.parametrize("labels", ["whole", "text", "truth"])
def test_scikit_learns_own_estimators(labels):
    x, numbers = make_classification(90, 5, random_state=1)
    y = LABELS[labels][numbers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator = sklearn.neural_network.MLPClassifier((7,), max_iter=15, random_state=0).fit(
            x, y
        )
    found = run(export(estimator), x)
    np.testing.assert_array_equal(found["label"], estimator.predict(x))
    np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(x), atol=1e-6)


def test_labels_beyond_int64_are_refused():
    x = np.random.default_rng(0).normal(size=(20, 3))
    estimator = fitted(MLPClassifier, x, np.array([1, 2**64 - 1], np.uint64)[[0, 1] * 10])
    with pytest.raises(InvalidInputError, match="18446744073709551615 is larger"):
        export(estimator)


def test_several_labels_a_row():
    x, y = make_multilabel_classification(80, 6, n_classes=4, random_state=0)
    estimator = fitted(MLPClassifier, x, y)
    found = run(export(estimator), x)
    np.testing.assert_array_equal(found["label"], estimator.predict(x))
    np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("targets", [1, 3])
def test_regressors(targets, loss):
    x, y = make_regression(80, 6, n_targets=targets, random_state=0)
    y = y if loss == "squared_error" else np.abs(y) / 50
    estimator = fitted(lambda sizes, **rest: MLPRegressor(loss, sizes, **rest), x, y)
    found = run(export(estimator), x)["variable"]
    np.testing.assert_allclose(found, estimator.predict(x).reshape(len(x), targets), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_models_of_the_core(hidden, output, dtype, tmp_path):
    mlp = MLP((6, 5, 4, 3), hidden, output, backend="numpy", dtype=dtype, seed=2)
    mlp.class_names = ("a", "b", "c") if output == "softmax" else None
    x = 2 * np.random.default_rng(0).normal(size=(20, 6)).astype(dtype)
    path = tmp_path / "model.onnx"
    export(mlp, path)
    model = onnx.load(path)
    assert [each.version for each in model.opset_import] == [OPSET]
    found = run(model, x)
    result = found["variable" if mlp.network.predicts_values else "probabilities"]
    # The erf of gelu is in float32 for both dtypes.
    exact = dtype == "float64" and hidden != "gelu"
    bound = 1e-13 if exact else 1e-6
    np.testing.assert_allclose(result, mlp.forward(x), rtol=bound, atol=bound)
    if output == "softmax":
        assert list(found["label"]) == ["abc"[k] for k in mlp.predict(x)]
    elif output == "sigmoid":
        np.testing.assert_array_equal(found["label"], mlp.predict(x))


@pytest.mark.parametrize("labels", [(1, 2, 3), (0.5, 1.0, 2.5), ("a", "b", "c")])
def test_labels_of_the_core(labels):
    mlp = MLP((4, 3), backend="numpy", seed=2)
    mlp.labels = labels
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    assert run(export(mlp), x)["label"].tolist() == mlp.predict(x).tolist()


def test_a_perceptron_has_two_classes():
    mlp = MLP((4, 1), output="sigmoid", backend="numpy")
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    found = run(export(mlp), x)
    np.testing.assert_array_equal(found["label"], mlp.predict(x))
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1.0, rtol=1e-6)


def test_what_cannot_be_written_raises(tmp_path, monkeypatch):
    mlp = MLP((4, 2), backend="numpy")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        export(mlp, tmp_path / "file" / "model.onnx")
    with pytest.raises(InvalidInputError, match="not fitted"):
        export(sklearn.neural_network.MLPClassifier())
    mlp.class_names = (b"a", b"b")
    with pytest.raises(InvalidInputError, match="neither numbers nor text"):
        export(mlp)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install"):
        export(mlp)


@pytest.mark.parametrize("has_text", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tables_go_through_the_preprocessing_in_the_graph(dtype, has_text):
    rng = np.random.default_rng(0)
    train = pd.DataFrame({"size": rng.normal(5e4, 1e4, 200), "year": rng.integers(1990, 2020, 200)})
    train.loc[::9, "size"] = np.nan
    if has_text:
        train.insert(0, "color", rng.choice(["red", "blue", None], 200))
        train["many"] = [f"t{i}" for i in rng.integers(0, 103, 200)]
    preprocessing = Preprocessing.fit(Table.of(train))
    mlp = MLP([preprocessing.n_inputs, 6, 3], "relu", dtype=dtype, backend="numpy")
    mlp.preprocessing, mlp.labels = preprocessing, ("a", "b", "c")
    new = train[:50].copy()
    new.loc[3, "year"] = np.nan
    if has_text:
        new.loc[4, ["color", "many"]] = ["violet", "unheard"]
        feeds = {
            name: new[[name]].fillna("").to_numpy(object)
            if name in ("color", "many")
            else new[[name]].to_numpy(dtype)
            for name in new
        }
    else:
        feeds = {"X": new.to_numpy(dtype)}
        new = new.astype(dtype)
    session = onnxruntime.InferenceSession(export(mlp).SerializeToString())
    label, probabilities = session.run(None, feeds)
    np.testing.assert_allclose(probabilities, mlp.predict_proba(new), rtol=1e-4, atol=1e-6)
    assert label.tolist() == mlp.predict(new).tolist()

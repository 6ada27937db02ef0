"""Converted networks of scikit-learn and PyTorch predict the same as the originals."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fusedmlp.sklearn
from fusedmlp import MLP
from fusedmlp.errors import InvalidInputError
from fusedmlp.io.convert import from_sklearn, from_state_dict, to_state_dict
from fusedmlp.network import HIDDEN_ACTIVATIONS

X = np.random.default_rng(0).normal(size=(40, 6))


def state(mlp):
    """Return the dictionary that PyTorch would return, without PyTorch."""
    found = {}
    for number, (W, b) in enumerate(
        zip(mlp.parameters.weights, mlp.parameters.biases, strict=True)
    ):
        found |= {f"{2 * number}.weight": W.T, f"{2 * number}.bias": b}
    return found


@pytest.mark.parametrize("module", [sklearn.neural_network, fusedmlp.sklearn])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("kind", ["two", "three", "several", "value", "count"])
def test_from_sklearn(module, activation, kind):
    y = {
        "two": np.where(X[:, 0] > 0, "yes", "no"),
        "three": np.digitize(X[:, 0], [-0.5, 0.5]),
        "several": make_multilabel_classification(40, 6, n_classes=3, random_state=0)[1],
        "value": X[:, 0],
        "count": np.abs(X[:, 0]).round(),
    }[kind]
    is_value = kind in ("value", "count")
    name = "MLPRegressor" if is_value else "MLPClassifier"
    loss = {"loss": "poisson"} if kind == "count" else {}
    if not set(loss) <= set(inspect.signature(getattr(module, name)).parameters):
        pytest.skip("this scikit-learn's MLPRegressor has no Poisson loss")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator = getattr(module, name)(
            hidden_layer_sizes=(5, 4), activation=activation, max_iter=5, random_state=0, **loss
        ).fit(X, y)
    mlp = from_sklearn(estimator, backend="numpy")
    assert mlp.dtype == "float64"
    if is_value:
        np.testing.assert_allclose(mlp.predict(X), estimator.predict(X), rtol=1e-9)
        return
    expected = estimator.predict_proba(X)
    result = mlp.predict_proba(X)
    np.testing.assert_allclose(result, expected[:, 1:] if kind == "two" else expected, rtol=1e-9)
    assert mlp.class_names == (("no", "yes") if kind == "two" else None)


def test_what_contains_a_fitted_mlp_is_not_one():
    mlp = sklearn.neural_network.MLPClassifier(max_iter=1)
    scaled = make_pipeline(StandardScaler(), mlp)
    search = GridSearchCV(mlp, {"alpha": [0.1]}, cv=2)
    for outer, words in (
        (scaled, r"Pipeline is not a multilayer perceptron: pass its last step, pipeline\[-1\]"),
        (search, r"GridSearchCV is not .*: pass .*search\.best_estimator_"),
        (BaggingClassifier(mlp, 2), "BaggingClassifier is not .*: pass an MLPClassifier"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            outer.fit(X, np.arange(len(X)) % 2)
        with pytest.raises(InvalidInputError, match=words):
            from_sklearn(outer)


def test_what_cannot_be_taken_from_sklearn():
    estimator = sklearn.neural_network.MLPRegressor(max_iter=1)
    with pytest.raises(InvalidInputError, match="not fitted"):
        from_sklearn(estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(X, X[:, 0])
    estimator.out_activation_ = "cloglog"
    with pytest.raises(InvalidInputError, match="cloglog"):
        from_sklearn(estimator)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_a_state_dict_of_arrays(dtype, hidden):
    mlp = MLP((6, 5, 3), hidden, backend="numpy", dtype=dtype, seed=4)
    again = from_state_dict(state(mlp), hidden, "softmax", backend="numpy")
    assert again.dtype == dtype
    np.testing.assert_array_equal(again.predict_proba(X), mlp.predict_proba(X))


def test_a_layer_without_bias():
    given = {"lin.weight": np.ones((2, 6)), "out.weight": np.ones((3, 2)), "out.bias": np.ones(3)}
    mlp = from_state_dict(given, "relu", "identity", backend="numpy")
    np.testing.assert_array_equal(mlp.parameters.biases[0], np.zeros(2))
    assert mlp.network.sizes == (6, 2, 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "no '….weight'"),
        ({"0.weight": np.ones((3, 3, 1, 1))}, "not of a linear layer"),
        ({"0.weight": np.ones((3, 2)), "0.running_mean": np.ones(3)}, "running_mean"),
        ({"0.weight": np.ones((3, 2)), "1.weight": np.ones((2, 4))}, "3 outputs, but layer 2"),
        ({"0.weight": np.ones((3, 2)), "0.bias": np.ones(2)}, "b1 has shape"),
    ],
)
def test_other_networks_are_refused(given, words):
    with pytest.raises(InvalidInputError, match=words):
        from_state_dict(given, "relu", "softmax")


@pytest.mark.parametrize(
    ("hidden", "module"),
    [
        ("sigmoid", "Sigmoid"),
        ("tanh", "Tanh"),
        ("relu", "ReLU"),
        ("identity", "Identity"),
        ("leaky_relu", "LeakyReLU"),
        ("elu", "ELU"),
        ("gelu", "GELU"),
        ("silu", "SiLU"),
    ],
)
def test_with_pytorch_itself(hidden, module):
    torch = pytest.importorskip("torch")
    mlp = MLP((6, 5, 4, 3), hidden, backend="numpy", dtype="float64", seed=1)
    activation = getattr(torch.nn, module)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 5), activation(), torch.nn.Linear(5, 4), activation(),
        torch.nn.Linear(4, 3),
    ).double()  # fmt: skip
    model.load_state_dict(to_state_dict(mlp))
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor(X)), 1).numpy()
    np.testing.assert_allclose(mlp.predict_proba(X), expected, rtol=1e-12)
    again = from_state_dict(model.state_dict(), hidden, "softmax", backend="numpy")
    np.testing.assert_array_equal(again.predict_proba(X), mlp.predict_proba(X))

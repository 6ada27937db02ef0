"""MLP: prediction, evaluation, parameters, copies, threads; and the examples of the workshop."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import scipy.sparse
from sklearn.metrics import mean_poisson_deviance

from fusedmlp import MLP, SGD, Objective, Trainer
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.network import Parameters
from problems import flat


def test_predictions_by_output():
    x = np.random.default_rng(0).normal(size=(7, 4))
    softmax = MLP([4, 5, 3], backend="numpy")
    proba = softmax.predict_proba(x)
    assert proba.shape == (7, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(softmax.predict(x), proba.argmax(axis=1))
    assert softmax.predict(x).dtype == np.int64
    labels = MLP([4, 3], output="sigmoid", backend="numpy")
    np.testing.assert_array_equal(labels.predict(x), (labels.predict_proba(x) > 0.5).astype(int))
    values = MLP([4, 3], output="identity", backend="numpy")
    assert values.predict(x).dtype == np.float32
    assert values.predict(x).shape == (7, 3)
    assert MLP([4, 1], output="identity", backend="numpy").predict(x).shape == (7,)
    with pytest.raises(InvalidInputError, match="values, not probabilities: use predict"):
        values.predict_proba(x)


def test_forward_matches_the_formula_of_the_workshop():
    mlp = MLP([4, 5, 3], backend="numpy", dtype="float64")
    (W1, W2), (b1, b2) = mlp.parameters.weights, mlp.parameters.biases
    x = np.random.default_rng(0).normal(size=(7, 4))
    a1 = 1 / (1 + np.exp(-(x @ W1 + b1)))
    z2 = a1 @ W2 + b2
    expected = np.exp(z2) / np.exp(z2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mlp.forward(x), expected, rtol=1e-14)


def test_a_perceptron_classifies_loan_applications(backend):
    """Inputs are age, salary and years employed; the weights are chosen by hand."""
    neuron = MLP([3, 1], output="sigmoid", backend=backend, dtype="float64")
    neuron.parameters = Parameters((np.array([[0.0], [0.001], [0.5]]),), (np.array([-3.0]),))
    clients = np.array([[25, 900, 1], [40, 2500, 6], [33, 3000, 0.0], [60, 0, 5.9]])
    np.testing.assert_array_equal(neuron.predict(clients), [0, 1, 0, 0])
    at_zero = neuron.predict_proba(clients[2:3])
    assert at_zero[0, 0] == 0.5


def test_a_single_neuron_learns_a_linear_boundary(backend):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = (x @ [1.0, -2.0] > 0.3).astype(int)
    neuron = MLP([2, 1], output="sigmoid", backend=backend)
    Trainer(SGD(1.0), epochs=200, batch_size=200).fit(neuron, x, y)
    assert neuron.evaluate(x, y).accuracy > 0.97


def test_evaluate_returns_weighted_means_over_rows():
    mlp = MLP([4, 5, 3], backend="numpy", dtype="float64")
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(900, 4)), rng.integers(0, 3, 900), rng.random(900)
    proba = mlp.predict_proba(x)
    losses = -np.log(proba[np.arange(900), y])
    right = proba.argmax(axis=1) == y
    metrics = mlp.evaluate(x, y)
    assert metrics.loss == pytest.approx(losses.mean(), rel=1e-12)
    assert metrics.accuracy == right.mean()
    metrics = mlp.evaluate(x, y, w)
    assert metrics.loss == pytest.approx((losses * w).sum() / w.sum(), rel=1e-12)
    assert metrics.accuracy == pytest.approx((right * w).sum() / w.sum())
    assert MLP([4, 1], output="identity", backend="numpy").evaluate(x, y).accuracy is None


def test_the_loss_of_an_exp_output_is_half_the_poisson_deviance(backend):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.poisson(1.0, (50, 2)) * rng.random((50, 2))
    mlp = MLP([4, 2], output="exp", backend=backend, dtype="float64")
    rates = mlp.predict(x)
    assert (rates > 0).all()
    metrics = mlp.evaluate(x, y)
    expected = sum(mean_poisson_deviance(y[:, k], rates[:, k]) / 2 for k in range(2))
    assert metrics.loss == pytest.approx(expected, rel=1e-12)
    assert metrics.accuracy is None
    assert mlp.evaluate(x, rates).loss == pytest.approx(0.0, abs=1e-15)
    with pytest.raises(InvalidInputError, match="'exp' predicts values"):
        mlp.predict_proba(x)


def test_losses_of_sigmoid_and_identity_outputs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4))
    labels = rng.integers(0, 2, (50, 3))
    mlp = MLP([4, 3], output="sigmoid", backend="numpy", dtype="float64")
    p = mlp.predict_proba(x)
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(axis=1).mean()
    metrics = mlp.evaluate(x, labels)
    assert metrics.loss == pytest.approx(expected, rel=1e-12)
    assert metrics.accuracy == ((p > 0.5) == labels).all(axis=1).mean()
    mlp = MLP([4, 3], output="identity", backend="numpy", dtype="float64")
    targets = rng.normal(size=(50, 3))
    expected = 0.5 * ((mlp.predict(x) - targets) ** 2).sum(axis=1).mean()
    assert mlp.evaluate(x, targets).loss == pytest.approx(expected, rel=1e-12)


def test_sparse_inputs_and_pixels():
    mlp = MLP([4, 5, 3], backend="numpy")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4)).astype(np.uint8)
    np.testing.assert_allclose(mlp.forward(pixels), mlp.forward(pixels / 255), rtol=1e-6)
    dense = pixels / 255 * (pixels > 99)
    np.testing.assert_allclose(
        mlp.forward(scipy.sparse.csr_array(dense)), mlp.forward(dense), rtol=1e-6
    )


def test_assigned_parameters_are_copied_and_used():
    mlp = MLP([4, 3], backend="numpy")
    x = np.ones((1, 4))
    before = mlp.forward(x)
    parameters = mlp.parameters.copy()
    parameters.biases[0][:] = [5, 0, 0]
    mlp.parameters = parameters
    assert not np.array_equal(mlp.forward(x), before)
    parameters.biases[0][:] = 0
    assert mlp.predict_proba(x)[0, 0] > 0.9
    with pytest.raises(InvalidInputError, match="W1 has shape"):
        mlp.parameters = MLP([5, 3], backend="numpy").parameters


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_models_can_be_copied_and_pickled(duplicate):
    mlp = MLP([4, 5, 3], backend="numpy")
    x = np.ones((2, 4))
    expected = mlp.forward(x)
    other = duplicate(mlp)
    np.testing.assert_array_equal(other.forward(x), expected)
    np.testing.assert_array_equal(flat(other.parameters), flat(mlp.parameters))


def test_the_constructor_rejects_invalid_arguments():
    with pytest.raises(UnknownNameError, match="backend 'torch'"):
        MLP([4, 3], backend="torch")
    with pytest.raises(UnknownNameError, match="dtype 'float16': choose one of float32, float64"):
        MLP([4, 3], dtype="float16")
    with pytest.raises(InvalidInputError, match="seed -1"):
        MLP([4, 3], seed=-1)


def test_summary_and_repr():
    mlp = MLP([784, 256, 10], backend="numpy")
    text = mlp.summary()
    assert "203,530 parameters, 814,120 bytes as float32" in text
    assert "(784, 256)" in text
    assert repr(mlp) == (
        "MLP(784-256-10 (sigmoid hidden, softmax output), dtype='float32', backend='numpy')"
    )


def test_the_environment_variable_selects_the_backend(monkeypatch):
    monkeypatch.setenv("FUSEDMLP_BACKEND", "numpy")
    selection, _ = MLP([4, 3]).select_backend()
    assert (selection.name, selection.origin) == ("numpy", "FUSEDMLP_BACKEND")


def test_numpy_threads_limit_the_blas():
    mlp = MLP([64, 64, 10], backend="numpy", threads=1)
    x, y = np.ones((128, 64)), np.zeros(128, int)
    history = Trainer(epochs=1, objective=Objective("sum"), batch_size=64).fit(mlp, x, y)
    assert np.isfinite(history.last.train_loss)
    assert mlp.select_backend()[1].device().facts["threads"] == 1


def test_one_model_can_predict_in_several_threads():
    """An engine has one set of buffers, so concurrent calls on one model must be serialised."""
    rng = np.random.default_rng(0)
    mlp = MLP((40, 300, 5), backend="numba")
    inputs = [rng.normal(size=(500, 40)).astype(np.float32) for _ in range(4)]
    expected = [mlp.forward(x) for x in inputs]
    outputs: list[list[np.ndarray]] = [[] for _ in inputs]

    def predict(n):
        for _ in range(10):
            outputs[n].append(mlp.forward(inputs[n]))

    threads = [threading.Thread(target=predict, args=(n,)) for n in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, reference in zip(outputs, expected, strict=True):
        assert len(results) == 10
        assert all(np.array_equal(result, reference) for result in results)

"""Chapters 5 to 8 of the tutorial: the class of chapter 6, and the checks on the page of chapter 5.

The other chapters check themselves while the pages are built.
"""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import numpy as np
import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
DEFINES = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
PARAMETERS = ("W1", "b1", "W2", "b2")


def definitions(name):
    """Return the functions and classes of a script, without running the rest of it."""
    path = TUTORIAL / name
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, DEFINES)]
    names = {}
    exec(compile(tree, path, "exec"), names)
    return names


CHAPTER_5 = definitions("05_backpropagation.py")
CHAPTER_6 = definitions("06_neural_net.py")
NeuralNet = CHAPTER_6["NeuralNet"]


@pytest.fixture(params=[(4, 5, 3), (1, 1, 2), (7, 3, 10)], ids=str)
def problem(request):
    """A network, and a batch that lacks the last class."""
    D, H, K = request.param
    rng = np.random.default_rng(0)
    net = NeuralNet(D, H, K, seed=1)
    net.b1, net.b2 = rng.normal(size=H), rng.normal(size=K)
    return net, rng.normal(size=(20, D)), rng.integers(0, K - 1, 20)


def test_the_class_has_the_loss_and_the_gradients_of_the_engine(problem):
    net, x, y = problem
    loss, expected = CHAPTER_6["engine_loss_and_gradients"](net, x, y)
    assert net.get_loss(x, y) == pytest.approx(loss, rel=1e-12)
    for gradient, engines, name in zip(net.backward(y), expected, PARAMETERS, strict=True):
        np.testing.assert_allclose(gradient, engines, rtol=0, atol=1e-14, err_msg=name)


def test_the_gradients_of_the_class_are_the_slopes_of_its_loss(problem):
    net, x, y = problem
    net.forward(x)
    for gradient, name in zip(net.backward(y), PARAMETERS, strict=True):
        slopes = CHAPTER_5["finite_differences"](lambda: net.get_loss(x, y), getattr(net, name))
        np.testing.assert_allclose(gradient, slopes, rtol=0, atol=1e-8, err_msg=name)


def test_the_class_survives_large_logits(problem):
    """e^z overflows for them, and the probability of the right class is 0."""
    net, x, y = problem
    net.W1 *= 1e5
    net.b2 = 2000.0 * np.arange(len(net.b2))  # no row has the last class
    loss, expected = CHAPTER_6["engine_loss_and_gradients"](net, x, y)
    assert net.get_loss(x, y) == pytest.approx(loss, rel=1e-12)
    assert loss > 1000
    for gradient, engines in zip(net.backward(y), expected, strict=True):
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient, engines, rtol=1e-9, atol=1e-12)


def test_training_the_class_takes_steps_against_the_gradient(problem):
    net, x, y = problem
    net.forward(x)
    gradients = net.backward(y)
    before = [getattr(net, name).copy() for name in PARAMETERS]
    losses = net.train(x, y, lr=0.1, iterations=1)
    for old, gradient, name in zip(before, gradients, PARAMETERS, strict=True):
        np.testing.assert_array_equal(getattr(net, name), old - 0.1 * gradient, err_msg=name)
    assert net.get_loss(x, y) < losses[0]
    np.testing.assert_array_equal(net.predict(x), net.forward(x).argmax(axis=1))


def test_the_class_fits_on_a_page():
    (node,) = [
        node
        for node in ast.parse((TUTORIAL / "06_neural_net.py").read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    assert node.end_lineno - node.lineno < 70


def test_the_lines_and_the_numbers_on_the_page_of_backpropagation(monkeypatch, capsys):
    """The page asserts that its gradients are right, and finds the lines of the engine."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    pictures = []
    monkeypatch.setattr(plt, "show", lambda: pictures.append(plt.gcf()))
    with plt.rc_context():
        page = runpy.run_path(str(TUTORIAL / "05_backpropagation.py"))
    plt.close("all")
    assert len(set(pictures)) == 5
    printed = capsys.readouterr().out
    assert "self._operations.product(f.T, delta, dW)" in printed
    assert "self._operations.product(delta, weights[layer].T, below)" in printed
    np.testing.assert_allclose(page["dW1"], page["measured"][0], rtol=0, atol=1e-8)


def test_a_line_that_the_engine_no_longer_has_is_an_error():
    with pytest.raises(ValueError, match="not enough values"):
        CHAPTER_5["engine_line"](CHAPTER_5["sigmoid_delta"], "delta -= a")

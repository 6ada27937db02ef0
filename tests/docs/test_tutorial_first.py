"""Chapters 1 to 4 of the tutorial: the scripts run, their functions agree with the NumPy engine,
and their pictures are readable where they are shown 400 pixels wide.

What a chapter says about its own numbers is asserted in the chapter.
"""

from __future__ import annotations

import re
import runpy
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text

from fusedmlp.backend import EngineSpec, State
from fusedmlp.network import Network, Objective, Parameters
from fusedmlp.optimizers import SGD
from fusedmlp.registry import backend_class

FOLDER = Path(__file__).parents[2] / "docs" / "tutorial"
CHAPTERS = [
    "01_perceptron",
    "02_sigmoid_and_cross_entropy",
    "03_gradient_descent",
    "04_from_neuron_to_network",
]


class Chapter(NamedTuple):
    """The global names of a script that has run, and the figures that it showed."""

    names: dict[str, object]
    figures: list[object]


@cache
def run(name):
    figures = []
    with pytest.MonkeyPatch.context() as patch, mpl.rc_context():
        mpl.use("agg")
        patch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
        names = runpy.run_path(str(FOLDER / f"{name}.py"))
    plt.close("all")
    return Chapter(names, figures)


def engine_of(network, parameters, rows):
    spec = EngineSpec(network, SGD(), Objective(), batch_size=rows, dtype="float64", seed=0)
    engine = backend_class("numpy")().compile(spec)
    engine.load(State(parameters, (), 0))
    return engine


@pytest.mark.parametrize("name", CHAPTERS)
def test_pictures_are_readable_at_400_pixels(name):
    """A figure of 6 inches shown 400 pixels wide has 9 pixels for a text of 10 points."""
    figures = run(name).figures
    assert len(figures) >= 4
    for figure in figures:
        assert figure.get_figwidth() <= 6.4
        for text in figure.findobj(Text):
            assert text.get_fontsize() >= 10 or not text.get_text(), text
        titles = [axes.get_title() for axes in figure.axes] + [figure.get_suptitle()]
        assert any(titles), "a figure without a title has no text for readers who cannot see it"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_ends_with_questions_and_a_link_to_the_next(name):
    text = (FOLDER / f"{name}.py").read_text("utf-8")
    _, questions = text.split("# Try it\n")
    assert len(re.findall(r"^# \d\. ", questions, re.MULTILINE)) >= 2
    (following,) = re.findall(r"^# Next: :doc:`(\w+)`\.$", questions, re.MULTILINE)
    assert int(following[:2]) == int(name[:2]) + 1
    assert (FOLDER / f"{following}.py").exists()


def test_the_overview_has_a_line_for_each_chapter():
    header = (FOLDER / "GALLERY_HEADER.rst").read_text("utf-8")
    promises = re.findall(r"^(\d)\. \*\*.+\.\*\* .+\.$", header, re.MULTILINE)
    scripts = sorted(FOLDER.glob("[0-9]*.py"))
    assert promises == [script.name[1] for script in scripts]


def test_the_perceptron_answers_like_the_library():
    names = run("01_perceptron").names
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.uniform(18, 70, 50), rng.uniform(0, 5000, 50), rng.uniform(0, 9, 50)])
    (W,), (b,) = names["neuron"].parameters.weights, names["neuron"].parameters.biases
    answers = names["perceptron"](x, W, b)
    assert 5 < answers.sum() < 45
    assert np.array_equal(answers, names["neuron"].predict(x))


def test_chapters_1_and_2_have_the_same_clients_and_lines():
    first, second = run("01_perceptron").names, run("02_sigmoid_and_cross_entropy").names
    assert np.array_equal(first["clients"], second["x"])
    assert np.array_equal(first["labels"], second["y"])
    for name, (W, b) in first["LINES"].items():
        assert np.array_equal(W[:, 0], second["NEURONS"][name][0])
        assert b[0] == second["NEURONS"][name][1]


def test_the_loss_from_the_logit_is_the_engine_s():
    loss_from_logit = run("02_sigmoid_and_cross_entropy").names["loss_from_logit"]
    z = np.array([-800.0, -40.0, -3.0, 0.0, 3.0, 40.0, 800.0])
    engine = engine_of(
        Network((1, 1), output="sigmoid"), Parameters((np.ones((1, 1)),), (np.zeros(1),)), 1
    )
    for label in (0.0, 1.0):
        data = engine.stage(z[:, None], np.full((7, 1), label))
        losses = [engine.evaluate(data, np.array([row])).loss for row in range(7)]
        np.testing.assert_allclose(loss_from_logit(z, label), losses, rtol=1e-14)


def test_the_softmax_is_the_engine_s():
    softmax = run("02_sigmoid_and_cross_entropy").names["softmax"]
    z = np.random.default_rng(0).normal(scale=20, size=(9, 4))
    engine = engine_of(Network((4, 4)), Parameters((np.eye(4),), (np.zeros(4),)), 9)
    np.testing.assert_allclose(softmax(z), engine.forward(z), rtol=1e-14)


def test_the_gradients_of_the_neuron_are_the_engine_s():
    names = run("03_gradient_descent").names
    x, y = names["x"], names["y"]
    rng = np.random.default_rng(5)
    W, b = rng.normal(size=(3, 1)), rng.normal(size=1)
    engine = engine_of(Network((3, 1), output="sigmoid"), Parameters((W,), (b,)), len(x))
    metrics, gradients = engine.loss_and_gradients(engine.stage(x, y), np.arange(len(x)))
    dW, db = names["gradients"](x, y, W, b)
    np.testing.assert_allclose(dW, gradients.weights[0], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(db, gradients.biases[0], rtol=1e-12, atol=1e-15)
    assert names["loss"](x, y, W, b) == pytest.approx(metrics.loss, rel=1e-14)


def test_the_paths_go_as_the_text_says():
    """Too small and right: every step lowers the loss. Too large: it goes up and down."""
    names = run("03_gradient_descent").names
    for lr, path in names["paths"].items():
        losses = [names["loss"](names["x1"], names["y"], W, b) for W, b in path]
        rises = int(np.sum(np.diff(losses) > 0))
        assert rises == 0 if lr < 14 else 10 < rises < 20, lr

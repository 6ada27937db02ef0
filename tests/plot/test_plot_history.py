"""The curves of a training: what the lines hold."""

import math
import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from fusedmlp import History, plot
from fusedmlp.errors import InvalidInputError, MissingDependencyError
from fusedmlp.plot.style import COLOURS
from fusedmlp.training.history import EpochRecord


def record(epoch, train_loss, train_accuracy=None, validation_loss=None, validation_accuracy=None):
    values = train_loss, train_accuracy, validation_loss, validation_accuracy
    return EpochRecord(epoch, 10 * epoch, 0.1, *values, seconds=1.0, samples_per_s=10.0)


@pytest.fixture
def validated():
    return History(
        [
            record(1, 2.0, 0.5, 2.5, 0.4),
            record(2, 1.0, 0.7, 1.5, 0.6),
            record(3, 0.5, 0.8, 1.7, 0.7),
        ]
    )


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_loss_is_left_and_accuracy_right_with_the_values_of_the_records(validated):
    loss, accuracy = plot.history(validated).axes
    assert (loss.get_title(), accuracy.get_title()) == ("loss", "accuracy")
    assert loss.get_position().x0 < accuracy.get_position().x0
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        for part in ("train", "validation"):
            line = lines(axes)[part]
            assert line.get_xdata().tolist() == [1, 2, 3]
            assert line.get_ydata().tolist() == validated.column(f"{part}_{metric}")


def test_the_lines_have_two_colours_two_markers_and_one_legend(validated):
    loss, accuracy = plot.history(validated).axes
    train, validation = lines(loss)["train"], lines(loss)["validation"]
    assert (train.get_color(), validation.get_color()) == COLOURS[:2]
    assert train.get_marker() != validation.get_marker()
    texts = [text.get_text() for text in loss.get_legend().get_texts()]
    assert texts == ["train", "validation", "best epoch: 2"]
    assert accuracy.get_legend() is None


@pytest.mark.parametrize(("restored", "marked"), [(None, 2), (3, 3)])
def test_the_best_epoch_is_that_of_the_restored_weights_or_of_the_least_loss(
    validated, restored, marked
):
    validated.best_epoch = restored
    for axes in plot.history(validated).axes:
        assert lines(axes)[f"best epoch: {marked}"].get_xdata() == [marked, marked]


def test_without_validation_and_accuracy_there_is_one_panel_with_one_line():
    figure = plot.history(History([record(1, 2.0), record(2, math.inf)]))
    (axes,) = figure.axes
    assert list(lines(axes)) == ["train"]
    assert axes.get_title() == "loss"


def test_a_single_epoch_can_be_seen():
    (axes,) = plot.history(History([record(1, 2.0)])).axes
    line = lines(axes)["train"]
    assert line.get_marker() != "None"
    assert line.get_markevery() == 1


def test_a_long_training_has_few_markers():
    (axes,) = plot.history(History([record(n, 1 / n) for n in range(1, 1001)])).axes
    assert len(np.arange(1000)[:: lines(axes)["train"].get_markevery()]) <= 15


def test_validation_losses_that_are_not_finite_are_no_best_epoch():
    found = History([record(1, 1.0, None, math.nan), record(2, 1.0, None, 3.0)])
    (axes,) = plot.history(found).axes
    assert "best epoch: 2" in lines(axes)


def test_the_method_draws_in_pyplot_and_a_given_figure_is_used(validated):
    assert validated.plot().number in plt.get_fignums()
    given = Figure()
    assert plot.history(validated, figure=given) is given
    assert len(given.axes) == 2
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (History(), "the history has no epoch to draw: train first"),
        (None, "history is None: give a fusedmlp.History"),
    ],
)
def test_nothing_to_draw_is_an_error(history, message):
    with pytest.raises(InvalidInputError, match=message):
        plot.history(history)


def test_without_matplotlib_the_error_has_the_install_line(validated, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fusedmlp\[plot\]'"):
        validated.plot()

"""How objects describe themselves: one short line, and a table in notebooks; never arrays."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fusedmlp
from fusedmlp import MLP, EarlyStopping, HistoryWriter, Trainer, load_dataset
from fusedmlp.backend import BatchMetrics, State
from fusedmlp.preprocessing import Preprocessing
from fusedmlp.preprocessing.table import Table
from fusedmlp.sklearn import MLPClassifier, MLPRegressor
from fusedmlp.training import schedules
from fusedmlp.training.history import EpochRecord, History

LONGEST = 200


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def mlp(data):
    mlp = MLP((64, 16, 10), "relu", backend="numpy")
    mlp.labels = tuple(range(10))
    Trainer("adam", epochs=13, validation=0.2).fit(mlp, data.x_train, data.y_train)
    return mlp


def table():
    rng = np.random.default_rng(0)
    return Preprocessing.fit(Table.of(rng.random((50, 30)), frozenset()))


def objects(mlp, data):
    """Yield an object of each public class."""
    x, y = data.x_test, data.y_test
    yield from (mlp, mlp.network, mlp.parameters, mlp.evaluate(x, y), mlp.history)
    yield from (mlp.history.last, data, table(), State(mlp.parameters, (mlp.parameters,), 3))
    yield BatchMetrics(np.ones(500), np.ones(500), np.ones(500))
    yield from (Trainer(), Trainer("lion", "cosine", epochs=3), EarlyStopping(), History())
    yield from (fusedmlp.Objective(), fusedmlp.SGD(), fusedmlp.Adam(), fusedmlp.Lion())
    yield from map(schedules.make_schedule, schedules.SCHEDULES)
    yield from (HistoryWriter("folder"), fusedmlp.ProgressBar(), fusedmlp.TensorBoardWriter("f"))
    for estimator in (MLPClassifier, MLPRegressor):
        fitted = estimator(max_iter=2, backend="numpy")
        yield fitted.fit(x[:40], y[:40] % 2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_repr_is_one_short_line_without_arrays(mlp, data):
    seen = set()
    for each in objects(mlp, data):
        text = repr(each)
        assert "\n" not in text
        assert len(text) <= LONGEST, text
        assert "array" not in text
        assert not re.search(r" object at 0x", text), text
        seen.add(type(each).__name__)
    public = {name for name in fusedmlp.__all__ if isinstance(getattr(fusedmlp, name), type)}
    without_objects = {"Backend", "Callback", "Engine", "FusedMLPError"}
    assert public - without_objects <= seen


def test_what_they_say(mlp, data):
    assert repr(mlp.parameters) == "Parameters(2 layers: (64, 16) (16, 10), float32)"
    last = mlp.history.last
    start = f"History(13 epochs, training loss {last.train_loss:.5g}, validation loss "
    assert repr(mlp.history).startswith(start)
    assert repr(History(stopped="interrupted")) == "History(0 epochs, stopped: interrupted)"
    record = EpochRecord(2, 1234, 0.1, 0.123456, None, None, None, 0.5, 123456.7)
    expected = "epoch=2, step=1234, lr=0.1, train_loss=0.1235, seconds=0.5, samples_per_s=123457"
    assert repr(record) == f"EpochRecord({expected})"
    huge = EpochRecord(1, 2, 0.1, 1e30, None, float("nan"), None, 0.5, 100.0)
    assert "train_loss=1e+30, validation_loss=nan" in repr(huge)
    assert repr(table()) == "Preprocessing(30 numbers a row, 30 inputs)"


def cells(html):
    """Return the rows of the one table in a page."""
    assert html.count("<table>") == 1
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def test_a_notebook_shows_the_layers_of_a_model(mlp):
    html = mlp._repr_html_()
    assert "backend numpy, trained for 13 epochs" in html
    assert f"{mlp.network.n_parameters:,} parameters, float32" in html
    assert cells(html) == [
        ["layer", "shape", "activation", "parameters"],
        ["1", "(64, 16)", "relu", "1,040"],
        ["2", "(16, 10)", "softmax", "170"],
    ]
    assert "backend not named" in MLP((3, 2))._repr_html_()


def test_a_notebook_shows_the_last_epochs(mlp):
    html = mlp.history._repr_html_()
    assert "13 epochs, the last 10 are shown" in html
    head, *rows = cells(html)
    assert head[:4] == ["epoch", "step", "lr", "train loss"]
    assert [row[0] for row in rows] == [str(epoch) for epoch in range(4, 14)]
    assert rows[-1][3] == f"{mlp.history.last.train_loss:.4g}"
    assert all(len(row) == len(head) for row in rows)


def test_columns_without_values_are_left_out():
    record = EpochRecord(1, 2, 0.1, 0.5, None, None, None, 0.5, 100.0)
    head, row = cells(History([record])._repr_html_())
    assert head == ["epoch", "step", "lr", "train loss", "seconds", "samples per s"]
    assert row == ["1", "2", "0.1", "0.5", "0.5", "100"]
    assert len(cells(History()._repr_html_())) == 1


def test_a_notebook_shows_the_parts_of_a_data_set(data):
    head, train, test = cells(data._repr_html_())
    assert head == ["part", "rows", *map(str, range(10))]
    assert train[:2] == ["train", "1,437"]
    assert test[2:] == [str(n) for n in np.bincount(data.y_test)]


def test_names_cannot_be_markup(mlp):
    x, y = np.zeros((2, 1), np.float32), np.array([0, 1])
    names = ("<script>", "a&b")
    data = fusedmlp.Dataset("<b>", x, y, None, None, 2, "classification", names, "test", None)
    html = data._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert cells(html)[0] == ["part", "rows", "&lt;script&gt;", "a&amp;b"]

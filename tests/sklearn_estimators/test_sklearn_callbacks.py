"""Callbacks of a fit: the package's own, and scikit-learn's with its progress bar."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV

from fusedmlp.sklearn import MLPClassifier, MLPRegressor, callbacks
from fusedmlp.training.callbacks import Callback, EpochPrinter, HistoryWriter

IRIS = load_iris(return_X_y=True)
SOLVERS = ("sgd", "adam", "lbfgs")


class Recorder(Callback):
    def __init__(self, stop_after=None):
        self.events, self.stop_after = [], stop_after

    def on_train_begin(self, run):
        self.events.append("begin")
        self.rows, self.steps = run.rows, run.steps_per_epoch

    def on_progress(self, run, rows):
        self.events.append(rows)

    def on_epoch_end(self, run, record):
        self.events.append(record)
        self.losses = [record.train_loss for record in run.history.records]
        if record.epoch == self.stop_after:
            run.stop("enough")

    def on_train_end(self, run):
        self.events.append("end")
        self.stopped = run.history.stopped


def classifier(**parameters):
    return MLPClassifier(5, **{"random_state": 0, "backend": "numpy", "max_iter": 4} | parameters)


def test_callbacks_run_for_every_epoch():
    recorder = Recorder()
    estimator = classifier(callbacks=[recorder], batch_size=40, alpha=0.5).fit(*IRIS)
    # 150 rows: three whole batches in one call, then the smaller one, which has its own penalty.
    assert recorder.events[:3] == ["begin", 120, 150]
    records = [each for each in recorder.events if hasattr(each, "epoch")]
    assert [(r.epoch, r.step) for r in records] == [(1, 4), (2, 8), (3, 12), (4, 16)]
    assert recorder.events[-1] == "end"
    assert (recorder.rows, recorder.steps, recorder.stopped) == (150, 4, None)
    assert records[-1].train_loss < estimator.loss_curve_[-1]  # which has the penalty
    assert records[-1].train_accuracy > 0.3
    assert records[-1].validation_loss is None


def test_a_callback_can_stop_a_fit():
    recorder = Recorder(2)
    estimator = classifier(callbacks=(recorder,)).fit(*IRIS)
    assert (estimator.n_iter_, recorder.stopped) == (2, "enough")
    np.testing.assert_array_equal(estimator.coefs_[0], classifier(max_iter=2).fit(*IRIS).coefs_[0])


def test_records_hold_the_validation():
    recorder = Recorder()
    estimator = classifier(callbacks=[recorder], early_stopping=True).fit(*IRIS)
    records = [each for each in recorder.events if hasattr(each, "epoch")]
    assert [r.validation_accuracy for r in records] == estimator.validation_scores_
    assert [r.validation_loss for r in records] == estimator.validation_loss_curve_
    values = Recorder()
    MLPRegressor(
        hidden_layer_sizes=3, max_iter=2, backend="numpy", early_stopping=True, callbacks=[values]
    ).fit(*load_diabetes(return_X_y=True))
    assert values.events[-2].validation_accuracy is None


def test_the_package_s_own_callbacks(tmp_path):
    lines = []
    classifier(callbacks=[EpochPrinter(lines.append), HistoryWriter(tmp_path)]).fit(*IRIS)
    assert [line.split("  ")[0] for line in lines] == [f"epoch {n}/4" for n in (1, 2, 3, 4)]
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 4


def test_on_train_end_runs_for_every_callback():
    class Failing(Callback):
        def on_epoch_end(self, run, record):
            raise RuntimeError("in the epoch")

        def on_train_end(self, run):
            raise RuntimeError("at the end")

    recorder = Recorder()
    with pytest.raises(RuntimeError, match="at the end"):
        classifier(callbacks=[Failing(), recorder]).fit(*IRIS)
    assert recorder.events[-1] == "end"


def test_partial_fit_runs_no_callbacks():
    recorder = Recorder()
    classifier(callbacks=[recorder]).partial_fit(*IRIS, classes=[0, 1, 2])
    assert recorder.events == []


def test_what_is_not_a_callback_is_refused():
    with pytest.raises(TypeError, match=r"not a fusedmlp\.Callback"):
        classifier(callbacks=[print]).fit(*IRIS)
    with pytest.raises(ValueError, match="callbacks"):
        classifier(callbacks=print).fit(*IRIS)
    with pytest.raises(ValueError, match="lbfgs has no epochs"):
        classifier(callbacks=[Recorder()], solver="lbfgs").fit(*IRIS)


class Task:
    """scikit-learn's protocol of callbacks."""

    def __init__(self, stop_after=None):
        self.events, self.scores, self.stop_after = [], [], stop_after

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X, y, metadata):
        self.events.append(("begin", context.task_name, context.task_id))
        self.given = X, y, metadata

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.events.append(("end", context.task_name, context.task_id))
        if fitted_estimator is not None:
            self.scores.append(fitted_estimator.score(X, y))
        return context.parent is not None and context.task_id + 1 == self.stop_after


@pytest.fixture
def skl():
    return pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")


def test_older_releases_of_scikit_learn_have_no_callbacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    assert not hasattr(callbacks._callback_support(), "set_callbacks")
    tasks = callbacks.FitTasks(None, "epoch", 2, {"estimator": classifier()})
    tasks.begin_next()
    assert tasks.end_current(lambda: None) is False
    tasks.end()


@pytest.mark.usefixtures("skl")
@pytest.mark.parametrize("solver", SOLVERS)
def test_scikit_learns_callbacks_run(solver):
    recorder, weights = Task(), np.ones(150)
    name = "iteration" if solver == "lbfgs" else "epoch"
    estimator = classifier(solver=solver).set_callbacks(recorder).fit(*IRIS, sample_weight=weights)
    expected = ["setup", ("begin", "fit", 0)]
    for n in range(estimator.n_iter_):
        expected += [("begin", name, n), ("end", name, n)]
    assert recorder.events == [*expected, ("end", "fit", 0), "teardown"]
    np.testing.assert_array_equal(recorder.given[1], IRIS[1])
    np.testing.assert_array_equal(recorder.given[2]["sample_weight"], weights)
    # Each callback received an estimator fitted so far; the last equals the fitted one.
    assert len(recorder.scores) == estimator.n_iter_ == 4
    assert recorder.scores[-1] == estimator.score(*IRIS)
    plain = classifier(solver=solver).fit(*IRIS, sample_weight=weights)
    np.testing.assert_array_equal(estimator.coefs_[0], plain.coefs_[0])


@pytest.mark.usefixtures("skl")
@pytest.mark.parametrize("solver", SOLVERS)
def test_scikit_learns_callbacks_can_stop_a_fit(solver):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # stopping is no failure to converge
        estimator = classifier(solver=solver, max_iter=50).set_callbacks(Task(2)).fit(*IRIS)
    assert estimator.n_iter_ == 2


@pytest.mark.usefixtures("skl")
def test_scikit_learns_callbacks_see_no_epoch_after_the_last():
    recorder, own = Task(), Recorder()
    given = {"tol": 10.0, "n_iter_no_change": 1, "max_iter": 50, "callbacks": [own]}
    estimator = classifier(**given).set_callbacks(recorder).fit(*IRIS)
    begun = [event for event in recorder.events if event[:2] == ("begin", "epoch")]
    assert len(begun) == estimator.n_iter_ == 3
    assert "did not improve more than tol=10.000000 for 1 consecutive" in own.stopped


@pytest.mark.parametrize("solver", SOLVERS)
def test_scikit_learns_progress_bar(skl, solver, capsys):
    classifier(solver=solver).set_callbacks(skl.ProgressBar()).fit(*IRIS)
    shown = capsys.readouterr().out
    assert "MLPClassifier - fit" in shown
    assert "100%" in shown


def test_the_progress_bar_of_a_search_shows_the_fits_within(skl, capsys):
    search = GridSearchCV(classifier(), {"alpha": [0.1, 0.2]}, cv=2)
    search.set_callbacks(skl.ProgressBar(max_propagation_depth=None)).fit(*IRIS)
    shown = capsys.readouterr().out
    assert "GridSearchCV" in shown
    assert "MLPClassifier - fit" in shown


def interrupt_after(seconds):
    """Send this process a Ctrl-C."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.fixture
def _ctrl_c_interrupts():
    """Handle SIGINT, which shells ignore in the background processes that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_interrupts")
def test_ctrl_c_is_served_inside_an_epoch():
    """One compiled call for the whole epoch would block signals for many seconds."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60_000, 64)).astype(np.float32), rng.integers(0, 2, 60_000)
    given = {"batch_size": 1, "max_iter": 2, "backend": "numba", "random_state": 0}
    MLPClassifier((512, 512), **given).fit(x[:40], y[:40])  # compiles
    estimator = MLPClassifier((512, 512), **given)
    timer = interrupt_after(1.0)
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator.fit(x, y)
    timer.join()
    assert 0 < estimator._optimizer.step < len(x)
    assert (estimator.n_iter_, estimator.loss_curve_) == (0, [])
    start = np.random.RandomState(0).uniform(-1, 1, (64, 512)) * np.sqrt(6 / (64 + 512))
    assert np.abs(estimator.coefs_[0] - start).max() > 1e-3  # it keeps what was learned
    assert estimator.predict(x[:5]).shape == (5,)

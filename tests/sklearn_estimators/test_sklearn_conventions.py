"""scikit-learn's own checks, and its tools around the estimators: all of them work as usual."""

from __future__ import annotations

import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fusedmlp import MLP, SGD, Adam, Callback, Trainer
from fusedmlp.reference.engine import ReferenceEngine
from fusedmlp.registry import backend_class
from fusedmlp.sklearn import MLPClassifier, MLPRegressor
from fusedmlp.training.schedules import Step, make_schedule

IRIS = load_iris(return_X_y=True)


CHECKED = [
    kind(solver=solver, backend=backend, random_state=0, max_iter=100)
    for kind, solver, backend in (
        (MLPClassifier, "sgd", "numpy"),
        (MLPClassifier, "adam", "numba"),
        (MLPClassifier, "lbfgs", "numpy"),
        (MLPRegressor, "sgd", "numba"),
        (MLPRegressor, "adam", "numpy"),
        (MLPRegressor, "lbfgs", "numba"),
    )
]
"""Each kind with each solver and with each backend, and each solver with each backend."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(CHECKED)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module", params=["numpy", "numba"])
def fitted(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPClassifier(
            20, learning_rate_init=0.01, random_state=0, backend=request.param
        ).fit(*IRIS)


def test_it_learns(fitted):
    assert fitted.score(*IRIS) > 0.9
    np.testing.assert_allclose(fitted.predict_proba(IRIS[0]).sum(axis=1), 1.0)
    np.testing.assert_allclose(
        fitted.to_mlp().predict_proba(IRIS[0]), fitted.predict_proba(IRIS[0])
    )
    np.testing.assert_allclose(
        fitted.predict_log_proba(IRIS[0]), np.log(fitted.predict_proba(IRIS[0]))
    )


@pytest.mark.parametrize("container", ["csr", "csc", "coo"])
def test_sparse_inputs_give_what_dense_ones_give(container):
    x, y = load_digits(return_X_y=True)
    x, y = x[:300] / 16, y[:300]
    sparse = getattr(scipy.sparse, f"{container}_array")(x)
    given = {"hidden_layer_sizes": 8, "max_iter": 5, "random_state": 0, "backend": "numba"}
    dense = MLPClassifier(**given).fit(x, y)
    other = MLPClassifier(**given).fit(sparse, y)
    np.testing.assert_allclose(other.predict_proba(sparse), dense.predict_proba(x), rtol=1e-9)


@pytest.mark.parametrize("workers", ["loky", "threading"])
def test_grid_search_with_two_jobs(workers):
    search = GridSearchCV(
        MLPClassifier(max_iter=40, random_state=0, backend="numba", learning_rate_init=0.01),
        {"hidden_layer_sizes": [(3,), (20,)], "alpha": [1e-4, 1.0]},
        n_jobs=2,
        cv=2,
        error_score="raise",
    )
    with joblib.parallel_backend(workers):
        search.fit(*IRIS)
    assert search.best_score_ > 0.8


def test_pipelines_and_cross_validation():
    pipeline = make_pipeline(
        StandardScaler(),
        MLPClassifier(16, learning_rate_init=0.01, random_state=0, backend="numba"),
    )
    assert cross_val_score(pipeline, *IRIS, cv=3).min() > 0.8


def test_calibration_stacking_and_importance():
    base = MLPClassifier(16, max_iter=60, learning_rate_init=0.01, random_state=0, backend="numba")
    calibrated = CalibratedClassifierCV(base, cv=2).fit(*IRIS)
    assert calibrated.score(*IRIS) > 0.8
    stack = StackingClassifier([("mlp", base)], LogisticRegression(max_iter=500), cv=2).fit(*IRIS)
    assert stack.score(*IRIS) > 0.8
    found = permutation_importance(base.fit(*IRIS), *IRIS, n_repeats=3, random_state=0, n_jobs=2)
    assert found.importances_mean[2:].max() > found.importances_mean[:2].max()


def test_class_weights_multiply_sample_weights():
    x, y = IRIS
    given = {"hidden_layer_sizes": 6, "max_iter": 5, "random_state": 0, "backend": "numpy"}
    weighted = MLPClassifier(class_weight={0: 2.0, 1: 0.5, 2: 1.0}, **given).fit(x, y)
    rows = MLPClassifier(**given).fit(x, y, sample_weight=np.array([2.0, 0.5, 1.0])[y])
    np.testing.assert_array_equal(weighted.coefs_[0], rows.coefs_[0])


@pytest.mark.parametrize("weight", [-1, np.nan, np.inf, "heavy", None])
def test_class_weights_are_numbers(weight):
    with pytest.raises(ValueError, match=f"class 1 the weight {weight!r}: .* at least 0"):
        MLPClassifier(class_weight={0: 1, 1: weight, 2: 1}).fit(*IRIS)


def test_class_weights_of_several_labels_a_row():
    y = np.eye(3, dtype=int)[IRIS[1]]
    with pytest.raises(ValueError, match=r"a row of y has 3 labels.* pass 'balanced' or sample"):
        MLPClassifier(class_weight={0: 1, 1: 2}).fit(IRIS[0], y)
    MLPClassifier(3, class_weight="balanced", max_iter=2, backend="numpy").fit(IRIS[0], y)


@pytest.mark.parametrize("labels", [["ant", "bee", "cow"], [0, 1, 2]])
def test_class_weights_are_for_all_classes_of_partial_fit(labels):
    """A batch need not have every class that has a weight, as for SGDClassifier."""
    x, y = IRIS[0][:100], np.array(labels)[IRIS[1][:100]]  # without the third class
    given = {"hidden_layer_sizes": 3, "random_state": 0, "backend": "numpy"}
    weighted = MLPClassifier(class_weight={labels[2]: 5.0, labels[1]: 2.0}, **given)
    by_row = MLPClassifier(**given)
    for _ in range(2):
        weighted.partial_fit(x, y, classes=labels)
        by_row.partial_fit(x, y, 1.0 + (y == labels[1]), classes=labels)
    np.testing.assert_array_equal(weighted.coefs_[0], by_row.coefs_[0])
    with pytest.raises(ValueError, match="not in class_weight"):
        weighted.set_params(class_weight={"dog": 1.0}).partial_fit(x, y)


def test_balanced_weights_need_all_labels():
    x, y = IRIS
    rows = np.r_[0:60, 100:110]
    given = {"hidden_layer_sizes": 6, "max_iter": 5, "random_state": 0, "backend": "numpy"}
    counts = np.bincount(y[rows])
    balanced = MLPClassifier(class_weight="balanced", **given)
    by_hand = MLPClassifier(class_weight=dict(enumerate(len(rows) / (3 * counts))), **given)
    np.testing.assert_allclose(
        balanced.fit(x[rows], y[rows]).coefs_[0], by_hand.fit(x[rows], y[rows]).coefs_[0]
    )
    with pytest.raises(ValueError, match="'balanced' is not supported by partial_fit"):
        balanced.partial_fit(x, y)


def test_dropout_changes_training_and_backends_agree_on_it():
    given = {"hidden_layer_sizes": 12, "max_iter": 20, "random_state": 0}
    plain = MLPClassifier(**given, backend="numpy").fit(*IRIS)
    one, other = (
        MLPClassifier(**given, dropout=0.4, backend=name).fit(*IRIS) for name in ("numpy", "numba")
    )
    assert np.abs(one.coefs_[0] - plain.coefs_[0]).max() > 1e-3
    np.testing.assert_allclose(other.coefs_[0], one.coefs_[0], rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="lbfgs"):
        MLPClassifier(dropout=0.4, solver="lbfgs").fit(*IRIS)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("activation", ["leaky_relu", "elu", "gelu", "silu"])
def test_activations_of_the_core_that_scikit_learn_lacks(activation, backend, tmp_path):
    given = {"learning_rate_init": 0.02, "random_state": 0, "backend": backend}
    estimator = MLPClassifier(12, activation, **given).fit(*IRIS)
    assert estimator.score(*IRIS) > 0.9
    assert estimator.to_mlp().network.hidden == activation
    estimator.save(tmp_path / "file")
    loaded = MLPClassifier.load(tmp_path / "file", backend=backend)
    np.testing.assert_array_equal(loaded.predict_proba(IRIS[0]), estimator.predict_proba(IRIS[0]))


def test_arrays_put_in_place_of_the_fitted_ones_are_used():
    estimator = MLPRegressor(hidden_layer_sizes=4, max_iter=3, backend="numba", random_state=0).fit(
        *IRIS
    )
    before = estimator.predict(IRIS[0])
    estimator.intercepts_[-1] = estimator.intercepts_[-1] + 1.0
    np.testing.assert_allclose(estimator.predict(IRIS[0]), before + 1.0)
    estimator.intercepts_[-1] = estimator.intercepts_[-1] + 1.0
    estimator.to_mlp()  # does not update the prediction model
    np.testing.assert_allclose(estimator.predict(IRIS[0]), before + 2.0)
    with pytest.raises(ValueError, match="read-only"):
        estimator.coefs_[0][:] = 0.0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"activation": "softsign"}, "'activation' parameter .*'gelu'"),
        ({"backend": "abacus"}, "abacus"),
        ({"dtype": "float16"}, "dtype"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_parameters_name_themselves(parameters, words):
    with pytest.raises(ValueError, match=words):
        MLPClassifier(**parameters).fit(*IRIS)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("schedule", ["step", "exponential", "cosine", "one-cycle", Step(2, 0.1)])
def test_planned_rates_are_those_of_the_core(solver, schedule, tmp_path):
    """The same steps by the core's trainer, from the same weights, rows in their own order."""
    x, y = IRIS[0], IRIS[1]
    given = {"hidden_layer_sizes": 6, "alpha": 0.0, "batch_size": 40, "shuffle": False,
             "solver": solver, "learning_rate_init": 0.02, "random_state": 0}  # fmt: skip
    start = MLPClassifier(**given | {"learning_rate_init": 1e-300}, max_iter=1, backend="numpy")
    mlp = MLP((4, 6, 3), "relu", dtype="float64", backend="numpy")
    mlp.parameters = start.fit(x, y).to_mlp().parameters
    optimizer = Adam(0.02, eps_hat=True) if solver == "adam" else SGD(0.02, 0.9, nesterov=True)
    plan = make_schedule(schedule) if isinstance(schedule, str) else schedule
    Trainer(optimizer, plan, epochs=13, batch_size=40, shuffle=False).fit(mlp, x, y)
    estimator = MLPClassifier(**given, max_iter=13, learning_rate=schedule, backend="numpy")
    estimator.fit(x, y)
    np.testing.assert_allclose(estimator.coefs_[0], mlp.parameters.weights[0], rtol=1e-9)
    constant = MLPClassifier(**given, max_iter=13, backend="numpy").fit(x, y)
    assert np.abs(constant.coefs_[0] - estimator.coefs_[0]).max() > 1e-3
    with pytest.raises(ValueError, match="planned for all epochs"):
        estimator.partial_fit(x, y)
    # With a rate of scikit-learn's it goes on from the last of the plan.
    estimator.set_params(learning_rate="constant").save(tmp_path / "file")
    loaded = MLPClassifier.load(tmp_path / "file", backend="numpy").partial_fit(x, y)
    np.testing.assert_array_equal(loaded.coefs_[0], estimator.partial_fit(x, y).coefs_[0])


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_warnings_are_attributed_to_the_caller(solver):
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations|failed to converge") as caught:
        MLPClassifier(solver=solver, max_iter=2, backend="numpy").fit(*IRIS)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="clipped") as caught:
        MLPClassifier(batch_size=999, max_iter=2, backend="numpy").fit(*IRIS)
    assert caught[0].filename == __file__


def test_verbose_lbfgs_prints_a_line_for_each_evaluation(capsys):
    MLPClassifier(3, solver="lbfgs", max_iter=2, verbose=True, backend="numpy").fit(*IRIS)
    assert capsys.readouterr().out.startswith("loss = ")


def test_ctrl_c_keeps_what_was_learned():
    class Interrupt(Callback):
        def on_epoch_end(self, run, record):
            if record.epoch == 3:
                raise KeyboardInterrupt

    given = {"max_iter": 9, "backend": "numpy", "random_state": 0}
    estimator = MLPClassifier(3, callbacks=[Interrupt()], **given)
    with pytest.warns(UserWarning, match="interrupted"):
        estimator.fit(*IRIS)
    expected = MLPClassifier(3, max_iter=3, backend="numpy", random_state=0).fit(*IRIS)
    np.testing.assert_array_equal(estimator.coefs_[0], expected.coefs_[0])


@pytest.mark.parametrize("after", [0, 5])
def test_ctrl_c_in_lbfgs_keeps_what_was_evaluated_last(monkeypatch, after):
    """It is raised, as scikit-learn's solver raises it."""
    evaluate, evaluated = ReferenceEngine.loss_and_gradients, []

    def interrupted(engine, data, rows):
        if len(evaluated) == after:
            raise KeyboardInterrupt
        evaluated.append(engine.parameters())
        return evaluate(engine, data, rows)

    monkeypatch.setattr(ReferenceEngine, "loss_and_gradients", interrupted)
    estimator = MLPClassifier(3, solver="lbfgs", backend="numpy", random_state=0)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(*IRIS)
    if evaluated:
        np.testing.assert_array_equal(estimator.coefs_[0], evaluated[-1].weights[0])
        assert np.abs(evaluated[-1].weights[0] - evaluated[0].weights[0]).max() > 1e-3
    assert estimator.predict(IRIS[0]).shape == (150,)


def test_a_built_backend_is_used():
    backend = backend_class("numba")(threads=1)
    given = {"hidden_layer_sizes": 3, "max_iter": 2, "random_state": 0}
    one = MLPClassifier(backend=backend, **given).fit(*IRIS)
    other = MLPClassifier(backend="numba", **given).fit(*IRIS)
    np.testing.assert_array_equal(one.predict_proba(IRIS[0]), other.predict_proba(IRIS[0]))


def test_early_stopping_takes_sparse_rows_and_weights():
    x, y = load_digits(return_X_y=True)
    x, y = x[:300] / 16, y[:300]
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    given = {"hidden_layer_sizes": 8, "max_iter": 4, "random_state": 0, "early_stopping": True}
    dense = MLPClassifier(**given, backend="numba").fit(x, y, weights)
    sparse = MLPClassifier(**given, backend="numba").fit(scipy.sparse.csr_array(x), y, weights)
    assert sparse.validation_scores_ == dense.validation_scores_


def test_rows_to_predict_are_scanned_once(fitted, monkeypatch):
    from sklearn.utils import validation

    def unexpected(*_, **__):
        pytest.fail("scikit-learn scanned them too")

    x = np.tile(IRIS[0], (400, 1))
    expected = fitted.predict_proba(x)
    monkeypatch.setattr(validation, "_assert_all_finite", unexpected)
    np.testing.assert_array_equal(fitted.predict_proba(x), expected)

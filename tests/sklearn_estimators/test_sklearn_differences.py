"""Where the estimators differ from scikit-learn's on purpose: rows of the table in docs/sklearn.md.

That all else is the same is in test_sklearn_beside.py and test_sklearn_same_training.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import config_context
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

from fusedmlp.sklearn import MLPClassifier, MLPRegressor

IRIS = load_iris(return_X_y=True)


def test_other_parameters_in_a_fit_that_goes_on():
    """Where scikit-learn looks for curves that were never begun, they begin."""
    x, y = IRIS
    estimator = MLPClassifier(3, max_iter=2, warm_start=True, backend="numpy", random_state=0)
    estimator.fit(x, y).set_params(early_stopping=True).fit(x, y)
    assert (len(estimator.loss_curve_), len(estimator.validation_scores_)) == (4, 2)
    assert len(estimator.validation_loss_curve_) == 2
    assert estimator.best_loss_ is None
    estimator.set_params(early_stopping=False).fit(x, y)
    assert (len(estimator.loss_curve_), estimator.validation_scores_) == (6, None)
    assert estimator.best_loss_ == min(estimator.loss_curve_[4:])
    newton = MLPClassifier(3, solver="lbfgs", max_iter=2, warm_start=True, random_state=0)
    newton.fit(x, y)
    before = newton.coefs_[0]
    newton.set_params(solver="adam").fit(x, y)
    assert len(newton.loss_curve_) == 2
    assert np.abs(newton.coefs_[0] - before).max() < 0.1  # from there, not from new weights


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"solver": "adam"}, {"solver": "sgd"}),
        ({"solver": "sgd"}, {"solver": "adam"}),
        ({"solver": "sgd", "momentum": 0.0}, {"momentum": 0.9}),
    ],
)
def test_another_optimizer_in_partial_fit_begins_with_empty_moments(first, then):
    x, y = IRIS
    given = {"hidden_layer_sizes": 3, "backend": "numpy", "random_state": 0, "max_iter": 1}
    estimator = MLPClassifier(**given, **first).partial_fit(x, y, classes=[0, 1, 2])
    other = MLPClassifier(**given, warm_start=True, **first).partial_fit(x, y, classes=[0, 1, 2])
    estimator.set_params(**then).partial_fit(x, y)
    np.testing.assert_array_equal(estimator.coefs_[0], other.set_params(**then).fit(x, y).coefs_[0])


@pytest.mark.parametrize(
    ("solver", "then"), [("sgd", {"momentum": 0.1}), ("adam", {"beta_1": 0.1, "epsilon": 1.0})]
)
def test_the_optimizer_s_parameters_count_in_partial_fit_and_the_rate_goes_on(solver, then):
    x, y = IRIS
    given = {"hidden_layer_sizes": 3, "backend": "numpy", "random_state": 0, "solver": solver}
    fits = {"plain": {}, "changed": then, "rate": {"learning_rate_init": 0.9}}
    found = {
        name: MLPClassifier(**given)
        .partial_fit(x, y, classes=[0, 1, 2])
        .set_params(**changed)
        .partial_fit(x, y)
        .coefs_[0]
        for name, changed in fits.items()
    }
    assert np.abs(found["changed"] - found["plain"]).max() > 1e-5
    np.testing.assert_array_equal(found["rate"], found["plain"])


def test_an_optimizer_of_other_weights_is_not_gone_on_with():
    x, y = IRIS
    estimator = MLPClassifier(3, max_iter=2, backend="numpy", random_state=0).fit(x, y)
    estimator.set_params(solver="lbfgs", hidden_layer_sizes=5).fit(x, y)
    estimator.set_params(solver="adam").partial_fit(x, y)
    assert estimator.coefs_[0].shape == (4, 5)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("weights", [-np.ones(150), np.linspace(-1.0, 2.0, 150)])
def test_weights_below_0_are_refused(solver, weights):
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        MLPClassifier(solver=solver, max_iter=2).fit(*IRIS, sample_weight=weights)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_a_fit_that_goes_on_has_as_many_layers(kind):
    estimator = kind(hidden_layer_sizes=3, max_iter=2, warm_start=True, backend="numpy").fit(*IRIS)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(3, 3\) are not .* which has 1"):
        estimator.set_params(hidden_layer_sizes=(3, 3)).fit(*IRIS)


def test_where_scikit_learn_goes_on_with_what_means_nothing_here_is_an_error():
    """These are rows of the table in docs/sklearn.md."""
    x, y = IRIS
    assert not hasattr(MLPRegressor(solver="lbfgs"), "partial_fit")
    diverging = MLPRegressor(
        solver="sgd", learning_rate_init=1.0, early_stopping=True, max_iter=3, backend="numpy"
    )
    with pytest.raises(ValueError, match="non-finite"):
        diverging.fit(x, y * 1e200)
    with pytest.raises(ValueError, match="momentum"):
        MLPClassifier(momentum=1.0).fit(x, y)
    with pytest.raises(ValueError, match="at least 0"):
        MLPRegressor("poisson", backend="numpy").fit(x, -1.0 - y)
    estimator = MLPClassifier(3, max_iter=2, backend="numpy").fit(x, y)
    with config_context(assume_finite=True), pytest.raises(ValueError, match="must be finite"):
        estimator.predict(np.full((1, 4), np.nan))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictions_are_of_the_type_of_the_weights(dtype):
    x, y = IRIS
    estimator = MLPClassifier(3, max_iter=2, backend="numpy").fit(x.astype(dtype), y)
    for given in ("float16", "float32", "float64", "longdouble", "int64"):
        assert estimator.predict_proba(x.astype(given)).dtype == dtype


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_weights_that_are_all_0_leave_nothing_to_train_or_to_score(kind):
    """scikit-learn divides by their sum, in one of two errors; all weights at once it names."""
    x, y = IRIS
    given = {"hidden_layer_sizes": 3, "early_stopping": True, "backend": "numpy", "max_iter": 2}
    n_outputs = 3 if kind is MLPClassifier else 1
    drawn = np.random.RandomState(0)
    for shape in ((4, 3), 3, (3, n_outputs), n_outputs):
        drawn.uniform(size=shape)  # as the starting weights are, before the rows
    _, held_out = train_test_split(np.arange(150), random_state=drawn, test_size=0.1)
    weights = np.ones(150)
    weights[held_out] = 0.0
    with pytest.raises(ValueError, match=r"all 15 weights are 0, .* holds out have no score"):
        kind(**given, random_state=0).fit(x, y, weights)
    with pytest.raises(ValueError, match=r"all 135 weights are 0, .* nothing to learn"):
        kind(**given, random_state=0).fit(x, y, 1.0 - weights)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_class_weights_that_are_all_0_are_refused(solver):
    estimator = MLPClassifier(class_weight={0: 0, 1: 0, 2: 0}, solver=solver, backend="numpy")
    with pytest.raises(ValueError, match=r"all 150 weights are 0, .* class weight above 0"):
        estimator.fit(*IRIS)


def test_numbers_beyond_the_range_of_float32_name_the_remedy():
    x, y = IRIS
    narrow = {"hidden_layer_sizes": 3, "max_iter": 2, "dtype": "float32", "backend": "numpy"}
    message = r"\[3, 1\] is 1e\+39, .* float32 .*: use dtype='float64'"
    large = x.copy()
    large[3, 1] = 1e39
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**narrow).fit(large, y)
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**narrow).fit(x, y).predict(large)
    with pytest.raises(ValueError, match=message):
        MLPRegressor(**narrow).fit(x, large)
    MLPClassifier(**narrow | {"dtype": "float64"}).fit(x, y).predict(large)

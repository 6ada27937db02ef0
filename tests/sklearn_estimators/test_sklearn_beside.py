"""Results, errors and warnings equal those of scikit-learn's own estimator.

Each case is one call to both libraries. test_sklearn_same_training.py compares the weights.
"""

from __future__ import annotations

import inspect
import re
import warnings

import numpy as np
import pytest
import scipy.sparse
import sklearn
import sklearn.neural_network as reference
from sklearn.datasets import load_iris, make_multilabel_classification

import fusedmlp.sklearn as own

X, Y = load_iris(return_X_y=True)
XM, YM = make_multilabel_classification(60, 5, n_classes=3, random_state=0)
TEXT = np.array(["ant", "bee", "cow"])[Y]

pytestmark = pytest.mark.skipif(
    "loss" not in inspect.signature(reference.MLPRegressor).parameters,
    reason="an older scikit-learn, whose MLP differs in more than words",
)


BEFORE_1_9 = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9)
"""Earlier releases of scikit-learn fail in early stopping on labels that are text or sparse, and
make another error of sample weights that are all 0."""


def put(array, value, dtype=None):
    """Return a copy with another value in the second row."""
    copied = array.astype(dtype or array.dtype)
    copied[1] = value
    return copied


def classifier(library, **parameters):
    given = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0} | parameters
    return library.MLPClassifier(**given, **({"backend": "numpy"} if library is own else {}))


def regressor(library, **parameters):
    given = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0} | parameters
    return library.MLPRegressor(**given, **({"backend": "numpy"} if library is own else {}))


def outcome(call, library):
    """Return the result or error of a call, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call(library)
        except Exception as error:  # noqa: BLE001 - compared with the other library's
            # The options in a message are in no fixed order.
            text = re.sub(r"\{.*?\}", lambda found: str(sorted(found[0])), str(error))
            result = f"{type(error).__name__}: {text}"
    # NumPy and SciPy warn of overflow in scikit-learn's formulas; engines do not warn.
    found_warnings = [
        # scikit-learn's warning of lbfgs ends with a link to its documentation.
        (warning.category, str(warning.message).split(" as shown in")[0].rstrip("."))
        for warning in caught
        if warning.category is not RuntimeWarning
    ]
    return result, found_warnings


def assert_same_outcome(call):
    expected, expected_warnings = outcome(call, reference)
    found, found_warnings = outcome(call, own)
    assert found_warnings == expected_warnings
    assert type(found) is type(expected), (found, expected)
    if scipy.sparse.issparse(expected):
        assert found.format == expected.format
        found, expected = found.toarray(), expected.toarray()
    if isinstance(expected, np.ndarray) and expected.dtype.kind == "f":
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_everything_public_is_there(name):
    expected_class, own_class = getattr(reference, name), getattr(own, name)
    parameters = inspect.signature(expected_class).parameters
    extended = inspect.signature(own_class).parameters
    assert list(extended)[: len(parameters)] == list(parameters)
    for each, parameter in parameters.items():
        assert (extended[each].kind, extended[each].default) == (parameter.kind, parameter.default)
    public = [each for each in dir(expected_class) if not each.startswith("_")]
    assert set(public) <= set(dir(own_class))
    for method in public:
        if callable(getattr(expected_class, method)) and not method.startswith("set_"):
            arguments = [
                [(p.name, p.kind, p.default) for p in inspect.signature(call).parameters.values()]
                for call in (getattr(own_class, method), getattr(expected_class, method))
            ]
            assert arguments[0] == arguments[1], method
    assert own_class().__sklearn_tags__() == expected_class().__sklearn_tags__()
    assert str(own_class().get_metadata_routing()) == str(expected_class().get_metadata_routing())


@pytest.mark.parametrize("kind", [classifier, regressor])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_fitted_attribute_is_there(kind, solver, early_stopping):
    given = {"solver": solver, "early_stopping": early_stopping}
    other, estimator = (kind(library, **given).fit(X, Y) for library in (reference, own))
    for name, expected in vars(other).items():
        if name.startswith("_"):
            continue
        found = getattr(estimator, name)
        if name in ("coefs_", "intercepts_"):
            assert [a.shape for a in found] == [a.shape for a in expected]
        elif name.endswith("_") and expected is not None and not isinstance(expected, str):
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        else:
            assert found == expected, name


@pytest.mark.parametrize(
    "parameters",
    [
        {"solver": "newton"}, {"alpha": -1}, {"batch_size": 0},
        {"batch_size": 1000}, {"learning_rate_init": 0.0}, {"power_t": -1.0}, {"max_iter": 0},
        {"shuffle": "yes"}, {"random_state": "a"}, {"tol": -1.0}, {"validation_fraction": 1.0},
        {"beta_1": 1.0}, {"epsilon": 0.0}, {"n_iter_no_change": 0}, {"max_fun": 0},
        {"hidden_layer_sizes": 0}, {"hidden_layer_sizes": (3, -1)}, {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": 2.5}, {"hidden_layer_sizes": np.array([3, 2])},
        {"early_stopping": True, "validation_fraction": 0.001},
        {"solver": "lbfgs"}, {"solver": "lbfgs", "max_iter": 50, "max_fun": 3},
    ],
    ids=lambda parameters: ",".join(f"{key}={value}" for key, value in parameters.items()),
)  # fmt: skip
def test_parameters(parameters):
    assert_same_outcome(
        lambda library: classifier(library, **parameters).fit(X, Y).predict_proba(X)
    )


INPUTS = {
    "NaN": put(X, np.nan), "infinite": put(X, np.inf), "one axis": X[:, 0], "three": X[None],
    "no rows": X[:0], "no columns": X[:, :0], "fewer rows": X[:9], "few columns": X[:, :2],
    "text": X.astype(str), "words": np.full((150, 4), "a", object), "complex": X + 1j,
    "list": X.tolist(), "whole": X.astype(np.uint8), "truth": X > 2, "object": X.astype(object),
    "half": X.astype(np.float16), "single": X.astype(np.float32), "F": np.asfortranarray(X),
    "huge": X * 1e300, "scalar": 3.0, "nothing": None,
    "CSR": scipy.sparse.csr_matrix(X), "CSC": scipy.sparse.csc_array(X),
    "COO": scipy.sparse.coo_array(X), "LIL": scipy.sparse.lil_matrix(X),
    "sparse NaN": scipy.sparse.csr_array(put(X, np.nan)),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kind", [classifier, regressor])
def test_inputs_of_fit(kind, name):
    assert_same_outcome(lambda library: kind(library).fit(INPUTS[name], Y).coefs_[0])


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kind", [classifier, regressor])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_inputs_of_predict(kind, name, named):
    x = pytest.importorskip("pandas").DataFrame(X, columns=list("abcd")) if named else X
    fitted = {library: kind(library).fit(x, Y) for library in (reference, own)}
    method = "predict_proba" if kind is classifier else "predict"
    assert_same_outcome(lambda library: getattr(fitted[library], method)(INPUTS[name]))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(
    "y",
    [
        Y + 0.5, Y[:9], Y[:, None], None, Y == 1, Y * 0, np.column_stack([Y, Y]), TEXT,
        TEXT.astype(object), put(TEXT, None, object), TEXT.astype(bytes), np.eye(3)[Y],
        np.eye(3, dtype=bool)[Y], [[1, 2]] * 150, scipy.sparse.csr_matrix(np.eye(3, dtype=int)[Y]),
        put(Y, np.nan, float),
    ],
    ids=lambda y: f"{type(y).__name__}-{getattr(y, 'dtype', '')}-{np.shape(y)}",
)  # fmt: skip
def test_labels(solver, y):
    assert_same_outcome(lambda library: classifier(library, solver=solver).fit(X, y).predict(X))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize(
    "y",
    [
        put(Y, np.nan, float), put(Y, np.inf, float), Y > 1, Y[:9], Y[:, None], None, Y + 1e200,
        np.ones((150, 1, 1)),
    ],
    ids=["NaN", "infinite", "truth", "few", "column", "none", "huge", "three axes"],
)  # fmt: skip
def test_targets(solver, loss, y):
    assert_same_outcome(
        lambda library: regressor(library, solver=solver, loss=loss).fit(X, y).predict(X)
    )


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize(
    "weights",
    [
        np.zeros(150), np.ones(9), np.ones((150, 2)), put(np.ones(150), np.nan), 2.0, [1.0] * 150,
        ["a"] * 150,
    ],
    ids=["zeros", "few", "two axes", "NaN", "one number", "list", "text"],
)  # fmt: skip
def test_sample_weights(solver, weights):
    if BEFORE_1_9 and np.array_equal(weights, np.zeros(150)):
        pytest.skip("scikit-learn before 1.9 handles these weights differently")
    assert_same_outcome(
        lambda library: classifier(library, solver=solver).fit(X, Y, weights).coefs_[0]
    )


CALLS = {
    "predict before fit": lambda m: classifier(m).predict(X),
    "predict_proba before fit": lambda m: classifier(m).predict_proba(X),
    "score before fit": lambda m: regressor(m).score(X, Y),
    "no classes": lambda m: classifier(m).partial_fit(X, Y),
    "other classes": lambda m: (
        classifier(m).partial_fit(X, Y, classes=[0, 1, 2]).partial_fit(X, Y, classes=[0, 1])
    ),
    "an unknown class": lambda m: classifier(m).partial_fit(X, Y, classes=[0, 1]),
    "another width": lambda m: regressor(m).partial_fit(X, Y).partial_fit(X[:, :2], Y),
    "lbfgs in parts": lambda m: classifier(m, solver="lbfgs").partial_fit(X, Y, classes=[0, 1, 2]),
    "early stopping in parts": lambda m: classifier(m, early_stopping=True).partial_fit(
        X, Y, classes=[0, 1, 2]
    ),
    "classes in disorder": lambda m: (
        classifier(m).partial_fit(X, Y, classes=[2, 0, 1, 1]).predict_proba(X)
    ),
    "warm start, other classes": lambda m: classifier(m, warm_start=True).fit(X, Y).fit(X, Y > 0),
    "warm start, other width": lambda m: classifier(m, warm_start=True).fit(X, Y).fit(X[:, :2], Y),
    "fit goes on in parts": lambda m: classifier(m).fit(X, Y).partial_fit(X, Y).predict_proba(X),
    "stopping by text labels": lambda m: (
        classifier(m, early_stopping=True, max_iter=9).fit(X, TEXT).validation_scores_
    ),
    "a rare class": lambda m: classifier(m, early_stopping=True).fit(X[:15], [0] * 14 + [1]),
    "one class": lambda m: classifier(m, early_stopping=True).fit(X, Y * 0).predict(X),
    "sparse labels, predicted": lambda m: (
        classifier(m).fit(XM, scipy.sparse.csr_matrix(YM)).predict(XM)
    ),
    "sparse labels, held out": lambda m: (
        classifier(m, early_stopping=True).fit(XM, scipy.sparse.csr_matrix(YM)).validation_scores_
    ),
    "too large a rate": lambda m: regressor(
        m, solver="sgd", learning_rate_init=1e10, max_iter=50
    ).fit(X, Y),
    "the loss": lambda m: classifier(m).loss,
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    if BEFORE_1_9 and name in ("stopping by text labels", "sparse labels, held out"):
        pytest.skip("early stopping of scikit-learn before 1.9 fails on these labels")
    assert_same_outcome(CALLS[name])


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"tol": 10.0, "n_iter_no_change": 1},
        {"early_stopping": True, "tol": 0.5, "n_iter_no_change": 1},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1},
    ],
    ids=["plain", "tol", "early_stopping", "adaptive"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_verbose_fits_print_the_same_lines(parameters, capsys):
    printed = []
    for library in (reference, own):
        classifier(library, max_iter=30, verbose=True, **parameters).fit(X, Y)
        lines = capsys.readouterr().out.splitlines()
        # The losses themselves may differ in their last digit.
        printed.append([line[:-2] if "loss =" in line else line for line in lines])
    assert printed[0] == printed[1]
    if "learning_rate" in parameters:
        assert printed[1][-1].endswith("Learning rate too small. Stopping.")

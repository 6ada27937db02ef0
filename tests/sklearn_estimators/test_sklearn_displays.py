"""scikit-learn's displays draw the estimators: the same numbers that the estimators give."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.datasets import make_moons
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PredictionErrorDisplay,
    RocCurveDisplay,
    confusion_matrix,
    roc_auc_score,
)
from sklearn.model_selection import LearningCurveDisplay

from fusedmlp.sklearn import MLPClassifier, MLPRegressor

X, Y = make_moons(100, noise=0.2, random_state=0)
LABELS = np.array(["upper", "lower"])[Y]


@pytest.fixture(autouse=True)
def _no_screen():
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def classifier():
    settings = {"solver": "lbfgs", "random_state": 0, "backend": "numpy", "max_iter": 500}
    return MLPClassifier((5,), **settings).fit(X, LABELS)


def test_confusion_matrix(classifier):
    display = ConfusionMatrixDisplay.from_estimator(classifier, X, LABELS)
    expected = confusion_matrix(LABELS, classifier.predict(X))
    assert (display.confusion_matrix == expected).all()
    assert list(display.display_labels) == ["lower", "upper"]


def test_roc_curve(classifier):
    display = RocCurveDisplay.from_estimator(classifier, X, LABELS)
    expected = roc_auc_score(LABELS == "upper", classifier.predict_proba(X)[:, 1])
    assert np.ravel(display.roc_auc) == pytest.approx([expected])


def test_decision_boundary(classifier):
    display = DecisionBoundaryDisplay.from_estimator(
        classifier,
        X,
        response_method="predict_proba",
        grid_resolution=20,
        class_of_interest="upper",
    )
    points = np.column_stack([display.xx0.ravel(), display.xx1.ravel()])
    expected = classifier.predict_proba(points)[:, 1]
    assert display.response.ravel() == pytest.approx(expected)


def test_learning_curve(classifier):
    display = LearningCurveDisplay.from_estimator(classifier, X, LABELS, cv=2, train_sizes=[0.5, 1])
    assert display.train_sizes.tolist() == [25, 50]
    assert display.test_scores.shape == (2, 2)
    assert ((display.test_scores > 0.5) & (display.test_scores <= 1)).all()


def test_prediction_error():
    settings = {"solver": "lbfgs", "random_state": 0, "backend": "numpy", "max_iter": 500}
    regressor = MLPRegressor(hidden_layer_sizes=(5,), **settings).fit(X, X[:, 0] + X[:, 1])
    display = PredictionErrorDisplay.from_estimator(regressor, X, X[:, 0] + X[:, 1])
    assert display.y_pred == pytest.approx(regressor.predict(X))

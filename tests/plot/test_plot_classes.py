"""Confusion matrix, wrong rows and weights: the numbers that are drawn."""

import sys

import numpy as np
import pytest
import scipy.sparse
from linear_networks import network
from matplotlib import pyplot as plt

from fusedmlp import MLP, plot
from fusedmlp.errors import InvalidInputError, MissingDependencyError
from fusedmlp.sklearn import MLPClassifier, MLPRegressor

ROWS = np.array([[9, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0], [0, 5, 0, 0], [0, 0, 0, 2.0]])
TRUE = np.array([0, 2, 2, 0, 1])
"""Rows 1, 3 and 4 are wrong for a network that predicts the largest column: 2 → 1 (probability
e/(e + 3) = 0.475), 0 → 1 (e⁵/(e⁵ + 3) = 0.980) and 1 → 3 (e²/(e² + 3) = 0.711)."""


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_images()]


def counts(axes):
    return np.asarray(axes.get_images()[0].get_array())


def texts(labels):
    return [label.get_text() for label in labels]


def test_confusion_counts_true_classes_down_and_predicted_ones_across(columns_as_classes):
    axes = plot.confusion_matrix(columns_as_classes, ROWS, TRUE)
    expected = np.zeros((4, 4))
    for true, predicted in zip(TRUE, [0, 1, 2, 1, 3], strict=True):
        expected[true, predicted] += 1
    assert (counts(axes) == expected).all()
    assert axes.get_title() == "3 of 5 rows wrong (60.00%)"
    assert sorted(texts(axes.texts)) == sorted(str(int(n)) for n in expected.flat)


def test_confusion_has_the_names_of_the_classes(columns_as_classes):
    columns_as_classes.class_names = ("ant", "bee", "cat", "dog")
    axes = plot.confusion_matrix(columns_as_classes, ROWS, ["ant", "cat", "cat", "ant", "bee"])
    assert texts(axes.get_xticklabels()) == ["ant", "bee", "cat", "dog"]
    assert counts(axes)[2, 1] == 1


def test_confusion_of_one_sigmoid_output_has_two_classes():
    axes = plot.confusion_matrix(network([[1.0]], output="sigmoid"), [[-1], [1], [2]], [0, 0, 1])
    assert counts(axes).tolist() == [[1, 1], [0, 1]]


def test_confusion_of_many_classes_has_colours_in_place_of_counts():
    axes = plot.confusion_matrix(network(np.eye(30)), np.eye(30), range(30))
    assert not axes.texts
    assert len(axes.figure.axes) == 2, "a colour bar"


def test_confusion_of_an_estimator_takes_its_labels():
    x = np.array([[-2.0], [-1], [1], [2]])
    y = np.array(["no", "no", "yes", "yes"])
    estimator = MLPClassifier((3,), solver="lbfgs", random_state=0, backend="numpy").fit(x, y)
    axes = plot.confusion_matrix(estimator, x, ["no", "yes", "yes", "yes"])
    assert texts(axes.get_yticklabels()) == ["no", "yes"]
    assert counts(axes).tolist() == [[1, 0], [1, 2]]


def test_an_estimator_reads_bytes_as_numbers_and_a_model_as_pixels():
    x, y = np.array([[0], [100], [150], [255]], np.uint8), [0, 0, 1, 1]
    weights, biases = np.array([[1.0]]), np.array([-125.0])
    estimator = MLPClassifier((1,), "identity", solver="lbfgs", backend="numpy").fit(x, y)
    estimator.coefs_ = [weights, np.array([[1.0]])]
    estimator.intercepts_ = [biases, np.zeros(1)]
    assert counts(plot.confusion_matrix(estimator, x, y)).tolist() == [[2, 0], [0, 2]]
    model = estimator.to_mlp()  # the largest input is 1 here
    assert counts(plot.confusion_matrix(model, x, y)).tolist() == [[2, 0], [2, 0]]


def test_a_given_axes_is_used(columns_as_classes):
    _, (_, right) = plt.subplots(1, 2)
    assert plot.confusion_matrix(columns_as_classes, ROWS, TRUE, ax=right) is right


def test_wrong_rows_are_drawn_surest_first(columns_as_classes):
    columns_as_classes.class_names = ("ant", "bee", "caterpillar", "d")
    figure = plot.misclassified(columns_as_classes, ROWS, TRUE)
    expected = ["ant → bee\n98.0%", "bee → d\n71.1%", "caterpill… →\nbee\n47.5%"]
    assert titles(figure) == expected
    for axes, row in zip(figure.axes, (3, 4, 1), strict=False):
        assert (np.asarray(axes.get_images()[0].get_array()) == ROWS[row].reshape(2, 2)).all()
    assert figure.get_suptitle() == "3 of 5 rows wrong"


def test_the_number_of_images_is_bounded_and_said(columns_as_classes):
    figure = plot.misclassified(columns_as_classes, ROWS, TRUE, count=2, shape=(1, 4))
    assert titles(figure) == ["0 → 1\n98.0%", "1 → 3\n71.1%"]
    assert figure.get_suptitle() == "3 of 5 rows wrong, the 2 surest"
    assert figure.axes[0].get_images()[0].get_array().shape == (1, 4)


def test_sparse_rows_are_drawn_too(columns_as_classes):
    figure = plot.misclassified(columns_as_classes, scipy.sparse.csr_array(ROWS), TRUE)
    assert (np.asarray(figure.axes[0].get_images()[0].get_array()) == [[0, 5], [0, 0]]).all()


def test_without_a_wrong_row_the_picture_says_so(columns_as_classes):
    figure = plot.misclassified(columns_as_classes, ROWS, [0, 1, 2, 1, 3])
    assert figure.get_suptitle() == "none of the 5 rows is wrong"
    assert not figure.axes


def test_weights_are_drawn_by_one_scale_that_is_symmetric_about_zero():
    W = np.array([[0.1, -3.0, 0.0], [0.2, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    figure = plot.first_layer_weights(network(W, np.ones((3, 2))))
    assert titles(figure) == ["unit 0", "unit 1", "unit 2"]
    for unit, axes in enumerate(figure.axes[:3]):
        image = axes.get_images()[0]
        assert (np.asarray(image.get_array()) == W[:, unit].reshape(2, 2)).all()
        assert image.get_clim() == (-3.0, 3.0)
        assert image.get_cmap()(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.01), "0 is white"


def test_of_many_units_those_with_the_largest_weights_are_drawn():
    W = np.array([[0.1, -3.0, 2.0, 1.0]] * 4)
    figure = plot.first_layer_weights(network(W, np.ones((4, 2))), count=2)
    assert titles(figure) == ["unit 1", "unit 2"]
    assert figure.get_suptitle() == "first layer, 2 of 4 units"


def test_weights_of_zero_and_of_a_regressor_can_be_drawn():
    settings = {"hidden_layer_sizes": (2,), "solver": "lbfgs", "backend": "numpy"}
    estimator = MLPRegressor(**settings).fit(ROWS, TRUE)
    assert titles(plot.first_layer_weights(estimator)) == ["unit 0", "unit 1"]
    assert titles(plot.first_layer_weights(network(np.zeros((4, 2))))) == ["unit 0", "unit 1"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda m: plot.confusion_matrix(m, ROWS, TRUE[:4]), r"y has shape \(4,\), but x has 5"),
        (
            lambda m: plot.confusion_matrix(m, ROWS[:, :3], TRUE),
            "x has 3 columns",
        ),
        (lambda m: plot.confusion_matrix(m, ROWS, TRUE + 2), "y.* 4"),
        (lambda m: plot.confusion_matrix("model", ROWS, TRUE), "model is a str: give a fusedmlp"),
        (lambda m: plot.misclassified(m, ROWS, TRUE, shape=(2, 3)), r"shape \(2, 3\) .* 4 inputs"),
        (lambda m: plot.misclassified(m, ROWS, TRUE, count=0), "count 0 is not a whole number"),
        (lambda m: plot.misclassified(MLP([3, 2]), [[1, 2, 3]], [0]), "3 inputs are no square"),
        (
            lambda m: plot.confusion_matrix(network(np.eye(4), output="identity"), ROWS, TRUE),
            "confusion_matrix needs a model of classes, .* predicts values",
        ),
        (
            lambda m: plot.misclassified(network(np.eye(4), output="sigmoid"), ROWS, np.eye(4)),
            "misclassified needs a model of classes, .* predicts several labels",
        ),
    ],
)
def test_what_does_not_fit_is_one_error(columns_as_classes, draw, message):
    with pytest.raises(InvalidInputError, match=message):
        draw(columns_as_classes)
    assert not plt.get_fignums(), "no figure is left over"


@pytest.mark.parametrize(
    "draw",
    [
        lambda m: plot.confusion_matrix(m, ROWS, TRUE),
        lambda m: plot.misclassified(m, ROWS, TRUE),
        lambda m: plot.first_layer_weights(m),
    ],
)
def test_without_matplotlib_the_error_has_the_install_line(columns_as_classes, draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fusedmlp\[plot\]'"):
        draw(columns_as_classes)

"""The confusion matrix of a classifier, by scikit-learn's display."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.plot.classifier import Classifier
from fusedmlp.plot.style import check_matplotlib_installed, shown_figure

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from fusedmlp.io.onnx import Estimator
    from fusedmlp.model import MLP
    from fusedmlp.types import InputsLike

MOST_COUNTED: Final = 25
"""Classes up to which each cell has its count; more counts would cover each other."""

LONGEST_FLAT: Final = 3
"""Letters of the longest class name that is written horizontally below the matrix."""


def confusion_matrix(
    model: MLP | Estimator, x: InputsLike, y: npt.ArrayLike, *, ax: Axes | None = None
) -> Axes:
    """Draw how many rows of each class are predicted as which class.

    Parameters
    ----------
    model
        An MLP with a softmax output or one sigmoid output, or a fitted
        :class:`fusedmlp.sklearn.MLPClassifier`.
    x, y
        Rows (N, D) as the model takes them, and their classes (N,), such as test rows.
    ax
        Where to draw; None for a new figure of ``pyplot``.

    Returns
    -------
    The axes: true classes from top to bottom, predicted ones from left to right. The title has
    the number of wrong rows.

    Raises
    ------
    InvalidInputError
        The model has no classes, or ``x`` and ``y`` do not fit it or each other.
    MissingDependencyError
        Matplotlib is not installed.
    """
    check_matplotlib_installed()
    from sklearn import metrics

    classifier = Classifier(model, "confusion_matrix")
    predicted = classifier.probabilities(x).argmax(axis=1)
    true, names = classifier.class_numbers(y, len(predicted)), classifier.names
    counts = metrics.confusion_matrix(true, predicted, labels=np.arange(len(names)))
    if ax is None:
        ax = shown_figure(5.0, 4.8).subplots()
    is_counted = len(names) <= MOST_COUNTED
    metrics.ConfusionMatrixDisplay(counts, display_labels=names).plot(
        ax=ax,
        cmap="Blues",
        include_values=is_counted,
        values_format="d",
        colorbar=not is_counted,
        xticks_rotation="horizontal" if max(map(len, names)) <= LONGEST_FLAT else "vertical",
        text_kw={"fontsize": min(10.0, 85.0 / len(names))},
    )
    wrong = int(np.count_nonzero(true != predicted))
    ax.set_title(f"{wrong:,} of {len(true):,} rows wrong ({wrong / len(true):.2%})")
    return ax

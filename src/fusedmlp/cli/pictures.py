"""The pictures of ``fusedmlp train --plot``: which of them suit a data set, and their files.

Pictures are drawn when the model is already saved. One that fails is a note, and costs neither the
model nor the other pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fusedmlp import plot
from fusedmlp.cli import console
from fusedmlp.io.atomic import write_atomically
from fusedmlp.plot.files import as_png
from fusedmlp.plot.images import unit_weights, wrong_rows
from fusedmlp.plot.style import COLOURS, GREY, SQUARE, WIDE, new_figure, tidy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fusedmlp.datasets import Dataset
    from fusedmlp.model import MLP

MOST_POINTS: Final = 2_000
"""Rows that are drawn as points, about; more would cover each other."""

MOST_TARGETS: Final = 4
"""Target columns of which predictions are drawn."""


def draw_pictures(mlp: MLP, dataset: Dataset, folder: Path) -> None:
    """Draw what suits the data set into PNG files of a folder.

    Parameters
    ----------
    mlp
        Trained, without preprocessing: the data set's inputs are its inputs.
    """
    drawn = []
    for name, draw in Pictures(mlp, dataset).suitable().items():
        try:
            write_atomically(folder / name, as_png(draw()))
        except Exception as error:  # noqa: BLE001 - the model is saved: a picture fails alone
            console.note(f"{name} could not be drawn: {error}")
        else:
            drawn.append(name)
    console.labelled("pictures", ", ".join(drawn) or "none", console.stderr())


@dataclass(frozen=True)
class Pictures:
    """The pictures of a model and its data set, each a method that returns a figure.

    They show the test rows, or the training rows where there are no test rows. The boundary shows
    the training rows, which it follows from.
    """

    mlp: MLP
    dataset: Dataset

    def suitable(self) -> dict[str, Callable[[], Figure]]:
        """Return the pictures that suit the data set, by the names of their files."""
        is_classification = self.dataset.task == "classification"
        is_image = self.dataset.image_shape is not None
        suits = {
            "history.png": (True, self.history),
            "confusion.png": (is_classification and is_image, self.confusion),
            "misclassified.png": (is_classification and is_image, self.misclassified),
            "weights.png": (is_image, self.weights),
            "boundary.png": (is_classification and self.dataset.n_inputs == 2, self.boundary),
            "predicted.png": (self.dataset.task == "regression", self.predicted),
        }
        return {name: draw for name, (is_suitable, draw) in suits.items() if is_suitable}

    def history(self) -> Figure:
        """Draw loss and accuracy of each epoch."""
        assert self.mlp.history is not None
        return plot.history(self.mlp.history, figure=new_figure(*WIDE))

    def confusion(self) -> Figure:
        """Draw the confusion matrix."""
        figure = new_figure(*SQUARE)
        plot.confusion_matrix(self.mlp, *self._rows, ax=figure.subplots())
        return figure

    def misclassified(self) -> Figure:
        """Draw the wrong rows of which the model is most sure."""
        grid = wrong_rows(self.mlp, *self._rows, self.dataset.image_shape)
        return grid.draw(new_figure(*grid.size))

    def weights(self) -> Figure:
        """Draw the weights of the first layer."""
        grid = unit_weights(self.mlp, self.dataset.image_shape)
        return grid.draw(new_figure(*grid.size))

    def boundary(self) -> Figure:
        """Draw the decision boundary, with some of the training rows if there are many."""
        step = -(-len(self.dataset.x_train) // MOST_POINTS)
        x, y = self.dataset.x_train[::step], self.dataset.y_train[::step]
        figure = new_figure(*SQUARE)
        axes = plot.decision_boundary(self.mlp, x, y, ax=figure.subplots())
        preprocessing = self.dataset.preprocessing
        if preprocessing is not None and len(preprocessing.names) == 2:
            first, second = preprocessing.names
            axes.set_xlabel(f"{first}, scaled as for the network")
            axes.set_ylabel(f"{second}, scaled as for the network")
        return figure

    def predicted(self) -> Figure:
        """Draw a panel for each target column: predictions above the true values."""
        from matplotlib.ticker import MaxNLocator
        from sklearn.metrics import PredictionErrorDisplay

        x, y = self._rows
        step = -(-len(x) // MOST_POINTS)
        true, predicted = y[::step], self.mlp.forward(x[::step])
        shown = min(MOST_TARGETS, true.shape[1])
        figure = new_figure(SQUARE[0], SQUARE[1] * shown)
        for k, axes in enumerate(figure.subplots(shown, 1, squeeze=False)[:, 0]):
            PredictionErrorDisplay(y_true=true[:, k], y_pred=predicted[:, k]).plot(
                ax=axes,
                kind="actual_vs_predicted",
                scatter_kwargs={"color": COLOURS[0], "s": 12, "alpha": 0.6},
                line_kwargs={"color": GREY},
            )
            for axis in (axes.xaxis, axes.yaxis):  # the display has ticks such as 173.8
                axis.set_major_locator(MaxNLocator(nbins=6))
            axes.set(xlabel="true value", ylabel="predicted value", title=self._target_name(k))
            tidy(axes)
        return figure

    def _target_name(self, k: int) -> str:
        """Return the name of a target column; its number where there are several without one."""
        names = self.dataset.class_names
        if names is not None:
            return names[k]
        return f"target {k}" if self.dataset.n_outputs > 1 else ""

    @property
    def _rows(self) -> tuple[NDArray[Any], NDArray[Any]]:
        x, y = self.dataset.x_test, self.dataset.y_test
        if x is None or y is None:
            return self.dataset.x_train, self.dataset.y_train
        return x, y

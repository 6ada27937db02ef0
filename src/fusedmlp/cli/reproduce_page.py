"""The page of ``fusedmlp reproduce --html``: the workshop's figures beside ours, with pictures.

It presents what reproduce.py has found, and trains nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp.cli.pictures import Pictures
from fusedmlp.cli.workshop import (
    MNIST_FIGURES,
    MOONS_FIGURES,
    MOONS_ITERATIONS,
    WATCH_EVERY,
    moons,
)
from fusedmlp.plot import BoundaryRecorder
from fusedmlp.plot.files import as_gif, as_png
from fusedmlp.plot.style import MARKERS, SQUARE, class_style, new_figure, tidy
from fusedmlp.report import Column, Page, Picture, Table, environment_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fusedmlp.backend import Engine
    from fusedmlp.cli.recipes import Recipe
    from fusedmlp.cli.reproduce import FigureResult, RecipeRun
    from fusedmlp.datasets import Dataset
    from fusedmlp.model import MLP

FRAME_COLUMNS: Final = 3
"""Frames beside each other."""

FRAME_MS: Final = 400
"""Milliseconds that the animation shows a frame."""

PIXELS_PER_INCH: Final = 100
"""Size of pictures on the page; their files are twice as fine."""

_ACCEPTED: Final = (
    "'Accepted' is the band in which the recipe as it was counts as reproduced: the workshop's "
    "own random numbers are unknown, and other draws give other results. 'Goal' is the bound for "
    "the repaired recipe, which has to be better than the workshop."
)

_ONE_EPOCH: Final = "An epoch is one iteration here: a step on all 200 points."


class MoonsWatch:
    """Keeps the loss and the decision boundary of the moons during a training.

    Attributes
    ----------
    losses
        Iterations done, and the loss then.
    recorder
        The boundary at the same iterations.
    """

    def __init__(self) -> None:
        points = moons()
        self.recorder = BoundaryRecorder(points.x_train, points.y_train)
        self.losses: list[tuple[int, float]] = []

    def __call__(self, iteration: int, loss: float, engine: Engine) -> None:
        """Keep a state; a :data:`fusedmlp.cli.workshop.Watch`."""
        self.losses.append((iteration, loss))
        self.recorder.record(engine, iteration)


def page(
    runs: Sequence[RecipeRun],
    results: Sequence[FigureResult],
    dataset: Dataset | None,
    facts: Mapping[str, object],
) -> Page:
    """Build the page.

    Parameters
    ----------
    runs
        The recipe as it was, and the repaired one.
    dataset
        MNIST; None for the moons.
    facts
        Of :func:`fusedmlp.report.environment`.
    """
    met = sum(result.is_met for result in results)
    is_met = met == len(results)
    found = Page(
        f"The workshop's {'moons' if dataset is None else 'MNIST'}, reproduced",
        "A training of the workshop from which this library grew, with its own recipe and with a "
        "repaired one.",
        f"{'all' if is_met else f'{met} of'} {len(results)} figures met",
        "good" if is_met else "bad",
    )
    _add_figures(found, results)
    if dataset is None:
        _add_moons(found, runs)
    else:
        _add_mnist(found, runs, dataset)
    found.section("The two recipes")
    found.table(_recipes(runs))
    found.section("Where this ran")
    found.table(Table((Column("fact"), Column("value")), environment_rows(facts)))
    return found


def _add_figures(found: Page, results: Sequence[FigureResult]) -> None:
    found.section("The figures", _ACCEPTED)
    titles = list(results[0].cells())
    columns = [Column(title, title not in ("figure", "verdict")) for title in titles]
    rows = [list(result.cells().values()) for result in results]
    found.table(Table(columns, rows, ["good" if r.is_met else "bad" for r in results]))
    why = [(result.figure.name, result.figure.why) for result in results]
    found.table(Table((Column("figure"), Column("accepted because")), why), "Why these bands")


def _add_moons(found: Page, runs: Sequence[RecipeRun]) -> None:
    found.section("The loss")
    found.picture(
        _picture(_moons_losses(runs), "Loss over iterations: workshop, as it was, and repaired"),
        f"Loss on the 200 points every {WATCH_EVERY:,} iterations; crosses are what the workshop "
        "printed.",
    )
    for run in runs:
        if run.watch is None:
            continue
        found.section(f"The boundary, {run.title}", _ONE_EPOCH)
        recorder = run.watch.recorder
        animation = recorder.animation(FRAME_MS, figure=new_figure(*SQUARE))
        what = f"Decision boundary every {WATCH_EVERY:,} iterations, {run.title}"
        moving = Picture(as_gif(animation), "image/gif", _pixels(SQUARE[0]), f"{what}, animated")
        found.picture(
            moving, "Colours are the probability of each moon; the line is where both are 0.5."
        )
        found.picture(_picture(_frames(run.watch), what), "The frames of the animation.")


def _add_mnist(found: Page, runs: Sequence[RecipeRun], dataset: Dataset) -> None:
    models = [(run, run.mlp) for run in runs if run.mlp is not None]
    found.section("Loss and accuracy of each epoch")
    for number, (run, mlp) in enumerate(models):
        figure = Pictures(mlp, dataset).history()
        if number == 0:
            _mark_workshop(figure, mlp)
        figure.axes[0].set_yscale("log")
        found.picture(
            _picture(figure, f"Loss and accuracy of each epoch, {run.title}"),
            f"{run.title.capitalize()}: {run.recipe.epochs} epochs of "
            f"{run.recipe.rows_per_epoch or len(dataset.x_train):,} rows, means over the rows of "
            f"an epoch.{' Crosses are what the workshop printed.' if number == 0 else ''}",
        )
    found.section("What the networks get wrong")
    for run, mlp in models:
        pictures = Pictures(mlp, dataset)
        found.picture(
            _picture(pictures.confusion(), f"Confusion matrix of the test rows, {run.title}"),
            f"{run.title.capitalize()}: the test rows, by their true and their predicted digit.",
        )
        found.picture(
            _picture(pictures.misclassified(), f"Wrong test rows, {run.title}"),
            f"{run.title.capitalize()}: the wrong test rows of which the network is most sure. "
            "Above each: true digit, predicted digit, and the probability of the latter.",
        )


def _moons_losses(runs: Sequence[RecipeRun]) -> Figure:
    figure = new_figure(SQUARE[0], 3.4)
    axes = figure.subplots()
    for number, run in enumerate(runs):
        if run.watch is not None:
            colour, marker = class_style(number)
            iterations, losses = zip(*run.watch.losses, strict=True)
            axes.plot(iterations, losses, color=colour, marker=marker, ms=4, label=run.title)
    _mark(axes, MOONS_ITERATIONS, [figure.workshop for figure in MOONS_FIGURES])
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="iterations", ylabel="loss")
    tidy(axes)
    axes.legend()
    return figure


def _mark_workshop(figure: Figure, mlp: MLP) -> None:
    """Mark the workshop's loss and accuracy of the first and the last epoch."""
    assert mlp.history is not None
    epochs = (1, mlp.history.last.epoch)
    first_loss, first_accuracy, last_loss, last_accuracy, _ = (f.workshop for f in MNIST_FIGURES)
    loss, accuracy = figure.axes
    _mark(loss, epochs, (first_loss, last_loss))
    _mark(accuracy, epochs, (first_accuracy, last_accuracy))
    loss.legend()


def _mark(axes: Axes, at: Sequence[float], values: Sequence[float]) -> None:
    axes.plot(
        at,
        values,
        color="black",
        linestyle="none",
        marker=MARKERS[-1],
        markersize=8,
        zorder=3,
        label="workshop",
    )


def _frames(watch: MoonsWatch) -> Figure:
    """Draw all frames, each with its loss."""
    from matplotlib.collections import PathCollection

    n = len(watch.losses)
    rows = -(-n // FRAME_COLUMNS)
    figure = new_figure(1.7 * FRAME_COLUMNS, 1.75 * rows)
    panels = figure.subplots(rows, FRAME_COLUMNS, squeeze=False).flatten()
    for axes in panels[n:]:
        axes.set_axis_off()
    for index, (iteration, loss) in enumerate(watch.losses):
        axes = watch.recorder.draw(index, panels[index])
        if (legend := axes.get_legend()) is not None:
            legend.remove()
        axes.set(xlabel="", ylabel="", xticks=[], yticks=[])
        axes.set_title(f"{iteration:,}: loss {loss:.3f}", fontsize=10)
        for points in axes.collections:
            if isinstance(points, PathCollection):  # smaller, as the frame is
                points.set_sizes([8.0])
                points.set_linewidth(0.3)
    return figure


def _recipes(runs: Sequence[RecipeRun]) -> Table:
    """Return a table of what decides each training."""
    texts = [_recipe(run.recipe) for run in runs]
    rows = [[name, *(text[name] for text in texts)] for name in texts[0]]
    return Table([Column(""), *(Column(run.title) for run in runs)], rows)


def _recipe(recipe: Recipe) -> dict[str, str]:
    rows = "all" if recipe.rows_per_epoch is None else f"{recipe.rows_per_epoch:,}"
    return {
        "optimizer": recipe.optimizer,
        "learning rate": f"{recipe.lr:g}, {recipe.schedule}",
        "gradients": f"{recipe.reduction} over the batch",
        "initial weights": recipe.init,
        "hidden units": ", ".join(map(str, recipe.hidden)),
        "dropout": f"{recipe.dropout:g}",
        "batch": f"{recipe.batch_size:,} rows",
        "epochs": f"{recipe.epochs:,}",
        "rows of an epoch": rows,
        "numbers": recipe.dtype,
    }


def _picture(figure: Figure, description: str) -> Picture:
    return Picture(as_png(figure), "image/png", _pixels(figure.get_figwidth()), description)


def _pixels(inches: float) -> int:
    return round(PIXELS_PER_INCH * inches)

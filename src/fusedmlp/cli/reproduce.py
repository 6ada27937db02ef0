"""``fusedmlp reproduce``: the workshop's training as it was, and repaired, beside its figures.

The recipes, the figures and their bounds are in workshop.py, the page in reproduce_page.py.
"""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import RUNNING, Json, Only
from fusedmlp.cli.settings import DataOptions, RunOptions
from fusedmlp.errors import BreachedError, UnknownNameError

if TYPE_CHECKING:
    from fusedmlp.backend import Backend
    from fusedmlp.cli.recipes import Recipe
    from fusedmlp.cli.reproduce_page import MoonsWatch
    from fusedmlp.cli.workshop import Figure
    from fusedmlp.datasets import Dataset
    from fusedmlp.model import MLP


@dataclass(frozen=True, slots=True)
class RecipeRun:
    """A training with one of the two recipes.

    Parameters
    ----------
    title
        Of its column in the table.
    values
        In the order of the figures.
    mlp
        The trained MNIST model; None for the moons.
    watch
        What was kept of the moons for a page.
    """

    title: str
    recipe: "Recipe"
    values: list[float]
    mlp: "MLP | None" = None
    watch: "MoonsWatch | None" = None


@dataclass(frozen=True, slots=True)
class FigureResult:
    """A figure with the values of the faithful and the repaired recipe."""

    figure: "Figure"
    faithful: float
    repaired: float

    @property
    def is_met(self) -> bool:
        """Whether both values are within their bounds."""
        figure = self.figure
        return figure.is_reproduced(self.faithful) and figure.is_surpassed(self.repaired)

    def cells(self) -> dict[str, str]:
        """Return the texts of a row, by the titles of their columns."""
        figure = self.figure
        digits = 2 if figure.workshop > 1 else 4
        return {
            "figure": figure.name,
            "workshop": f"{figure.workshop:g}",
            "as it was": f"{self.faithful:.{digits}f}",
            "accepted": "–".join(f"{bound:g}" for bound in figure.accepted),
            "repaired": f"{self.repaired:.{digits}f}",
            "goal": f"{'≤' if figure.is_loss else '≥'} {figure.must_reach:g}",
            "verdict": "met" if self.is_met else "missed",
        }

    def document(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {
            **asdict(self.figure),
            "faithful": self.faithful,
            "repaired": self.repaired,
            "reproduced": self.figure.is_reproduced(self.faithful),
            "surpassed": self.figure.is_surpassed(self.repaired),
        }


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="moons|mnist", help="Which of the workshop's trainings.", show_default=False
        ),
    ],
    data: Annotated[DataOptions, Only("data_dir", "source")],
    run: Annotated[RunOptions, Only("backend", "threads", "seed")],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the results as one page with pictures; needs fusedmlp[report].",
            show_default=False,
            rich_help_panel=RUNNING,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Repeat a training of the workshop, faithful and repaired, and check its figures.

    Exits with 4 when a figure is missed.

    Example: fusedmlp reproduce moons --backend numpy
    """
    from fusedmlp.backend import Workload
    from fusedmlp.cli.backend_choice import BackendChoice
    from fusedmlp.cli.outputs import check_target
    from fusedmlp.cli.workshop import REPRODUCTIONS
    from fusedmlp.report import check_report_installed, environment

    if name not in REPRODUCTIONS:
        raise UnknownNameError.of("reproduction", name, tuple(REPRODUCTIONS))
    if html is not None:
        check_report_installed()
        check_target(html)
    reproduction = REPRODUCTIONS[name]
    workload = Workload(reproduction.network, reproduction.faithful.batch_size)
    choice = BackendChoice.make(run, workload)
    dataset = None
    if name == "mnist":
        options = DataOptions("mnist", data.data_dir, data.source, split="workshop")
        dataset = options.load(0, console.note)
    console.labelled("backend", str(choice), console.stderr())
    began = time.perf_counter()
    runs = _runs(name, choice.backend, run.seed, dataset, watched=html is not None)
    results = [
        FigureResult(*parts)
        for parts in zip(reproduction.figures, *(each.values for each in runs), strict=True)
    ]
    seconds = time.perf_counter() - began
    if html is not None:
        from fusedmlp.cli.reproduce_page import page

        page(runs, results, dataset, environment(["fusedmlp", *sys.argv[1:]])).write(html)
        console.note(f"written to {html}")
    missed = [result.figure.name for result in results if not result.is_met]
    if json_:
        console.print_json(
            {
                "reproduction": name,
                "backend": str(choice.selection),
                "seed": run.seed,
                "seconds": seconds,
                "reproduced": not missed,
                "figures": [result.document() for result in results],
            }
        )
    else:
        _print_table(results)
    if missed:
        raise BreachedError(
            f"{len(missed)} of {len(results)} figures missed on {choice.selection} with seed "
            f"{run.seed}: {', '.join(missed)}"
        )


def _runs(
    name: str, backend: "Backend", seed: int, dataset: "Dataset | None", *, watched: bool
) -> list[RecipeRun]:
    """Train with both recipes; ``watched`` keeps what the page of the moons shows."""
    from fusedmlp.cli import workshop
    from fusedmlp.cli.progress import progress_view

    reproduction = workshop.REPRODUCTIONS[name]
    err = console.stderr()
    runs = []
    for title, recipe in (
        ("as it was", reproduction.faithful),
        ("repaired", reproduction.repaired),
    ):
        how = f"{recipe.optimizer}, learning rate {recipe.lr:g}, {recipe.reduction} over the batch"
        start = f"initial weights {recipe.init}, {recipe.epochs:,} epochs, {recipe.dtype}"
        console.labelled(title, f"{how}, {start}", err)
        if dataset is None:
            watch = _moons_watch() if watched else None
            losses = workshop.moons_losses(recipe, backend, seed, watch)
            runs.append(RecipeRun(title, recipe, losses, watch=watch))
        else:
            with progress_view(err) as view:
                mlp = workshop.train_mnist(recipe, backend, seed, dataset, (view,))
            runs.append(RecipeRun(title, recipe, workshop.mnist_results(mlp, dataset), mlp))
    return runs


def _moons_watch() -> "MoonsWatch":
    from fusedmlp.cli.reproduce_page import MoonsWatch

    return MoonsWatch()


def _print_table(results: list[FigureResult]) -> None:
    table = console.table()
    for column in results[0].cells():
        table.add_column(
            column, justify="left" if column in ("figure", "verdict") else "right", no_wrap=True
        )
    for result in results:
        *cells, _ = result.cells().values()
        table.add_row(*cells, console.verdict(is_met=result.is_met, missed="missed"))
    console.show(table)
    met = sum(result.is_met for result in results)
    count = "all" if met == len(results) else f"{met} of"
    console.show(f"{count} {len(results)} figures met")

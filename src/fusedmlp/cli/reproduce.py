"""``fusedmlp reproduce``: the workshop's training as it was, and repaired, beside its figures.

The recipes, the figures and their bounds are in workshop.py.
"""

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import Json, Only
from fusedmlp.cli.settings import DataOptions, RunOptions
from fusedmlp.errors import BreachedError, UnknownNameError

if TYPE_CHECKING:
    from fusedmlp.backend import Backend
    from fusedmlp.cli.workshop import Figure
    from fusedmlp.datasets import Dataset


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
    json_: Json = False,
) -> None:
    """Repeat a training of the workshop, faithful and repaired, and check its figures.

    Exits with 4 when a figure is missed.

    Example: fusedmlp reproduce moons --backend numpy
    """
    from fusedmlp.backend import Workload
    from fusedmlp.cli.backend_choice import BackendChoice
    from fusedmlp.cli.workshop import REPRODUCTIONS

    if name not in REPRODUCTIONS:
        raise UnknownNameError.of("reproduction", name, tuple(REPRODUCTIONS))
    reproduction = REPRODUCTIONS[name]
    workload = Workload(reproduction.network, reproduction.faithful.batch_size)
    choice = BackendChoice.make(run, workload)
    dataset = None
    if name == "mnist":
        options = DataOptions("mnist", data.data_dir, data.source, split="workshop")
        dataset = options.load(0, console.note)
    console.labelled("backend", str(choice), console.stderr())
    began = time.perf_counter()
    results = _results(name, choice.backend, run.seed, dataset)
    missed = [result.figure.name for result in results if not result.is_met]
    if json_:
        console.print_json(
            {
                "reproduction": name,
                "backend": str(choice.selection),
                "seed": run.seed,
                "seconds": time.perf_counter() - began,
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


def _results(
    name: str, backend: "Backend", seed: int, dataset: "Dataset | None"
) -> list[FigureResult]:
    """Train with both recipes."""
    from fusedmlp.cli import workshop
    from fusedmlp.cli.progress import progress_view

    reproduction = workshop.REPRODUCTIONS[name]
    err = console.stderr()
    results = []
    for title, recipe in (
        ("as it was", reproduction.faithful),
        ("repaired", reproduction.repaired),
    ):
        how = f"{recipe.optimizer}, learning rate {recipe.lr:g}, {recipe.reduction} over the batch"
        start = f"initial weights {recipe.init}, {recipe.epochs:,} epochs, {recipe.dtype}"
        console.labelled(title, f"{how}, {start}", err)
        if dataset is None:
            results.append(workshop.moons_losses(recipe, backend, seed))
        else:
            with progress_view(err) as view:
                results.append(workshop.mnist_results(recipe, backend, seed, dataset, (view,)))
    return [FigureResult(*parts) for parts in zip(reproduction.figures, *results, strict=True)]


def _print_table(results: list[FigureResult]) -> None:
    table = console.table()
    for column in ("figure", "workshop", "as it was", "accepted", "repaired", "goal", "verdict"):
        table.add_column(
            column, justify="left" if column in ("figure", "verdict") else "right", no_wrap=True
        )
    for result in results:
        figure = result.figure
        digits = 2 if figure.workshop > 1 else 4
        relation = "≤" if figure.is_loss else "≥"
        table.add_row(
            figure.name,
            f"{figure.workshop:g}",
            f"{result.faithful:.{digits}f}",
            "–".join(f"{bound:g}" for bound in figure.accepted),
            f"{result.repaired:.{digits}f}",
            f"{relation} {figure.must_reach:g}",
            console.verdict(is_met=result.is_met, missed="missed"),
        )
    console.show(table)
    met = sum(result.is_met for result in results)
    count = "all" if met == len(results) else f"{met} of"
    console.show(f"{count} {len(results)} figures met")

"""``fusedmlp reproduce``: the workshop's training as it was, and repaired, beside its figures.

What is run and what is accepted is in workshop.py.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from fusedmlp.cli import console, options
from fusedmlp.errors import BreachedError, UnknownNameError

if TYPE_CHECKING:
    from fusedmlp.backend import Backend
    from fusedmlp.datasets import Dataset
    from fusedmlp.workshop import Figure


@dataclass(frozen=True, slots=True)
class Judged:
    """A figure with what our two recipes came to."""

    figure: "Figure"
    faithful: float
    repaired: float

    @property
    def is_met(self) -> bool:
        """Both recipes do what they must."""
        figure = self.figure
        return figure.is_reproduced(self.faithful) and figure.is_surpassed(self.repaired)

    def document(self) -> dict[str, object]:
        """Plain data for JSON."""
        figure = self.figure
        return {
            "name": figure.name,
            "workshop": figure.workshop,
            "faithful": self.faithful,
            "accepted": list(figure.accepted),
            "why": figure.why,
            "repaired": self.repaired,
            "must_reach": figure.must_reach,
            "reproduced": figure.is_reproduced(self.faithful),
            "surpassed": figure.is_surpassed(self.repaired),
        }


def reproduce(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="moons|mnist", help="Which of the workshop's trainings.", show_default=False
        ),
    ],
    data_dir: options.DataDir = None,
    source: options.Source = None,
    backend: options.Backend = None,
    threads: options.Threads = None,
    seed: options.Seed = None,
    json_: options.Json = False,
) -> None:
    """Repeat a training of the workshop, faithful and repaired, and judge its figures.

    Exits with 4 when a figure is missed.
    """
    from fusedmlp.backend import Workload
    from fusedmlp.cli.choosing import chosen_backend, describe
    from fusedmlp.cli.settings import DataRequest
    from fusedmlp.network import Network
    from fusedmlp.workshop import NAMES, recipes

    if name not in NAMES:
        raise UnknownNameError.of("reproduction", name, NAMES)
    typed = options.given_on_command_line(ctx)
    faithful, _ = recipes(name)
    sizes = (2, 5, 2) if name == "moons" else (784, 256, 10)
    selection, built = chosen_backend(
        backend if "backend" in typed else None,
        threads,
        Workload(Network(sizes), faithful.batch_size),
    )
    err = console.stderr()
    dataset = None
    if name == "mnist":
        folder = str(data_dir) if data_dir is not None and "data_dir" in typed else None
        request = DataRequest("mnist", folder, source, split="workshop")
        dataset = request.load(0, lambda text: console.note(text, err))
    console.labelled("backend", describe(selection, built), err)
    began = time.perf_counter()
    judged = _run(name, built, seed or 0, dataset)
    missed = [item.figure.name for item in judged if not item.is_met]
    if json_:
        console.print_json(
            {
                "reproduction": name,
                "backend": str(selection),
                "seed": seed or 0,
                "seconds": time.perf_counter() - began,
                "reproduced": not missed,
                "figures": [item.document() for item in judged],
            }
        )
    else:
        _print_table(judged)
    if missed:
        raise BreachedError(
            f"{len(missed)} of {len(judged)} figures missed on {selection} with seed "
            f"{seed or 0}: {', '.join(missed)}"
        )


def _run(name: str, backend: "Backend", seed: int, dataset: "Dataset | None") -> list[Judged]:
    from fusedmlp import workshop
    from fusedmlp.cli.progress import view

    err = console.stderr()
    runs = []
    for title, recipe in zip(("as it was", "repaired"), workshop.recipes(name), strict=True):
        how = f"{recipe.optimizer}, learning rate {recipe.lr:g}, {recipe.reduction} over the batch"
        start = f"weights started as {recipe.init}, {recipe.epochs:,} epochs, {recipe.dtype}"
        console.labelled(title, f"{how}, {start}", err)
        if dataset is None:
            runs.append(workshop.moons_losses(recipe, backend, seed))
        else:
            with view(err) as shown:
                runs.append(workshop.mnist_figures(recipe, backend, seed, dataset, (shown,)))
    return [Judged(*parts) for parts in zip(workshop.figures(name), runs[0], runs[1], strict=True)]


def _print_table(judged: list[Judged]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("figure", "workshop", "as it was", "accepted", "repaired", "goal", "verdict"):
        table.add_column(
            column, justify="left" if column in ("figure", "verdict") else "right", no_wrap=True
        )
    for item in judged:
        figure = item.figure
        digits = 2 if figure.workshop > 1 else 4
        relation = "≤" if figure.is_loss else "≥"
        table.add_row(
            figure.name,
            f"{figure.workshop:g}",
            f"{item.faithful:.{digits}f}",
            "–".join(f"{bound:g}" for bound in figure.accepted),
            f"{item.repaired:.{digits}f}",
            f"{relation} {figure.must_reach:g}",
            Text("met", "green") if item.is_met else Text("missed", "bold red"),
        )
    console.show(table)
    met = sum(item.is_met for item in judged)
    count = "all" if met == len(judged) else f"{met} of"
    console.show(f"{count} {len(judged)} figures met")

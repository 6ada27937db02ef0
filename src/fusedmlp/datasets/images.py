"""Data sets made of IDX files: the published ones, verified, and any folder of such files.

It turns raw files into a :class:`Dataset` and knows the two splits of the published sets. Where
the files come from is decided in :mod:`fusedmlp.datasets.obtain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.dataset import Dataset
from fusedmlp.datasets.idx import decode_idx, find_idx_files, read_idx
from fusedmlp.datasets.labels import as_dataset, as_rows
from fusedmlp.datasets.obtain import Places, obtain
from fusedmlp.errors import DataUnavailableError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from fusedmlp.datasets.checksums import Corpus
    from fusedmlp.datasets.dataset import Task

SPLITS = ("canonical", "workshop")


def load_corpus(
    corpus: Corpus,
    places: Places,
    *,
    source: str | None,
    split: str | None,
    report: Callable[[str], None],
) -> Dataset:
    """Load a published image set.

    Parameters
    ----------
    corpus : Corpus
        Which one.
    places : Places
        Where to look for it.
    source : str or None
        One source alone; None for all, in order.
    split : {"canonical", "workshop"} or None
        ``canonical`` (the default): the publisher's 60,000 and 10,000 rows, memory-mapped where
        they come from a disk. ``workshop``: 56,000 and 14,000 of all 70,000 rows, drawn exactly
        as ``train_test_split(test_size=0.2, random_state=42)`` of scikit-learn draws them from
        the OpenML table; in memory.
    report : callable
        Receives progress lines.

    Raises
    ------
    UnknownNameError
        If ``split`` or ``source`` is not known.
    DataUnavailableError
        If no source has it.
    """
    if split is not None and split not in SPLITS:
        raise UnknownNameError.of("split", split, SPLITS)
    payloads, origin = obtain(corpus, places, source, report)
    images, labels, test_images, test_labels = (
        decode_idx(payloads[file.name], file.name) for file in corpus.files
    )
    n_rows, n_cols = images.shape[1:]
    x_train = _pixels(images)
    x_test = _pixels(test_images)
    y_train = labels.astype(np.int64)
    y_test = test_labels.astype(np.int64)
    if split == "workshop":
        from sklearn.model_selection import train_test_split

        # OpenML's order: the publisher's training rows, then the test rows.
        x = np.concatenate([x_train, x_test])
        y = np.concatenate([y_train, y_test])
        train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=42)
        x_train, x_test, y_train, y_test = x[train], x[test], y[train], y[test]
    return Dataset(
        name=corpus.name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        n_outputs=len(corpus.class_names),
        task="classification",
        class_names=corpus.class_names,
        source=f"{origin} ({split or SPLITS[0]} split)",
        image_shape=(n_rows, n_cols),
    )


def _pixels(images: NDArray[np.generic]) -> NDArray[np.uint8]:
    """View images (N, rows, columns) as rows (N, D); a memory map stays one."""
    return images.reshape(len(images), -1).view(np.uint8)


def load_idx_folder(folder: Path, task: Task | None = None) -> Dataset:
    """Load a folder of IDX files: train-images, train-labels and, both or neither, t10k-.

    Plain files are memory-mapped, ``.gz`` files are loaded.

    Raises
    ------
    DataUnavailableError
        If a file is missing or damaged.
    InvalidInputError
        If images and labels do not fit together.
    """
    found = find_idx_files(folder)
    parts = ("train", "t10k") if any(key.startswith("t10k") for key in found) else ("train",)
    absent = [
        f"{part}-{kind}"
        for part in parts
        for kind in ("images", "labels")
        if f"{part}-{kind}" not in found
    ]
    if absent:
        raise DataUnavailableError(
            f"{folder}: no {' and no '.join(absent)} file; expected names such as "
            "train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz"
        )
    name = folder.resolve().name
    rows = {part: as_rows(read_idx(found[f"{part}-images"]), f"{name}: {part}") for part in parts}
    labels = {part: read_idx(found[f"{part}-labels"]) for part in parts}
    x_train, image_shape = rows["train"]
    return as_dataset(
        name=name,
        x_train=x_train,
        y_train=labels["train"],
        x_test=rows["t10k"][0] if "t10k" in rows else None,
        y_test=labels.get("t10k"),
        source=str(folder),
        image_shape=image_shape,
        task=task,
    )

"""Published image sets as data sets: raw files to arrays, in one of two splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.dataset import Dataset
from fusedmlp.datasets.idx import decode_idx
from fusedmlp.datasets.sources import Locations, fetch
from fusedmlp.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.datasets.published import PublishedSet

SPLITS = ("canonical", "workshop")


def load_published(
    published: PublishedSet,
    locations: Locations,
    *,
    source: str | None,
    split: str | None,
    report: Callable[[str], None],
) -> Dataset:
    """Load a published image set.

    Parameters
    ----------
    published : PublishedSet
        The wanted set.
    locations : Locations
        Where to look for it.
    source : str or None
        One source alone; None for all, in order.
    split : {"canonical", "workshop"} or None
        ``canonical`` (the default): the publisher's 60,000 and 10,000 rows, memory-mapped where
        they are on a disk. ``workshop``: 56,000 and 14,000 of all 70,000 rows, drawn exactly as
        ``train_test_split(test_size=0.2, random_state=42)`` of scikit-learn draws them from the
        OpenML table; in memory.
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

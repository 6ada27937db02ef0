"""What a training was asked to do, kept in ``settings.json`` beside the model it made.

With it ``--resume`` and ``evaluate`` need no option to be repeated. It holds the recipe as it was
in the end, defaults filled in, so that a later release with other defaults resumes the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusedmlp.errors import FileFormatError, InvalidInputError, StorageError
from fusedmlp.io.atomic import write_atomically
from fusedmlp.recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.datasets import Dataset

SETTINGS_NAME: Final = "settings.json"

_KIND: Final = "fusedmlp-settings"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class DataRequest:
    """Which data set, and where it comes from; see :func:`fusedmlp.datasets.load_dataset`."""

    dataset: str
    data_dir: str | None = None
    source: str | None = None
    split: str | None = None
    target: str | None = None

    def load(self, seed: int, report: Callable[[str], None]) -> Dataset:
        """Load the data set; ``seed`` draws the points or the split of a built-in one."""
        from fusedmlp.datasets import load_dataset

        return load_dataset(
            self.dataset,
            data_dir=self.data_dir,
            source=self.source,
            split=self.split,
            target=self.target,
            seed=seed,
            report=report,
        )

    def absolute(self) -> DataRequest:
        """Name paths from the root, so that a resume may start in another folder."""
        from fusedmlp.datasets import DATASET_NAMES

        dataset = self.dataset
        if dataset not in DATASET_NAMES and Path(dataset).expanduser().exists():
            dataset = str(Path(dataset).expanduser().resolve())
        data_dir = self.data_dir and str(Path(self.data_dir).expanduser().resolve())
        return replace(self, dataset=dataset, data_dir=data_dir)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a training needs to be run again.

    Parameters
    ----------
    backend, threads
        As asked for; None where nothing was.
    strict
        Whether strict mode was asked for.
    """

    data: DataRequest
    seed: int
    backend: str | None
    threads: int | None
    recipe: Recipe
    strict: bool = False

    def save(self, folder: Path) -> None:
        """Write ``settings.json`` into ``folder``, atomically.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        document = {
            "kind": _KIND,
            "version": _VERSION,
            **asdict(self.data),
            "seed": self.seed,
            "backend": self.backend,
            "threads": self.threads,
            "strict": self.strict,
            "recipe": self.recipe.to_dict(),
        }
        text = json.dumps(document, indent=2) + "\n"
        write_atomically(folder / SETTINGS_NAME, text.encode())

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Read ``settings.json`` of ``folder``.

        Raises
        ------
        StorageError
            It cannot be opened.
        FileFormatError
            It is truncated, foreign, or from a newer release.
        """
        path = folder / SETTINGS_NAME
        try:
            document = json.loads(path.read_bytes())
        except OSError as error:
            raise StorageError(
                f"cannot read {path}: {error.strerror}; name the folder of a training, which has "
                "this file"
            ) from error
        except ValueError as error:
            raise FileFormatError(f"{path} is truncated or not JSON: {error}") from error
        if not isinstance(document, dict) or document.get("kind") != _KIND:
            raise FileFormatError(f"{path} was not written by 'fusedmlp train'")
        if document.get("version") != _VERSION:
            raise FileFormatError(
                f"{path} has format version {document.get('version')!r}, this release reads "
                f"{_VERSION}: upgrade fusedmlp"
            )
        try:
            return cls(
                data=DataRequest(**{f.name: document[f.name] for f in fields(DataRequest)}),
                seed=document["seed"],
                backend=document["backend"],
                threads=document["threads"],
                recipe=Recipe.from_dict(document["recipe"]),
                strict=bool(document.get("strict", False)),  # older releases had no strict mode
            )
        except (KeyError, TypeError, InvalidInputError) as error:
            raise FileFormatError(f"{path} is not sound: {error}") from error

"""Settings of a training: the data, the run and the recipe, kept in ``settings.json``.

The file lies beside the model. With it ``--resume`` and ``evaluate`` need no option to be repeated.
It holds every value, defaults included, so that a later release with other defaults resumes the
same training.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from fusedmlp.cli.options import DATA, RUNNING, Option, T, choices, option_fields
from fusedmlp.cli.recipes import Recipe
from fusedmlp.datasets import DATASET_NAMES, SOURCES, load_dataset
from fusedmlp.errors import FileFormatError, InvalidInputError, StorageError
from fusedmlp.io.atomic import write_atomically
from fusedmlp.io.paths import expanded
from fusedmlp.registry import AUTO, ENVIRONMENT_VARIABLE

if TYPE_CHECKING:
    from fusedmlp.datasets import Dataset

SETTINGS_NAME: Final = "settings.json"

_KIND: Final = "fusedmlp-settings"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Which data set, and where it comes from; see :func:`fusedmlp.datasets.load_dataset`."""

    dataset: Annotated[
        str,
        Option(
            f"{', '.join(DATASET_NAMES)}, or a folder of IDX files, an .npz or a .csv file.",
            "NAME|PATH",
            DATA,
        ),
    ] = "mnist"
    data_dir: Annotated[
        str | None,
        Option(
            "Folder with the IDX files of mnist or fashion-mnist, searched before any download.",
            "DIR",
            DATA,
            variable="FUSEDMLP_DATA",
            may_change_on_resume=True,
        ),
    ] = None
    source: Annotated[
        str | None,
        Option(
            f"Get mnist or fashion-mnist from this source alone: {choices(SOURCES)}.",
            "NAME",
            DATA,
            note="all, in this order",
        ),
    ] = None
    split: Annotated[
        str | None,
        Option(
            "mnist and fashion-mnist: canonical (60,000 rows to train on and 10,000 to test on) or "
            "workshop (56,000 and 14,000).",
            "NAME",
            DATA,
            note="canonical",
        ),
    ] = None
    target: Annotated[
        str | None,
        Option(
            "Target column of a .csv file: its name, or its number from 0.",
            "COLUMN",
            DATA,
            variable=None,
            note="the last",
        ),
    ] = None

    def load(self, seed: int, report: Callable[[str], None]) -> "Dataset":
        """Load the data set; ``seed`` draws the points or the split of a built-in one."""
        return load_dataset(
            self.dataset,
            data_dir=self.data_dir,
            source=self.source,
            split=self.split,
            target=self.target,
            seed=seed,
            report=report,
        )

    def absolute(self) -> "DataOptions":
        """Return the same with absolute paths, so that a resume may start in another folder."""
        dataset = self.dataset
        if dataset not in DATASET_NAMES and expanded(dataset).exists():
            dataset = str(expanded(dataset).resolve())
        data_dir = self.data_dir and str(expanded(self.data_dir).resolve())
        return replace(self, dataset=dataset, data_dir=data_dir)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a training or prediction runs on, and its seed."""

    backend: Annotated[
        str | None,
        Option(
            "numpy, numba, cupy, cupy:1 (device 1), cupy+tf32 or auto; 'fusedmlp backends' says "
            "which work.",
            "NAME",
            RUNNING,
            variable=ENVIRONMENT_VARIABLE,
            note=AUTO,
            may_change_on_resume=True,
        ),
    ] = None
    threads: Annotated[
        int | None,
        Option(
            "CPU threads at most.",
            "N",
            RUNNING,
            note="all that this process may use",
            may_change_on_resume=True,
        ),
    ] = None
    strict: Annotated[
        bool,
        Option(
            "Compute the same bits on numpy, numba and cupy; far slower.",
            " ",
            RUNNING,
            is_new=True,
        ),
    ] = False
    seed: Annotated[
        int,
        Option(
            "Seed of weights, shuffles, dropout, and the split or points of a built-in set.",
            "N",
            RUNNING,
        ),
    ] = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a training needs to be run again."""

    data: DataOptions
    run: RunOptions
    recipe: Recipe

    def save(self, folder: Path) -> None:
        """Write ``settings.json`` into ``folder``, atomically."""
        document = {
            "kind": _KIND,
            "version": _VERSION,
            **asdict(self.data),
            **asdict(self.run),
            "recipe": asdict(self.recipe),
        }
        text = json.dumps(document, indent=2) + "\n"
        write_atomically(folder / SETTINGS_NAME, text.encode())

    @classmethod
    def load(cls, folder: Path) -> "Settings":
        """Read ``settings.json`` of ``folder``.

        Raises
        ------
        StorageError, FileFormatError
            It cannot be opened; it is truncated, of another kind, or from a newer release.
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
                _from_entries(DataOptions, document),
                _from_entries(RunOptions, document),
                Recipe.from_dict(document["recipe"]),
            )
        except (KeyError, TypeError, InvalidInputError) as error:
            raise FileFormatError(f"{path} is not sound: {error}") from error


def _from_entries(cls: type[T], entries: Mapping[str, object]) -> T:
    """Build a dataclass of options from its entries in ``settings.json``."""
    known = option_fields(cls).items()
    return cls(**{n: entries[n] for n, each in known if n in entries or not each.option.is_new})

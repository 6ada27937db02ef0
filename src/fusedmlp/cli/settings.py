"""Settings of a training: the data, the run and the recipe, kept in ``settings.json``.

The file lies beside the model. With it ``--resume`` and ``evaluate`` need no option to be repeated.
It holds every value, defaults included, so that a later release with other defaults resumes the
same training.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from fusedmlp.cli.options import DATA, RUNNING, Option, choices, from_entries
from fusedmlp.cli.recipes import Recipe
from fusedmlp.datasets import DATASET_NAMES, SOURCES, TASKS, Task, load_dataset
from fusedmlp.errors import FileFormatError, InvalidInputError, StorageError
from fusedmlp.io.atomic import write_atomically
from fusedmlp.io.paths import expanded
from fusedmlp.preprocessing import SCALES, Scale
from fusedmlp.registry import AUTO, ENVIRONMENT_VARIABLE

if TYPE_CHECKING:
    from fusedmlp.datasets import Dataset, Fitted

SETTINGS_NAME: Final = "settings.json"

_KIND: Final = "fusedmlp-settings"
_VERSION: Final = 1


def parse_columns(text: str) -> tuple[str, ...]:
    """Read names or numbers of columns, separated by commas."""
    columns = tuple(column.strip() for column in text.split(","))
    if not all(columns):
        raise InvalidInputError(f"--drop {text!r}: give names or numbers such as id,name")
    return columns


def parse_test(text: str) -> float | str:
    """Read a share, or the path of a file."""
    try:
        return float(text)
    except ValueError:
        return text


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
            "Folder with the IDX files of mnist or fashion-mnist; nothing is then downloaded. "
            "A folder that the variable names is tried first, not alone.",
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
    drop: Annotated[
        tuple[str, ...],
        Option(
            "Columns of a .csv file to leave out: names, or numbers from 0.",
            "COLUMN,...",
            DATA,
            variable=None,
            parse=parse_columns,
            is_new=True,
        ),
    ] = ()
    task: Annotated[
        Task | None,
        Option(
            f"Files: {choices(TASKS)}.",
            "NAME",
            DATA,
            note="as the targets suggest",
            is_new=True,
        ),
    ] = None
    test: Annotated[
        float | str | None,
        Option(
            "Files and digits: share of the rows to test on, 0 for none; or a .csv file.",
            "SHARE|FILE",
            DATA,
            variable=None,
            note="0.2 of a table without a test part",
            parse=parse_test,
            is_new=True,
        ),
    ] = None
    scale: Annotated[
        Scale | None,
        Option(
            f"Scaling of a table's columns, fitted on its training rows: {choices(SCALES)}.",
            "NAME",
            DATA,
            note="standard",
            is_new=True,
        ),
    ] = None

    def load(
        self, seed: int, report: Callable[[str], None], fitted: "Fitted | None" = None
    ) -> "Dataset":
        """Load the data set; ``seed`` draws the points of a built-in one, or the split.

        ``fitted`` is what a trained model expects; None for data to train on.
        """
        return load_dataset(
            self.dataset,
            data_dir=self.data_dir,
            source=self.source,
            split=self.split,
            target=self.target,
            task=self.task,
            test=self.test,
            scale=self.scale,
            drop=self.drop,
            seed=seed,
            report=report,
            fitted=fitted,
        )

    def absolute(self) -> "DataOptions":
        """Return the same with absolute paths, so that a resume may start in another folder."""
        dataset = self.dataset
        if dataset not in DATASET_NAMES and expanded(dataset).exists():
            dataset = str(expanded(dataset).resolve())
        data_dir = self.data_dir and str(expanded(self.data_dir).resolve())
        test = str(expanded(self.test).resolve()) if isinstance(self.test, str) else self.test
        return replace(self, dataset=dataset, data_dir=data_dir, test=test)


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
            is_special = path.exists() and not path.is_file()  # to read a pipe could wait for ever
            document = None if is_special else json.loads(path.read_bytes())
        except OSError as error:
            raise StorageError(
                f"cannot read {path}: {error.strerror}; name the folder of a training, which has "
                "this file"
            ) from error
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{path} is truncated or not JSON: {error}") from error
        if is_special:
            raise FileFormatError(f"{path} is a folder, a pipe or a device, expected a file")
        if not isinstance(document, dict) or document.get("kind") != _KIND:
            raise FileFormatError(f"{path} was not written by 'fusedmlp train'")
        if document.get("version") != _VERSION:
            raise FileFormatError(
                f"{path} has format version {document.get('version')!r:.80}, this release reads "
                f"{_VERSION}: upgrade fusedmlp"
            )
        try:
            return cls(
                from_entries(DataOptions, document),
                from_entries(RunOptions, document),
                Recipe.from_dict(document.get("recipe")),
            )
        except InvalidInputError as error:
            raise FileFormatError(f"{path} is not sound: {error}") from error

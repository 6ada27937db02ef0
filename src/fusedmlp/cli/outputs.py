"""Where commands write: the folder of a training, and single files, checked before long work."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from fusedmlp.cli.settings import SETTINGS_NAME
from fusedmlp.errors import InvalidInputError, StorageError
from fusedmlp.io.atomic import check_writable

RUNS: Final = "runs"
MODEL_NAME: Final = "model.safetensors"
CHECKPOINT_NAME: Final = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """One training's folder."""

    path: Path

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / MODEL_NAME

    @property
    def checkpoint(self) -> Path:
        """What a resume goes on from."""
        return self.path / CHECKPOINT_NAME

    def remove_if_empty(self) -> None:
        """Leave no empty folders after a training that never began."""
        with contextlib.suppress(OSError):
            self.path.rmdir()
            if self.path.parent.name == RUNS:
                self.path.parent.rmdir()


def check_target(path: Path) -> None:
    """Find out before long work that a file which an option names can be written.

    Raises
    ------
    InvalidInputError
        It is a folder, or its own folder cannot be written: another name is what is needed.
    """
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder: name a file in it")
    try:
        check_writable(path.absolute().parent)
    except StorageError as error:
        raise InvalidInputError(str(error)) from error


def new_folder(asked: Path | None, dataset: str) -> OutputFolder:
    """Create the folder of a new training, or take an empty one.

    Parameters
    ----------
    asked
        The user's choice; None for ``runs/<dataset>-<date>-<time>``, made unique.
    dataset
        Name or path of the data set.

    Raises
    ------
    InvalidInputError
        The folder holds a training already, which must not be overwritten.
    StorageError
        It cannot be created or written.
    """
    if asked is not None:
        folder = OutputFolder(asked.expanduser())
        for name in (MODEL_NAME, CHECKPOINT_NAME, SETTINGS_NAME):
            if (folder.path / name).exists():
                raise InvalidInputError(
                    f"{folder.path} already holds a training ({name}): go on with "
                    f"--resume {folder.path}, or name another --output"
                )
        check_writable(folder.path)
        return folder
    now = datetime.now().astimezone()
    stem = f"{Path(dataset).stem or 'data'}-{now:%Y%m%d-%H%M%S}"
    for attempt in range(1, 1000):
        path = Path(RUNS) / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if Path(RUNS).is_dir():
                continue  # another training began in this second
            raise StorageError(f"cannot write to {RUNS}: it is a file; name an --output") from None
        except OSError as error:
            raise StorageError(
                f"cannot write to {path}: {error.strerror}; name another folder with --output"
            ) from error
        check_writable(path)
        return OutputFolder(path)
    raise StorageError(f"{RUNS}/{stem} and its successors all exist: name an --output")


def existing_folder(asked: Path) -> OutputFolder:
    """Return the folder of a training to resume, given itself or its checkpoint.

    Raises
    ------
    StorageError
        There is none.
    """
    path = asked.expanduser()
    if path.is_file():
        path = path.parent
    if not path.is_dir():
        raise StorageError(f"there is no folder {path}: name the folder of a training")
    return OutputFolder(path)


def model_path(asked: Path) -> Path:
    """Return the model file, given itself or the folder of the training that made it."""
    path = asked.expanduser()
    return path / MODEL_NAME if path.is_dir() else path

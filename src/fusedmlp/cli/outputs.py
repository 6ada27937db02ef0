"""Where commands write: the folder of a training, and single files, checked before long work."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Final

from fusedmlp.cli.settings import SETTINGS_NAME
from fusedmlp.errors import InvalidInputError, StorageError
from fusedmlp.io.atomic import check_writable, sweep

RUNS: Final = "runs"
MODEL_NAME: Final = "model.safetensors"
CHECKPOINT_NAME: Final = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """The folder of one training."""

    path: Path

    @classmethod
    def new(cls, path: Path | None, dataset: str) -> OutputFolder:
        """Create the folder of a new training, or take an empty one.

        Without ``path`` its name is ``runs/<dataset>-<date>-<time>``, made unique. A folder that
        holds a training is an InvalidInputError, one that cannot be written a StorageError.
        """
        folder = cls(_unique_folder(dataset) if path is None else path.expanduser())
        for name in (MODEL_NAME, CHECKPOINT_NAME, SETTINGS_NAME):
            if (folder.path / name).exists():
                raise InvalidInputError(
                    f"--output {folder.path} already holds a training ({name}): continue it with "
                    f"--resume {folder.path}, or name another --output"
                )
        check_writable(folder.path)
        return folder

    @classmethod
    def existing(cls, path: Path) -> OutputFolder:
        """Return the folder of a training to resume, given itself or a file in it."""
        path = path.expanduser()
        try:
            path = path.parent if path.is_file() else path
            is_folder = path.is_dir()
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        if not is_folder:
            raise StorageError(f"there is no folder {path}: name the folder of a training")
        return cls(path)

    @property
    def model(self) -> Path:
        """File of the trained model."""
        return self.path / MODEL_NAME

    @property
    def checkpoint(self) -> Path:
        """File from which a training is resumed."""
        return self.path / CHECKPOINT_NAME

    def prepare_to_resume(self) -> None:
        """Check that the folder can be written, and remove unfinished temporary files."""
        check_writable(self.path)
        sweep(self.path)

    def remove_if_empty(self) -> None:
        """Remove the folder of a training that failed before it wrote anything."""
        with contextlib.suppress(OSError):
            self.path.rmdir()
            if self.path.parent.name == RUNS:
                self.path.parent.rmdir()


def check_target(path: Path) -> None:
    """Raise :class:`InvalidInputError` before long work if an option's file cannot be written."""
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder: name a file in it")
    try:
        check_writable(path.absolute().parent)
    except StorageError as error:
        raise InvalidInputError(str(error)) from error


def _unique_folder(dataset: str) -> Path:
    """Create ``runs/<dataset>-<date>-<time>``."""
    now = datetime.now().astimezone()
    stem = f"{Path(dataset).stem or 'data'}-{now:%Y%m%d-%H%M%S}"
    suffixes = chain([""], (f"-{attempt}" for attempt in count(2)))
    try:
        Path(RUNS).mkdir(exist_ok=True)
        while True:
            path = Path(RUNS) / f"{stem}{next(suffixes)}"
            with contextlib.suppress(FileExistsError):  # another training began in this second
                path.mkdir()
                return path
    except OSError as error:
        raise StorageError(
            f"cannot write to {RUNS}: {error.strerror}; name a folder with --output"
        ) from error

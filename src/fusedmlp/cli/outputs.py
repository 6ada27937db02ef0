"""Where commands write: the folder of a training, and single files, checked before long work."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusedmlp.cli.settings import SETTINGS_NAME
from fusedmlp.errors import InvalidInputError, StorageError
from fusedmlp.io.atomic import check_writable, storage_errors
from fusedmlp.io.locks import lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

RUNS: Final = "runs"
MODEL_NAME: Final = "model.safetensors"
CHECKPOINT_NAME: Final = "checkpoint.safetensors"

_LOCK_NAME: Final = ".lock"
"""File that a training holds locked. One that is left over, and not locked, means nothing."""

_REMEDY: Final = "choose another folder"


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """The folder of one training, which no other training may use at the same time."""

    path: Path

    @classmethod
    @contextlib.contextmanager
    def new(cls, path: Path | None, dataset: str) -> Iterator[OutputFolder]:
        """Create the folder of a new training, or take an empty one; remove it if it stays empty.

        Without ``path`` its name is ``runs/<dataset>-<date>-<time>``, made unique. A folder that
        holds a training, running or not, is an InvalidInputError, one that cannot be written a
        StorageError.
        """
        folder = cls(_unique_folder(dataset) if path is None else path)
        try:
            with _only_training(folder.path, "--output"):
                for name in (MODEL_NAME, CHECKPOINT_NAME, SETTINGS_NAME):
                    if (folder.path / name).exists():
                        raise InvalidInputError(
                            f"--output {folder.path} already holds a training ({name}): continue "
                            f"it with --resume {folder.path}, or name another --output"
                        )
                yield folder
        finally:
            with contextlib.suppress(OSError):  # it is not empty: the training wrote something
                folder.path.rmdir()
                if folder.path.parent.name == RUNS:
                    folder.path.parent.rmdir()

    @classmethod
    @contextlib.contextmanager
    def existing(cls, path: Path) -> Iterator[OutputFolder]:
        """Take the folder of a training to resume, given itself or a file in it."""
        with storage_errors(f"cannot read {path}", "name the folder of a training"):
            folder = cls(path.parent if path.is_file() else path)
            is_there = folder.path.is_dir()
        if not is_there:
            raise StorageError(f"there is no folder {path}: name the folder of a training")
        with _only_training(folder.path, "--resume"):
            yield folder

    @property
    def model(self) -> Path:
        """File of the trained model."""
        return self.path / MODEL_NAME

    @property
    def checkpoint(self) -> Path:
        """File from which a training is resumed."""
        return self.path / CHECKPOINT_NAME


def check_target(path: Path) -> None:
    """Check before long work that an option's file can be written.

    Raises
    ------
    InvalidInputError
        It is a folder.
    StorageError
        It cannot be written.
    """
    with storage_errors(f"cannot write {path}", "name another file"):
        is_folder = path.is_dir()
    if is_folder:
        raise InvalidInputError(f"{path} is a folder: name a file in it")
    check_writable(path.absolute().parent)


@contextlib.contextmanager
def _only_training(folder: Path, option: str) -> Iterator[None]:
    """Check that a folder can be written, and keep other trainings out of it."""
    check_writable(folder)
    path = folder / _LOCK_NAME
    with storage_errors(f"cannot write to {folder}", _REMEDY):
        stream = _locked(path)
    if stream is None:
        raise InvalidInputError(
            f"{option} {folder} is in use by another training: wait for its end, or name another "
            "folder"
        )
    try:
        yield
    finally:
        if os.name == "posix":  # before the lock is gone, so that it is not another training's
            path.unlink(missing_ok=True)
        stream.close()
        if os.name != "posix":
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                path.unlink()


def _locked(path: Path) -> BinaryIO | None:
    """Open and lock a file; None where another process has the lock."""
    while True:
        stream = path.open("ab")
        try:
            lock(stream.fileno())
        except BlockingIOError:
            stream.close()
            return None
        except OSError:  # a file system without locks
            return stream
        if os.name != "posix" or os.fstat(stream.fileno()).st_nlink:
            return stream
        stream.close()  # a training that ended removed the file between opening and locking


def _unique_folder(dataset: str) -> Path:
    """Create ``runs/<dataset>-<date>-<time>``."""
    now = datetime.now().astimezone()
    stem = f"{Path(dataset).stem[:50] or 'data'}-{now:%Y%m%d-%H%M%S}"
    suffixes = chain([""], (f"-{attempt}" for attempt in count(2)))
    with storage_errors(f"cannot write to {RUNS}", "name a folder with --output"):
        Path(RUNS).mkdir(exist_ok=True)
        while True:
            path = Path(RUNS) / f"{stem}{next(suffixes)}"
            with contextlib.suppress(FileExistsError):  # another training began in this second
                path.mkdir()
                return path

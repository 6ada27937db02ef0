"""Paths as users write them: ``~`` stands for a home folder."""

from __future__ import annotations

from pathlib import Path

from fusedmlp.errors import InvalidInputError


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` replaced by the home folder.

    Raises
    ------
    InvalidInputError
        There is no such user, or the user has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidInputError(
            f"{path}: {Path(path).parts[0]} stands for no home folder: write the path in full, or "
            f"./{path} for a name that begins with ~"
        ) from error

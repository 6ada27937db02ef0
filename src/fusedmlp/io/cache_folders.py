"""The folder of caches, and whether another user can change what lies in a folder.

What is loaded from a folder as machine code must come from this user. A checksum beside the code
shows damage only: an author of other code can compute it too. What is kept is elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fusedmlp.errors import InvalidInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT_USER = 0


class Place(NamedTuple):
    """A folder where code may be kept.

    Parameters
    ----------
    folder
        Its real path; None where code from others could be in it.
    problem
        What prevents writing, for messages; empty where nothing does.
    """

    folder: Path | None
    problem: str = ""

    @property
    def writable(self) -> Path | None:
        """The folder, where it can be written."""
        return None if self.problem else self.folder


def places(variable: str, *, below: str, usual: str = "") -> list[Place]:
    """Return the folders where code may be kept, up to the first that can be written.

    They are the folder that a variable names, a folder in the user's cache, and one of the user's
    own among the temporary files. None is created.

    Parameters
    ----------
    variable
        An environment variable.
    below
        Name of the folder in the user's cache, and among the temporary files.
    usual
        The first folder where the variable is not set.
    """
    found = []
    for place in _candidates(variable, below, usual):
        found.append(place)
        if place.writable is not None:
            break
    return found


def _candidates(variable: str, below: str, usual: str) -> Iterator[Place]:
    finders: tuple[Callable[[], Path | None], ...] = (
        lambda: folder_named_by(variable, usual),
        lambda: default_cache_dir() / below,
        lambda: temporary_cache_dir() / below,
    )
    for find in finders:
        try:
            folder = find()
            if folder is not None:
                yield _examine(folder)
        except InvalidInputError as error:  # a variable with a home folder that is unknown
            yield Place(None, str(error))


def _examine(folder: Path) -> Place:
    try:
        real = check_private(folder)
    except StorageError as error:
        return Place(None, str(error))
    existing = next(each for each in (real, *real.parents) if each.exists())
    effective = os.access in os.supports_effective_ids
    if os.access(existing, os.W_OK | os.X_OK, effective_ids=effective):
        return Place(real)
    return Place(real, f"{existing} cannot be written")


def default_cache_dir() -> Path:
    """Return ``FUSEDMLP_CACHE`` or, without it, the user's cache folder of this platform.

    A user without a home folder has one of their own among the temporary files.

    Raises
    ------
    InvalidInputError
        ``FUSEDMLP_CACHE`` begins with ``~``, and there is no such home folder.
    """
    chosen = folder_named_by("FUSEDMLP_CACHE")
    if chosen is not None:
        return chosen
    import platformdirs

    with contextlib.suppress(RuntimeError):
        folder = Path(platformdirs.user_cache_dir("fusedmlp", appauthor=False))
        # platformdirs before 4.9.1 returns a folder named "~" where the home folder is unknown.
        if folder.is_absolute():
            return folder
    return temporary_cache_dir()


def folder_named_by(variable: str, usual: str = "") -> Path | None:
    """Return the folder that a variable names, else the usual one; None where there is neither.

    Raises
    ------
    InvalidInputError
        It begins with ``~``, and there is no such home folder.
    """
    named = os.environ.get(variable) or usual
    if not named:
        return None
    with contextlib.suppress(RuntimeError):
        folder = Path(named).expanduser()
        if folder.is_absolute() or not named.startswith("~"):
            return folder
    raise InvalidInputError(
        f"{named!r} needs a home folder, and there is none: set {variable} to a whole path"
    )


def temporary_cache_dir() -> Path:
    """Return this user's folder among the temporary files; see :func:`check_private`."""
    if os.name != "posix":
        return Path(tempfile.gettempdir()) / "fusedmlp"
    # tempfile.gettempdir() may be the working folder, where nothing unasked for is written.
    chosen = Path(os.environ.get("TMPDIR", ""))
    folder = chosen if chosen.is_absolute() else Path("/tmp")
    return folder / f"fusedmlp-{os.geteuid()}"


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder; none where there is no folder.

    Raises
    ------
    StorageError
        It cannot be read, or is no folder.
    """
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}") from error


def create_folder(folder: Path) -> None:
    """Create a folder and those above it, where missing, writable by this user alone.

    Raises
    ------
    OSError
        The folder can be neither created nor entered.
    """
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder == folder.parent:
            break
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o755, exist_ok=True)


def check_private(folder: Path) -> Path:
    """Return a folder's real path, if no other user can change what lies in it.

    The rules are those of ssh for keys. The folder and all above it belong to this user or to
    root, and no other user can write to them; a folder above may be sticky instead, where only the
    owner of a file can replace it. A folder that does not exist is as safe as those above it.
    Windows has no such bits: any folder passes there.

    Raises
    ------
    StorageError
        Another user could change the folder, or it cannot be examined.
    """
    try:
        links = [each for each in (folder.absolute(), *folder.absolute().parents)
                 if each.is_symlink()]  # fmt: skip
        real = folder.resolve()
        if os.name != "posix":
            return real
        for link in links:
            _check_owner(link, link.lstat())
        for place in (real, *real.parents):
            with contextlib.suppress(FileNotFoundError):
                _check_folder(place, place.lstat(), is_above=place != real)
    except StorageError:
        raise
    except (OSError, RuntimeError) as error:  # the latter: links in a circle
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise StorageError(f"{folder} cannot be entered: {reason}") from error
    return real


def read_private(path: Path) -> bytes:
    """Read a file in a folder that passes :func:`check_private`, if this user or root wrote it.

    Raises
    ------
    OSError
        There is no such file, or another user could have written it.
    """
    with path.open("rb") as stream:
        if os.name == "posix":
            status = os.fstat(stream.fileno())
            _check_owner(path, status)
            _check_mode(path, status)
        return stream.read()


def _check_folder(place: Path, status: os.stat_result, *, is_above: bool) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise StorageError(f"{place} is not a folder")
    _check_owner(place, status)
    if not (is_above and status.st_mode & stat.S_ISVTX):
        _check_mode(place, status)


def _check_owner(place: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), ROOT_USER):
        raise StorageError(f"{place} belongs to another user (number {status.st_uid})")


def _check_mode(place: Path, status: os.stat_result) -> None:
    mode = status.st_mode
    by_group = mode & stat.S_IWGRP and not _is_own_group(status.st_gid)
    if mode & stat.S_IWOTH or by_group:
        raise StorageError(
            f"other users can write to {place} (mode {stat.S_IMODE(mode):o}; "
            f"`chmod go-w {place}` ends that)"
        )


def _is_own_group(number: int) -> bool:
    """Whether a group is one that many systems make for each user, who is its only member."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    members = {*group.gr_mem, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == number)}
    return user.pw_uid != ROOT_USER and group.gr_name == user.pw_name and members <= {user.pw_name}

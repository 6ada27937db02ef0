"""Folders of caches: which is chosen, and which could hold files from other users.

Another user is root's `nobody`; tests that need one are skipped where the tests are not root's.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from fusedmlp.errors import InvalidInputError, StorageError
from fusedmlp.io import cache_folders
from fusedmlp.io.atomic import write_atomically
from fusedmlp.io.cache_folders import (
    check_private,
    create_folder,
    default_cache_dir,
    names_in,
    places,
    read_private,
)

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be a second user")


@pytest.fixture
def own(tmp_path):
    """A folder in which only this user can write."""
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    return folder


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o500])
def test_folders_of_this_user_are_private(own, mode):
    own.chmod(mode)
    assert check_private(own) == own.resolve()
    assert check_private(own / "not" / "there") == own.resolve() / "not" / "there"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o722, 0o702])
def test_folders_that_others_can_write_are_not(own, mode):
    own.chmod(mode)
    with pytest.raises(StorageError, match=f"write to {own}.*mode {mode:o}.*chmod go-w {own}"):
        check_private(own)


def test_a_folder_that_the_group_can_write_is_not(own):
    own.chmod(0o770)
    if not cache_folders._is_own_group(own.stat().st_gid):
        with pytest.raises(StorageError, match="mode 770"):
            check_private(own)


def test_a_group_of_one_user(own, monkeypatch):
    """Many systems make a group for each user, and let it write by default."""
    import grp

    me = pwd.struct_passwd(("me", "x", 1000, 2000, "", "", ""))
    other = pwd.struct_passwd(("other", "x", 1001, 2001, "", "", ""))
    users, group = [me, other], ["me", "x", 2000, []]
    monkeypatch.setattr(pwd, "getpwuid", lambda _: me)
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(group))
    own.chmod(0o770)
    os.chown(own, -1, own.stat().st_gid)
    assert check_private(own)
    group[3] = ["me", "other"]
    with pytest.raises(StorageError, match="mode 770"):
        check_private(own)
    group[3] = []
    users[1] = pwd.struct_passwd(("other", "x", 1001, own.stat().st_gid, "", "", ""))
    with pytest.raises(StorageError, match="mode 770"):
        check_private(own)
    users.pop()
    group[0] = "staff"
    with pytest.raises(StorageError, match="mode 770"):
        check_private(own)


def test_every_folder_above_counts(own):
    below = own / "a" / "b"
    below.mkdir(parents=True)
    own.chmod(0o777)
    with pytest.raises(StorageError, match=f"write to {own} "):
        check_private(below)
    own.chmod(0o1777)
    assert check_private(below) == below.resolve()
    with pytest.raises(StorageError, match="mode 1777"):
        check_private(own)


def test_links_are_followed(own, tmp_path):
    (own / "target").mkdir(mode=0o777)
    (own / "target").chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(own / "target")
    with pytest.raises(StorageError, match=f"write to {own / 'target'}"):
        check_private(link)
    (own / "target").chmod(0o700)
    assert check_private(link) == (own / "target").resolve()
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(StorageError, match="link"):
        check_private(link / "below")


@pytest.mark.parametrize("name", ["/dev/null", "/dev/null/below"])
def test_a_file_is_no_folder(name):
    with pytest.raises(StorageError, match=r"/dev/null.*[Nn]ot a"):
        check_private(Path(name))


@as_root
def test_folders_and_links_of_another_user(own, tmp_path):
    (own / "theirs").mkdir()
    os.chown(own / "theirs", NOBODY, NOBODY)
    for folder in (own / "theirs", own / "theirs" / "below"):
        with pytest.raises(StorageError, match=f"{own / 'theirs'} belongs to another user"):
            check_private(folder)
    (tmp_path / "link").symlink_to(own)
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(StorageError, match="link belongs to another user"):
        check_private(tmp_path / "link" / "below")


def test_files_that_others_can_write_are_not_read(own):
    file = own / "code"
    write_atomically(file, b"content", private=True)
    assert read_private(file) == b"content"
    file.chmod(0o666)
    with pytest.raises(StorageError, match="mode 666"):
        read_private(file)


@as_root
def test_files_of_another_user_are_not_read(own):
    file = own / "code"
    file.write_bytes(b"content")
    os.chown(file, NOBODY, NOBODY)
    with pytest.raises(StorageError, match="belongs to another user"):
        read_private(file)


def test_what_is_created_is_private_whatever_the_umask(own):
    before = os.umask(0)
    try:
        create_folder(own / "a" / "b")
        write_atomically(own / "a" / "b" / "code", b"content", private=True)
    finally:
        os.umask(before)
    assert check_private(own / "a" / "b") == (own / "a" / "b").resolve()
    assert read_private(own / "a" / "b" / "code") == b"content"


def test_names_in_a_folder(own):
    (own / "b").touch()
    (own / "a").touch()
    assert names_in(own) == ["a", "b"]
    assert names_in(own / "missing") == []
    with pytest.raises(StorageError, match=r"cannot be read: Not a directory"):
        names_in(own / "a")


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """The process of a user number with no entry in the list of users, and no HOME."""

    def missing(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", missing)
    for name in ("HOME", "XDG_CACHE_HOME", "FUSEDMLP_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / f"fusedmlp-{os.geteuid()}"


def test_a_user_without_a_home_folder(homeless, tmp_path):
    assert default_cache_dir() == homeless
    assert list(tmp_path.iterdir()) == []


def test_the_tilde_of_old_platformdirs(homeless, monkeypatch, tmp_path):
    """Releases 4.3.0 to 4.9.0 name a folder "~" in the working folder."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: "~/.cache/fusedmlp")
    assert default_cache_dir() == homeless


@pytest.mark.parametrize("temporary", ["", ".", "some/folder"])
def test_temporary_files_are_never_in_the_working_folder(homeless, monkeypatch, temporary):
    monkeypatch.setenv("TMPDIR", temporary)
    assert default_cache_dir() == Path("/tmp") / homeless.name


@pytest.mark.parametrize("home", [None, "relative"])
@pytest.mark.parametrize("variable", ["FUSEDMLP_CACHE", "SOME_CACHE"])
def test_a_variable_that_needs_a_home_folder(homeless, monkeypatch, variable, home):
    monkeypatch.setenv(variable, "~/cache")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    found = places(variable, below="compiled")
    assert found[0].folder is None
    assert f"'~/cache' needs a home folder, and there is none: set {variable}" in found[0].problem
    assert found[-1].writable == homeless.resolve() / "compiled"
    if variable == "FUSEDMLP_CACHE":
        with pytest.raises(InvalidInputError, match="set FUSEDMLP_CACHE to a whole path"):
            default_cache_dir()


def test_places_in_their_order(own, monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_CACHE", str(own))
    monkeypatch.setenv("FUSEDMLP_CACHE", str(tmp_path / "user"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert places("SOME_CACHE", below="x") == [(own.resolve(), "")]
    own.chmod(0o777)
    first, second = places("SOME_CACHE", below="x")
    assert first.folder is None
    assert second == ((tmp_path / "user" / "x").resolve(), "")
    monkeypatch.setenv("FUSEDMLP_CACHE", "/dev/null/x")
    *_, third = places("SOME_CACHE", below="x")
    assert third == ((tmp_path / f"fusedmlp-{os.geteuid()}" / "x").resolve(), "")
    monkeypatch.setenv("TMPDIR", "/dev/null/x")
    found = places("SOME_CACHE", below="x")
    assert [place.writable for place in found] == [None] * 3
    assert all(place.problem for place in found)
    monkeypatch.delenv("SOME_CACHE")
    assert len(places("SOME_CACHE", below="x")) == 2
    assert len(places("SOME_CACHE", below="x", usual=str(own))) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_is_read_only(own, monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_CACHE", str(own))
    monkeypatch.setenv("FUSEDMLP_CACHE", str(tmp_path / "user"))
    own.chmod(0o500)
    first, second = places("SOME_CACHE", below="x")
    assert first == (own.resolve(), f"{own.resolve()} cannot be written")
    assert second.writable is not None
    own.chmod(0o000)
    assert places("SOME_CACHE", below="x")[0].writable is None
    own.chmod(0o700)


@as_root
@pytest.mark.parametrize("words", [["backends"], ["doctor"], ["data"]])
def test_commands_run_without_a_home_folder(words, tmp_path):
    command = [
        *("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"),
        # So that it can read a Python in root's home folder.
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
        *("env", "-u", "HOME", "-u", "XDG_CACHE_HOME", f"TMPDIR={tmp_path / 'temporary'}"),
        sys.executable,
    ]
    for folder in (tmp_path / "temporary", tmp_path / "work"):
        folder.mkdir()
        os.chown(folder, 12345, 12345)
    try:
        subprocess.run([*command, "-c", "import fusedmlp"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"another user cannot run this Python: {error}")
    done = subprocess.run(
        [*command, "-m", "fusedmlp", *words],
        cwd=tmp_path / "work", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "work").iterdir()) == []

"""Folders that cannot be used, two trainings in one, and the help's and errors' common style."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest
from clihelp import QUICK, contents

from fusedmlp.cli.training import as_word
from fusedmlp.errors import ExitCode

posix = pytest.mark.skipif(os.name != "posix", reason="rights and locks of POSIX")

PATHS = (
    (("train", *QUICK, "--output"), "", ExitCode.FAILURE),
    (("train", "--resume"), "", ExitCode.FAILURE),
    (("train", "--dataset"), ".csv", ExitCode.DATA_UNAVAILABLE),
    (("evaluate",), "", ExitCode.FAILURE),
    (("predict", "trained"), ".csv", ExitCode.DATA_UNAVAILABLE),
    (("predict", "trained", "digits", "--output"), ".csv", ExitCode.FAILURE),
    (("parity", "--dataset", "digits", "--html"), ".html", ExitCode.FAILURE),
    (("bench", "--dataset", "digits", "--html"), ".html", ExitCode.FAILURE),
    (("data",), ".csv", ExitCode.DATA_UNAVAILABLE),
)
"""Commands, their last argument left out, with the ending of the path and the exit code."""

ids = [" ".join(args) for args, *_ in PATHS]


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder that may not be searched: where rights do not bind the user, the calls are made to
    fail."""
    folder = tmp_path / "locked"
    (folder / "in").mkdir(parents=True)
    folder.chmod(0)
    if not os.access(folder, os.X_OK):
        yield folder
        folder.chmod(0o700)
        return

    def refusing(function):
        def call(path, *args, **keywords):
            if isinstance(path, str | os.PathLike) and f"{folder}/" in os.fspath(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *args, **keywords)

        return call

    for name in ("stat", "lstat", "mkdir", "open", "scandir", "listdir", "rmdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    yield folder
    folder.chmod(0o700)


@posix
@pytest.mark.parametrize(("args", "ending", "code"), PATHS, ids=ids)
def test_a_path_below_a_folder_that_may_not_be_searched(cli, trained, locked, args, ending, code):
    path = locked / f"in{ending}"
    cli(*args, path).failed(code, str(path.parent), "Permission denied")


@posix
@pytest.mark.parametrize(("args", "ending", "code"), PATHS, ids=ids)
def test_a_name_that_is_too_long(cli, tmp_path, trained, args, ending, code):
    name = "z" * 300 + ending
    cli(*args, name).failed(code, name, "File name too long")
    assert [path.name for path in tmp_path.iterdir()] == ["trained"]


@posix
@pytest.mark.parametrize(("args", "ending", "code"), PATHS, ids=ids)
def test_a_user_that_does_not_exist(cli, trained, args, ending, code):
    path = f"~no-such-user/in{ending}"
    cli(*args, path).failed(ExitCode.USAGE, path, "~no-such-user stands for no home", f"./{path}")


def test_a_home_folder_is_found(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cli("train", *QUICK, "--output", "~/out").code == 0
    assert cli("predict", "~/out", "digits", "--output", "~/rows.csv").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", "rows.csv"}


@posix
@pytest.mark.parametrize("call", ["fsync", "mkdir"])
def test_a_full_disk_is_one_error_and_leaves_nothing(cli, tmp_path, monkeypatch, call):
    def full(*_args, **_keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    outcome = cli("train", *QUICK, "--output", "out")
    outcome.failed(ExitCode.FAILURE, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_memory_that_cannot_be_had_is_one_error(cli, tmp_path, monkeypatch):
    def refuse(*_args, **_keywords):
        raise MemoryError("Unable to allocate 149. GiB")

    monkeypatch.setattr("fusedmlp.model.initialise", refuse)
    outcome = cli("train", *QUICK, "--output", "out")
    outcome.failed(ExitCode.FAILURE, "out of memory", "149. GiB", "smaller layers")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--threads", 10**20), (f"--threads {10**20}", "4096")),
        (("--hidden", 10**20), (str(10**20), str(2**60 - 1))),
        (("--hidden", "9" * 5000), ("--hidden '999", "256,128")),
        (("--batch-size", 10**20), (f"batch size {10**20}", "1293")),
        (("--epochs", "9" * 5000), ("--epochs '999", "is not a whole number")),
    ],
    ids=lambda value: str(value)[:30],
)
def test_numbers_beyond_any_machine(cli, options, words):
    cli("train", *QUICK, *options).failed(ExitCode.USAGE, *words)


HOLDS = """
import sys
from pathlib import Path
from fusedmlp.cli.outputs import OutputFolder
with OutputFolder.existing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@posix
@pytest.mark.parametrize("end", ["kill", "finish"])
def test_a_folder_in_use_is_refused_until_its_process_has_ended(cli, trained, end):
    command = [sys.executable, "-c", HOLDS, str(trained)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout.readline() == "held\n"
        before = contents(trained)
        for option in ("--output", "--resume"):
            outcome = cli("train", option, trained)
            outcome.failed(ExitCode.USAGE, f"{option} {trained} is in use by another training")
        assert cli("evaluate", trained).code == 0
        assert contents(trained) == before
        if end == "kill":
            child.kill()
        child.communicate()
    assert cli("train", "--resume", trained, "--epochs", 3).code == 0
    assert ".lock" not in contents(trained)


@posix
def test_a_training_that_has_written_nothing_yet_has_its_folder(cli, tmp_path, monkeypatch):
    outcomes = []

    def start_another(*_args):
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        outcomes.append(cli("train", *QUICK, "--output", "out"))
        raise KeyboardInterrupt

    monkeypatch.setattr("fusedmlp.cli.training.BackendChoice.if_named", start_another)
    assert cli("train", *QUICK, "--output", "out").code == ExitCode.INTERRUPTED
    outcomes[0].failed(ExitCode.USAGE, "--output out is in use by another training")
    assert not (tmp_path / "out").exists()


@posix
def test_where_there_are_no_locks_a_training_works(cli, tmp_path, monkeypatch):
    def refuse(_descriptor):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fusedmlp.cli.outputs.lock", refuse)
    assert cli("train", *QUICK, "--output", "out").code == 0
    assert ".lock" not in contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("train --epochs many", "--epochs 'many' is not a whole number: see fusedmlp train --help"),
        ("train --lr x", "--lr 'x' is not a number: see fusedmlp train --help"),
        ("bench --rounds x", "--rounds 'x' is not a whole number: see fusedmlp bench --help"),
        ("data --wrong", "No such option: --wrong"),
        ("--wrong", "No such option: --wrong"),
        ("wrong", "No such command 'wrong': see fusedmlp --help"),
        ("evaluate", "Missing argument 'MODEL': see fusedmlp evaluate --help"),
        ("train --optimizer x", "--optimizer 'x' is unknown: choose one of"),
        ("train --dropout 2", "--dropout 2.0 is not a probability in [0, 1)"),
    ],
)
def test_every_usage_error_is_one_line_of_one_style(cli, args, message):
    outcome = cli(*args.split())
    outcome.failed(ExitCode.USAGE)
    assert outcome.stderr.startswith(f"error: {message}")
    assert outcome.stderr.count("\n") == 1


def test_a_training_ends_with_the_commands_that_use_it(cli):
    outcome = cli("train", *QUICK, "--output", "my run")
    word = as_word("my run")
    assert outcome.stderr.endswith(
        f"next:\n  fusedmlp evaluate {word}\n  fusedmlp predict {word} digits\n"
    )
    assert cli("evaluate", "my run").code == 0
    assert cli("predict", "my run", "digits").code == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash(process, tmp_path):
    script = process(env={"_FUSEDMLP_COMPLETE": "source_bash"})  # what --install-completion keeps
    ask = (
        'COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1)); '
        '_fusedmlp_completion fusedmlp; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert script.code == 0
    (tmp_path / "fusedmlp").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fusedmlp "$@"\n')
    (tmp_path / "fusedmlp").chmod(0o755)
    for words, expected in (
        (("fusedmlp", "ev"), "evaluate"),
        (("fusedmlp", "train", "--ba"), "--batch-size"),
    ):
        given = " ".join(f'"{word}"' for word in words)
        text = f"{script.stdout}\nwords=({given})\n{ask}\n"
        environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment)
        assert expected in done.stdout.split(), done.stderr

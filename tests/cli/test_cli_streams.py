"""Streams of every kind: closed, full, a pipe without a reader, few characters, few columns."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from fusedmlp.cli import console, streams
from fusedmlp.cli.progress import progress_view
from fusedmlp.errors import ExitCode
from fusedmlp.training.progress import TrainingLines, TrainingTable

posix = pytest.mark.skipif(os.name != "posix", reason="the shell's redirections")


def reset_signals():
    """Undo what a shell does to its background jobs: tell them to ignore Ctrl-C."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(signal.Signals[name], signal.SIG_DFL)


TRAIN = ("train", "--dataset", "set.npz", "--hidden", 3, "--epochs", 2, "--output", "out")
"""A file, since the built-in sets import scikit-learn."""

COMMANDS = (
    "train", "evaluate", "predict", "reproduce", "parity", "bench", "backends", "doctor", "data",
)  # fmt: skip


@pytest.fixture
def _data(npz):
    rng = np.random.default_rng(0)
    npz("set.npz", x=rng.random((60, 3)), y=rng.integers(0, 2, 60))


def bash(process, redirection, *args, env=None):
    """Run the command in bash with a redirection of its streams."""
    return process(*args, env=env, shell=f"exec {redirection}")


@posix
@pytest.mark.usefixtures("_data")
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_training_does_not_depend_on_its_log(process, tmp_path, redirection):
    outcome = bash(process, redirection, *TRAIN)
    assert outcome.code == 0
    assert "samples/s" in outcome.stdout
    assert (tmp_path / "out/model.safetensors").exists()


@posix
@pytest.mark.usefixtures("_data")
@pytest.mark.parametrize(
    ("redirection", "why"),
    [(">&-", "it is closed"), (">/dev/full", "No space left on device")],
)
def test_a_result_that_cannot_be_written_is_one_error(process, tmp_path, redirection, why):
    bash(process, redirection, *TRAIN).failed(ExitCode.FAILURE, f"cannot write to stdout: {why}")
    assert (tmp_path / "out/model.safetensors").exists()
    for args in (("data", "--json"), ("--help",)):
        outcome = bash(process, redirection, *args)
        assert outcome.code == ExitCode.FAILURE
        assert outcome.stderr == f"error: cannot write to stdout: {why}\n"


@posix
def test_without_any_stream_a_lost_result_is_an_exit_code_and_no_result_is_none(process):
    assert bash(process, ">&- 2>&- <&-", "data").code == ExitCode.FAILURE
    outcome = bash(process, ">&-", "data", "--nonsense")
    assert outcome.code == ExitCode.USAGE
    assert "cannot write" not in outcome.stderr


@posix
@pytest.mark.usefixtures("_data")
@pytest.mark.parametrize("args", [TRAIN, ("--help",), ("train", "--help"), ("data", "--json")])
def test_a_pipe_whose_reader_has_ended_is_the_same_error(tmp_path, args):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "fusedmlp", *map(str, args)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert done.returncode == ExitCode.FAILURE
    assert done.stderr.endswith("error: cannot write to stdout: Broken pipe\n")
    assert done.stderr.count("error") == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out/model.safetensors").exists() == (args == TRAIN)


@posix
def test_closed_descriptors_are_not_given_to_files(tmp_path):
    """A library that prints would else write into the first file that the command opens."""
    code = (
        "import os\nfrom fusedmlp.cli import streams\nstreams.protect()\n"
        "with open('file', 'w') as file:\n    os.write(1, b'printed')\n    assert file.fileno() > 2"
    )
    subprocess.run(["bash", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code], check=True)
    assert (tmp_path / "file").read_bytes() == b""


@posix
def test_a_pipe_that_does_not_block_gets_everything():
    read, write = os.pipe()
    os.set_blocking(write, False)
    text = "x" * 2**20
    code = "import sys\nfrom fusedmlp.cli import streams\nstreams.protect()\nprint('x' * 2**20)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    with child, open(read) as reader:
        assert reader.read() == text + "\n"
        assert child.stderr.read() == b""


@pytest.fixture
def encoded(monkeypatch):
    """Let stdout and stderr be bytes of an encoding; return them."""

    def replace(encoding):
        written = [io.BytesIO(), io.BytesIO()]
        for name, stream in zip(("stdout", "stderr"), written, strict=True):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding))
        streams.protect()
        return written

    return replace


def run(cli_args):
    """Run a command in this process, on the streams as they are."""
    from fusedmlp.cli.app import build

    with pytest.raises(SystemExit) as end:
        build()(list(map(str, cli_args)), prog_name="fusedmlp")
    sys.stdout.flush()
    sys.stderr.flush()
    return end.value.code


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
def test_every_help_can_be_written_in_any_encoding(encoded, encoding):
    stdout, stderr = encoded(encoding)
    for command in COMMANDS:
        assert run([command, "--help"]) == 0
    text = stdout.getvalue().decode(encoding)
    assert all(f"Usage: fusedmlp {command}" in text for command in COMMANDS)
    assert "\\u" not in text
    assert stderr.getvalue() == b""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("evaluate", "out"), "columns: how often each class was predicted"),
        (("reproduce", "moons"), "figures met"),
        (("backends",), "would choose "),
        (("doctor",), "BLAS"),
        (("data", "digits"), "64 (8 x 8 pixels)"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_results_can_be_written_in_any_encoding(cli, encoded, monkeypatch, args, words, encoding):
    from fusedmlp.cli import workshop

    monkeypatch.setattr(workshop, "moons_losses", lambda *_: [0.01] * 5)
    assert cli("train", "--dataset", "digits", "--epochs", 1, "--output", "out").code == 0
    stdout, _ = encoded(encoding)
    assert run(args) in (0, ExitCode.BREACHED)
    text = stdout.getvalue().decode(encoding)
    assert words in text
    assert "\\u" not in text


def test_names_that_an_encoding_lacks_stay_different(encoded):
    stdout, stderr = encoded("cp1252")
    print("≤ … 猫 犬 é")
    console.note("a file of bytes \udcff, ≥ 1")
    sys.stdout.flush()
    assert stdout.getvalue().decode("cp1252").rstrip() == "<= … \\u732b \\u72ac é"
    assert stderr.getvalue().decode("cp1252").rstrip() == "a file of bytes \\udcff, >= 1"


@posix
def test_the_c_locale(process):
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    outcome = process("train", "--help", env=env)
    assert outcome.code == 0
    assert outcome.stdout.isascii()
    assert "--hidden" in outcome.stdout


@pytest.mark.parametrize(("variable", "value"), [("COLUMNS", "20"), ("TERM", "dumb")])
def test_help_on_a_narrow_or_dumb_terminal_has_no_panels(cli, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    text = cli("train", "--help").stdout
    assert "─" not in text
    assert "\x1b" not in text
    for words in ("--batch-size ROWS", "Example:", "FUSEDMLP_BATCH_SIZE"):
        assert words in " ".join(text.split())


def terminal(width, **environment):
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ=environment)


def test_a_narrow_terminal_gets_lines_in_place_of_tables(monkeypatch):
    narrow = terminal(30)
    monkeypatch.setattr(console, "stdout", lambda: narrow)
    table = console.table()
    for title in ("figure", "measured\nvalue", "verdict"):
        table.add_column(title, no_wrap=True)
    table.add_row("loss at 10,000", "0.0396", Text("met", "green"))
    table.add_row("loss at 20,000", "", Text("missed"))
    console.show(table)
    console.labelled("test accuracy", "0.9812 (error rate 1.88 %)", narrow)
    text = Text.from_ansi(narrow.file.getvalue()).plain
    assert [line.rstrip() for line in text.splitlines()] == [
        "figure loss at 10,000", "measured value 0.0396", "verdict met", "",
        "figure loss at 20,000", "verdict missed", "",
        "test accuracy 0.9812 (error", "rate 1.88 %)",
    ]  # fmt: skip


def test_a_table_in_a_pipe_keeps_to_the_columns_that_are_set(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    table, _, rest = cli("data").stdout.partition("cache ")
    assert "handwritten" in table
    assert max(map(len, table.splitlines())) <= 30
    assert "a folder of IDX files, an .npz or a .csv file, by its path" in rest  # one line
    monkeypatch.delenv("COLUMNS")
    assert "70,000 handwritten digits, 28 x 28 pixels" in cli("data").stdout


@pytest.mark.parametrize(
    ("width", "environment", "view"),
    [
        (80, {}, TrainingTable),
        (40, {}, TrainingLines),
        (80, {"TERM": "dumb"}, TrainingLines),
    ],
)
def test_the_view_of_a_training_suits_the_terminal(width, environment, view):
    with progress_view(terminal(width, **environment)) as found:
        assert isinstance(found, view)


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_before_training_begins_leaves_no_folder(tmp_path, name):
    code = (
        "import os, signal, sys, fusedmlp.cli.training as t\n"
        f"def load(*_):\n    os.kill(os.getpid(), signal.{name})\n"
        "t.BackendChoice.if_named = load\nfrom fusedmlp.cli import main\nmain()\n"
    )
    args = [sys.executable, "-c", code, "train", "--dataset", "moons"]
    done = subprocess.run(
        args, capture_output=True, text=True, timeout=120, preexec_fn=reset_signals
    )
    assert done.returncode == 128 + signal.Signals[name]
    assert done.stderr == "interrupted\n"
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", ExitCode.INTERRUPTED), ("SIGTERM", -15), ("SIGHUP", -1)]
)
def test_a_signal_while_modules_are_imported_is_silent(tmp_path, name, code):
    """A module that is imported late in the start sends the signal.

    A code below 0 is Python's for a process that the signal ended; a shell says 128 and its number.
    """
    (tmp_path / "typer.py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.{name})\n")
    command = [sys.executable, "-c", "from fusedmlp.cli import main\nmain()"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        preexec_fn=reset_signals,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("moment", ["make_context", "parse_args", "get_command", "invoke"])
def test_a_signal_at_any_moment_of_the_command_has_its_exit_code(name, moment):
    """Typer itself makes 130 of a Ctrl-C, and so of every KeyboardInterrupt."""
    code = (
        "import os, signal, sys\nfrom fusedmlp.cli import app, main\n"
        "def send(*_, **__):\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        f"app._Commands.{moment} = send\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "data"],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=reset_signals,
    )
    assert done.returncode == 128 + signal.Signals[name]
    assert done.stderr in ("", "interrupted\n")
    assert done.stdout == ""


def test_the_package_is_imported_in_no_time_and_has_all_names():
    code = (
        "import sys, fusedmlp\nassert 'numpy' not in sys.modules\n"
        "assert all(getattr(fusedmlp, name) for name in [*fusedmlp.__all__, '__version__'])\n"
        "assert set(fusedmlp.__all__) <= set(dir(fusedmlp))\n"
        "assert fusedmlp.errors.FusedMLPError is fusedmlp.FusedMLPError\n"
        "print(hasattr(fusedmlp, 'nonsense'), hasattr(fusedmlp, '_nonsense'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False False\n", "")

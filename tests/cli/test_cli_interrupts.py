"""A training that is stopped from outside: Ctrl-C keeps what is done, SIGKILL loses nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from clihelp import contents, parameters

from fusedmlp.errors import ExitCode
from fusedmlp.training.checkpoint import load_checkpoint

LONG = ("--dataset", "digits", "--hidden", "64", "--schedule", "constant", "--threads", "1")


posix = pytest.mark.skipif(os.name != "posix", reason="Windows ends a process at once")


def listen_to_ctrl_c():
    """Undo what a shell does to its background jobs: tell them to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(*args):
    """A training in a process of its own, which does not outlive the test."""
    child = subprocess.Popen(
        [sys.executable, "-m", "fusedmlp", "train", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_ctrl_c if os.name == "posix" else None,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def wait_for(path, child, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=posix)])
def test_an_interrupt_saves_the_last_finished_epoch_and_says_how_to_go_on(cli, tmp_path, name):
    with started(*LONG, "--epochs", 100_000, "--output", "out") as child:
        wait_for(tmp_path / "out/checkpoint.safetensors", child)
        child.send_signal(signal.Signals[name])
        stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.Signals[name], stderr
    assert "Traceback" not in stderr
    assert "fusedmlp train --resume out" in stderr
    assert stdout == ""
    checkpoint = load_checkpoint(tmp_path / "out/checkpoint.safetensors")
    done = len(checkpoint.history)
    assert f"stopped after epoch {done};" in stderr
    for saved, last in zip(parameters("out"), checkpoint.state.parameters, strict=True):
        np.testing.assert_array_equal(saved, last)
    assert cli("train", "--resume", "out", "--epochs", done + 1, "--json").document["epochs"] == (
        done + 1
    )


def test_ctrl_c_before_the_first_epoch_ends_says_that_nothing_was_saved(tmp_path, npz):
    rng = np.random.default_rng(0)
    npz("set.npz", x=rng.random((50_000, 200)), y=rng.integers(0, 2, 50_000))
    heavy = ("--hidden", "500,500", "--batch-size", 4)
    with started("--dataset", "set.npz", *heavy, "--output", "out") as child:
        wait_for(tmp_path / "out/settings.json", child)
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=60)
    assert child.returncode == ExitCode.INTERRUPTED
    assert "before the first epoch ended" in stderr
    assert not (tmp_path / "out/model.safetensors").exists()


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_bits(cli, tmp_path):
    epochs = ("--epochs", 200, "--dropout", 0.2)
    start = time.monotonic()
    whole = cli("train", *LONG, *epochs, "--output", "whole", "--json")
    seconds = time.monotonic() - start
    assert whole.code == 0, whole.stderr
    draw = random.Random(os.getpid())
    args, kills = (*LONG, *epochs, "--output", "parts"), 0
    for _ in range(2):
        with started(*args) as child:
            wait_for(tmp_path / "parts/settings.json", child)
            time.sleep(draw.uniform(0.0, seconds / 4))
        kills += child.returncode == -signal.SIGKILL
        args = ("--resume", "parts")
    assert kills, "every training ended before it could be killed"
    last = cli("train", "--resume", "parts", "--json")
    assert last.code == 0, last.stderr
    files, expected = contents(tmp_path / "parts"), contents(tmp_path / "whole")
    assert files["model.safetensors"] == expected["model.safetensors"]
    assert last.document["epochs"] == whole.document["epochs"] == 200
    assert last.document["train_loss"] == whole.document["train_loss"]
    assert not [name for name in files if name.endswith(".tmp")]

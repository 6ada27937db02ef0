"""The progress bar in a notebook, on a terminal and in plain text."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from fusedmlp import MLP, ProgressBar, Trainer
from fusedmlp.sklearn import MLPClassifier
from fusedmlp.training import progress

rng = np.random.default_rng(0)
X, Y = rng.random((300, 6)), rng.integers(0, 3, 300)

NOTEBOOK = """
import json, sys, time
import numpy as np
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

class ZMQInteractiveShell(InteractiveShell):
    "The class by whose name programs recognise a notebook's kernel."

shell = ZMQInteractiveShell.instance()
shell.display_pub = CapturingDisplayPublisher()
from fusedmlp import MLP, ProgressBar, Trainer
from fusedmlp.training.callbacks import Callback
from fusedmlp.training import progress

class Slow(Callback):
    def on_epoch_end(self, run, record):
        time.sleep(progress._NOTEBOOK_SECONDS / 2)
        if record.epoch == int(sys.argv[1]):
            raise KeyboardInterrupt

rng = np.random.default_rng(0)
x, y = rng.random((300, 6)), rng.integers(0, 3, 300)
bar = ProgressBar()
mlp = MLP((6, 4, 3), backend="numpy")
for epochs in (4, 1):
    with shell.builtin_trap:  # as in a cell
        try:
            Trainer(epochs=epochs, validation=0.2, callbacks=[Slow(), bar]).fit(mlp, x, y)
        except KeyboardInterrupt:
            print("interrupted")
json.dump(shell.display_pub.outputs, sys.stderr)
"""
"""Trains twice and writes what a notebook was asked to display; argument: an epoch to interrupt."""


def displayed(tmp_path, interrupt_after=0):
    """Return the outputs of two trainings, each a list of HTML texts that replace each other."""
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, str(interrupt_after)],
        capture_output=True,
        text=True,
        env=os.environ | {"IPYTHONDIR": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("interrupted\n" if interrupt_after else "")
    outputs: dict[str, list[str]] = {}
    for each in json.loads(done.stderr):
        display_id = each["transient"]["display_id"]
        assert each["update"] == (display_id in outputs)
        outputs.setdefault(display_id, []).append(each["data"]["text/html"])
    return list(outputs.values())


def test_a_notebook_has_one_output_for_each_training(tmp_path):
    first, second = displayed(tmp_path)
    assert first[0].startswith('<progress value="0" max="960"></progress> epoch 1/4')
    running = [html for html in first[1:] if "<progress" in html]
    assert running
    assert all("240 rows" in html and " left" in html for html in running)
    assert len(first) < 4 * 4  # an epoch takes half the least time between two updates
    assert "<progress" not in first[-1]
    assert "History: 4 epochs" in first[-1]
    assert "validation accuracy" in first[-1]
    assert "History: 1 epoch<" in second[-1]


def test_an_interrupted_training_leaves_its_table(tmp_path):
    first, _ = displayed(tmp_path, interrupt_after=2)
    assert "<progress" not in first[-1]
    assert "stopped: interrupted" in first[-1]


def test_a_pipe_gets_lines(capsys):
    Trainer(epochs=3, callbacks=ProgressBar()).fit(MLP((6, 3), backend="numpy"), X, Y)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("  ")[0] for line in err.splitlines()] == [
        "epoch 1/3", "epoch 2/3", "epoch 3/3",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_take_it(capsys):
    MLPClassifier((4,), max_iter=2, backend="numpy", callbacks=[ProgressBar()]).fit(X, Y)
    assert capsys.readouterr().err.startswith("epoch 1/2  loss ")


class Fails(progress.Callback):
    def on_epoch_end(self, run, record):
        raise ZeroDivisionError


@pytest.mark.parametrize("fails", [False, True])
def test_a_terminal_gets_a_table_and_its_cursor_back(monkeypatch, capsys, fails):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def terminal(**options):
        return Console(force_terminal=True, **options)

    monkeypatch.setattr("rich.console.Console", terminal)
    trainer = Trainer(epochs=2, callbacks=[ProgressBar(), *[Fails()] * fails])
    mlp = MLP((6, 3), backend="numpy")
    if fails:
        with pytest.raises(ZeroDivisionError):
            trainer.fit(mlp, X, Y)
    else:
        trainer.fit(mlp, X, Y)
    text = capsys.readouterr().err
    assert "samples/s" in text
    assert f"{mlp.history.last.train_loss:.4f}" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # shows and hides the cursor

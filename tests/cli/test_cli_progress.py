"""What is shown on the way: the table and bar of a terminal, the lines of a pipe, the numbers."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from fusedmlp import MLP, Trainer, load_dataset
from fusedmlp.cli import console
from fusedmlp.cli.progress import progress_view
from fusedmlp.training.callbacks import Callback
from fusedmlp.training.progress import duration, is_shown, loss_text


def screen(*, terminal):
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=80, _environ={}), stream


def train(out, *others, epochs=2, validation=0.2):
    data = load_dataset("digits")
    mlp = MLP((64, 8, 10), backend="numpy")
    with progress_view(out) as view:
        Trainer(epochs=epochs, validation=validation, callbacks=(view, *others)).fit(
            mlp, data.x_train, data.y_train
        )
    return mlp.history


def test_a_terminal_gets_a_table_and_a_bar():
    out, stream = screen(terminal=True)
    history = train(out)
    text = stream.getvalue()
    assert "validation" in text
    assert "1,150 rows" in text
    assert "left" in text
    for record in history.records:
        for value in (record.train_loss, record.train_accuracy, record.validation_loss):
            assert f"{value:.4f}" in text
    lines = [line for line in text.splitlines() if "/2  " in line and "rows" not in line]
    assert all(len(line) <= 80 for line in lines)


def test_a_table_without_validation_leaves_its_columns_out():
    out, stream = screen(terminal=True)
    train(out, validation=0.0)
    assert "validation" not in stream.getvalue()


def test_a_pipe_gets_plain_lines_of_some_epochs():
    out, stream = screen(terminal=False)
    train(out, epochs=60)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("epoch 1/60")
    assert lines[-1].startswith("epoch 60/60")
    assert 20 <= len(lines) <= 22
    assert "\x1b" not in stream.getvalue()


class Fails(Callback):
    def on_epoch_end(self, run, record):
        raise ZeroDivisionError


def test_the_bar_is_gone_when_training_fails():
    out, stream = screen(terminal=True)
    with pytest.raises(ZeroDivisionError):
        train(out, Fails())
    shows_cursor, hides_cursor = "\x1b[?25h", "\x1b[?25l"
    assert stream.getvalue().rindex(shows_cursor) > stream.getvalue().rindex(hides_cursor)


def test_which_epochs_are_shown():
    assert all(is_shown(epoch, 50) for epoch in range(1, 51))
    shown = [epoch for epoch in range(1, 1001) if is_shown(epoch, 1000)]
    assert shown == [1, *range(50, 1001, 50)]


def test_numbers_for_people():
    assert [duration(s) for s in (0.04, 9.94, 12.4, 65, 7500)] == [
        "0.0 s", "9.9 s", "12 s", "1 min 5 s", "2 h 5 min",
    ]  # fmt: skip
    assert [loss_text(x) for x in (0.12345, 9999.0, 1.5e30)] == ["0.1235", "9999.0000", "1.50e+30"]


def test_json_never_holds_nan(capsys):
    console.print_json({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf, "e": (1,)}})
    assert json.loads(capsys.readouterr().out) == {
        "a": None, "b": [None, 1.5], "c": {"d": None, "e": [1]},
    }  # fmt: skip


def test_labelled_lines_wrap_in_their_column_on_a_terminal_only():
    words = " ".join(["word"] * 30)
    out, stream = screen(terminal=True)
    console.labelled("label", words, out)
    lines = stream.getvalue().splitlines()
    assert len(lines) > 1
    assert lines[1].startswith(" " * console.LABEL_WIDTH + "word")
    out, stream = screen(terminal=False)
    console.labelled("label", words, out)
    assert len(stream.getvalue().splitlines()) == 1

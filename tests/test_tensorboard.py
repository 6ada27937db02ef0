"""What is written for TensorBoard, read back from the event files."""

from __future__ import annotations

import os
import struct
import sys

import numpy as np
import pytest

from fusedmlp import MLP, TensorBoardWriter, Trainer
from fusedmlp.errors import ExitCode, MissingDependencyError, StorageError
from fusedmlp.training.callbacks import Callback
from fusedmlp.training.tensorboard import TAGS

rng = np.random.default_rng(0)
X, Y = rng.random((80, 5)), rng.integers(0, 2, 80)


def events(path):
    """Yield the events of a file: records of a length, 4 bytes of checksum, the event, and 4."""
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    while content:
        (length,) = struct.unpack_from("<Q", content)
        yield Event.FromString(content[12 : 12 + length])
        content = content[12 + length + 4 :]


def curves(folder):
    """Return the values of each tag by step, and the first steps that hide earlier ones."""
    found: dict[str, dict[int, float]] = {}
    starts = []
    for path in sorted(folder.iterdir(), key=os.path.getmtime):
        for event in events(path):
            if event.HasField("session_log") and event.session_log.status == 1:
                starts.append(event.step)
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found, starts


def fit(mlp, folder, *, epochs, y=Y, **settings):
    resume = settings.pop("resume", None)
    trainer = Trainer(epochs=epochs, batch_size=8, callbacks=TensorBoardWriter(folder), **settings)
    return trainer.fit(mlp, X, y, resume=resume)


def test_every_epoch_has_its_scalars(tmp_path):
    history = fit(MLP((5, 2), backend="numpy"), tmp_path, epochs=4, validation=0.25)
    found, starts = curves(tmp_path)
    assert starts == []
    assert set(found) == set(TAGS.values())
    for name, tag in TAGS.items():
        assert list(found[tag]) == [1, 2, 3, 4]
        np.testing.assert_allclose(list(found[tag].values()), history.column(name), rtol=1e-6)


def test_what_a_training_does_not_have_is_not_written(tmp_path):
    mlp = MLP((5, 1), output="identity", backend="numpy")
    fit(mlp, tmp_path, epochs=1, y=X[:, 0])
    assert set(curves(tmp_path)[0]) == {"loss/train", "learning_rate", "samples_per_s"}


def test_a_resumed_training_continues_the_curves(tmp_path):
    folder, checkpoint = tmp_path / "board", tmp_path / "checkpoint"
    fit(MLP((5, 2), backend="numpy"), folder, epochs=2, checkpoint=checkpoint)
    whole = fit(MLP((5, 2), backend="numpy"), folder, epochs=3, resume=checkpoint)
    found, starts = curves(folder)
    assert starts == [3]
    np.testing.assert_allclose(
        list(found["loss/train"].values()), whole.column("train_loss"), rtol=1e-6
    )


class Fails(Callback):
    def on_epoch_end(self, run, record):
        if record.epoch == 2:
            raise ZeroDivisionError


def test_a_training_that_fails_leaves_its_epochs(tmp_path):
    trainer = Trainer(epochs=3, batch_size=8, callbacks=[TensorBoardWriter(tmp_path), Fails()])
    with pytest.raises(ZeroDivisionError):
        trainer.fit(MLP((5, 2), backend="numpy"), X, Y)
    assert list(curves(tmp_path)[0]["loss/train"]) == [1, 2]


def test_without_the_library_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fusedmlp\[tensorboard\]'") as e:
        TensorBoardWriter(tmp_path)
    assert e.value.exit_code is ExitCode.FAILURE
    assert isinstance(e.value, ImportError)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write to .*file"):
        fit(MLP((5, 2), backend="numpy"), tmp_path / "file", epochs=1)

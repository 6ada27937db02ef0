"""The trainer: epochs, validation, the end of training, and resuming with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from fusedmlp import MLP, SGD, Adam, Callback, EarlyStopping, HistoryWriter, Trainer
from fusedmlp.backend import State
from fusedmlp.errors import DivergedError, InvalidInputError, StorageError
from fusedmlp.registry import backend_class
from fusedmlp.seeding import Stream, generator
from fusedmlp.tolerance import check_close, trajectory_bound
from fusedmlp.training.callbacks import EpochPrinter
from fusedmlp.training.checkpoint import load_checkpoint
from fusedmlp.training.history import EpochRecord
from fusedmlp.training.row_weights import class_weights
from fusedmlp.training.schedules import SCHEDULES, Cosine, make_schedule
from problems import engine, flat, problem

TASK = problem((6, 8, 3), rows=50, storage="float32", seed=4)


def mlp(backend="numpy", **options):
    return MLP([6, 8, 3], backend=backend, **{"dtype": "float64", "seed": 11} | options)


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_train_begin(self, run):
        self.calls.append(("begin", run.steps_per_epoch))

    def on_progress(self, run, rows):
        self.calls.append(("rows", rows))

    def on_epoch_end(self, run, record):
        assert run.history.last is record
        self.calls.append(("epoch", record.epoch))

    def on_train_end(self, run):
        self.calls.append(("end", len(run.history)))


class At(Callback):
    """Do something after an epoch, or after every one."""

    def __init__(self, epoch, action):
        self.epoch, self.action = epoch, action

    def on_epoch_end(self, run, record):
        if self.epoch in (record.epoch, None):
            self.action(run)


def weights_of_epochs(found):
    """A callback that keeps each epoch's weights."""
    return At(None, lambda run: found.append(flat(run.engine.parameters())))


def fitted(model=None, *, x=TASK.x, y=TASK.y, resume=None, validation_data=None, **settings):
    """Train a model, by default a new one, on the task's rows; return it."""
    model = mlp() if model is None else model
    trainer = Trainer(**{"batch_size": 8, "epochs": 2} | settings)
    trainer.fit(model, x, y, resume=resume, validation_data=validation_data)
    return model


def assert_same_weights(a, b):
    np.testing.assert_array_equal(flat(a.parameters), flat(b.parameters))


def test_an_epoch_sees_every_row_once(numpy_backend):
    """A hand-written loop over the documented order gives the same weights."""
    model, recorder = mlp(), Recorder()
    start = model.parameters
    fitted(model, optimizer=SGD(0.2), epochs=3, batch_size=16, callbacks=(recorder,))
    built, data = engine(numpy_backend, TASK, SGD(0.2), batch_size=16, seed=11)
    built.load(State(start, (), 0))
    for epoch in range(3):
        order = generator(11, Stream.SHUFFLE, epoch).permutation(50)
        assert sorted(order) == list(range(50))
        sums, record = built.train_epoch(data, order, np.full(4, 0.2)), model.history.records[epoch]
        assert (sums.loss, sums.accuracy) == (record.train_loss, record.train_accuracy)
    np.testing.assert_array_equal(flat(model.parameters), flat(built.parameters()))
    assert model.history.column("step") == [4, 8, 12]
    assert recorder.calls[0] == ("begin", 4)
    assert recorder.calls[-1] == ("end", 3)
    assert [c for c in recorder.calls if c[0] == "epoch"] == [("epoch", e) for e in (1, 2, 3)]
    assert ("rows", 50) in recorder.calls


def test_training_learns_on_every_backend(backend):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = np.argmax(x[:, :3], axis=1)
    model = MLP([6, 16, 3], "tanh", backend=backend)
    history = Trainer(Adam(0.02), epochs=20, batch_size=32, validation=0.2).fit(model, x, y)
    assert history.last.validation_accuracy > 0.9
    assert history.last.train_loss < history.records[0].train_loss / 2


def test_without_shuffling_the_order_is_the_rows():
    first, second = mlp(), mlp(seed=12)
    second.parameters = first.parameters
    for model in (first, second):
        fitted(model, shuffle=False)
    assert_same_weights(first, second)


def test_validation_rows_are_held_out():
    """Values of the held-out rows do not change the weights."""
    model = fitted(validation=0.2)
    held_out = np.sort(generator(11, Stream.VALIDATION_SPLIT).permutation(50)[:10])
    x = TASK.x.copy()
    x[held_out] = 1e6
    other = fitted(x=x, validation=0.2)
    assert_same_weights(model, other)
    assert other.history.last.validation_loss != model.history.last.validation_loss
    expected = model.evaluate(TASK.x[held_out], TASK.y[held_out])
    assert expected.loss == pytest.approx(model.history.last.validation_loss)
    assert expected.accuracy == pytest.approx(model.history.last.validation_accuracy)


def test_validation_data_may_be_given():
    model = fitted(validation_data=(TASK.x[:9], TASK.y[:9]))
    expected = model.evaluate(TASK.x[:9], TASK.y[:9]).loss
    assert model.history.last.validation_loss == pytest.approx(expected)
    with pytest.raises(InvalidInputError, match="choose one"):
        fitted(validation=0.1, validation_data=(TASK.x, TASK.y))


@pytest.mark.parametrize("restore_best", [True, False])
@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_early_stopping_keeps_the_best_weights_or_the_last(monitor, restore_best):
    found, stopping = [], EarlyStopping(monitor, patience=3, restore_best=restore_best)
    model = fitted(optimizer=SGD(8.0), epochs=200, validation=0.3, early_stopping=stopping,
                   callbacks=(weights_of_epochs(found),))  # fmt: skip
    history = model.history
    values = np.array(history.column(f"validation_{monitor}"), float)
    best = int((values if monitor == "loss" else -values).argmin()) + 1
    assert len(history) == best + 3 < 200
    assert history.stopped == f"early stopping: no improvement since epoch {best}"
    assert history.best_epoch == (best if restore_best else None)
    kept = found[best - 1] if restore_best else found[-1]
    np.testing.assert_array_equal(flat(model.parameters), kept)
    assert not np.array_equal(found[best - 1], found[-1])


def test_early_stopping_on_accuracy_needs_classes():
    task = problem((4, 2), output="identity", rows=20)
    model = MLP([4, 2], output="identity", backend="numpy")
    with pytest.raises(InvalidInputError, match="monitor 'loss'"):
        fitted(model, x=task.x, y=task.y, early_stopping=EarlyStopping("accuracy"))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9), Adam(0.01)])
def test_resuming_changes_no_bit(tmp_path, backend, optimizer, schedule):
    """Stop after 3 of 6 epochs and continue from the file: the weights are those of one run."""
    path = tmp_path / "checkpoint"

    def trained(**more):
        model = MLP([6, 8, 3], dropout=0.2, backend=backend, seed=3)
        return fitted(model, optimizer=optimizer, schedule=make_schedule(schedule), epochs=6,
                      batch_size=16, validation=0.2, early_stopping=EarlyStopping(patience=100),
                      **more)  # fmt: skip

    whole = trained()
    stopped = trained(checkpoint=path, callbacks=(At(3, lambda run: run.stop("lunch")),))
    assert (stopped.history.stopped, len(stopped.history)) == ("lunch", 3)
    for _again in range(2):  # the second time all epochs are there
        resumed = trained(checkpoint=path, resume=path)
        assert_same_weights(resumed, whole)
        for name in ("epoch", "step", "lr", "train_loss", "validation_loss", "train_accuracy"):
            assert resumed.history.column(name) == whole.history.column(name)
        assert resumed.history.best_epoch == whole.history.best_epoch


def test_resuming_on_another_backend(tmp_path, compiled_backend):
    path = tmp_path / "checkpoint"
    settings = {"optimizer": Adam(0.01), "batch_size": 16, "epochs": 6}
    reference = backend_class("numpy")(strict=compiled_backend.strict)
    whole = fitted(MLP([6, 8, 3], dropout=0.2, backend=reference), **settings)
    stop = At(3, lambda run: run.stop("moving"))
    fitted(MLP([6, 8, 3], dropout=0.2, backend=compiled_backend), checkpoint=path,
           callbacks=(stop,), **settings)  # fmt: skip
    moved = fitted(MLP([6, 8, 3], dropout=0.2, backend=reference), resume=path, **settings)
    bound = trajectory_bound("float32")
    check_close("parameters", flat(moved.parameters), flat(whole.parameters), bound)


@pytest.mark.parametrize(
    ("settings", "model", "x", "message"),
    [
        ({"batch_size": 9}, {}, TASK.x, "batch_size 8, now it is 9"),
        ({"optimizer": SGD(0.2)}, {}, TASK.x, "optimizer SGD"),
        ({"schedule": Cosine()}, {}, TASK.x, "schedule Constant"),
        ({}, {"seed": 1}, TASK.x, "seed 11, now it is 1"),
        ({}, {"dtype": "float32"}, TASK.x, "dtype float64"),
        ({}, {"hidden": "tanh"}, TASK.x, "sigmoid hidden.*tanh hidden"),
        ({}, {}, TASK.x * 2, "made with data 50 rows"),
    ],
)
def test_resuming_with_other_settings_or_data_is_refused(tmp_path, settings, model, x, message):
    path = tmp_path / "checkpoint"
    fitted(checkpoint=path)
    with pytest.raises(InvalidInputError, match=message):
        fitted(mlp(**model), x=x, resume=path, **settings)


KILLED = """
import sys, numpy as np
from pathlib import Path
from problems import problem
from fusedmlp import MLP, Adam, Trainer
task = problem((6, 8, 3), rows=50, storage="float32", seed=4)
mlp = MLP([6, 8, 3], dropout=0.2, backend="numpy", seed=3)
path = Path(sys.argv[1])
trainer = Trainer(Adam(0.01), epochs=400, batch_size=16, checkpoint=path, checkpoint_seconds=0)
print("ready", flush=True)
trainer.fit(mlp, task.x, task.y, resume=path if path.exists() else None)
mlp.save(path.with_name("model"))
"""


def test_killed_at_any_moment_and_resumed_the_bits_are_the_same(tmp_path):
    """SIGKILL a process several times while it trains and writes checkpoints; resume each time."""
    whole = fitted(MLP([6, 8, 3], dropout=0.2, backend="numpy", seed=3), optimizer=Adam(0.01),
                   epochs=400, batch_size=16)  # fmt: skip
    path = tmp_path / "checkpoint"
    folders = [os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    command = [sys.executable, "-c", KILLED, str(path)]
    delays, kills = iter(np.random.default_rng(0).uniform(0.02, 0.5, 4)), 0
    while True:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        process.stdout.readline()
        delay = next(delays, None)
        if delay is not None:
            time.sleep(delay)
            process.kill()
        code = process.wait()
        process.stdout.close()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        if path.exists():
            load_checkpoint(path)
    assert kills >= 1
    resumed = MLP.load(tmp_path / "model", backend="numpy")
    assert_same_weights(resumed, whole)


def test_ctrl_c_keeps_the_last_finished_epoch(tmp_path):
    path = tmp_path / "checkpoint"

    class InterruptMidEpoch(Callback):
        def on_progress(self, run, rows):
            if len(run.history) == 2:
                raise KeyboardInterrupt

    found, model, recorder = [], mlp(), Recorder()
    callbacks = weights_of_epochs(found), InterruptMidEpoch(), recorder
    with pytest.raises(KeyboardInterrupt):
        fitted(model, epochs=9, checkpoint=path, callbacks=callbacks)
    np.testing.assert_array_equal(flat(model.parameters), found[1])
    assert (model.history.stopped, len(model.history)) == ("interrupted", 2)
    assert recorder.calls[-1] == ("end", 2)
    assert len(load_checkpoint(path).history) == 2


def test_a_diverging_loss_names_epoch_step_and_advice():
    model = MLP([6, 8, 3], "relu", backend="numpy", seed=1)
    kept = model.parameters.copy()
    with pytest.raises(DivergedError, match=r"in epoch 1, step 2 .*lower the learning rate"):
        fitted(model, x=TASK.x * 1e4, optimizer=SGD(1e30))
    np.testing.assert_array_equal(flat(model.parameters), flat(kept))
    assert "infinite" in model.history.stopped


def test_weights_that_overflow_in_the_last_step_are_not_kept():
    """The last batch's loss is finite, its update is not."""
    model = MLP([1, 1], output="identity", backend="numpy", seed=1)
    x, y = np.array([[1e3]]), np.array([1e3])
    with pytest.raises(DivergedError, match="weights became NaN or infinite in epoch 1, step 1"):
        fitted(model, x=x, y=y, optimizer=SGD(1e38), epochs=1, batch_size=1)
    assert np.isfinite(flat(model.parameters)).all()


def test_a_failing_callback_leaves_a_usable_model():
    def fail(run):
        raise RuntimeError("mine")

    model = mlp()
    with pytest.raises(RuntimeError, match="mine"):
        fitted(model, epochs=5, callbacks=(At(2, fail),))
    assert len(model.history) == 2
    model.predict(TASK.x)


@pytest.mark.parametrize("seconds", [1000.0, 0.0])
def test_checkpoints_are_written_at_the_end_and_when_time_has_passed(tmp_path, seconds):
    path, seen = tmp_path / "checkpoint", []
    look = At(2, lambda run: seen.append(path.exists()))
    fitted(epochs=3, checkpoint=path, checkpoint_seconds=seconds, callbacks=(look,))
    assert len(load_checkpoint(path).history) == 3
    assert seen == [seconds == 0.0]


def test_an_unwritable_checkpoint_fails_before_training(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    recorder = Recorder()
    with pytest.raises(StorageError, match="cannot write to"):
        fitted(checkpoint=tmp_path / "file" / "checkpoint", callbacks=(recorder,))
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs 0 is not a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size 2.5"),
        ({"rows_per_epoch": 0}, "rows_per_epoch 0"),
        ({"validation": 1.0}, r"validation 1.0 is not a share in \[0, 1\)"),
        ({"batch_size": 64}, "batch size 64 is larger than the 50 rows .* use at most 50"),
        ({"batch_size": 45, "validation": 0.2}, "larger than the 40 rows"),
        ({"batch_size": 10, "validation": 0.001}, "validation 0.001 of 50 rows is no row"),
        ({"y": None}, "y is None"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InvalidInputError, match=message):
        fitted(**settings)


@pytest.mark.parametrize("wrong", [{"monitor": "f1"}, {"patience": 0}, {"min_delta": -1.0}])
def test_wrong_early_stopping_is_refused(wrong):
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        EarlyStopping(**wrong)


def test_rows_per_epoch_limits_an_epoch():
    assert fitted(rows_per_epoch=20).history.column("step") == [3, 6]


def test_class_weights():
    network, labels = TASK.network, np.array([0, 0, 0, 1])
    np.testing.assert_allclose(class_weights("balanced", labels, network), [4 / 9, 4 / 3, 4 / 3])
    np.testing.assert_allclose(class_weights({1: 5.0}, labels, network), [1, 5, 1])
    with pytest.raises(InvalidInputError, match="names class 3, the classes are 0, 1, 2"):
        class_weights({3: 1.0}, labels, network)


def test_class_weights_multiply_sample_weights():
    by_class, by_row = mlp(), mlp()
    own = np.random.default_rng(0).random(50)
    trainer = Trainer(epochs=2, batch_size=8, class_weight={0: 3.0, 2: 0.5})
    trainer.fit(by_class, TASK.x, TASK.y, sample_weight=own)
    rows = own * np.array([3.0, 1.0, 0.5])[TASK.y]
    Trainer(epochs=2, batch_size=8).fit(by_row, TASK.x, TASK.y, sample_weight=rows)
    assert_same_weights(by_class, by_row)
    with pytest.raises(InvalidInputError, match="sample_weight has shape"):
        trainer.fit(mlp(), TASK.x, TASK.y, sample_weight=own[:3])
    values = MLP([6, 3], output="identity", backend="numpy")
    with pytest.raises(InvalidInputError, match="one class per row"):
        fitted(values, y=np.eye(3)[TASK.y], class_weight="balanced")


def test_on_train_end_runs_for_every_callback():
    class Bad(Callback):
        def on_train_end(self, run):
            raise RuntimeError("at the end")

    before, after = Recorder(), Recorder()
    with pytest.raises(RuntimeError, match="at the end"):
        fitted(epochs=1, callbacks=(before, Bad(), after))
    assert before.calls[-1] == after.calls[-1] == ("end", 1)


def test_huge_losses_are_printed_short():
    lines = []
    record = EpochRecord(1, 1, 0.1, 1e40, None, None, None, 1.0, 1.0)
    run = SimpleNamespace(epochs=20)
    EpochPrinter(lines.append).on_epoch_end(run, record)
    assert lines == ["epoch 1/20  loss 1.0000e+40  1 samples/s"]


def test_the_package_s_own_callbacks(tmp_path, capsys):
    writer = HistoryWriter(tmp_path, every_seconds=0.0)
    history = fitted(validation=0.2, callbacks=(EpochPrinter(), writer)).history
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"epoch 2/2  loss {history.last.train_loss:.4f}  accuracy ")
    assert "validation accuracy" in lines[1]
    assert (tmp_path / "history.csv").read_text() == history.to_csv()
    assert (tmp_path / "history.jsonl").read_text() == history.to_jsonl()

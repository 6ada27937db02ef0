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

from fusedmlp import MLP, SGD, Adam, Callback, EarlyStopping, HistoryWriter, Objective, Trainer
from fusedmlp.backend import EngineSpec
from fusedmlp.errors import DivergedError, InvalidInputError, StorageError
from fusedmlp.registry import backend_class
from fusedmlp.tolerance import check_close, trajectory_bound
from fusedmlp.training.callbacks import EpochPrinter
from fusedmlp.training.checkpoint import load_checkpoint
from fusedmlp.training.history import EpochRecord
from fusedmlp.training.row_weights import class_weights
from fusedmlp.training.schedules import SCHEDULES, Cosine, make_schedule
from problems import flat, problem

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
    """Do something after an epoch."""

    def __init__(self, epoch, action):
        self.epoch, self.action = epoch, action

    def on_epoch_end(self, run, record):
        if record.epoch == self.epoch:
            self.action(run)


def test_an_epoch_sees_every_row_once(numpy_backend):
    """A hand-written loop over the documented order gives the same weights."""
    from fusedmlp.backend import State
    from fusedmlp.seeding import Stream, generator

    model = mlp()
    recorder = Recorder()
    start = model.parameters
    history = Trainer(SGD(0.2), epochs=3, batch_size=16, callbacks=(recorder,)).fit(
        model, TASK.x, TASK.y
    )
    built = numpy_backend.compile(
        EngineSpec(model.network, SGD(0.2), Objective(), batch_size=16, dtype="float64", seed=11)
    )
    built.load(State(start, (), 0))
    data = built.stage(TASK.x, TASK.y)
    for epoch in range(3):
        order = generator(11, Stream.SHUFFLE, epoch).permutation(50)
        assert sorted(order) == list(range(50))
        sums = built.train_epoch(data, order, np.full(4, 0.2))
        assert sums.loss == history.records[epoch].train_loss
        assert sums.accuracy == history.records[epoch].train_accuracy
    np.testing.assert_array_equal(flat(model.parameters), flat(built.parameters()))
    assert history.column("step") == [4, 8, 12]
    assert recorder.calls[0] == ("begin", 4)
    assert recorder.calls[-1] == ("end", 3)
    assert [c for c in recorder.calls if c[0] == "epoch"] == [("epoch", e) for e in (1, 2, 3)]
    assert ("rows", 50) in recorder.calls
    assert model.history is history


def test_training_learns_on_every_backend(backend):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = np.argmax(x[:, :3], axis=1)
    model = MLP([6, 16, 3], "tanh", backend=backend)
    history = Trainer(Adam(0.02), epochs=20, batch_size=32, validation=0.2).fit(model, x, y)
    assert history.last.validation_accuracy > 0.9
    assert history.last.train_loss < history.records[0].train_loss / 2


def test_without_shuffling_the_order_is_the_rows(numpy_backend):
    first, second = mlp(), mlp(seed=12)
    second.parameters = first.parameters
    for model in (first, second):
        Trainer(epochs=2, batch_size=16, shuffle=False).fit(model, TASK.x, TASK.y)
    np.testing.assert_array_equal(flat(first.parameters), flat(second.parameters))


def test_validation_rows_are_held_out():
    """Values of the held-out rows do not change the weights."""
    model = mlp()
    history = Trainer(epochs=2, batch_size=8, validation=0.2).fit(model, TASK.x, TASK.y)
    assert history.last.validation_loss is not None
    from fusedmlp.seeding import Stream, generator

    held_out = np.sort(generator(11, Stream.VALIDATION_SPLIT).permutation(50)[:10])
    x = TASK.x.copy()
    x[held_out] = 1e6
    other = mlp()
    other_history = Trainer(epochs=2, batch_size=8, validation=0.2).fit(other, x, TASK.y)
    np.testing.assert_array_equal(flat(model.parameters), flat(other.parameters))
    assert other_history.last.validation_loss != history.last.validation_loss
    expected = model.evaluate(TASK.x[held_out], TASK.y[held_out])
    assert expected.loss == pytest.approx(history.last.validation_loss)
    assert expected.accuracy == pytest.approx(history.last.validation_accuracy)


def test_validation_data_may_be_given():
    model = mlp()
    history = Trainer(epochs=1, batch_size=8).fit(
        model, TASK.x, TASK.y, validation_data=(TASK.x[:9], TASK.y[:9])
    )
    assert history.last.validation_loss == pytest.approx(
        model.evaluate(TASK.x[:9], TASK.y[:9]).loss
    )
    with pytest.raises(InvalidInputError, match="choose one"):
        Trainer(validation=0.1).fit(mlp(), TASK.x, TASK.y, validation_data=(TASK.x, TASK.y))


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_early_stopping_restores_the_best_weights(monitor):
    model = mlp()
    seen = {}

    class Keep(Callback):
        def on_epoch_end(self, run, record):
            seen[record.epoch] = flat(run.engine.parameters())

    stopping = EarlyStopping(monitor, patience=3)
    history = Trainer(
        SGD(8.0), epochs=200, batch_size=8, validation=0.3, early_stopping=stopping,
        callbacks=(Keep(),),
    ).fit(model, TASK.x, TASK.y)  # fmt: skip
    values = np.array(history.column(f"validation_{monitor}"), float)
    best = int((values if monitor == "loss" else -values).argmin()) + 1
    assert len(history) < 200
    assert len(history) == best + 3
    assert history.best_epoch == best
    assert history.stopped == f"early stopping: no improvement since epoch {best}"
    np.testing.assert_array_equal(flat(model.parameters), seen[best])
    assert not np.array_equal(seen[best], seen[len(history)])


def test_early_stopping_may_keep_the_last_weights():
    model = mlp()
    stopping = EarlyStopping(patience=3, restore_best=False)
    last = []
    keep = At(999, lambda run: None)
    keep.on_epoch_end = lambda run, record: last.append(flat(run.engine.parameters()))
    history = Trainer(
        SGD(8.0), epochs=200, batch_size=8, validation=0.3, early_stopping=stopping,
        callbacks=(keep,),
    ).fit(model, TASK.x, TASK.y)  # fmt: skip
    assert history.best_epoch is None
    np.testing.assert_array_equal(flat(model.parameters), last[-1])


def test_early_stopping_on_accuracy_needs_classes():
    task = problem((4, 2), output="identity", rows=20)
    model = MLP([4, 2], output="identity", backend="numpy")
    trainer = Trainer(SGD(0.01), batch_size=8, early_stopping=EarlyStopping("accuracy"))
    with pytest.raises(InvalidInputError, match="monitor 'loss'"):
        trainer.fit(model, task.x, task.y)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9), Adam(0.01)])
def test_resuming_changes_no_bit(tmp_path, backend, optimizer, schedule):
    """Stop after 3 of 6 epochs and continue from the file: the weights are those of one run."""

    def trainer(path, *callbacks):
        return Trainer(
            optimizer,
            make_schedule(schedule),
            epochs=6,
            batch_size=16,
            validation=0.2,
            early_stopping=EarlyStopping(patience=100),
            checkpoint=path,
            callbacks=callbacks,
        )

    path = tmp_path / "checkpoint"
    whole = MLP([6, 8, 3], dropout=0.2, backend=backend, seed=3)
    history = trainer(None).fit(whole, TASK.x, TASK.y)
    stopped = MLP([6, 8, 3], dropout=0.2, backend=backend, seed=3)
    trainer(path, At(3, lambda run: run.stop("lunch"))).fit(stopped, TASK.x, TASK.y)
    assert stopped.history.stopped == "lunch"
    assert len(stopped.history) == 3
    resumed = MLP([6, 8, 3], dropout=0.2, backend=backend, seed=3)
    resumed_history = trainer(path).fit(resumed, TASK.x, TASK.y, resume=path)
    np.testing.assert_array_equal(flat(resumed.parameters), flat(whole.parameters))
    for name in ("epoch", "step", "lr", "train_loss", "validation_loss", "train_accuracy"):
        assert resumed_history.column(name) == history.column(name)
    assert resumed_history.best_epoch == history.best_epoch
    again = MLP([6, 8, 3], dropout=0.2, backend=backend, seed=3)
    trainer(path).fit(again, TASK.x, TASK.y, resume=path)
    np.testing.assert_array_equal(flat(again.parameters), flat(whole.parameters))


def test_resuming_on_another_backend(tmp_path, compiled_backend):
    path = tmp_path / "checkpoint"
    settings = {"optimizer": Adam(0.01), "batch_size": 16, "epochs": 6}
    reference = backend_class("numpy")(strict=compiled_backend.strict)
    whole = MLP([6, 8, 3], dropout=0.2, backend=reference)
    Trainer(**settings).fit(whole, TASK.x, TASK.y)
    stop = At(3, lambda run: run.stop("moving"))
    first = MLP([6, 8, 3], dropout=0.2, backend=compiled_backend)
    Trainer(**settings, checkpoint=path, callbacks=(stop,)).fit(first, TASK.x, TASK.y)
    moved = MLP([6, 8, 3], dropout=0.2, backend=reference)
    Trainer(**settings).fit(moved, TASK.x, TASK.y, resume=path)
    bound = trajectory_bound("float32")
    check_close("parameters", flat(moved.parameters), flat(whole.parameters), bound)


def test_resuming_with_other_settings_or_data_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    Trainer(epochs=2, batch_size=16, checkpoint=path).fit(mlp(), TASK.x, TASK.y)
    cases = [
        (Trainer(batch_size=8), mlp(), TASK.x, "batch_size 16, now it is 8"),
        (Trainer(SGD(0.2), batch_size=16), mlp(), TASK.x, "optimizer SGD"),
        (Trainer(batch_size=16, schedule=Cosine()), mlp(), TASK.x, "schedule Constant"),
        (Trainer(batch_size=16), mlp(seed=1), TASK.x, "seed 11, now it is 1"),
        (Trainer(batch_size=16), mlp(dtype="float32"), TASK.x, "dtype float64"),
        (Trainer(batch_size=16), mlp(), TASK.x * 2, "made with data 50 rows"),
        (Trainer(batch_size=16), mlp(hidden="tanh"), TASK.x, "sigmoid hidden.*tanh hidden"),
    ]
    for trainer, model, x, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            trainer.fit(model, x, TASK.y, resume=path)


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
    whole = MLP([6, 8, 3], dropout=0.2, backend="numpy", seed=3)
    Trainer(Adam(0.01), epochs=400, batch_size=16).fit(whole, TASK.x, TASK.y)
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
    np.testing.assert_array_equal(flat(resumed.parameters), flat(whole.parameters))


def test_ctrl_c_keeps_the_last_finished_epoch(tmp_path):
    path = tmp_path / "checkpoint"

    class InterruptMidEpoch(Callback):
        def on_progress(self, run, rows):
            if len(run.history) == 2:
                raise KeyboardInterrupt

    kept = []
    keep = At(2, lambda run: kept.append(flat(run.engine.parameters())))
    model, recorder = mlp(), Recorder()
    trainer = Trainer(
        epochs=9, batch_size=8, checkpoint=path, callbacks=(keep, InterruptMidEpoch(), recorder)
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(model, TASK.x, TASK.y)
    np.testing.assert_array_equal(flat(model.parameters), kept[0])
    assert len(model.history) == 2
    assert model.history.stopped == "interrupted"
    assert recorder.calls[-1] == ("end", 2)
    assert len(load_checkpoint(path).history) == 2


def test_a_diverging_loss_names_epoch_step_and_advice():
    model = MLP([6, 8, 3], "relu", backend="numpy", seed=1)
    kept = model.parameters.copy()
    with pytest.raises(DivergedError, match=r"in epoch 1, step \d+ .*lower the learning rate"):
        Trainer(SGD(1e30), epochs=5, batch_size=8).fit(model, TASK.x * 1e4, TASK.y)
    np.testing.assert_array_equal(flat(model.parameters), flat(kept))
    assert "infinite" in model.history.stopped


def test_weights_that_overflow_in_the_last_step_are_not_kept():
    """The last batch's loss is finite, its update is not."""
    model = MLP([1, 1], output="identity", backend="numpy", seed=1)
    trainer = Trainer(SGD(1e38), epochs=1, batch_size=1)
    with pytest.raises(DivergedError, match="weights became NaN or infinite in epoch 1, step 1"):
        trainer.fit(model, np.array([[1e3]]), np.array([1e3]))
    assert np.isfinite(flat(model.parameters)).all()


def test_a_failing_callback_leaves_a_usable_model():
    def fail(run):
        raise RuntimeError("mine")

    model = mlp()
    with pytest.raises(RuntimeError, match="mine"):
        Trainer(epochs=5, batch_size=8, callbacks=(At(2, fail),)).fit(model, TASK.x, TASK.y)
    assert len(model.history) == 2
    model.predict(TASK.x)


def test_checkpoints_are_written_at_the_end_and_when_time_has_passed(tmp_path):
    path = tmp_path / "checkpoint"
    seen = []
    look = At(2, lambda run: seen.append(path.exists()))
    for seconds in (1000.0, 0.0):
        Trainer(epochs=3, batch_size=8, checkpoint=path, checkpoint_seconds=seconds,
                callbacks=(look,)).fit(mlp(), TASK.x, TASK.y)  # fmt: skip
        assert len(load_checkpoint(path).history) == 3
        path.unlink()
    assert seen == [False, True]


def test_an_unwritable_checkpoint_fails_before_training(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    recorder = Recorder()
    trainer = Trainer(checkpoint=tmp_path / "file" / "checkpoint", callbacks=(recorder,))
    with pytest.raises(StorageError, match="cannot write to"):
        trainer.fit(mlp(), TASK.x, TASK.y)
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
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InvalidInputError, match=message):
        Trainer(**settings).fit(mlp(), TASK.x, TASK.y)


def test_wrong_early_stopping_is_refused():
    for wrong in ({"monitor": "f1"}, {"patience": 0}, {"min_delta": -1.0}):
        with pytest.raises(InvalidInputError):
            EarlyStopping(**wrong)


def test_training_needs_targets():
    with pytest.raises(InvalidInputError, match="y is None"):
        Trainer(batch_size=8).fit(mlp(), TASK.x, None)


def test_rows_per_epoch_limits_an_epoch():
    history = Trainer(epochs=2, batch_size=8, rows_per_epoch=20).fit(mlp(), TASK.x, TASK.y)
    assert history.column("step") == [3, 6]


def test_class_weights():
    network = TASK.network
    labels = np.array([0, 0, 0, 1])
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
    np.testing.assert_array_equal(flat(by_class.parameters), flat(by_row.parameters))
    with pytest.raises(InvalidInputError, match="one class per row"):
        Trainer(batch_size=8, class_weight="balanced").fit(
            MLP([6, 3], output="identity", backend="numpy"), TASK.x, np.eye(3)[TASK.y]
        )
    with pytest.raises(InvalidInputError, match="sample_weight has shape"):
        trainer.fit(mlp(), TASK.x, TASK.y, sample_weight=own[:3])


def test_on_train_end_runs_for_every_callback():
    class Bad(Callback):
        def on_train_end(self, run):
            raise RuntimeError("at the end")

    before, after = Recorder(), Recorder()
    with pytest.raises(RuntimeError, match="at the end"):
        Trainer(epochs=1, batch_size=8, callbacks=(before, Bad(), after)).fit(mlp(), TASK.x, TASK.y)
    assert before.calls[-1] == after.calls[-1] == ("end", 1)


def test_huge_losses_are_printed_short():
    lines = []
    record = EpochRecord(1, 1, 0.1, 1e40, None, None, None, 1.0, 1.0)
    run = SimpleNamespace(epochs=20)
    EpochPrinter(lines.append).on_epoch_end(run, record)
    assert lines == ["epoch 1/20  loss 1.0000e+40  1 samples/s"]


def test_the_package_s_own_callbacks(tmp_path, capsys):
    writer = HistoryWriter(tmp_path, every_seconds=0.0)
    history = Trainer(
        epochs=2, batch_size=8, validation=0.2, callbacks=(EpochPrinter(), writer)
    ).fit(mlp(), TASK.x, TASK.y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"epoch 2/2  loss {history.last.train_loss:.4f}  accuracy ")
    assert "validation accuracy" in lines[1]
    assert (tmp_path / "history.csv").read_text() == history.to_csv()
    assert (tmp_path / "history.jsonl").read_text() == history.to_jsonl()

"""Settings of the trainer: names, functions, single objects and NumPy's numbers; wrong ones."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fusedmlp import (
    MLP,
    SGD,
    Adam,
    Callback,
    EarlyStopping,
    HistoryWriter,
    Lion,
    Network,
    Objective,
    Trainer,
)
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.optimizers import OPTIMIZER_NAMES, make_optimizer
from fusedmlp.training.schedules import SCHEDULES, Adaptive, Cosine, OneCycle, Step, make_schedule
from problems import flat

RNG = np.random.default_rng(1)
X = RNG.normal(size=(40, 3))
Y = np.argmax(X, axis=1)


def fitted(*settings, **more):
    mlp = MLP([3, 4, 3], backend="numpy", seed=1)
    return mlp, Trainer(*settings, **{"epochs": 3, "batch_size": 8} | more).fit(mlp, X, Y)


def refused(message, kind=InvalidInputError):
    return pytest.raises(kind, match=message)


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_an_optimizer_may_be_named(name):
    assert Trainer(name).optimizer == make_optimizer(name)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_may_be_named(name):
    assert Trainer("adam", name).schedule == make_schedule(name)


def test_names_train_as_their_objects():
    by_name, by_object = fitted("adam", "cosine"), fitted(Adam(), Cosine())
    np.testing.assert_array_equal(flat(by_name[0].parameters), flat(by_object[0].parameters))


def decay(epoch, start=0.2):
    return start * 0.5**epoch


class Decay:
    def __call__(self, epoch):
        return decay(epoch)


@pytest.mark.parametrize("function", [decay, Decay(), partial(decay, start=0.2), Decay().__call__])
def test_a_function_of_the_epoch_is_a_schedule(function):
    _, history = fitted("sgd", function)
    assert history.column("lr") == [0.2, 0.1, 0.05]
    by_function, by_object = fitted("sgd", decay), fitted(SGD(0.2), Step(1, 0.5))
    np.testing.assert_array_equal(flat(by_function[0].parameters), flat(by_object[0].parameters))


def test_a_function_s_rates_may_be_numpy_s_and_must_be_rates():
    _, history = fitted("sgd", lambda epoch: np.float32(0.5))
    assert history.column("lr") == [0.5] * 3
    for wrong, message in (
        (-1.0, "learning rate -1.0 for epoch 0: rates are finite and at least 0"),
        (np.nan, "learning rate nan for epoch 0"),
        ("fast", "returned 'fast' is not a number"),
        (None, "returned None is not a number"),
    ):
        with refused(message):
            fitted("sgd", lambda epoch, wrong=wrong: wrong)


def test_a_training_with_a_function_can_be_resumed(tmp_path):
    whole, _ = fitted("sgd", decay)
    path = tmp_path / "checkpoint"
    fitted("sgd", decay, epochs=2, checkpoint=path)
    resumed = MLP([3, 4, 3], backend="numpy", seed=1)
    trainer = Trainer("sgd", decay, epochs=3, batch_size=8)
    trainer.fit(resumed, X, Y, resume=str(path))
    np.testing.assert_array_equal(flat(resumed.parameters), flat(whole.parameters))
    with refused("schedule EpochFunction"):
        Trainer("sgd", Decay(), batch_size=8).fit(resumed, X, Y, resume=path)


class Count(Callback):
    def __init__(self):
        self.epochs = []

    def on_epoch_end(self, run, record):
        self.epochs.append(record.epoch)


def test_callbacks_may_be_one_or_several_objects_or_functions():
    seen = []

    def after(run, record):
        seen.append((record.epoch, run.history.last is record, run.epochs))

    for several in (after, [after], (after,), {after}, iter([after])):
        seen.clear()
        fitted(callbacks=several)
        assert seen == [(1, True, 3), (2, True, 3), (3, True, 3)]
    count = Count()
    fitted(callbacks=count)
    fitted(callbacks=[count, after])
    assert count.epochs == [1, 2, 3] * 2
    assert Trainer(callbacks=None).callbacks == ()
    _, history = fitted(callbacks=lambda run, record: run.stop("enough"))
    assert (len(history), history.stopped) == (1, "enough")


def test_paths_may_be_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, _ = fitted(epochs=4)
    fitted(checkpoint="checkpoint", callbacks=HistoryWriter("history"))
    assert (tmp_path / "history" / "history.csv").exists()
    resumed = MLP([3, 4, 3], backend="numpy", seed=1)
    Trainer(epochs=4, batch_size=8).fit(resumed, X, Y, resume="checkpoint")
    np.testing.assert_array_equal(flat(resumed.parameters), flat(whole.parameters))
    assert Trainer(checkpoint="a/b").checkpoint == Path("a/b")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (True, EarlyStopping()),
        (np.True_, EarlyStopping()),
        (False, None),
        (None, None),
        (3, EarlyStopping(patience=3)),
        (np.int64(3), EarlyStopping(patience=3)),
        (EarlyStopping("accuracy"), EarlyStopping("accuracy")),
    ],
)
def test_early_stopping_may_be_a_flag_or_a_patience(given, expected):
    assert Trainer(early_stopping=given).early_stopping == expected


def test_numpy_numbers_become_python_s():
    """Checkpoints compare settings as text, and files hold JSON."""
    ours = Trainer(
        SGD(np.float64(0.25), np.float32(0.5)),
        Step(np.int64(2), np.float64(0.5)),
        np.int64(3),
        np.uint8(8),
        Objective("mean", np.float64(0.5)),
        np.True_,
        np.float64(0.25),
        EarlyStopping(patience=np.int32(4), min_delta=np.float32(0.5)),
        rows_per_epoch=np.array(30),
        checkpoint_seconds=np.float64(2.0),
    )
    theirs = Trainer(
        SGD(0.25, 0.5),
        Step(2, 0.5),
        3,
        8,
        Objective("mean", 0.5),
        True,
        0.25,
        EarlyStopping(patience=4, min_delta=0.5),
        rows_per_epoch=30,
        checkpoint_seconds=2.0,
    )
    assert repr(ours) == repr(theirs)
    assert "np." not in repr(Adam(*map(np.float64, (0.1, 0.5, 0.5, 1e-8, 0.1))))
    assert "np." not in repr(Lion(np.float64(0.1), weight_decay=np.float64(0.1)))
    assert "np." not in repr([OneCycle(np.float64(0.5)), Adaptive(np.float64(0.5), np.int8(2))])
    assert "np." not in repr(Network((2, 2), dropout=np.float64(0.5)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": Adam}, "optimizer <class .*Adam'> is not one of fusedmlp: give SGD()"),
        ({"optimizer": None}, "optimizer None .* a name of sgd, momentum, nesterov, adam"),
        ({"schedule": Cosine}, "schedule is the class Cosine: give an object of it"),
        ({"schedule": 0.1}, "schedule 0.1 is no schedule: .* the number of an epoch"),
        ({"schedule": lambda: 0.1}, r"<lambda>\(\) is called with 1 argument, the number of an"),
        ({"callbacks": HistoryWriter}, "callbacks has <class .*: give objects of subclasses"),
        ({"callbacks": [3]}, "callbacks has 3: give objects"),
        ({"callbacks": 3}, "callbacks has 3: give objects"),
        ({"callbacks": lambda run: None}, r"<lambda>\(run\) is called with 2 arguments, the train"),
        ({"objective": "sum"}, "objective 'sum' is no fusedmlp.Objective"),
        ({"checkpoint": 3}, "checkpoint 3 is no path of a file"),
        ({"checkpoint_seconds": "1"}, "checkpoint_seconds '1' is not a number"),
        ({"early_stopping": "loss"}, "early_stopping 'loss' is no EarlyStopping"),
        ({"early_stopping": 0}, "patience 0 is not a whole number of at least 1"),
        ({"early_stopping": 2.0}, "early_stopping 2.0"),
        ({"epochs": True}, "epochs True is not a whole number"),
        ({"epochs": "3"}, "epochs '3' is not a whole number"),
        ({"batch_size": np.float64(8)}, r"batch_size .*8.0\)? is not a whole number"),
        ({"validation": "x"}, "validation 'x' is not a number"),
        ({"validation": np.nan}, "validation nan is not a share"),
        ({"shuffle": "no"}, "shuffle 'no' is neither True nor False"),
        ({"class_weight": "even"}, "class_weight 'even' is neither 'balanced' nor a mapping"),
        ({"class_weight": [1, 2]}, "neither 'balanced' nor a mapping"),
        ({"class_weight": {0: "a"}}, "class_weight of 0 'a' is not a number"),
        ({"class_weight": {0: -1.0}}, "class_weight of 0 is -1.0: weights are finite"),
    ],
)
def test_wrong_settings_are_refused_at_construction(settings, message):
    with refused(message):
        Trainer(**settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD("0.1"),
        lambda: Adam(lr=None),
        lambda: Lion(True),
        lambda: Step("2"),
        lambda: Step(2.5),
        lambda: Adaptive(patience=0),
        lambda: Network((2, 2), dropout="0.1"),
        lambda: Objective(l2=None),
        lambda: EarlyStopping(restore_best="no"),
    ],
)
def test_settings_of_a_wrong_type_are_refused(make):
    with refused("is not a number|is not a whole number|is neither True nor False"):
        make()


def test_unknown_names_list_the_known_ones():
    with refused("unknown optimizer 'adm': choose one of sgd, momentum", UnknownNameError):
        Trainer("adm")
    with refused("unknown schedule 'cos': choose one of constant, step", UnknownNameError):
        Trainer("adam", "cos")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, m: t.fit(X, Y, Y), "the first argument of fit is a ndarray, expected a fus"),
        (lambda t, m: t.fit(m, X, Y, resume=3), "resume 3 is no path of a file"),
        (lambda t, m: t.fit(m, X, Y, validation_data=X), "validation_data is a ndarray: give"),
        (lambda t, m: t.fit(m, X, Y, validation_data=(X,)), r"give \(x, y\) or \(x, y, sample"),
    ],
)
def test_wrong_arguments_of_fit_are_refused(call, message):
    with refused(message):
        call(Trainer(batch_size=8), MLP([3, 3], backend="numpy"))


def test_validation_data_may_have_weights():
    weights = RNG.random(40)
    mlp = MLP([3, 4, 3], backend="numpy", seed=1)
    trainer = Trainer(epochs=1, batch_size=8)
    history = trainer.fit(mlp, X, Y, validation_data=[X, Y, weights])
    assert history.last.validation_loss == mlp.evaluate(X, Y, weights).loss


def test_a_trainer_is_shown_by_what_differs_from_the_defaults():
    assert repr(Trainer()) == "Trainer()"
    shown = repr(Trainer("sgd", "cosine", epochs=5, validation=0.1))
    assert shown == "Trainer(schedule=Cosine(), epochs=5, validation=0.1)"
    assert "AfterEpoch(builtins.print)" in repr(Trainer(callbacks=print))


def test_trainers_are_values():
    trainer = Trainer("adam", "cosine", epochs=5)
    assert trainer == Trainer(Adam(), Cosine(), epochs=5)
    assert hash(trainer) == hash(Trainer(Adam(), Cosine(), epochs=5))
    assert dataclasses.replace(trainer, epochs=6) == Trainer(Adam(), Cosine(), epochs=6)
    for same in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        assert same == trainer
    with pytest.raises(dataclasses.FrozenInstanceError):
        trainer.epochs = 3

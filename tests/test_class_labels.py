"""Class labels of any kind: learned, trained on as class indices, predicted, stored."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest

from fusedmlp import MLP, SGD, Callback, Trainer
from fusedmlp.errors import FileFormatError, InvalidInputError
from fusedmlp.io.model_files import load_model
from fusedmlp.io.parameter_files import write_arrays
from problems import flat
from stored import parts

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 4))
INDICES = np.argmax(X[:, :3], axis=1)
TRAINER = Trainer(SGD(0.2), epochs=2, batch_size=16)

NAMES = ("ant", "bee", "cat")
FORMS = {
    "text": (NAMES, lambda y: np.array(NAMES)[y]),
    "text objects": (NAMES, lambda y: np.array(NAMES, object)[y]),
    "text list": (NAMES, lambda y: [NAMES[k] for k in y]),
    "text series": (NAMES, lambda y: pd.Series(np.array(NAMES)[y])),
    "text frame": (NAMES, lambda y: pd.DataFrame({"species": np.array(NAMES)[y]})),
    "categorical": (NAMES, lambda y: pd.Series(np.array(NAMES)[y], dtype="category")),
    "from 1": ((1, 2, 3), lambda y: y + 1),
    "column": ((1, 2, 3), lambda y: (y + 1).reshape(-1, 1)),
    "negative": ((-1, 0, 1), lambda y: y - 1),
    "int8": ((10, 20, 30), lambda y: (10 * (y + 1)).astype(np.int8)),
    "nullable": ((1, 2, 3), lambda y: pd.Series(y + 1, dtype="Int64")),
    "floats": ((1.0, 2.0, 3.0), lambda y: y + 1.0),
    "number objects": ((1, 2, 3), lambda y: (y + 1).astype(object)),
}


def model(backend="numpy", sizes=(4, 5, 3), output="softmax"):
    return MLP(sizes, "tanh", output, backend=backend, seed=3)


def trained(y, **options):
    mlp = model(**options)
    TRAINER.fit(mlp, X, y)
    return mlp


def refused(message):
    return pytest.raises(InvalidInputError, match=message)


@pytest.mark.parametrize("form", FORMS)
def test_labels_train_as_their_indices_and_are_predicted(backend, form):
    labels, write = FORMS[form]
    by_index, by_label = trained(INDICES, backend=backend), model(backend)
    y = write(INDICES)
    history = TRAINER.fit(by_label, X, y, validation_data=(X, y))
    np.testing.assert_array_equal(flat(by_label.parameters), flat(by_index.parameters))
    assert (by_label.labels, by_label.class_names) == (labels, tuple(map(str, labels)))
    assert [type(label) for label in by_label.labels] == [type(label) for label in labels]
    predicted, expected = by_label.predict(X), np.array(labels)[by_index.predict(X)]
    np.testing.assert_array_equal(predicted, expected)
    assert predicted.dtype == expected.dtype
    assert by_label.evaluate(X, y) == by_index.evaluate(X, INDICES)
    assert history.last.validation_accuracy == np.mean(predicted == np.ravel(y))


@pytest.mark.parametrize("form", [np.int64, np.int8, np.float64, object])
@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_class_indices_stay_indices(form, shape):
    mlp = trained(INDICES.astype(form).reshape(shape))
    np.testing.assert_array_equal(flat(mlp.parameters), flat(trained(INDICES).parameters))
    assert (mlp.labels, mlp.class_names) == (None, None)
    assert mlp.predict(X).dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "y"),
    [
        (("no", "yes"), np.where(INDICES == 0, "yes", "no")),
        ((-1, 1), np.where(INDICES == 0, 1, -1)),
        ((False, True), INDICES == 0),
        ((1.0, 2.0), np.where(INDICES == 0, 2.0, 1.0)),
    ],
)
@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_two_labels_need_one_sigmoid_output_or_two_of_softmax(backend, labels, y, output):
    sizes = (4, 5, 1 if output == "sigmoid" else 2)
    by_index = trained((INDICES == 0).astype(int), backend=backend, sizes=sizes, output=output)
    by_label = trained(y, backend=backend, sizes=sizes, output=output)
    assert by_label.labels == labels
    assert all(type(a) is type(b) for a, b in zip(by_label.labels, labels, strict=True))
    np.testing.assert_array_equal(flat(by_label.parameters), flat(by_index.parameters))
    np.testing.assert_array_equal(by_label.predict(X), np.array(labels)[by_index.predict(X)])
    assert by_label.evaluate(X, y) == by_index.evaluate(X, (INDICES == 0).astype(int))


def test_zeros_and_ones_of_a_sigmoid_output_stay_numbers():
    assert trained((INDICES == 0) * 1.0, sizes=(4, 1), output="sigmoid").labels is None


def test_one_boolean_stands_for_both():
    assert trained(np.ones(60, bool), sizes=(4, 2)).labels == (False, True)


def text(changes=(), base=NAMES):
    y = np.array(base, object)[INDICES]
    for row, value in dict(changes).items():
        y[row] = value
    return y


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (text({7: "dog"}), "4 distinct labels .'ant', 'bee', 'cat', 'dog'.* tells 3 classes apart"),
        (np.where(INDICES == 2, "ant", "bee"), "y has 2 distinct labels"),
        (np.arange(60), r"60 distinct labels \(0, 1, .*9, … 60 in all\).* index from 0 to 2"),
        (text({7: None}), r"y\[7\] is None: .* drop or fill such rows"),
        (text({7: np.nan}), r"y\[7\] is nan"),
        (text({7: pd.NA}), r"y\[7\] is <NA>"),
        (text({7: 3}), r"y\[7\] is 3, and y\[0\] is text: give labels of one kind"),
        (pd.Series(INDICES + 1).where(INDICES < 2), "is NaN or infinite"),
        (INDICES + 0.5, r"y\[0\] is .*\.5: class indices are integers"),
        (np.array(NAMES)[INDICES].astype("S"), r"y\[0\] is b'.*decode class labels to text"),
        (np.array(INDICES, "M8[D]"), r"y\[0\] is the date or time"),
        (np.eye(3)[INDICES], "one-hot rows"),
        (text()[:50], r"y has shape \(50,\), but x has 60 rows"),
    ],
)
def test_labels_that_do_not_fit_leave_the_model_untouched(y, message):
    mlp = model()
    before = flat(mlp.parameters)
    with refused(message):
        TRAINER.fit(mlp, X, y)
    assert (mlp.labels, mlp.class_names, mlp.history) == (None, None, None)
    np.testing.assert_array_equal(flat(mlp.parameters), before)


@pytest.mark.parametrize("output", ["identity", "exp", "sigmoid"])
def test_text_needs_an_output_of_classes(output):
    with refused(r"y\[0\] is '.*': text is no number"):
        TRAINER.fit(model(output=output), X, text())


def test_a_trained_model_takes_its_own_labels_alone():
    mlp = trained(text())
    unknown = r"\[3\] is 'dog', which is not one of the labels 'ant', 'bee', 'cat'"
    for call in (
        lambda y: mlp.evaluate(X, y),
        lambda y: TRAINER.fit(mlp, X, y),
        lambda y: TRAINER.fit(mlp, X, text(), validation_data=(X, y)),
        lambda y: TRAINER.fit(model(), X, text(), validation_data=(X, y)),
    ):
        with refused(unknown):
            call(text({3: "dog"}))
    with refused(r"y\[0\] is \d, which is not one of the labels"):
        mlp.evaluate(X, INDICES)
    TRAINER.fit(mlp, X, np.where(INDICES == 0, "ant", "cat"))  # some of the labels
    assert mlp.labels == NAMES
    assert mlp.evaluate(X[:1], text()[:1]).accuracy in (0.0, 1.0)


def test_labels_may_be_named_before_a_training_that_lacks_some():
    mlp = model()
    mlp.labels = np.array(NAMES)
    TRAINER.fit(mlp, X, np.where(INDICES == 0, "cat", "bee"))
    assert mlp.labels == mlp.class_names == NAMES
    assert set(mlp.predict(X)) <= set(NAMES)
    mlp.labels = None
    assert mlp.predict(X).dtype == np.int64
    assert mlp.class_names == NAMES


def test_text_is_looked_up_among_the_class_names_of_a_model_without_labels():
    mlp = model()
    mlp.class_names = ("cat", "bee", "ant")
    expected = mlp.evaluate(X, 2 - INDICES)
    assert mlp.evaluate(X, text()) == expected
    assert mlp.labels is None
    TRAINER.fit(mlp, X, text())
    assert mlp.labels == mlp.class_names == ("cat", "bee", "ant")
    with refused("the model has no labels: give class indices from 0 to 2"):
        model().evaluate(X, text())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "not one distinct label for each class of 4-5-3"),
        (["a", "a", "b"], "not one distinct label"),
        ([1, True, 2], "not all str, all int, float or bool"),
        ([1, "a", 2], "not all str"),
        ([None, 1, 2], "not all str"),
        ([1.0, np.inf, 2.0], "not all finite"),
        ("abc", "'abc' are not a sequence"),
        (5, "5 are not a sequence"),
    ],
)
def test_wrong_labels_cannot_be_assigned(labels, message):
    with refused(message):
        model().labels = labels


@pytest.mark.parametrize("labels", [NAMES, (1, 2, 3), (2**60, -1, 7), (0.5, 1.0, 3.0)])
def test_labels_are_kept_in_files_copies_and_pickles(labels, tmp_path):
    mlp = model()
    mlp.labels = labels
    mlp.save(tmp_path / "model")
    others = [MLP.load(tmp_path / "model", backend="numpy")]
    others += [copy.deepcopy(mlp), copy.copy(mlp), pickle.loads(pickle.dumps(mlp))]
    for other in others:
        assert other.labels == labels
        assert list(map(type, other.labels)) == list(map(type, labels))
        assert other.class_names == tuple(map(str, labels))
        np.testing.assert_array_equal(other.predict(X), mlp.predict(X))
    binary = model(sizes=(4, 1), output="sigmoid")
    binary.labels = (False, True)
    binary.save(tmp_path / "binary")
    assert [label is True for label in MLP.load(tmp_path / "binary").labels] == [False, True]


def test_files_and_pickles_from_before_there_were_labels_load(tmp_path):
    mlp, path = model(), tmp_path / "model"
    mlp.save(path)
    header, arrays = parts(path)
    del header["labels"]
    write_arrays(path, header.pop("kind"), header.pop("version"), header, arrays)
    assert MLP.load(path).labels is None
    state = {name: value for name, value in mlp.__getstate__().items() if name != "_labels"}
    old = MLP.__new__(MLP)
    old.__setstate__(state)
    assert old.labels is None


@pytest.mark.parametrize("labels", ["abc", 3, ["a", "b"], [1, "b", 2], [["a"], ["b"], ["c"]], {}])
def test_malformed_labels_in_a_file_are_refused(labels, tmp_path):
    path = tmp_path / "model"
    model().save(path)
    header, arrays = parts(path)
    header["labels"] = labels
    write_arrays(path, header.pop("kind"), header.pop("version"), header, arrays)
    with pytest.raises(FileFormatError, match="not a sound model file: labels"):
        load_model(path)


class StopAfterOne(Callback):
    def on_epoch_end(self, run, record):
        run.stop("half")


def test_resuming_needs_the_same_labels(tmp_path, backend):
    path = tmp_path / "checkpoint"
    whole = trained(text(), backend=backend)
    part = Trainer(SGD(0.2), epochs=2, batch_size=16, checkpoint=path, callbacks=StopAfterOne())
    part.fit(model(backend), X, text())
    resumed = model(backend)
    TRAINER.fit(resumed, X, pd.Series(text()), resume=path)
    assert resumed.labels == NAMES
    np.testing.assert_array_equal(flat(resumed.parameters), flat(whole.parameters))
    with refused(r"labels \('ant', 'bee', 'cat'\), now it is \('a', 'b', 'c'\)"):
        TRAINER.fit(model(backend), X, text(base=("a", "b", "c")), resume=path)
    with refused("made with data"):
        TRAINER.fit(model(backend), X, np.roll(text(), 1), resume=path)


def test_checkpoints_from_before_there_were_labels_resume(tmp_path):
    path = tmp_path / "checkpoint"
    Trainer(SGD(0.2), epochs=1, batch_size=16, checkpoint=path).fit(model(), X, INDICES)
    header, arrays = parts(path)
    del header["settings"]["labels"]
    write_arrays(path, header.pop("kind"), header.pop("version"), header, arrays)
    assert len(TRAINER.fit(model(), X, INDICES, resume=path)) == 2


def test_class_weights_name_labels():
    by_label, by_index = model(), model()
    settings = {"epochs": 2, "batch_size": 16}
    Trainer(class_weight={"cat": 3.0}, **settings).fit(by_label, X, text())
    Trainer(class_weight={2: 3.0}, **settings).fit(by_index, X, INDICES)
    np.testing.assert_array_equal(flat(by_label.parameters), flat(by_index.parameters))
    for wrong in ("dog", 2):
        with refused(f"names class {wrong!r}, the classes are 'ant', 'bee', 'cat'"):
            Trainer(class_weight={wrong: 2.0}, **settings).fit(model(), X, text())

"""The decision boundary, alone and recorded during a training."""

import sys

import numpy as np
import pytest
from linear_networks import network
from matplotlib import pyplot as plt
from matplotlib.collections import PathCollection
from PIL import Image

from fusedmlp import MLP, Trainer, plot
from fusedmlp.errors import InvalidInputError, MissingDependencyError
from fusedmlp.plot.style import COLOURS
from fusedmlp.sklearn import MLPClassifier

X = np.array([[-1.0, 0.0], [-2.0, 1.0], [1.0, 1.0], [3.0, -1.0]])
Y = np.array([0, 0, 1, 1])


def lines(axes):
    """The points (n, 2) of each line that is 0 of a field; filled contours are no lines."""
    found = [c for c in axes.collections if getattr(c, "filled", None) is False]
    return [path.vertices for contour in found for path in contour.get_paths()]


def scatters(axes):
    return {c.get_label(): c for c in axes.collections if isinstance(c, PathCollection)}


def fills(axes):
    return [c for c in axes.collections if getattr(c, "filled", None) is True]


def test_the_line_is_where_the_probability_is_a_half(left_and_right):
    axes = plot.decision_boundary(left_and_right, X, Y)
    (line,) = lines(axes)
    assert line[:, 0] == pytest.approx(0.0, abs=1e-4)
    assert line[:, 1].min() == pytest.approx(-1.2)
    assert line[:, 1].max() == pytest.approx(1.2), "a tenth of the extent around the points"


def test_the_fill_is_the_probability_of_the_second_class(left_and_right):
    axes = plot.decision_boundary(left_and_right, X, Y)
    (filled,) = fills(axes)
    assert filled.levels == pytest.approx(np.linspace(0, 1, 11))
    left, right = filled.get_cmap()(0.0), filled.get_cmap()(1.0)
    assert left[2] > left[0], "blue, the first class's"
    assert right[0] > right[2], "vermilion, the second class's"
    assert axes.figure.axes[1].get_ylabel() == "probability of 1"


def test_points_have_the_colours_markers_and_names_of_their_classes(left_and_right):
    left_and_right.class_names = ("left", "right")
    found = scatters(plot.decision_boundary(left_and_right, X, ["left", "left", "right", "right"]))
    assert list(found) == ["left", "right"]
    assert found["left"].get_offsets().tolist() == X[:2].tolist()
    assert found["right"].get_offsets().tolist() == X[2:].tolist()
    from matplotlib.colors import to_rgba

    colours = [tuple(each.get_facecolor()[0]) for each in found.values()]
    assert colours == [to_rgba(COLOURS[0]), to_rgba(COLOURS[1])]
    shapes = [each.get_paths()[0].vertices.shape for each in found.values()]
    assert shapes[0] != shapes[1]


def test_of_three_classes_each_has_a_region_and_a_line():
    angles = np.radians([90, 210, 330])
    corners = np.column_stack([np.cos(angles), np.sin(angles)])
    axes = plot.decision_boundary(network(corners.T * 4), corners, [0, 1, 2])
    assert len(fills(axes)) == 3
    assert len(axes.figure.axes) == 1, "no colour bar: three probabilities"
    for k, line in enumerate(lines(axes)):
        scores = line @ corners.T
        others = np.delete(scores, k, axis=1).max(axis=1)
        assert scores[:, k] == pytest.approx(others, abs=0.05)


def test_where_one_class_is_predicted_everywhere_there_is_no_line():
    mlp = network([[0.0, 0.0], [0.0, 0.0]], output="softmax")
    mlp.parameters.biases[0][:] = (5.0, -5.0)
    mlp.parameters = mlp.parameters
    assert not lines(plot.decision_boundary(mlp, X, Y))


def test_one_sigmoid_output_and_an_estimator_can_be_drawn():
    axes = plot.decision_boundary(network([[1.0], [0.0]], output="sigmoid"), X, Y)
    assert lines(axes)[0][:, 0] == pytest.approx(0.0, abs=1e-4)
    labels = np.array(["a", "a", "b", "b"])
    estimator = MLPClassifier((3,), solver="lbfgs", random_state=0, backend="numpy").fit(X, labels)
    _, ax = plt.subplots()
    assert plot.decision_boundary(estimator, X, labels, ax=ax) is ax
    assert list(scatters(ax)) == ["a", "b"]
    assert len(ax.figure.axes) == 1


def test_pixels_are_drawn_where_a_model_reads_them(left_and_right):
    axes = plot.decision_boundary(left_and_right, np.array([[0, 0], [255, 51]], np.uint8), [0, 1])
    assert scatters(axes)["1"].get_offsets().tolist() == [[1.0, 0.2]]


def test_columns_of_a_data_frame_are_found_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["age", "salary"])
    estimator = MLPClassifier((3,), solver="lbfgs", random_state=0, backend="numpy").fit(frame, Y)
    axes = plot.decision_boundary(estimator, frame[["salary", "age"]], Y)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("age", "salary")
    assert scatters(axes)["0"].get_offsets().tolist() == X[:2].tolist()


@pytest.mark.parametrize(
    ("model", "x", "y", "message"),
    [
        (MLP([3, 2]), np.ones((4, 3)), Y, "needs a model of two inputs, and this one has 3"),
        (MLP([2, 2]), np.ones((4, 3)), Y, r"x has shape \(4, 3\): decision_boundary needs \(N, 2"),
        (MLP([2, 2]), X, Y[:3], r"y has shape \(3,\), but x has 4 rows"),
        (MLP([2, 1], output="identity"), X, Y, "predicts values"),
    ],
)
def test_what_does_not_fit_is_one_error(model, x, y, message):
    with pytest.raises(InvalidInputError, match=message):
        plot.decision_boundary(model, x, y)
    assert not plt.get_fignums()


def trained(recorder, epochs=5, y=Y, **settings):
    mlp = MLP([2, 2], backend="numpy", seed=1)
    trainer = Trainer("sgd", epochs=epochs, batch_size=2, callbacks=recorder, **settings)
    trainer.fit(mlp, X, y)
    return mlp


def test_frames_begin_with_the_initial_weights_and_end_with_the_last_epoch():
    recorder = plot.BoundaryRecorder(X, Y, every=2)
    mlp = trained(recorder)
    assert [frame.epoch for frame in recorder.frames] == [0, 2, 4, 5]
    initial = MLP([2, 2], backend="numpy", seed=1)
    for model, frame in ((initial, recorder.frames[0]), (mlp, recorder.frames[-1])):
        grid = recorder._grid
        probabilities = frame.probabilities
        assert probabilities.shape == (100, 100, 2)
        for i, j in ((0, 0), (0, 99), (99, 0), (50, 20)):
            point = [[grid.x[j], grid.y[i]]]
            assert probabilities[i, j] == pytest.approx(model.predict_proba(point)[0], rel=1e-5)


def test_a_training_that_stops_early_records_its_last_epoch():
    recorder = plot.BoundaryRecorder(X, Y, every=3)

    def stop(run, record):
        if record.epoch == 4:
            run.stop("enough")

    trained([stop, recorder])
    assert [frame.epoch for frame in recorder.frames] == [0, 3, 4]


def test_a_new_training_starts_over_and_a_resumed_one_adds_frames(tmp_path):
    recorder = plot.BoundaryRecorder(X, Y)
    trained(recorder, epochs=2)
    trained(recorder, epochs=2, checkpoint=tmp_path / "c.safetensors")
    assert [frame.epoch for frame in recorder.frames] == [0, 1, 2]
    mlp = MLP([2, 2], backend="numpy", seed=1)
    trainer = Trainer("sgd", epochs=4, batch_size=2, callbacks=recorder)
    trainer.fit(mlp, X, Y, resume=tmp_path / "c.safetensors")
    assert [frame.epoch for frame in recorder.frames] == [0, 1, 2, 3, 4]


def test_a_recorder_changes_no_bit_of_the_training():
    recorded = trained(plot.BoundaryRecorder(X, Y))
    alone = trained(())
    for found, expected in zip(recorded.parameters, alone.parameters, strict=True):
        assert (found == expected).all()


def test_a_frame_is_drawn_with_its_epoch_and_the_labels_of_the_points():
    labels = np.array(["up", "up", "down", "down"])
    recorder = plot.BoundaryRecorder(X, labels, every=2)
    trained(recorder, y=labels)
    axes = recorder.draw(1)
    assert axes.get_title() == "epoch 2"
    assert list(scatters(axes)) == ["down", "up"]
    assert scatters(axes)["up"].get_offsets().tolist() == X[:2].tolist()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first input", "second input")


def test_an_estimator_takes_a_recorder():
    recorder = plot.BoundaryRecorder(X, Y)
    estimator = MLPClassifier((3,), max_iter=3, tol=0, backend="numpy", callbacks=[recorder])
    with pytest.warns(UserWarning, match="iterations"):
        estimator.fit(X, Y)
    assert [frame.epoch for frame in recorder.frames] == [0, 1, 2, 3]
    grid = recorder._grid
    expected = estimator.predict_proba([[grid.x[10], grid.y[70]]])[0]
    assert recorder.frames[-1].probabilities[70, 10] == pytest.approx(expected, rel=1e-5)


def test_the_animation_has_a_picture_of_each_frame(tmp_path):
    recorder = plot.BoundaryRecorder(X, Y, every=5)
    trained(recorder)
    path = tmp_path / "moons.gif"
    recorder.animation(interval_ms=150).save(path, writer="pillow")
    with Image.open(path) as image:
        assert image.n_frames == len(recorder.frames) == 2
        assert image.info["duration"] == 150
        first = np.asarray(image.convert("RGB"))
        image.seek(1)
        assert (np.asarray(image.convert("RGB")) != first).any()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: plot.BoundaryRecorder(X, Y).draw(0), "nothing is recorded"),
        (lambda: plot.BoundaryRecorder(X, Y).animation(), "nothing is recorded"),
        (lambda: plot.BoundaryRecorder(X, Y, every=0), "every 0 is not a whole number"),
        (lambda: plot.BoundaryRecorder(np.ones((4, 3)), Y), r"x has shape \(4, 3\)"),
        (lambda: plot.BoundaryRecorder(X.astype(np.uint8), Y), "x is uint8"),
        (lambda: trained(plot.BoundaryRecorder(X, Y[:3])), r"y has shape \(3,\), but x has 4"),
    ],
)
def test_a_recorder_without_frames_or_with_wrong_rows_is_an_error(use, message):
    with pytest.raises(InvalidInputError, match=message):
        use()


def test_a_network_of_three_inputs_or_of_values_is_an_error():
    recorder = plot.BoundaryRecorder(X, Y)
    trainer = Trainer("sgd", epochs=1, batch_size=2, callbacks=recorder)
    for model, x in ((MLP([3, 2]), np.ones((4, 3))), (MLP([2, 1], output="identity"), X)):
        with pytest.raises(InvalidInputError, match="a boundary needs a network of two inputs"):
            trainer.fit(model, x, Y)


def test_a_frame_that_is_not_there_is_an_error():
    recorder = plot.BoundaryRecorder(X, Y)
    trained(recorder, epochs=2)
    with pytest.raises(InvalidInputError, match="frame 3 is not one of 3: give one from 0 to 2"):
        recorder.draw(3)


def test_without_matplotlib_recording_works_and_drawing_is_an_error(left_and_right, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    recorder = plot.BoundaryRecorder(X, Y)
    trained(recorder, epochs=1)
    for draw in (
        lambda: recorder.draw(0),
        recorder.animation,
        lambda: plot.decision_boundary(left_and_right, X, Y),
    ):
        with pytest.raises(MissingDependencyError, match=r"pip install 'fusedmlp\[plot\]'"):
            draw()

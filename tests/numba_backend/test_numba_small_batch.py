"""Predictions of a few rows, whose places are described once: what of a call may not outlive it."""

from __future__ import annotations

import numpy as np
import pytest

from fusedmlp.errors import InvalidInputError
from fusedmlp_numba import NumbaBackend
from fusedmlp_numba import data as data_module
from fusedmlp_numba.constants import KC
from fusedmlp_numba.small_batch import MAX_ROWS, MAX_VALUES
from problems import engine, order, problem

DTYPES = ("float32", "float64")
D, K = 9, 5


@pytest.fixture(params=["dense", "sparse"])
def path(request, monkeypatch):
    """The first layer's path, whatever the data's density."""
    monkeypatch.setattr(data_module, "SPARSE_RATE", np.inf if request.param == "sparse" else 0.0)
    return request.param


@pytest.fixture
def rows():
    return problem((D, 18, K), "relu", rows=40)


def pixels(x):
    return (255 * np.abs(x) / np.abs(x).max()).astype(np.uint8)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_are_forgotten_before_the_next_ones(rows, dtype):
    built, _ = engine(NumbaBackend(), rows, dtype=dtype)
    for x in (rows.x.astype(np.float32), pixels(rows.x), rows.x.astype(np.float64)):
        many = built.forward(x)
        for _again in range(2):
            for first, last in ((0, 16), (16, 17), (17, 20), (20, 37), (37, 40), (3, 3)):
                few = built.forward(x[first:last])
                np.testing.assert_array_equal(few, many[first:last])


def test_outputs_are_the_callers_own(rows):
    built, _ = engine(NumbaBackend(), rows)
    first = built.forward(rows.x[:1])
    kept = first.copy()
    assert (built.forward(rows.x[1:2]) != kept).any()
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_rows", [1, 3, MAX_ROWS])
def test_every_value_is_checked_each_time(rows, n_rows, dtype):
    built, _ = engine(NumbaBackend(), rows)
    x = rows.x[:n_rows].astype(dtype)
    expected = built.forward(x)
    for i, d in ((0, 0), (n_rows // 2, D // 2), (n_rows - 1, D - 1)):
        for value in (np.nan, np.inf, -np.inf):
            wrong = x.copy()
            wrong[i, d] = value
            with pytest.raises(InvalidInputError, match=rf"x\[{i}, {d}\] is {value}"):
                built.forward(wrong)
            np.testing.assert_array_equal(built.forward(x), expected)


def test_outputs_that_are_nan_are_no_fault_of_the_inputs(rows):
    built, _ = engine(NumbaBackend(), rows)
    state = built.state()
    first, last = state.parameters.weights
    first[...] = np.finfo(first.dtype).max
    last[::2], last[1::2] = 1.0, -1.0
    built.load(state)
    for _again in range(2):
        assert np.isnan(built.forward(1.0 + np.abs(rows.x[:1]))).all()  # inf - inf


def test_shapes_and_types_are_checked_after_others_have_passed(rows):
    built, _ = engine(NumbaBackend(), rows)
    built.forward(rows.x[:1])
    for wrong in (rows.x[0], rows.x[:1, :-1], rows.x[:1, None]):
        with pytest.raises(InvalidInputError, match="x has"):
            built.forward(wrong)
    with pytest.raises(InvalidInputError, match="dtype complex128"):
        built.forward(rows.x[:1].astype(complex))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_are_no_infinite_inputs(rows, dtype):
    built, _ = engine(NumbaBackend(), rows, dtype="float32")
    x = np.full((2, D), np.finfo(dtype).max, dtype)
    with np.errstate(all="ignore"):
        expected = built.forward(np.resize(x, (MAX_ROWS + 1, D)))[:2]
    for _again in range(2):
        np.testing.assert_array_equal(built.forward(x), expected)


def test_infinities_that_cancel_are_refused_whatever_numpy_does_then(rows):
    built, _ = engine(NumbaBackend(), rows)
    built.forward(rows.x[:1])
    x = rows.x[:1].copy()
    x[0, :2] = np.inf, -np.inf
    for reaction in ("ignore", "warn", "raise"):  # warnings raise in tests
        with np.errstate(all=reaction), pytest.raises(InvalidInputError, match=r"x\[0, 0\] is inf"):
            built.forward(x)


def test_rows_however_they_lie_and_what_holds_them(rows, tmp_path):
    built, _ = engine(NumbaBackend(), rows)
    expected = built.forward(rows.x)[::4][:4]
    x = rows.x[::4][:4]
    file = np.memmap(tmp_path / "x", np.float64, "w+", shape=x.shape)
    file[:] = x
    swapped = x.astype(x.dtype.newbyteorder())
    for _again in range(2):
        for same in (
            x,
            np.asfortranarray(x),
            x.tolist(),
            file,
            swapped,
            x.astype(object).astype(float),
        ):
            np.testing.assert_array_equal(built.forward(same), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [KC, KC + 1, MAX_VALUES // 2, MAX_VALUES // 2 + 1])
@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_a_row_has_the_same_bits_alone_and_among_others(zeros, width, dtype):
    task = problem((width, 18, K), "relu", rows=MAX_ROWS + 4)
    x = (task.x * (np.random.default_rng(0).random(task.x.shape) >= zeros)).astype(dtype)
    built, _ = engine(NumbaBackend(), task, dtype=dtype)
    many = built.forward(x)
    for n_rows in (1, 2, 1, 3):
        np.testing.assert_array_equal(built.forward(x[:n_rows]), many[:n_rows])


@pytest.mark.parametrize("width", [MAX_VALUES // 2, MAX_VALUES // 2 + 1, MAX_VALUES + 1])
def test_long_rows_get_no_places(width):
    task = problem((width, 3, 2), "relu", rows=4)
    built, _ = engine(NumbaBackend(), task, batch_size=4)
    for n_rows in (1, 2, 1, 2):
        built.forward(task.x[:n_rows])
    held = sum(place.inputs.size for place in built._small_batches._buffers.values())
    assert held == width * sum(n for n in (1, 2) if n * width <= MAX_VALUES)


@pytest.mark.parametrize("rates", [(0.0, np.inf), (np.inf, 0.0)])
def test_places_stay_while_the_room_for_inputs_grows(rows, rates, monkeypatch):
    monkeypatch.setattr(data_module, "SPARSE_RATE", rates[0])
    built, data = engine(NumbaBackend(), rows, batch_size=16)
    before = built.forward(rows.x[:1]), built.forward(rows.x[:2])
    monkeypatch.setattr(data_module, "SPARSE_RATE", rates[1])
    other = built.stage(rows.x, rows.y)
    for staged in (data, other):
        built.train_epoch(staged, order(40), np.zeros(3))
        np.testing.assert_array_equal(built.forward(rows.x[:1]), before[0])
        np.testing.assert_array_equal(built.forward(rows.x[:2]), before[1])


def test_parameters_are_those_of_now(rows):
    built, data = engine(NumbaBackend(), rows)
    before = built.forward(rows.x[:1])
    built.train_epoch(data, order(40)[:8], np.full(1, 0.5))
    after = built.forward(rows.x[:1])
    assert (after != before).any()
    np.testing.assert_array_equal(after, built.forward(rows.x)[:1])

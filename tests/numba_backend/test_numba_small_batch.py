"""Predictions of a few rows, whose places are described once: what of a call may not outlive it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse

from fusedmlp.errors import InvalidInputError
from fusedmlp_numba import NumbaBackend
from fusedmlp_numba.constants import KC
from fusedmlp_numba.small_batch import MAX_ROWS, MAX_VALUES, SmallBatchPredictor
from problems import engine, order, problem, thinned

DTYPES = ("float32", "float64")
D, K = 9, 5


@pytest.fixture
def rows():
    return problem((D, 18, K), "relu", rows=40)


def pixels(x):
    return (255 * np.abs(x) / np.abs(x).max()).astype(np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_are_forgotten_before_the_next_ones(drawn, dtype):
    task = drawn((D, 18, K), "relu", rows=40)
    built, _ = engine(NumbaBackend(), task, dtype=dtype)
    for x in (task.x.astype(np.float32), pixels(task.x), task.x.astype(np.float64)):
        many = built.forward(x)
        for _again in range(2):
            for first, last in ((0, 16), (16, 17), (17, 20), (20, 37), (37, 40), (3, 3)):
                np.testing.assert_array_equal(built.forward(x[first:last]), many[first:last])


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


def test_the_largest_numbers_are_no_infinite_inputs(rows):
    built, _ = engine(NumbaBackend(), rows, dtype="float32")
    x = np.full((2, D), np.finfo(np.float32).max, np.float32)
    with np.errstate(all="ignore"):
        expected = built.forward(np.resize(x, (MAX_ROWS + 1, D)))[:2]
    for _again in range(2):
        np.testing.assert_array_equal(built.forward(x), expected)
    with pytest.raises(InvalidInputError, match=r"x\[0, 0\] is .*: use dtype='float64'"):
        built.forward(2.0 * x.astype(np.float64))


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


def test_only_few_and_short_dense_rows_are_copied():
    for n_rows, width in itertools.product((1, 2, MAX_ROWS, MAX_ROWS + 1), (1, 600, MAX_VALUES)):
        x = np.zeros((n_rows, width))
        small = n_rows <= MAX_ROWS and n_rows * width <= MAX_VALUES
        assert SmallBatchPredictor.fits(x) is small
        assert not SmallBatchPredictor.fits(scipy.sparse.csr_array(x))


@pytest.mark.parametrize("first", [problem, thinned])
def test_predictions_stay_while_the_room_for_inputs_grows(first):
    tasks = [each((D, 18, K), "relu", rows=40) for each in (problem, thinned)]
    built, _ = engine(NumbaBackend(), tasks[0], batch_size=16)
    x = tasks[0].x
    for task in tasks if first is problem else tasks[::-1]:
        before = built.forward(x[:1]), built.forward(x[:2])
        built.train_epoch(built.stage(task.x, task.y), order(40), np.zeros(3))
        np.testing.assert_array_equal(built.forward(x[:1]), before[0])
        np.testing.assert_array_equal(built.forward(x[:2]), before[1])


def test_parameters_are_those_of_now(rows):
    built, data = engine(NumbaBackend(), rows)
    before = built.forward(rows.x[:1])
    built.train_epoch(data, order(40)[:8], np.full(1, 0.5))
    after = built.forward(rows.x[:1])
    assert (after != before).any()
    np.testing.assert_array_equal(after, built.forward(rows.x)[:1])

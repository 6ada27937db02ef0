"""Invalid arrays are rejected by every engine, with a message; valid ones are not copied."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from fusedmlp import validation
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import Network
from problems import engine, problem

GOOD_X, GOOD_Y = np.ones((4, 3)), np.array([0, 1, 1, 0])
NAN_X = np.array([[1, 1, 1], [1, np.nan, 1]])


@pytest.mark.parametrize(
    ("x", "y", "weight", "message"),
    [
        (np.ones(3), None, None, r"x has shape \(3,\): give \(N, 3\)"),
        (np.ones((2, 3, 1)), None, None, "x has shape"),
        (np.ones((4, 5)), None, None, "x has 5 columns, the network has 3 inputs"),
        (np.ones((0, 3)), None, None, r"empty: x has shape \(0, 3\)"),
        (np.array([["a", "b", "c"]]), None, None, r"x\[0, 0\] is 'a': text is no number"),
        (np.ones((4, 3), complex), None, None, "x has dtype complex128"),
        (
            np.array([[1, 2, {}]], object),
            None,
            None,
            r"x\[0, 2\] is {} \(builtins.dict\): give num",
        ),
        (NAN_X, None, None, r"x\[1, 1\] is nan: inputs must be finite"),
        (-np.inf * GOOD_X, None, None, r"x\[0, 0\] is -inf"),
        (scipy.sparse.csr_array(NAN_X), None, None, "is nan: inputs must be finite"),
        (scipy.sparse.csr_array(np.ones((4, 5))), None, None, "5 columns"),
        (GOOD_X, np.array([0, 1, 2, 0]), None, r"y\[2\] is 2: .* class indices 0 to 1"),
        (GOOD_X, np.array([0, -1, 1, 0]), None, r"y\[1\] is -1"),
        (GOOD_X, np.array([0, 0.5, 1, 0]), None, r"y\[1\] is 0.5: class indices are integers"),
        (GOOD_X, np.array([0, np.nan, 1, 0]), None, r"y\[1\] is NaN"),
        (GOOD_X, np.array(["a", "b", "a", "b"]), None, r"y\[0\] is 'a': text is no number"),
        (GOOD_X, GOOD_Y[:3], None, r"y has shape \(3,\), but x has 4 rows"),
        (GOOD_X, np.eye(2)[GOOD_Y], None, r"one-hot rows: pass y.argmax\(axis=1\)"),
        (GOOD_X, GOOD_Y, np.ones(3), r"sample_weight has shape \(3,\), x needs \(4,\)"),
        (GOOD_X, GOOD_Y, np.array([1, -1, 1, 1]), r"sample_weight\[1\] is -1"),
        (GOOD_X, GOOD_Y, np.array([1, 1, np.inf, 1]), r"sample_weight\[2\] is inf"),
        (GOOD_X, GOOD_Y, np.array(["1"] * 4), r"sample_weight\[0\] is '1': text"),
    ],
)
def test_invalid_arrays_are_rejected(backend, x, y, weight, message):
    built, _ = engine(backend, problem((3, 2)))
    with pytest.raises(InvalidInputError, match=message):
        built.stage(x, y, weight)


@pytest.mark.parametrize("place", ["x", "CSR", "y", "sample_weight"])
def test_numbers_beyond_float32_are_rejected_by_narrow_engines(backend, place):
    task = problem((3, 2), output="identity")
    x, y, weight = np.ones((4, 3)), np.ones((4, 2)), np.ones(4)
    array = {"x": x, "CSR": x, "y": y, "sample_weight": weight}[place]
    array[2] = -1e39 if place != "sample_weight" else 1e39
    given = scipy.sparse.csr_array(x) if place == "CSR" else x, y, weight
    narrow, _ = engine(backend, task, dtype="float32")
    with pytest.raises(InvalidInputError, match=r"1e\+39, and float32 .* use dtype='float64'"):
        narrow.stage(*given)
    if place in ("x", "CSR"):
        with pytest.raises(InvalidInputError, match=r"1e\+39, and float32"):
            narrow.forward(given[0])
    wide, _ = engine(backend, task)
    wide.stage(*given)
    x[:], y[:], weight[:] = 1e30, 1e30, 1e30  # their squares are too large, and they are not
    narrow.stage(x, y, weight)


@pytest.mark.parametrize(
    ("output", "y", "message"),
    [
        (
            "sigmoid",
            np.ones((4, 3)),
            r"y has shape \(4, 3\), the network's 2 outputs need \(4, 2\)",
        ),
        ("sigmoid", np.full((4, 2), 0.5), r"y\[0, 0\] is 0.5: labels of a sigmoid .* 0 or 1"),
        ("identity", np.ones(4), r"need \(4, 2\)"),
        ("identity", np.ones((4, 2, 1)), r"y has shape \(4, 2, 1\)"),
        ("identity", np.full((4, 2), np.inf), r"y\[0, 0\] is NaN or infinite"),
        ("exp", np.array([[0, 1], [2, -1], [0, 0], [1, 1]]), r"y\[1, 1\] is -1: targets of an exp"),
    ],
)
def test_invalid_targets_are_rejected(output, y, message):
    with pytest.raises(InvalidInputError, match=message):
        validation.validate_data(GOOD_X, y, None, Network((3, 2), output=output), "float64")


def test_forward_rejects_invalid_inputs(backend):
    built, _ = engine(backend, problem((3, 2)))
    for x in (np.ones(3), np.ones((1, 4)), NAN_X):
        with pytest.raises(InvalidInputError):
            built.forward(x)


def test_forward_accepts_zero_rows(backend):
    built, _ = engine(backend, problem((3, 2)))
    assert built.forward(np.ones((0, 3))).shape == (0, 2)


def test_outputs_do_not_depend_on_layout_and_dtype(backend):
    built, _ = engine(backend, problem((3, 4, 2)))
    x = np.arange(12.0).reshape(4, 3)
    expected = built.forward(x)
    forms = [
        np.asfortranarray(x),
        x.astype(">f8"),
        x.astype(np.int64),
        x.astype(np.float16),
        np.repeat(x, 2, axis=0)[::2],
        x.tolist(),
        scipy.sparse.csc_array(x),
        scipy.sparse.coo_array(x),
        scipy.sparse.csr_array(x.astype(np.int64)),
    ]
    for form in forms:
        np.testing.assert_allclose(built.forward(form), expected, rtol=1e-14)
    pixels = x.astype(np.uint8)
    np.testing.assert_allclose(built.forward(pixels), built.forward(x / 255), rtol=1e-14)


def test_duplicate_csr_entries_are_summed(backend):
    data, columns, starts = [1.0, 2.0, 4.0], [2, 0, 2], [0, 3]
    x = scipy.sparse.csr_array((data, columns, starts), shape=(1, 3))
    built, _ = engine(backend, problem((3, 4, 2)))
    np.testing.assert_allclose(
        built.forward(x), built.forward(np.array([[2.0, 0.0, 5.0]])), rtol=1e-14
    )
    assert x.nnz == 3, "the caller's matrix was changed"


def test_arrays_of_a_stored_dtype_are_not_copied(tmp_path):
    network = Network((3, 2))
    for dtype in ("uint8", "float32", "float64"):
        x = np.memmap(tmp_path / dtype, dtype, "w+", shape=(4, 3))
        staged = validation.validate_data(x, GOOD_Y, None, network, "float32")
        assert np.shares_memory(staged.x, x)


def test_nan_is_found_in_the_last_of_several_chunks():
    x = np.zeros((4_000_000, 3))  # 96 MB, in chunks of 32 MiB
    x[3_999_999, 2] = np.nan
    with pytest.raises(InvalidInputError, match=r"x\[3999999, 2\]"):
        validation.validate_data(x, None, None, Network((3, 2)), "float64")


def test_nan_is_found_among_numbers_whose_squares_overflow():
    """The fast check sums squares; an overflow must be neither accepted nor reported as NaN."""
    network, x = Network((3, 2)), np.full((2, 3), 1e30, np.float32)
    assert validation.validate_inputs(x, network, "float32") is x
    x[1, 2] = np.nan
    with pytest.raises(InvalidInputError, match=r"x\[1, 2\] is nan"):
        validation.validate_inputs(x, network, "float32")


def test_targets_and_weights_are_converted_to_one_form():
    network = Network((3, 1), output="sigmoid")
    staged = validation.validate_data(
        GOOD_X, [True, False, True, False], [1, 2, 3, 4], network, "float32"
    )
    assert staged.y.shape == (4, 1)
    assert staged.y.dtype == staged.sample_weight.dtype == np.float32
    assert (
        validation.validate_data(GOOD_X, GOOD_Y * 1.0, None, Network((3, 2)), "float32").y.dtype
        == int
    )

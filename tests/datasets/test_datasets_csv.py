"""``.csv`` files: headers, targets, tasks, and faults with their line number."""

from __future__ import annotations

import numpy as np
import pytest

from fusedmlp.datasets import load_csv, load_dataset
from fusedmlp.errors import DataUnavailableError, InvalidInputError


@pytest.fixture
def table(tmp_path):
    def write(text: str, encoding: str = "utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_header_and_last_column(table):
    data = load_dataset(table("a,b,kind\n1,2.5,0\n3,4,1\n-5e-1,6,1\n"))
    np.testing.assert_array_equal(data.x_train, [[1, 2.5], [3, 4], [-0.5, 6]])
    assert data.x_train.dtype == np.float64
    assert data.x_train.flags.c_contiguous
    assert data.y_train.tolist() == [0, 1, 1]
    assert (data.task, data.n_outputs, data.class_names) == ("classification", 2, None)
    assert data.x_test is None
    assert data.source.endswith("table.csv (target 'kind')")


@pytest.mark.parametrize("target", ["kind", 0, "0", -3, "-3"])
def test_target_by_name_or_number(table, target):
    data = load_dataset(table("kind,a,b\n0,1,2\n1,3,4\n"), target=target)
    np.testing.assert_array_equal(data.x_train, [[1, 2], [3, 4]])
    assert data.y_train.tolist() == [0, 1]


@pytest.mark.parametrize("target", ["color", 3, "3", -4, "twice"])
def test_unknown_target(table, target):
    with pytest.raises(InvalidInputError, match=r"no target column .*: expected a number below 3"):
        load_csv(table("kind,twice,twice\n0,1,2\n1,3,4\n"), target)


@pytest.mark.parametrize(
    ("text", "n_rows"),
    [
        ("1,2,0\n3,4,1\n", 2),  # numbers only
        ("1,2,red\n3,4,blue\n", 2),  # text labels, no header
        ("0,1,label\n3,4,1\n5,6,0\n", 2),  # numbers as names
        (",0,label\n3,4,1\n5,6,0\n", 2),  # an index column without a name
        ("a,b,c\n1,2,red\n3,4,blue\n", 2),
        ("a,b,c\r\n1,2,0\r\n\r\n3,4,1\r\n\r\n", 2),  # Windows, blank lines
        ("\n\na,b,c\n1,2,0\n3,4,1", 2),
        ('"a, or b",b,c\n"1",2,0\n3,"4",1\n', 2),
        (" a , b , c \n 1, 2 , 0\n3,4, 1\n", 2),
        ("\ufeff1,2,0\n3,4,1\n", 2),  # a byte-order mark
        ("\ufeffa,b,c\n1,2,0\n3,4,1\n", 2),
    ],
)
def test_header_or_none(table, text, n_rows):
    data = load_csv(table(text))
    assert len(data.x_train) == n_rows
    assert data.n_outputs == 2


def test_name_makes_a_header(table):
    data = load_csv(table("1,2,label\n5,6,red\n7,8,blue\n"), "label")
    assert len(data.x_train) == 2
    assert data.class_names == ("blue", "red")


def test_text_labels_are_sorted(table):
    data = load_csv(table("a,kind\n1,setosa\n2, iris b\n3,setosa\n4,arctic\n"))
    assert data.class_names == ("arctic", "iris b", "setosa")
    assert data.y_train.tolist() == [2, 1, 2, 0]
    assert data.y_train.dtype == np.int64


def test_regression(table):
    data = load_csv(table("a,price\n1,10\n2,10.5\n3,-2\n"))
    assert data.task == "regression"
    np.testing.assert_array_equal(data.y_train, [[10], [10.5], [-2]])
    assert load_csv(table("a,price\n1,10\n2,-20\n"), task="regression").y_train[1, 0] == -20


def test_whole_numbers_written_as_floats_are_classes(table):
    assert load_csv(table("a,y\n1,0.0\n2,1.0\n")).task == "classification"


def test_numbers_as_names(table):
    text = "a,y\n1,3\n2,seven\n3,3\n"
    with pytest.raises(InvalidInputError, match="holds 'seven' besides numbers"):
        load_csv(table(text))
    assert load_csv(table(text), task="classification").class_names == ("3", "seven")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty, expected at least one row"),
        ("\n \n\n", "one column"),
        ("a,b,c\n", "a header and no rows"),
        ("1\n2\n", "one column"),
        ("a;b;c\n1;2;3\n", "one column, expected inputs and a target separated by commas"),
        ("a,b,c\n1,2,0\n3,4\n", "line 3 has 2 cells, expected 3"),
        ("a,b,c\n1,2,0\n\n3,4,1,5\n", "line 4 has 4 cells"),
        ("a,b,c\n1,2,0\n3,x,1\n", "line 3, column 'b': 'x' is no number"),
        ("1,2,0\n3,,1\n", "line 2, column 1: '' is no number"),
        (",2,0\n3,4,1\n", "line 1, column 0: '' is no number"),
        ("a,b\n1_000,0\n1,1\n", "line 2, column 'a': '1_000' is no number"),
        ("1,0\n\u0661,1\n", "line 2, column 0: '\u0661' is no number"),
        ("abc,2,0\n3,4,1\n", "first line mixes numbers and text"),
        ("a,b,c\n1,nan,0\n3,4,1\n", r"inputs\[0, 1\] is nan"),
        ("a,b,c\n1,2,0\n3,1e999,1\n", r"inputs\[1, 1\] is inf"),
        ("a,b,c\n1,2,0\n3,4,\n", "holds '' besides numbers"),
        ("a,b,c\n1,2,red\n3,4,\n", "holds ''"),
        ("a,b,c\n1,2,0\n3,4,-1\n", "label -1 in row 1"),
        ("a,b,c\n1,2,0\n3,4,500000\n", "500,001 classes for 2 rows"),
        ("a,b,c\n1,2,1\n3,4,1\n", "every training row has label 1"),
        ("a,b,c\n1,2,red\n3,4,red\n", "every training row has label 0"),
        ("a,b,c\n1,2,nan\n3,4,0.5\n", r"train targets\[0, 0\] is nan"),
    ],
)
def test_faults(table, text, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        load_csv(table(text))
    assert "table" in str(caught.value)


def test_text_is_no_regression_target(table):
    with pytest.raises(InvalidInputError, match="holds 'red'"):
        load_csv(table("a,y\n1,red\n2,blue\n"), task="regression")


def test_unreadable(table, tmp_path):
    with pytest.raises(DataUnavailableError, match="not UTF-8 text"):
        load_csv(table("a,b\n1,größer\n2,x\n", "latin-1"))
    with pytest.raises(DataUnavailableError, match="No such file"):
        load_csv(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataUnavailableError, match="cannot be read"):
        load_csv(tmp_path / "folder.csv")

"""``.csv`` files: headers, columns of numbers and text, targets, tasks, parts and their faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusedmlp.datasets import Fitted, TableOptions, load_csv, load_dataset
from fusedmlp.datasets.csv_file import read_csv
from fusedmlp.datasets.csv_numbers import read_numbers
from fusedmlp.datasets.targets import TargetCoding
from fusedmlp.errors import DataUnavailableError, InvalidInputError

PLAIN = {"scale": "none", "test": 0}


@pytest.fixture
def table(tmp_path):
    def write(text: str, encoding: str = "utf-8", name: str = "table.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_header_and_last_column(table):
    data = load_dataset(table("a,b,kind\n1,2.5,0\n3,4,1\n-5e-1,6,1\n"), **PLAIN)
    np.testing.assert_array_equal(data.x_train, [[1, 2.5], [3, 4], [-0.5, 6]])
    assert data.x_train.dtype == np.float64
    assert data.y_train.tolist() == [0, 1, 1]
    assert (data.task, data.n_outputs, data.class_names) == ("classification", 2, None)
    assert data.x_test is None
    assert data.source.endswith("table.csv (target column 'kind')")
    assert (data.preprocessing.names, data.preprocessing.target) == (("a", "b"), "kind")


@pytest.mark.parametrize("target", ["kind", 0, "0", -3, "-3"])
def test_target_by_name_or_number(table, target):
    data = load_dataset(table("kind,a,b\n0,1,2\n1,3,4\n"), target=target, **PLAIN)
    np.testing.assert_array_equal(data.x_train, [[1, 2], [3, 4]])
    assert data.y_train.tolist() == [0, 1]


@pytest.mark.parametrize("target", ["color", 3, "3", -4])
def test_unknown_target(table, target):
    with pytest.raises(InvalidInputError, match=r"no column .*: expected a number below 3 or one"):
        load_dataset(table("kind,a,b\n0,1,2\n1,3,4\n"), target=target)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,2,0\n3,4,1\n", None),
        ("1,2,red\n3,4,blue\n", None),
        ("5,red\n5,red\n", None),
        ("0,1,label\n3,4,1\n5,6,0\n", ("0", "1", "label")),
        ("2019,2020,y\n3,4,1\n5,6,0\n", ("2019", "2020", "y")),
        ("0,1,2\n3.5,4,1\n5,6,0\n", ("0", "1", "2")),  # as pandas writes columns without names
        (",0,label\n0,4,1\n1,6,0\n", ("0", "label")),  # and its index
        ("Unnamed: 0,b,label\n0,4,1\n1,6,0\n", ("b", "label")),
        (",0,1\n0,4.5,1\n1,6,0\n", ("0", "1")),
        (",b,label\n9,4,1\n7,6,0\n", ("b", "label")),  # the index of shuffled rows
        (",b,label\n7.5,4,1\n9,6,0\n", ("column 0", "b", "label")),  # no index
        (",b,label\n7,4,1\n7,6,0\n", ("column 0", "b", "label")),
        ("a,b,c\n1,2,red\n3,4,blue\n", ("a", "b", "c")),
        ("a,b\nx,y\nz,x\n", ("a", "b")),  # text alone
        ("x,y\nx,z\nz,x\n", None),
        ("a,b,c\r\n1,2,0\r\n\r\n3,4,1\r\n\r\n", ("a", "b", "c")),
        ("\n\na,b,c\n1,2,0\n3,4,1", ("a", "b", "c")),
        ('"a, or b",b,c\n"1",2,0\n3,"4",1\n', ("a, or b", "b", "c")),
        (" a , b , c \n 1, 2 , 0\n3,4, 1\n", ("a", "b", "c")),
        ("\ufeff1,2,0\n3,4,1\n", None),  # a byte-order mark
        ("\ufeffa,b,c\n1,2,0\n3,4,1\n", ("a", "b", "c")),
        ("a;b;c\n1;2;0\n3;4;1\n", ("a", "b", "c")),
        ("a\tb\tc\n1\t2\t0\n3\t4\t1\n", ("a", "b", "c")),
    ],
)
def test_header_or_none(table, text, names):
    found = read_csv(table(text))
    assert found.names == names
    assert found.n_rows == 2 + (names is None and text.startswith("x"))


def test_what_is_not_obvious_is_said(table):
    lines = []
    read_csv(table("0,1,2\n3.5,4,1\n5,6,0\n"), report=lines.append)
    read_csv(table(",b,label\n0,4,1\n1,6,0\n"), report=lines.append)
    assert "the first line, 0,1,2, has the names" in lines[0]
    assert "numbers the rows: left out" in lines[1]


@pytest.mark.parametrize("missing", ["", "NA", "n/a", "NaN", "null", "None", "?"])
def test_missing_values(table, missing):
    found = read_csv(table(f"a,b,c\n1,x,0\n{missing},{missing},1\n"))
    assert np.isnan(found.numbers[1, 0])
    assert found.texts[1].tolist() == ["x", None]


def test_text_that_comes_after_many_numbers(table, monkeypatch):
    monkeypatch.setattr("fusedmlp.datasets.csv_file.CHUNK_CELLS", 50)
    numbers = "".join(f"{i},{i}\n" for i in range(600))
    texts = "".join(f"{i},x{i % 7}\n" for i in range(200))
    found = read_csv(table(f"a,b\n{numbers}{texts}"))
    assert (found.n_rows, list(found.texts)) == (800, [1])
    assert found.texts[1][[5, 601]].tolist() == ["5", "x1"]
    assert found.numbers[599, 0] == 599


def test_names_that_are_expected_make_a_header(table):
    path = table("2020,2019\n1,2\n3,4\n")
    assert read_csv(path).names is None
    found = read_csv(path, names=("2019", "2020"))
    assert (found.names, found.n_rows) == (("2020", "2019"), 2)


def test_text_labels_are_sorted(table):
    text = "a,kind\n1,setosa\n2, iris b\n3,setosa\n4,arctic\n"
    data = load_dataset(table(text), **PLAIN)
    assert data.labels == data.class_names == ("arctic", "iris b", "setosa")
    assert data.y_train.tolist() == [2, 1, 2, 0]
    assert data.y_train.dtype == np.int64


def rows(values) -> str:
    return "a,y\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values))


@pytest.mark.parametrize(
    ("values", "task", "labels"),
    [
        ([10, 10.5, -2, 4], "regression", None),
        ([0.0, 1.0, 0.0, 1.0], "classification", None),
        ([3, 5, 3, 9], "classification", (3, 5, 9)),
        ([-1, 1, -1, 1], "classification", (-1, 1)),
        ([f"{151 + i}.0" for i in range(214)] * 2, "regression", None),  # amounts
        (list(range(17, 90)) * 20, "regression", None),  # ages
        (list(range(47)) * 12, "classification", None),  # letters and digits
        (list(range(47)) * 3, "regression", None),  # counts
        (["1", "2", "seven", "eight"], "classification", ("1", "2", "eight", "seven")),
    ],
)
def test_task_follows_from_the_target(table, values, task, labels):
    lines = []
    data = load_dataset(table(rows(values)), report=lines.append, **PLAIN)
    assert (data.task, data.labels) == (task, labels)
    is_clear = any(isinstance(v, str) and not v[0].isdigit() for v in values) or 10.5 in values
    other = "regression" if task == "classification" else "classification"
    assert any(f"--task {other}" in line for line in lines) is not is_clear


def test_task_overrules(table):
    path = table(rows([1, 2, 1, 2]))
    data = load_dataset(path, task="regression", **PLAIN)
    np.testing.assert_array_equal(data.y_train, [[1], [2], [1], [2]])
    amounts = table(rows(range(0, 90, 2)))
    assert load_dataset(amounts, task="classification", **PLAIN).n_outputs == 45


def test_columns_that_are_dropped(table):
    path = table("id,a,b,y\n7,1,2,0\n8,3,4,1\n")
    data = load_dataset(path, drop=["id", 2], **PLAIN)
    np.testing.assert_array_equal(data.x_train, [[1], [3]])
    with pytest.raises(InvalidInputError, match="column 'y' is the target"):
        load_dataset(path, drop=["y"], target="y")


def test_a_fifth_of_the_rows_is_for_testing_with_all_classes(table):
    path = table(rows(["hen", "cow", "cow", "cow", "cow"] * 20))
    data = load_dataset(path, seed=1)
    assert (len(data.x_train), len(data.x_test)) == (80, 20)
    assert np.bincount(data.y_test).tolist() == [16, 4]
    again, other = load_dataset(path, seed=1), load_dataset(path, seed=2)
    np.testing.assert_array_equal(data.x_test, again.x_test)
    assert not np.array_equal(data.x_test, other.x_test)
    assert load_dataset(path, test=0.5).x_test.shape == (50, 1)
    assert load_dataset(path, test=0).x_test is None


def test_scaling_is_fitted_on_the_training_rows_alone(table):
    path = table(rows([0.5, 1.5] * 30))
    data = load_dataset(path)
    np.testing.assert_allclose([data.x_train.mean(), data.x_train.std()], [0, 1], atol=1e-12)
    assert abs(data.x_test.mean()) > 1e-6


def test_a_file_to_test_on_is_matched_by_name(table):
    train = table("a,b,y\n1,x,0\n2,y,1\n3,x,1\n")
    test = table("y,b,a\n1,y,9\n", name="test.csv")
    data = load_dataset(train, test=test, scale="none", target="y")
    np.testing.assert_array_equal(data.x_test, [[9, 0, 1]])
    assert data.y_test.tolist() == [1]
    lacking = table("y,a\n1,9\n", name="test.csv")
    with pytest.raises(InvalidInputError, match="lacks the columns b that"):
        load_dataset(train, test=lacking)
    unknown = table("a,b,y\n1,x,0\n2,y,5.5\n", name="test.csv")
    with pytest.raises(InvalidInputError, match="fraction"):
        load_dataset(train, test=unknown, task="classification")


def test_few_rows_have_no_test_part_unless_asked(table):
    lines = []
    path = table(rows([0, 1, 0, 1]))
    assert load_dataset(path, report=lines.append).x_test is None
    assert "4 rows: too few for a test part" in lines[-1]
    assert len(load_dataset(path, test=0.5).x_test) == 2
    with pytest.raises(InvalidInputError, match=r"test 0.05: 4 rows have no such part"):
        load_dataset(path, test=0.05)
    for share in (-0.1, 1.0, np.nan):
        with pytest.raises(InvalidInputError, match="is not a share in"):
            TableOptions(test=share)


NUMBERS = "\n".join(["1,0", "2,1"] * 10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty, expected at least one row"),
        ("\n \n\n", "empty, expected at least one row"),
        ("a,b,c\n", "a header and no rows"),
        ("1\n2\n", "1 column, expected inputs and a target"),
        ("a,b,c\n1,2,0\n3,4\n", "line 3 has 2 cells, expected 3"),
        ("a,b,c\n1,2,0\n\n3,4,1,5\n", "line 4 has 4 cells"),
        (f"a,y\n{NUMBERS}\nx,1\n", "line 22, column 'a': 'x' is no number, and 20 of 21 cells"),
        (f"a,y\n{NUMBERS}\n1_000,1\n", "line 22, column 'a': '1_000' is no number"),
        (f"{NUMBERS}\n\u0661,1\n", "line 21, column 0: '\u0661' is no number"),
        ("a,a,c\n1,2,0\n3,4,1\n", "2 columns have the name 'a'"),
        ("a,b,c\n1,2,0\n3,1e999,1\n", "line 3, column 'b': inf is not finite"),
        ("a;b;c\n1,5;2;0\n3,25;4;1\n", "column 'a' has numbers with a decimal comma"),
        ("a,b,c\n1,2,0\n3,4,\n", "table.csv, target column 'c': line 3 has no target"),
        ("a,b,c\n\n1,2,red\n3,4,\n", "line 4 has no target"),
        ("a,b,c\n1,2,1\n3,4,1\n", "every row has the target 1; expected"),
        ("a,b,c\n1,2,red\n3,4,red\n", "every row has the target 'red'"),
        ("a,b,c\n1,,0\n3,,1\n", "column 'b' has no value in any training row"),
        (
            "name,y\n" + "".join(f"p{i},{i % 2}\n" for i in range(300)),
            "column 'name' has 240 different texts in 240 rows",
        ),
        (
            "a,name\n" + "".join(f"{i % 2},p{i}\n" for i in range(1_500)),
            "the target has 1,500 different values in 1,500 rows",
        ),
    ],
)
def test_faults(table, text, words):
    with pytest.raises(InvalidInputError, match=words):
        load_csv(table(text))


def test_text_is_no_quantity(table):
    with pytest.raises(
        InvalidInputError, match=r"target 'red' in line 2 is text; .* needs numbers"
    ):
        load_dataset(table("a,y\n1,red\n2,blue\n"), task="regression")


def test_faults_of_targets_name_the_file_and_the_line(table):
    test = table("y,a\n0,1\n\n1,2\n0.5,3\n", name="test.csv")
    train = table("a,y\n1,0\n2,1\n3,0\n")
    with pytest.raises(InvalidInputError, match=r"test.csv, .*: target 0.5 in line 5 has a frac"):
        load_dataset(train, test=test, target="y", task="classification")
    test = table("1,0\n2,1\n\n3,\n", name="test.csv")
    with pytest.raises(InvalidInputError, match=r"test.csv, target column 1: line 4 has no target"):
        load_dataset(table("1,0\n2,1\n3,0\n"), test=test)
    fitted = Fitted(None, TargetCoding("classification", 2, ("ham", "spam")))
    words = "line 4 is 'eggs', which is not one of the labels 'ham', 'spam'"
    with pytest.raises(InvalidInputError, match=words):
        load_dataset(table("a,y\n1,ham\n2,spam\n3,eggs\n"), fitted=fitted, **PLAIN)
    # The rows of a part keep their lines.
    text = "a,y\n" + "".join(f"{i},{i + 0.5 if i < 10 else ''}\n" for i in range(11))
    with pytest.raises(InvalidInputError, match="line 12 has no target"):
        load_dataset(table(text), fitted=Fitted(None, TargetCoding("regression", 1, None)))


def test_labels_of_text_may_look_like_numbers(table):
    train, test = table("a,y\n1,2\n2,x\n3,3\n"), table("a,y\n1,3\n2,2\n", name="test.csv")
    data = load_dataset(train, test=test)
    assert (data.labels, data.y_test.tolist()) == (("2", "3", "x"), [1, 0])


NUMERIC = (
    "a,b\n1,2\n3,4\n",
    "1,2\n3,nan\r\n\n-inf,1e999\n",
    "2;1\n3;4",
    "0,1,2\n3.5,4,1\n5,6,0\n",
    ",b,y\n9,1,2\n8,3,4\n",
    '"a,b",c\n1,2\n3,4\n',
    "a,b\r1,2\r3,4\r",
    "?,2\n1, 3 \n",
    " 1 ,\t2\n 3,4\n",
    "a,b\n\x1c1,2\n3,4\n",
)
OTHER = (
    "a,b\n1,2\n  \n3,4\n",
    "a,b\n1,2\n3\n",
    "a\n1,2\n",
    "a,b\n1,\n2,3\n",
    'a,b\n1,"2"\n',
    "a,b\n1_0,2\n",
    "a,b\n\u0661,2\n",
    "\na,b\n1,2\n",
    '"a\nb",c\n1,2\n',
    "a,b\n",
    "1,2\n",
    "",
    "a,b\n1,2#3\n",
    "a,b\n0x10,2\n",
    "\n1,x\n",
)


@pytest.mark.parametrize("text", [*NUMERIC, *OTHER])
def test_files_of_numbers_are_the_same_by_either_way(table, monkeypatch, text):
    path = table(text)
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert (read_numbers(file) is not None) == (text in NUMERIC)

    def read():
        lines = []
        try:
            found = read_csv(path, report=lines.append)
        except InvalidInputError as error:
            return str(error), lines
        return found.numbers.tolist(), found.names, found.lines.tolist(), list(found.texts), lines

    fast = repr(read())  # NaN is equal to itself as text
    monkeypatch.setattr("fusedmlp.datasets.csv_file.read_numbers", lambda _: None)
    assert repr(read()) == fast


@given(
    st.lists(
        st.lists(
            st.sampled_from(["1", "-2.5", "1e5", ".5", "nan", " 7", "", "x", "1_0", '"3"', "inf"]),
            min_size=1,
            max_size=3,
        ),
        max_size=4,
    ),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_drawn_files_are_the_same_by_either_way(table, rows, end):
    path = table(end.join(map(",".join, rows)) + end)

    def read():
        try:
            found = read_csv(path)
        except InvalidInputError as error:
            return str(error)
        texts = {j: values.tolist() for j, values in found.texts.items()}
        return repr((found.numbers.tolist(), texts, found.names, found.lines.tolist()))

    fast = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fusedmlp.datasets.csv_file.read_numbers", lambda _: None)
        assert read() == fast


def test_unreadable(table, tmp_path):
    with pytest.raises(DataUnavailableError, match="not UTF-8 text"):
        load_csv(table("a,b\n1,größer\n2,x\n", "latin-1"))
    with pytest.raises(DataUnavailableError, match="not a table of text"):
        load_csv(table("a,b\n1,2\n" + "x" * 200_000))
    with pytest.raises(DataUnavailableError, match="No such file"):
        load_csv(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataUnavailableError, match="cannot be read"):
        load_csv(tmp_path / "folder.csv")

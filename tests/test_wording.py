"""Numbers with their nouns."""

from __future__ import annotations

import numpy as np
import pytest

from fusedmlp import MLP, Dataset
from fusedmlp.errors import InvalidInputError
from fusedmlp.wording import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (1797, "row", "1,797 rows"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (np.int64(1), "epoch", "1 epoch"),
    ],
)
def test_a_number_and_its_noun(count, noun, text):
    assert counted(count, noun) == text


def test_messages_and_reprs_of_one():
    with pytest.raises(InvalidInputError, match="x has 1 column, the network has 3 inputs"):
        MLP((3, 2), backend="numpy").predict(np.zeros((2, 1)))
    one = np.zeros((1, 1), np.float32)
    data = Dataset("one", one, one, None, None, 1, "regression", None, "a test", None)
    assert repr(data) == "Dataset('one': 1 row, 1 input of float32, 1 output, regression)"

"""Figures without a screen, closed after each test; small networks."""

import matplotlib as mpl
import numpy as np
import pytest
from linear_networks import network
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _no_screen():
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture
def columns_as_classes():
    """A network of four inputs that predicts the column of the largest one."""
    return network(np.eye(4))


@pytest.fixture
def left_and_right():
    """A network of two inputs: class 1 where the first input is above 0."""
    return network([[-2.0, 2.0], [0.0, 0.0]])

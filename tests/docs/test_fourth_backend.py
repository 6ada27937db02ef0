"""The backend of the example docs/examples/08_fourth_backend.py, held to the contract of engines.

The tests are those of the package's own backends; the two fixtures put the example's in.
"""

from __future__ import annotations

import pytest
from example_scripts import run

from test_contract import *  # noqa: F403
from test_gradients import *  # noqa: F403
from test_parity import *  # noqa: F403


@pytest.fixture(scope="session")
def backend():
    return run("08_fourth_backend.py")["WideBackend"]()


compiled_backend = backend

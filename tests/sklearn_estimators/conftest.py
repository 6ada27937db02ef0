"""What the tests of the estimators share: how many threads BLAS has."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread():
    """Scikit-learn's checks fit hundreds of tiny models: further threads would only spin."""
    with threadpool_limits(1, "blas"):
        yield

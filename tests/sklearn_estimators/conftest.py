"""What the tests of the estimators share: one thread of BLAS, and fits that need not converge."""

from __future__ import annotations

import warnings

import pytest
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread():
    """Scikit-learn's checks fit hundreds of tiny models: further threads would only spin."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(autouse=True)
def _a_few_epochs_are_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield

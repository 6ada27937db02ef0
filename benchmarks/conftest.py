"""Options and data shared by the benchmarks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from workloads import mnist_rows

if TYPE_CHECKING:
    import numpy as np


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="few rows and one round: prove that every benchmark runs, measure nothing",
    )


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session")
def mnist(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    return mnist_rows(4_096 if quick else 60_000)


@pytest.fixture(scope="session", autouse=True)
def _say_what_else_may_disturb() -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1.0:
        print(f"\nthe machine is busy (load {load:.1f}): quote ratios, not these times")

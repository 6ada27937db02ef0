"""The scikit-learn estimators beside scikit-learn's own: fit, grid search and predict on MNIST.

Both start from the same weights and see the same batches; equal results are checked. The two take
turns:  python benchmarks/estimators.py [--rounds 3] [--rows 60000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import sklearn.neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import fusedmlp.sklearn
from fusedmlp.backend import EngineSpec, State
from fusedmlp.network import Network, Objective, initialise, zeros
from fusedmlp.optimizers import SGD, Adam
from fusedmlp.registry import backend_class
from peers.page import estimators_table
from workloads import mnist

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCHS: Final = 10
SETTINGS: Final = {"hidden_layer_sizes": (256,), "max_iter": EPOCHS, "random_state": 0}
GRID: Final = {"alpha": [1e-5, 1e-3], "learning_rate_init": [1e-3, 3e-3]}
"""Four settings by three folds: 12 fits."""

TIMED_ROWS: Final = 2_000
"""Rows that one timing predicts, at least: a single row is too fast for the clock."""

CLASSES: Final = {
    "ours": fusedmlp.sklearn.MLPClassifier,
    "scikit-learn": sklearn.neural_network.MLPClassifier,
}

Result = dict[str, list[float]]
"""Seconds of every round, by implementation."""


def seconds(call: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def fits(
    solver: str, x: np.ndarray, y: np.ndarray, rounds: int
) -> tuple[Result, dict[str, object]]:
    """Time whole fits, the engine's epochs alone among them; return the last estimators too."""
    found: Result = {name: [] for name in (*CLASSES, "engine")}
    fitted: dict[str, object] = {}
    for _ in range(rounds):
        for name, kind in CLASSES.items():
            estimator = kind(solver=solver, **SETTINGS)
            found[name].append(seconds(lambda e=estimator: e.fit(x, y)))
            fitted[name] = estimator
        found["engine"].append(engine_seconds(solver, x, y))
    ours, theirs = fitted["ours"], fitted["scikit-learn"]
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=0.05)
    assert abs(ours.score(x, y) - theirs.score(x, y)) < 0.01
    return found, fitted


def engine_seconds(solver: str, x: np.ndarray, y: np.ndarray) -> float:
    """Time the same training without the estimator: build the engine, stage, run the epochs."""
    network = Network((x.shape[1], 256, 10), "relu")
    optimizer = Adam() if solver == "adam" else SGD(0.001, 0.9, nesterov=True)
    objective, rates = Objective("mean", 1e-4 / 200), np.full(-(-len(x) // 200), 0.001)
    began = time.perf_counter()
    engine = backend_class("numba")().compile(
        EngineSpec(network, optimizer, objective, batch_size=200, dtype="float32", seed=0)
    )
    slots = tuple(zeros(network, "float32") for _ in optimizer.slots)
    engine.load(State(initialise(network, 0), slots, 0))
    data, rng = engine.stage(x, y), np.random.default_rng(0)
    for _ in range(EPOCHS):
        engine.train_epoch(data, rng.permutation(len(x)), rates)
    return time.perf_counter() - began


def searches(x: np.ndarray, y: np.ndarray, rounds: int) -> Result:
    """Time a grid search of 12 fits, one job at a time."""
    found: Result = {name: [] for name in CLASSES}
    for _ in range(rounds):
        for name, kind in CLASSES.items():
            search = GridSearchCV(kind(**SETTINGS | {"max_iter": 3}), GRID, cv=3)
            found[name].append(seconds(lambda s=search: s.fit(x, y)))
    return found


def predictions(fitted: dict[str, object], x: np.ndarray, rounds: int) -> Result:
    """Time predict_proba on one block of rows."""
    repeats = max(1, TIMED_ROWS // len(x))
    found: Result = {name: [] for name in CLASSES}
    for _ in range(rounds * 5):
        for name, estimator in fitted.items():
            call = estimator.predict_proba

            def repeated(call: Callable[[np.ndarray], object] = call) -> None:
                for _ in range(repeats):
                    call(x)

            found[name].append(seconds(repeated) / repeats)
    return found


def mnist_rows(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first rows of MNIST's training part: (rows, 784) pixels and (rows,) classes."""
    data = mnist()
    return data.x_train[:rows], data.y_train[:rows]


def main(arguments: list[str] | None = None) -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", ConvergenceWarning)
    pixels, y = mnist_rows(options.rows)
    x = pixels.astype(np.float32) / 255
    CLASSES["ours"](**SETTINGS | {"max_iter": 1}).fit(x[:400], y[:400])  # compilation
    results: dict[str, Result] = {}
    for solver in ("adam", "sgd"):
        results[f"fit, {EPOCHS} epochs, {solver}"], fitted = fits(solver, x, y, options.rounds)
    results["grid search, 12 fits of 10,000 rows"] = searches(
        x[:10_000], y[:10_000], options.rounds
    )
    for rows in (1, 100, 10_000):
        results[f"predict_proba, {rows:,} rows"] = predictions(fitted, x[:rows], options.rounds)
    print("\n".join(estimators_table(results)))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

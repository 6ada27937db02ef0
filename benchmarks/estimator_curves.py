"""Loss curves and scores of the estimators beside scikit-learn's, over seeds and data sets.

Both libraries fit with equal parameters, ours in float64, as scikit-learn, and in float32 as well:
there rounding sends the weights elsewhere, and only statistics can agree. Nothing is timed here:
see estimators.py.

    python benchmarks/estimator_curves.py          # fit; write the document, figure and page
    python benchmarks/estimator_curves.py --page   # figure and page from the document kept
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sklearn.neural_network
from sklearn.datasets import load_diabetes, load_digits, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import fusedmlp.sklearn
from fusedmlp.report.figures import new_figure, save, tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT: Final = Path(__file__).resolve().parents[1]
DOCUMENT: Final = ROOT / "benchmarks" / "results" / "estimators" / "curves.json"
FIGURE: Final = ROOT / "docs" / "sklearn-curves.svg"
PAGE: Final = ROOT / "docs" / "sklearn.md"
BEGIN: Final = "<!-- written by python benchmarks/estimator_curves.py -->"
END: Final = "<!-- end -->"

PEER, DOUBLE, SINGLE = "scikit-learn", "fusedmlp float64", "fusedmlp float32"
STYLES: Final = {  # Okabe and Ito (2008); dashes and widths tell the lines apart without colour
    PEER: {"color": "#E69F00", "linewidth": 5.0},
    DOUBLE: {"color": "#0072B2", "linewidth": 1.6},
    SINGLE: {"color": "#000000", "linewidth": 1.2, "linestyle": (0, (1.5, 4))},
}

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""x and y to train on, x and y to score on."""


@dataclass(frozen=True)
class Problem:
    """A data set, what is fitted to it, and how often."""

    name: str
    load: Callable[[], Data]
    parameters: dict[str, Any]
    seeds: int = 10
    regression: bool = False

    @property
    def metric(self) -> str:
        return "R²" if self.regression else "accuracy"


def parted(x: np.ndarray, y: np.ndarray) -> Data:
    """Three rows of four to train on, standardised by those."""
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)
    scaler = StandardScaler().fit(x_train)
    return scaler.transform(x_train), y_train, scaler.transform(x_test), y_test


def digits() -> Data:
    return parted(*load_digits(return_X_y=True))


def moons() -> Data:
    return parted(*make_moons(2000, noise=0.25, random_state=0))


def diabetes() -> Data:
    x, y = load_diabetes(return_X_y=True)
    return parted(x, (y - y.mean()) / y.std())


def mnist() -> Data:
    data = fusedmlp.load_dataset("mnist")
    return (
        data.x_train[:6000] / 255.0,
        data.y_train[:6000],
        data.x_test[:5000] / 255.0,
        data.y_test[:5000],
    )


PROBLEMS: Final = (
    Problem("digits, adam", digits, {"hidden_layer_sizes": (64,), "max_iter": 30}),
    Problem(
        "digits, sgd",
        digits,
        {"hidden_layer_sizes": (64,), "max_iter": 30, "solver": "sgd", "learning_rate_init": 0.05},
    ),
    Problem(
        "moons, adam",
        moons,
        {"hidden_layer_sizes": (32, 32), "max_iter": 60, "learning_rate_init": 0.005},
    ),
    Problem(
        "6,000 rows of MNIST, adam",
        mnist,
        {"hidden_layer_sizes": (100,), "max_iter": 20},
        seeds=5,
    ),
    Problem(
        "diabetes, adam",
        diabetes,
        {"hidden_layer_sizes": (50,), "max_iter": 60, "alpha": 1.0, "batch_size": 50},
        regression=True,
    ),
    Problem(
        "diabetes, sgd",
        diabetes,
        {"hidden_layer_sizes": (50,), "max_iter": 60, "alpha": 1.0, "batch_size": 50,
         "solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.01},
        regression=True,
    ),
)  # fmt: skip


def fit(problem: Problem) -> dict[str, Any]:
    """Fit every estimator with every seed."""
    x, y, x_test, y_test = problem.load()
    kind = "MLPRegressor" if problem.regression else "MLPClassifier"
    theirs, ours = (getattr(m, kind) for m in (sklearn.neural_network, fusedmlp.sklearn))
    estimators: dict[str, tuple[Any, dict[str, Any]]] = {
        PEER: (theirs, {}),
        DOUBLE: (ours, {"backend": "numba"}),
        SINGLE: (ours, {"backend": "numba", "dtype": "float32"}),
    }
    scores: dict[str, list[float]] = {name: [] for name in estimators}
    curves: dict[str, list[list[float]]] = {name: [] for name in estimators}
    for seed in range(problem.seeds):
        for name, (make, extra) in estimators.items():
            # Every fit goes on to the last epoch, so that curves have one length.
            endless = {"n_iter_no_change": np.inf, "random_state": seed}
            estimator = make(**problem.parameters, **extra, **endless).fit(x, y)
            scores[name].append(float(estimator.score(x_test, y_test)))
            curves[name].append([float(f"{loss:.6g}") for loss in estimator.loss_curve_])
    return {
        "metric": problem.metric,
        "rows": len(x),
        "test_rows": len(x_test),
        "parameters": {key: repr(value) for key, value in problem.parameters.items()},
        "scores": scores,
        "curves": curves,
    }


def measure(problems: Iterable[Problem] = PROBLEMS) -> dict[str, Any]:
    """Fit everything; return the document."""
    packages = ("fusedmlp", "scikit-learn", "numpy", "numba")
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "problems": {problem.name: fit(problem) for problem in problems},
    }


def spread(values: list[float]) -> str:
    """Write mean ± standard deviation."""
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def farthest(found: dict[str, Any], name: str) -> float:
    """Return the largest relative gap of an estimator's mean curve to scikit-learn's."""
    mine, theirs = (np.mean(found["curves"][each], axis=0) for each in (name, PEER))
    return float(np.abs(mine / theirs - 1.0).max())


def section(document: dict[str, Any]) -> str:
    """Write the page's part between the two marks, from the document and nothing else."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    lines = [
        BEGIN,
        "",
        f"![Training loss by epoch in six panels: all curves coincide]({FIGURE.name})",
        "",
        "Mean and standard deviation over the seeds of the score on rows held out, with equal",
        "parameters and equal `random_state`s. “Curve” is the largest relative gap of the mean",
        "loss curve to scikit-learn's; the band in the figure spans scikit-learn's seeds.",
        "",
        "| data, solver | score | seeds | scikit-learn | float64 | curve | float32 | curve |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in document["problems"].items():
        scores = found["scores"]
        lines.append(
            f"| {name} | {found['metric']} | {len(scores[PEER])} | {spread(scores[PEER])} "
            f"| {spread(scores[DOUBLE])} | {farthest(found, DOUBLE):.0e} "
            f"| {spread(scores[SINGLE])} | {farthest(found, SINGLE):.0e} |"
        )
    lines += ["", f"With {versions}; every number is in `{DOCUMENT.relative_to(ROOT)}`.", "", END]
    return "\n".join(lines)


def page_with(text: str, document: dict[str, Any]) -> str:
    """Replace the part of a page that is between the two marks."""
    before, rest = text.split(BEGIN)
    return before + section(document) + rest.split(END)[1]


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw all curves, one panel per problem, to an SVG file."""
    from matplotlib.ticker import LogLocator, NullLocator

    problems = document["problems"]
    columns = min(3, len(problems))
    rows = -(-len(problems) // columns)
    figure = new_figure(3.5 * columns, 3.1 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, (name, found) in zip(panels.flat, problems.items(), strict=False):
        for estimator, style in STYLES.items():
            curves = np.array(found["curves"][estimator])
            epochs = np.arange(1, curves.shape[1] + 1)
            panel.plot(epochs, curves.mean(axis=0), label=estimator, **style)
            if estimator == PEER:
                low, high = curves.min(axis=0), curves.max(axis=0)
                panel.fill_between(epochs, low, high, color=style["color"], alpha=0.25, linewidth=0)
        panel.set_title(name)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("epoch")
        tidy(panel)
    for row in panels:
        row[0].set_ylabel("training loss")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save(figure, path)


def main() -> None:
    """Fit, and write the document, the figure and the page's part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="only write the figure and the page")
    if not parser.parse_args().page:
        warnings.simplefilter("ignore", ConvergenceWarning)
        DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
        DOCUMENT.write_text(json.dumps(measure()) + "\n", encoding="utf-8")
    document = json.loads(DOCUMENT.read_text("utf-8"))
    draw(document, FIGURE)
    PAGE.write_text(page_with(PAGE.read_text("utf-8"), document), encoding="utf-8")


if __name__ == "__main__":
    main()

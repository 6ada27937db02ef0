"""Test scores of the plain command on tables, beside scikit-learn's pipeline of the same kind.

Each seed draws a test part of a fifth of the rows. Both see the same rows:
``fusedmlp train --dataset train.csv --test test.csv`` without further settings, and
``make_pipeline(StandardScaler(), MLPClassifier())`` (or ``MLPRegressor``), with scikit-learn's
imputer and one-hot encoder before it where a table needs them. Scores are the accuracy, and R² for
quantities. No time is measured.

    python benchmarks/tables.py [--seeds 10] [--tables iris,wine] [--json FILE]

The exit code is 4 where the command's mean score is below scikit-learn's by more than two of
scikit-learn's standard deviations over the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from typer.testing import CliRunner

from fusedmlp.cli.app import build
from fusedmlp.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

TEST_SHARE: Final = 0.2
N_DRAWN: Final = 5_000
"""Rows of a generated table."""


def california_like() -> pd.DataFrame:
    """Draw 8 skewed columns of districts and a house value that is capped at 5."""
    rng = np.random.default_rng(0)
    n = N_DRAWN
    latitude, longitude = rng.uniform(32.5, 42.0, n), rng.uniform(-124.3, -114.3, n)
    income = rng.lognormal(1.25, 0.47, n)
    rooms = rng.lognormal(1.65, 0.25, n) + 0.2 * income
    to_coast = np.abs(longitude + 124.3 - 0.7 * (42.0 - latitude))
    frame = pd.DataFrame(
        {
            "income": income,
            "age": rng.integers(1, 53, n),
            "rooms": rooms,
            "bedrooms": rooms * rng.lognormal(-1.6, 0.15, n),
            "population": rng.lognormal(7.0, 0.7, n),
            "occupancy": rng.lognormal(1.05, 0.3, n),
            "latitude": latitude,
            "longitude": longitude,
        }
    )
    value = 0.45 * income**0.9 * (1 + np.exp(-to_coast)) / np.sqrt(frame.occupancy / 3)
    return frame.assign(value=np.minimum(5.0, value * rng.lognormal(0.0, 0.25, n)))


def adult_like() -> pd.DataFrame:
    """Draw numbers and texts of persons, with gaps and rare texts; 24 % have a high income."""
    rng = np.random.default_rng(1)
    n = N_DRAWN
    schooling = {"primary": -1.5, "secondary": -0.5, "college": 0.4, "bachelor": 1.2, "doctor": 2.0}
    work = {"private": 0.0, "state": 0.2, "own firm": 0.6, "unpaid": -2.0}
    marriage = {"never": -1.0, "married": 1.2, "divorced": -0.4}
    countries = [f"country {i}" for i in range(60)]
    shares = 1.0 / np.arange(1, 61) ** 2  # a test part has texts that training rows do not have
    frame = pd.DataFrame(
        {
            "age": rng.gamma(6.0, 6.5, n).round() + 17,
            "workclass": rng.choice(list(work), n, p=(0.7, 0.15, 0.12, 0.03)),
            "education": rng.choice(list(schooling), n, p=(0.1, 0.35, 0.3, 0.2, 0.05)),
            "marital": rng.choice(list(marriage), n, p=(0.33, 0.47, 0.2)),
            "country": rng.choice(countries, n, p=shares / shares.sum()),
            "hours": np.clip(rng.normal(40, 12, n).round(), 1, 99),
            "gain": np.where(rng.random(n) < 0.08, rng.lognormal(8.0, 1.2, n).round(), 0.0),
        }
    )
    evidence = (
        frame.education.map(schooling)
        + frame.workclass.map(work)
        + frame.marital.map(marriage)
        - ((frame.age - 50) / 15) ** 2
        + (frame.hours - 40) / 15
        + (frame.gain > 5_000) * 3
        + rng.logistic(0.0, 0.8, n)
    )
    frame["income"] = np.where(evidence > np.quantile(evidence, 0.76), ">50K", "<=50K")
    for column, share in (("workclass", 0.06), ("country", 0.02), ("age", 0.03), ("hours", 0.05)):
        frame.loc[rng.random(n) < share, column] = np.nan
    return frame


def published(name: str) -> Callable[[], pd.DataFrame]:
    """Return a function that loads one of scikit-learn's tables, with the target last."""
    return lambda: getattr(datasets, f"load_{name}")(as_frame=True).frame


TABLES: Final = {
    "iris": published("iris"),
    "breast cancer": published("breast_cancer"),
    "wine": published("wine"),
    "digits": published("digits"),
    "diabetes": published("diabetes"),
    "california-like": california_like,
    "adult-like": adult_like,
}
QUANTITIES: Final = ("diabetes", "california-like")


def score_of_command(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> float:
    """Train with the plain command; return the score on the test file."""
    with tempfile.TemporaryDirectory() as folder:
        for name, frame in (("train.csv", train), ("test.csv", test)):
            frame.to_csv(Path(folder, name), index=False)
        files = ["--dataset", f"{folder}/train.csv", "--test", f"{folder}/test.csv"]
        words = ["train", *files, "--seed", str(seed), "--output", f"{folder}/out", "--json"]
        done = CliRunner().invoke(build(), words)
    if done.exit_code:
        sys.exit(f"fusedmlp {' '.join(words)} failed:\n{done.stderr}")
    result = json.loads(done.stdout)
    return result["test_r2"] if result["test_accuracy"] is None else result["test_accuracy"]


def score_of_pipeline(train: pd.DataFrame, test: pd.DataFrame, seed: int, kind: type) -> float:
    """Train scikit-learn's pipeline; return the score on the test rows."""
    *inputs, target = train.columns
    is_text = make_column_selector(dtype_exclude="number")(train[inputs])
    steps = [StandardScaler(), kind(random_state=seed)]
    if train[inputs].isna().any(axis=None) or is_text:
        numbers = [name for name in inputs if name not in is_text]
        encoder = make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            (OneHotEncoder(handle_unknown="ignore"), is_text),
        )
        steps[0] = encoder
    pipeline = make_pipeline(*steps).fit(train[inputs], train[target])
    return float(pipeline.score(test[inputs], test[target]))


def scores(name: str, seeds: int) -> dict[str, list[float]]:
    """Return the scores of both on a table, for each seed."""
    frame, is_quantity = TABLES[name](), name in QUANTITIES
    found: dict[str, list[float]] = {"fusedmlp": [], "scikit-learn": []}
    for seed in range(seeds):
        classes = None if is_quantity else frame.iloc[:, -1]
        train, test = train_test_split(
            frame, test_size=TEST_SHARE, random_state=seed, stratify=classes
        )
        found["fusedmlp"].append(score_of_command(train, test, seed))
        kind = MLPRegressor if is_quantity else MLPClassifier
        found["scikit-learn"].append(score_of_pipeline(train, test, seed, kind))
        last = ", ".join(f"{who} {values[-1]:.3f}" for who, values in found.items())
        print(f"{name}, seed {seed}: {last}", file=sys.stderr)
    return found


def main() -> int:
    """Print a table of mean scores; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tables", default=",".join(TABLES), metavar="NAME,…")
    parser.add_argument("--json", type=Path, help="write all scores to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", "Found unknown categories")
    results, is_met = {}, True
    print(f"| table | score | fusedmlp | scikit-learn |\n|---|---|{2 * '--:|'}", flush=True)
    for name in options.tables.split(","):
        results[name] = scores(name, options.seeds)
        means, deviations = (
            [float(statistic(values)) for values in results[name].values()]
            for statistic in (np.mean, np.std)
        )
        score = "R²" if name in QUANTITIES else "accuracy"
        pairs = (f"{m:.3f} ± {d:.3f}" for m, d in zip(means, deviations, strict=True))
        print(f"| {name} | {score} | {' | '.join(pairs)} |", flush=True)
        is_met = is_met and means[0] >= means[1] - 2 * deviations[1]
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return ExitCode.OK if is_met else ExitCode.BREACHED


if __name__ == "__main__":
    sys.exit(main())

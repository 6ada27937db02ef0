"""The page shows the committed curves and scores, and these agree with scikit-learn's."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))

import estimator_curves as curves  # noqa: E402 - after the path is set


@pytest.fixture(scope="module")
def document():
    return json.loads(curves.DOCUMENT.read_text("utf-8"))


def test_the_page_is_written_from_the_document(document):
    page = curves.PAGE.read_text("utf-8")
    assert curves.page_with(page, document) == page
    assert curves.FIGURE.name in page
    assert curves.FIGURE.is_file()


def test_the_document_is_of_these_problems(document):
    assert list(document["problems"]) == [problem.name for problem in curves.PROBLEMS]
    for problem in curves.PROBLEMS:
        found = document["problems"][problem.name]
        given = {key: repr(value) for key, value in problem.parameters.items()}
        assert found["parameters"] == given
        for estimator in curves.STYLES:
            shape = np.shape(found["curves"][estimator])
            assert shape == (problem.seeds, problem.parameters["max_iter"])
            assert len(found["scores"][estimator]) == problem.seeds


def test_scores_and_curves_are_scikit_learns(document):
    for name, found in document["problems"].items():
        theirs = np.array(found["scores"][curves.PEER])
        for estimator, most in ((curves.DOUBLE, 1e-3), (curves.SINGLE, 1e-2)):
            gaps = np.array(found["scores"][estimator]) - theirs
            # Three standard errors of a paired difference, and a row that tips over.
            bound = 3 * gaps.std(ddof=1) / np.sqrt(len(gaps)) + 1 / found["test_rows"]
            assert abs(gaps.mean()) <= bound, (name, estimator)
            assert curves.farthest(found, estimator) <= most, (name, estimator)


@pytest.mark.slow
def test_a_small_measurement_from_fit_to_figure(tmp_path):
    problem = curves.Problem(
        "moons", curves.moons, {"hidden_layer_sizes": (4,), "max_iter": 3}, seeds=2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        document = curves.measure([problem])
    found = document["problems"]["moons"]
    assert curves.farthest(found, curves.DOUBLE) < 1e-5
    assert found["scores"][curves.DOUBLE] == found["scores"][curves.PEER]
    assert "| moons | accuracy | 2 |" in curves.section(document)
    pytest.importorskip("matplotlib")
    curves.draw(document, tmp_path / "one.svg")
    curves.draw(document, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()

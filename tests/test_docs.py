"""Documentation: links and paths exist, code examples run, tables match the code."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import typer
from sklearn.exceptions import ConvergenceWarning

from fusedmlp import MLP
from fusedmlp.cli.app import build
from fusedmlp.registry import known_backends
from fusedmlp.tolerance import KERNEL_FACTOR, RULES, TRAJECTORY_STEPS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_and_paths_exist(path):
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
    for named in re.findall(r"`((?:src|backends|tests|docs|benchmarks)/[\w./]+)`", text):
        assert (ROOT / named).exists(), named


def test_the_tests_that_the_page_on_trust_names_exist():
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text("utf-8"), test


def test_the_example_of_the_formulas_page_runs():
    (code,) = blocks(ROOT / "docs" / "formulas.md", "python")
    *setup, last = code.strip().splitlines()
    expression, _, comment = last.partition("  # ")
    names = {}
    exec("\n".join(setup), names)
    result = eval(expression, names)
    assert repr(result) == comment.split(":")[0]


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    """On few rows and epochs; the code is unchanged otherwise."""
    import fusedmlp

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (200, 784)).astype(np.uint8), rng.integers(0, 10, 200)
    dataset = fusedmlp.Dataset("mnist", x, y, x, y, 10, "classification", None, "drawn", (28, 28))
    monkeypatch.setattr(fusedmlp, "load_dataset", lambda name: dataset)
    monkeypatch.chdir(tmp_path)
    estimators, models = blocks(ROOT / "README.md", "python")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        exec(estimators.replace("max_iter=10", "max_iter=1"), {})
    code = models.replace('backend="numba"', 'backend="numpy"').replace("epochs=15", "epochs=1")
    exec(code, {})
    assert MLP.load(tmp_path / "mnist.safetensors", backend="numpy").network.n_inputs == 784


def test_the_readme_lists_all_commands_and_backends():
    text = (ROOT / "README.md").read_text("utf-8")
    for name in known_backends():
        assert f"| `{name}`" in text
    for name in typer.main.get_command(build()).commands:
        assert re.search(rf"`(fusedmlp )?{name}`", text), name


def test_the_parity_page_has_the_bounds_of_the_code():
    text = (ROOT / "docs" / "parity.md").read_text("utf-8")
    for rule in RULES:
        assert f"| {' | '.join(rule)} |" in text
    assert f"{KERNEL_FACTOR:g} · eps" in RULES[0][1]
    assert f"after {TRAJECTORY_STEPS} steps" in RULES[1][0]

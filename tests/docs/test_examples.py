"""The examples and the questions: their code runs, checks its claims, and links to what exists.

The examples themselves run when the pages are built (``nox -s docs``), where an error ends the
build. test_fourth_backend.py runs the one with a backend.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from example_scripts import FOLDER
from sklearn.exceptions import ConvergenceWarning

DOCS = FOLDER.parent
SCRIPTS = sorted(FOLDER.glob("*.py"))
QUESTIONS = DOCS / "faq.md"


def exists(document):
    """Whether a document of Sphinx has a source; the pages of the galleries have scripts."""
    path = document.lstrip("/").replace("generated/", "")
    return any((DOCS / path).with_suffix(suffix).exists() for suffix in (".md", ".rst", ".py"))


def test_there_are_the_examples_that_the_gallery_promises():
    numbers = [path.name.partition("_")[0] for path in SCRIPTS]
    assert numbers == [f"{n:02}" for n in range(1, len(SCRIPTS) + 1)]
    assert len(SCRIPTS) >= 10


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_checks_its_claims_and_names_documents_that_exist(path):
    text = path.read_text("utf-8")
    assert re.search(r"^\s*(assert |np\.testing\.)", text, re.MULTILINE), "nothing is asserted"
    for named in re.findall(r":doc:`(?:[^`<]*<)?([^`>]+)>?`", text):
        target = named if named.startswith("/") else f"/examples/{named}"
        assert exists(target), named


def test_the_answers_link_to_examples_that_exist():
    linked = re.findall(r"\{doc\}`[^`<]*<([^`>]+)>`", QUESTIONS.read_text("utf-8"))
    assert len(linked) > 4
    for document in linked:
        assert exists(document), document


def test_the_code_of_the_answers_runs(tmp_path, monkeypatch):
    text = QUESTIONS.read_text("utf-8")
    questions = re.split(r"^## ", text, flags=re.MULTILINE)
    assert len(questions) >= 15
    monkeypatch.chdir(tmp_path)
    names = {}
    for question in questions:
        for code in re.findall(r"```python\n(.*?)```", question, re.DOTALL):
            with warnings.catch_warnings():
                # Answers are short trainings; other warnings are errors.
                warnings.simplefilter("ignore", ConvergenceWarning)
                exec(compile(code, question.partition("\n")[0], "exec"), names)
    assert not list(Path(tmp_path).iterdir())

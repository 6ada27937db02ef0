"""docs/translations.py: catalogues that are complete, and everything that makes one incomplete.

Needs the libraries of the documentation: ``nox -s docs`` runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("babel", reason="nox -s docs runs this")
pytest.importorskip("sphinx_intl", reason="nox -s docs runs this")

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import translations

HEADER = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n'
TEMPLATE = (
    '\nmsgid "The step"\nmsgstr ""\n'
    '\nmsgid "Here :math:`z` is ``x``, see :doc:`02 <two>`."\nmsgstr ""\n'
)
WHOLE = (
    '\nmsgid "The step"\nmsgstr "El escalón"\n'
    '\nmsgid "Here :math:`z` is ``x``, see :doc:`02 <two>`."\n'
    'msgstr "Aquí :math:`z` es ``x``, véase el :doc:`capítulo 2 <two>`."\n'
)


@pytest.fixture
def faults(tmp_path):
    """Write a template and a catalogue of one page; returns the faults."""

    def found(own, template=TEMPLATE):
        for folder, name, text in (
            (tmp_path / "pot", "01.pot", template),
            (tmp_path / "locales" / "es" / "LC_MESSAGES", "01.po", own),
        ):
            target = folder / translations.TRANSLATED / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                target.write_text(HEADER + text, "utf-8")
        return translations.faults(tmp_path / "pot", tmp_path / "locales")

    return found


def test_a_complete_catalogue_has_no_fault(faults):
    assert faults(WHOLE) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda text: text.replace("El escalón", ""), "not translated: The step"),
        (lambda text: text.replace('\nmsgid "The', '\n#, fuzzy\nmsgid "The'), "fuzzy: The step"),
        (lambda text: text.split("\nmsgid")[0] + "\nmsgid" + text.split("\nmsgid")[2],
         "not translated: The step"),
        (lambda text: text + '\nmsgid "Old"\nmsgstr "Viejo"\n', "not on the page: Old"),
        (lambda text: text + '\n#~ msgid "Old"\n#~ msgstr "Viejo"\n', "obsolete: Old"),
        (lambda text: text.replace("Aquí :math:`z`", "Aquí :math:`w`"), "formulas, links or code"),
        (lambda text: text.replace("es ``x``", "es x"), "formulas, links or code"),
        (lambda text: text.replace("capítulo 2 <two>", "capítulo 2 <three>"), "formulas, links"),
    ],
)  # fmt: skip
def test_each_fault_is_found(faults, change, fault):
    (found,) = faults(change(WHOLE))
    assert found.startswith(f"{translations.TRANSLATED}/01: {fault}")


def test_pages_and_catalogues_that_miss_each_other(faults):
    (found,) = faults(None)
    assert "a page without a catalogue" in found


def test_a_catalogue_whose_page_is_gone(faults):
    (found,) = faults(WHOLE, template=None)
    assert "a catalogue without a page" in found


def test_a_catalogue_is_refreshed_for_the_translator(faults, tmp_path):
    faults(WHOLE, TEMPLATE.replace("The step", "The long step") + '\nmsgid "New"\nmsgstr ""\n')
    translations.refresh(tmp_path / "pot", tmp_path / "locales")
    found = translations.faults(tmp_path / "pot", tmp_path / "locales")
    assert sorted(each.split(": ", 1)[1] for each in found) == [
        "fuzzy: The long step",
        "not translated: New",
    ]

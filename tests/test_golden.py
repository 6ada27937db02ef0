"""The bits of every engine are those of the golden table; tests/golden.py says what that is."""

from __future__ import annotations

import json

import pytest

import golden
from fusedmlp.registry import backend_class

CASES = list(golden.cases())


@pytest.mark.parametrize("name", golden.engines())
def test_no_bit_has_changed(name):
    backend, file = golden.engines()[name]
    if not file.exists():
        pytest.skip(f"{file.name} is not in tests/golden: python tests/golden.py writes it")
    expected = json.loads(file.read_text())
    cases = [case for case in CASES if case.name in expected]
    assert len(cases) == len(expected), "configurations that the table does not have"
    # NumPy's files wait for machines of their kind to add lines; any machine can add the others.
    assert len(CASES) - len(cases) <= (9 if name == "numpy" else 0)
    if name == "numpy":  # readable code, which the parity tests hold to the others: a part will do
        cases = cases[::4]
    changed = [case.name for case in cases if golden.digest(backend, case) != expected[case.name]]
    assert not changed, f"{len(changed)} of {len(cases)} differ: {changed[:5]}"


def test_strict_numpy_has_the_bits_of_the_table():
    expected = json.loads((golden.FOLDER / "strict.json").read_text())
    backend = backend_class("numpy")(strict=True)
    some = [case for case in CASES if max(case.sizes) <= 64 and case.rows < 40][::9]
    changed = [case.name for case in some if golden.digest(backend, case) != expected[case.name]]
    assert not changed

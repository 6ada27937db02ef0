"""``fusedmlp parity``: what it prints and writes, and how it ends."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fusedmlp import load_dataset, parity
from fusedmlp.errors import ExitCode
from fusedmlp.parity import certify
from fusedmlp.reference import engine
from fusedmlp.registry import Selection

DIGITS = ("parity", "--backends", "numpy,numba", "--dataset", "digits")


@pytest.fixture(scope="module")
def certificate():
    """One certificate, which two tests show."""
    selections = [Selection.from_request(name, "argument") for name in ("numpy", "numba")]
    return certify(selections, load_dataset("digits"))


@pytest.fixture
def certified(certificate, monkeypatch):
    """Let the command show that certificate in place of a new one."""
    monkeypatch.setattr(parity, "certify", lambda *_, **__: certificate)


@pytest.mark.usefixtures("certified")
def test_a_certificate_for_people(cli):
    outcome = cli(*DIGITS)
    assert outcome.code == 0, outcome.stderr
    for words in ("dropout masks", "training step, adam", "trajectory", "every bound is met"):
        assert words in outcome.stdout
    assert "breached" not in outcome.stdout


@pytest.mark.usefixtures("certified")
def test_a_certificate_as_json_and_as_a_page(cli, tmp_path):
    page = tmp_path / "parity.html"
    outcome = cli(*DIGITS, "--json", "--html", page)
    assert outcome.code == 0, outcome.stderr
    document = outcome.document
    assert document["met"]
    assert document["environment"]["packages"]["numpy"] == np.__version__
    text = page.read_text("utf-8")
    assert "within every bound" in text
    for operation in {each["operation"] for each in document["comparisons"]}:
        assert operation in text
    for each in document["fingerprints"]:
        assert each["weights"][:12] in text
    assert text.count("<svg") == 2
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#)", re.sub(r'xlink:href="#', '"#', text))
    assert "@import" not in text


def test_a_broken_kernel_ends_with_4_and_the_operations_name(cli, monkeypatch, tmp_path):
    right = engine.hidden_delta

    def flipped(operations, delta, *rest):
        right(operations, delta, *rest)
        np.negative(delta, out=delta)

    monkeypatch.setattr(engine, "hidden_delta", flipped)
    page = tmp_path / "parity.html"
    outcome = cli(*DIGITS, "--html", page)
    assert outcome.code == ExitCode.BREACHED
    assert "gradients, sigmoid units" in outcome.stdout
    assert "error: " in outcome.stderr
    assert "gradients" in outcome.stderr
    text = page.read_text("utf-8")
    assert "What is breached" in text
    assert 'class="verdict bad"' in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--backends", "numpy,tpu"), ("'tpu'", "numba")),
        (("--backends", "numpy"), ("fewer than two", "numpy,numba")),
        (("--backends", "numpy,numpy"), ("once",)),
        (("--backends", ","), ("once",)),
        (("--backends", "numpy,cupy:x"), ("'x'", "cupy:0")),
        (("--seed", "-1"), ("-1",)),
    ],
)
def test_wrong_options(cli, options, words):
    outcome = cli("parity", "--dataset", "digits", *options)
    outcome.failed(ExitCode.USAGE, *words)
    assert "operations" not in outcome.stderr


def test_a_backend_that_cannot_be_used(cli, monkeypatch):
    from fusedmlp import registry
    from fusedmlp.backend import Availability

    error = registry.unavailable("numba", Availability("missing", "no Numba", "pip install it"))

    def refuse(*given, **named):
        raise error

    monkeypatch.setattr(registry.backend_class("numba"), "__init__", refuse)
    cli(*DIGITS).failed(ExitCode.BACKEND_UNAVAILABLE, "no Numba", "pip install it")


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_computed(cli, tmp_path):
    (tmp_path / "file").write_text("")
    for target, code, words in (
        (tmp_path / "file" / "parity.html", ExitCode.FAILURE, "cannot write"),
        (tmp_path, ExitCode.USAGE, "is a folder"),
    ):
        outcome = cli(*DIGITS, "--html", target)
        outcome.failed(code, words)
        assert "operations" not in outcome.stderr


def test_a_missing_library_for_pages(cli, monkeypatch, tmp_path):
    from fusedmlp.report import page

    monkeypatch.setattr(page, "LIBRARIES", ("jinja2", "no_such_library"))
    outcome = cli(*DIGITS, "--html", tmp_path / "parity.html")
    outcome.failed(ExitCode.FAILURE, "no_such_library", "pip install 'fusedmlp[report]'")


def test_missing_data(cli, tmp_path):
    outcome = cli("parity", "--backends", "numpy,numba", "--dataset", tmp_path / "none.npz")
    assert outcome.code == ExitCode.DATA_UNAVAILABLE

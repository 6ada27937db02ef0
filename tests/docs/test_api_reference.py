"""The API pages: every public name has an entry, and every parameter is explained."""

from __future__ import annotations

import importlib
import inspect
import re
from enum import Enum
from pathlib import Path

import pytest

import fusedmlp

PAGES = Path(__file__).parents[2] / "docs" / "api"

DIRECTIVE = re.compile(
    r"^\.\. auto(module|class|function|data|exception|method):: ([\w.]+)\n((?:   :.*\n)*)",
    re.MULTILINE,
)

SUBJECTS = (
    "datasets",
    "errors",
    "io.convert",
    "io.onnx",
    "model",
    "network",
    "optimizers",
    "plot",
    "preprocessing",
    "sklearn",
    "training.early_stopping",
    "training.history",
    "training.schedules",
)
"""Modules of which every public name is for users; others have names for the package alone."""

INTERNAL = {
    "fusedmlp.network.initialise",
    "fusedmlp.network.zeros",
    "fusedmlp.optimizers.as_optimizer",
    "fusedmlp.training.early_stopping.as_early_stopping",
    "fusedmlp.training.schedules.as_schedule",
    "fusedmlp.io.convert.FittedMLP",
    "fusedmlp.io.onnx.Estimator",
    "fusedmlp.plot.check_matplotlib_installed",
}
"""Conversions and protocols that callers of the package meet under another name."""


def names_of(module):
    """Return the public names that a module defines or lists, each with its object."""
    listed = getattr(module, "__all__", None)
    if listed is None:
        prefix = f"{module.__name__}."
        listed = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isclass(value) or inspect.isfunction(value))
            and f"{value.__module__}.".startswith(prefix)
        ]
    return {name: getattr(module, name) for name in listed}


def resolved(path):
    """Import an object by its dotted path."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(path)


def documented():
    """Return every object that some page documents, as the pages' directives say."""
    found = []
    for page in PAGES.glob("*.rst"):
        for kind, path, options in DIRECTIVE.findall(page.read_text("utf-8") + "\n"):
            target = resolved(path)
            if kind != "module":
                found.append(target)
                continue
            members = re.search(r":members:(.*)", options)
            if members is not None:
                chosen = members[1].replace(",", " ").split()
                found += (
                    [getattr(target, name) for name in chosen]
                    if chosen
                    else [*names_of(target).values()]
                )
    return found


DOCUMENTED = documented()


def is_documented(value):
    return any(value is each or (not callable(value) and value == each) for each in DOCUMENTED)


def public():
    """Return every public object of the package by its dotted name."""
    found = {f"fusedmlp.{name}": getattr(fusedmlp, name) for name in fusedmlp.__all__}
    for subject in SUBJECTS:
        module = importlib.import_module(f"fusedmlp.{subject}")
        found |= {f"{module.__name__}.{name}": value for name, value in names_of(module).items()}
    return {name: value for name, value in found.items() if name not in INTERNAL}


PUBLIC = public()


def test_the_pages_are_read():
    assert len(DOCUMENTED) > 60
    assert len(PUBLIC) > 60


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_in_the_reference(name):
    assert is_documented(PUBLIC[name]), f"{name} has no entry in docs/api"


def explained(text):
    """Return the names that the sections of parameters and attributes explain."""
    found = set()
    sections = re.findall(
        r"^(?:Other )?(?:Parameters|Attributes)\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)",
        inspect.cleandoc(text),
        re.MULTILINE | re.DOTALL,
    )
    for line in "\n".join(sections).splitlines():
        if line and not line[0].isspace():
            found |= {each.strip(" *") for each in line.split(" : ")[0].split(",")}
    return found


def parameters_of(value):
    """Return the names of the parameters of a function, or of a class's constructor."""
    signature = inspect.signature(value)
    return {name for name in signature.parameters if name not in ("self", "cls", "args", "kwargs")}


CALLED = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isfunction(value)
    or (inspect.isclass(value) and not issubclass(value, (Exception, Enum)))
}


EXPLAINED_BY = {"fusedmlp.sklearn.MLPRegressor": "fusedmlp.sklearn.MLPClassifier"}
"""A class that refers to another for the parameters that both have."""


@pytest.mark.parametrize("name", sorted(CALLED))
def test_every_parameter_is_explained(name):
    texts = [CALLED[name].__doc__ or ""]
    if name in EXPLAINED_BY:
        texts.append(CALLED[EXPLAINED_BY[name]].__doc__)
    missing = parameters_of(CALLED[name]) - {each for text in texts for each in explained(text)}
    # A short function may explain a parameter in its first sentences.
    missing = {each for each in missing if not re.search(rf"``{re.escape(each)}\b", texts[0])}
    assert not missing, f"{name} does not explain {sorted(missing)}"

"""Values of an estimator file: parameters as JSON data and back, and checked numbers.

Labels are in file_labels.py, the file as a whole in files.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fusedmlp.errors import InvalidInputError
from fusedmlp.io.parameter_files import natural, number

if TYPE_CHECKING:
    from collections.abc import Mapping

Json: TypeAlias = Any
"""A value of a JSON document: from outside, so its type is known only after the checks."""

NUMBERS: Final[dict[str, type]] = {
    "n_iter_": int,
    "t_": int,
    "loss_": float,
    "best_loss_": float,
    "best_validation_score_": float,
    "loss_curve_": list,
    "validation_scores_": list,
    "validation_loss_curve_": list,
    "_stalled": int,
    "_dropout_seed": int,
}
"""Fitted attributes that are numbers or lists of them, by their names in the file; some solvers
have only some."""

RENAMED: Final = {"_stalled": "_no_improvement_count"}
"""Attributes whose names differ from those in the file."""

SCORED: Final = ("best_validation_score_", "validation_scores_", "validation_loss_curve_")
"""Attributes that are None without early stopping; ``best_loss_`` is None with it."""

MT_WORDS: Final = 624
"""Words of the Mersenne Twister's state (Matsumoto and Nishimura, 1998)."""


def parameter_to_json(name: str, value: object) -> Json:
    """Return a parameter as plain data."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.random.RandomState):
        state = value.get_state(legacy=False)
        state["state"]["key"] = state["state"]["key"].tolist()
        return {"random_state": state}
    if isinstance(value, list | tuple | np.ndarray):
        return [parameter_to_json(name, each) for each in value]
    if isinstance(value, dict):
        pairs = [[parameter_to_json(name, part) for part in pair] for pair in value.items()]
        return {"mapping": pairs}
    raise InvalidInputError(f"{name}={value!r} cannot be written to a file: use plain numbers")


def parameter_from_json(value: Json) -> object:
    """Undo :func:`parameter_to_json`; lists become tuples."""
    if isinstance(value, list):
        return tuple(parameter_from_json(each) for each in value)
    if not isinstance(value, dict):
        return value
    if set(value) == {"mapping"}:
        return {parameter_from_json(key): parameter_from_json(v) for key, v in value["mapping"]}
    return _generator(value["random_state"])


def _generator(document: Json) -> np.random.RandomState:
    """Return a generator in the state that was saved."""
    inner = document["state"]
    key, pos = [natural(word) for word in inner["key"]], natural(inner["pos"])
    if document["bit_generator"] != "MT19937" or len(key) != MT_WORDS or pos > MT_WORDS:
        raise InvalidInputError("a random_state is not the state of a Mersenne Twister")
    found = np.random.RandomState()
    found.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": np.array(key, dtype=np.uint32), "pos": pos},
            "has_gauss": natural(document["has_gauss"]),
            "gauss": number(document["gauss"]),
        }
    )
    return found


def numbers_to_json(fitted: Mapping[str, Any]) -> Json:
    """Return the attributes of :data:`NUMBERS` that an estimator has."""
    attributes = {name: RENAMED.get(name, name) for name in NUMBERS}
    return {
        name: parameter_to_json(name, fitted[each])
        for name, each in attributes.items()
        if each in fitted
    }


def fitted_numbers(document: Json, *, trained: bool) -> dict[str, object]:
    """Return the fitted attributes of :data:`NUMBERS`, checked, by the attributes' names.

    Parameters
    ----------
    trained
        The file holds an optimizer, so it must hold the curves that continue with it.
    """
    found: dict[str, object] = {name: _number(name, value) for name, value in document.items()}
    curves = trained or "loss_curve_" in found
    needed = ["n_iter_", "t_", *(["loss_curve_", "best_loss_", "_stalled", *SCORED] * curves)]
    missing = [name for name in needed if name not in found]
    if missing:
        raise InvalidInputError(f"it has no {', '.join(missing)}")
    scored = [found[name] is not None for name in SCORED] if curves else []
    if curves and (any(scored) != all(scored) or all(scored) == (found["best_loss_"] is not None)):
        raise InvalidInputError(f"best_loss_ and {', '.join(SCORED)} do not go together")
    return {RENAMED.get(name, name): value for name, value in found.items()}


def _number(name: str, value: Json) -> float | list[float] | None:
    """Return a number or a list of them."""
    kind = NUMBERS[name]
    if value is None and name in ("best_loss_", *SCORED):
        return None
    if kind is list:
        return [number(each) for each in value]
    return natural(value) if kind is int else number(value)

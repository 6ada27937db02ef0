"""Values in a JSON document: an estimator's parameters as plain data and back, checked numbers.

What a file holds beside them is in files.py.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np

from fusedmlp.errors import InvalidInputError
from fusedmlp.io.model_files import whole

Json: TypeAlias = Any
"""A value of a JSON document: from outside, so its type is known only after the checks."""

MT_WORDS: Final = 624
"""Words of the Mersenne Twister's state (Matsumoto and Nishimura, 1998)."""


def real(value: Json) -> float:
    """Return a number, checked to be one."""
    if type(value) not in (int, float):
        raise InvalidInputError(f"{value!r:.80} is not a number")
    return float(value)


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
    raise InvalidInputError(f"{name}={value!r} cannot be written to a file: give plain numbers")


def parameter_from_json(value: Json) -> object:
    """Undo :func:`parameter_to_json`, but that lists become tuples."""
    if isinstance(value, list):
        return tuple(parameter_from_json(each) for each in value)
    if not isinstance(value, dict):
        return value
    if set(value) == {"mapping"}:
        return {parameter_from_json(key): parameter_from_json(v) for key, v in value["mapping"]}
    return _generator(value["random_state"])


def _generator(document: Json) -> np.random.RandomState:
    """Return a generator where it was."""
    inner = document["state"]
    key, pos = [whole(word) for word in inner["key"]], whole(inner["pos"])
    if document["bit_generator"] != "MT19937" or len(key) != MT_WORDS or pos > MT_WORDS:
        raise InvalidInputError("a random_state is not that of a Mersenne Twister")
    found = np.random.RandomState()
    found.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": np.array(key, dtype=np.uint32), "pos": pos},
            "has_gauss": whole(document["has_gauss"]),
            "gauss": real(document["gauss"]),
        }
    )
    return found

"""Weights of the rows of a training: those that a caller gives, times those of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from fusedmlp.class_labels import Label, n_classes, shown
from fusedmlp.errors import InvalidInputError
from fusedmlp.scalars import real
from fusedmlp.validation import validate_sample_weight, validate_targets

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.class_labels import Labels
    from fusedmlp.network import Network
    from fusedmlp.types import Float64Vector, IntArray

ClassWeight: TypeAlias = Literal["balanced"] | Mapping[Label, float]


def checked_class_weight(request: ClassWeight | None) -> ClassWeight | None:
    """Return a request for class weights, checked without the classes.

    Raises
    ------
    InvalidInputError
        It is neither ``balanced`` nor a mapping, or a weight is not a number of at least 0.
    """
    if request is None or (isinstance(request, str) and request == "balanced"):
        return request
    if not isinstance(request, Mapping):
        raise InvalidInputError(f"class_weight {request!r:.80} is neither 'balanced' nor a mapping")
    for label, weight in request.items():
        number = real(f"class_weight of {label!r}", weight)
        if not (np.isfinite(number) and number >= 0.0):
            raise InvalidInputError(
                f"class_weight of {label!r} is {weight}: weights are finite and at least 0"
            )
    return request


def row_weights(
    request: ClassWeight,
    y: npt.NDArray[np.generic],
    sample_weight: npt.ArrayLike | None,
    network: Network,
    labels: Labels | None,
) -> Float64Vector:
    """Return the weight of each row: (N,).

    Parameters
    ----------
    y
        Targets for engines: class indices, or zeros and ones.
    labels
        Labels of the model, which the request names; None for class indices.

    Raises
    ------
    InvalidInputError
        A row has not one class, or the request names a class that there is not.
    """
    if n_classes(network) is None:
        raise InvalidInputError(f"class_weight needs one class per row; the network is {network}")
    indices = validate_targets(y, len(y), network, "float64").ravel().astype(np.int64)
    weights = class_weights(request, indices, network, labels)[indices]
    if sample_weight is None:
        return weights
    given = validate_sample_weight(sample_weight, len(indices), "float64")
    product: Float64Vector = weights * given
    return product


def class_weights(
    request: ClassWeight, indices: IntArray, network: Network, labels: Labels | None = None
) -> Float64Vector:
    """Return the weight of each class: (K,), or (2,) for one sigmoid output."""
    n = max(2, network.n_outputs)
    if not isinstance(request, Mapping):
        counts = np.bincount(indices, minlength=n)
        return len(indices) / (n * np.maximum(counts, 1))
    weights, names = np.ones(n), labels or tuple(range(n))
    for label, weight in request.items():
        if label not in names:
            raise InvalidInputError(
                f"class_weight names class {label!r}, the classes are {shown(names)}"
            )
        weights[names.index(label)] = weight
    return weights

"""Class labels of an estimator file: to JSON data and back, checked against the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.preprocessing import LabelBinarizer

from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fusedmlp.network import Network
    from fusedmlp.sklearn.file_values import Json


def labels_to_json(fitted: Mapping[str, Any]) -> Json:
    """Return a classifier's labels and how they are encoded."""
    labels = fitted["classes_"]
    text = all(isinstance(label, str) for label in labels.tolist())
    if labels.dtype.kind not in "biufU" and not text:
        raise InvalidInputError(
            f"class labels {labels[:3]!r}… are neither numbers nor text: a file cannot hold them"
        )
    # Text is stored without its length: a file cannot request long elements.
    dtype = {"U": "text", "O": "object"}.get(labels.dtype.kind, labels.dtype.name)
    binarizer = fitted["_label_binarizer"]
    return {
        "dtype": dtype,
        "values": labels.tolist(),
        "kind": binarizer.y_type_,
        "sparse": binarizer.sparse_input_,
    }


def classes_from_json(document: Json, network: Network) -> dict[str, object]:
    """Return a classifier's labels and their encoder, checked against the network's outputs."""
    labels, kind = _labels(document["dtype"], document["values"]), document["kind"]
    fits = {
        "binary": (network.output, network.n_outputs) == ("sigmoid", 1) and len(labels) <= 2,
        "multiclass": (network.output, network.n_outputs) == ("softmax", len(labels)),
        "multilabel-indicator": (network.output, network.n_outputs) == ("sigmoid", len(labels)),
    }
    if not fits[kind]:
        raise InvalidInputError(f"{len(labels)} labels of kind {kind!r} do not fit {network}")
    several = kind == "multilabel-indicator"
    indicator = np.eye(max(2, len(labels)), len(labels), dtype=np.int64)
    binarizer = LabelBinarizer().fit(indicator if several else labels)
    sparse = document.get("sparse", False)  # absent from older files
    if type(sparse) is not bool:
        raise InvalidInputError(f"{sparse!r:.80} is neither true nor false")
    binarizer.sparse_input_ = sparse
    return {"classes_": labels, "_label_binarizer": binarizer}


def _labels(dtype: Json, values: Json) -> npt.NDArray[Any]:
    """Return class labels (K,), sorted and distinct, each of the type that the file names."""
    if dtype in ("text", "object"):
        allowed: type = str
        found = np.array(values, dtype=str if dtype == "text" else object)
    else:
        kind = np.dtype(str(dtype))
        if kind.kind not in "biuf":
            raise InvalidInputError(f"labels of type {dtype!r} are neither numbers nor text")
        allowed = {"b": bool, "f": float}.get(kind.kind, int)
        found = np.array(values, dtype=kind)
    if not (isinstance(values, list) and all(type(value) is allowed for value in values)):
        raise InvalidInputError(f"labels {values!r:.80} are not a list of {allowed.__name__}")
    if found.ndim != 1 or not found.size or len(np.unique(found)) != len(found):
        raise InvalidInputError(f"labels {values!r:.80} are not distinct")
    if (found[:-1] > found[1:]).any():
        raise InvalidInputError(f"labels {values!r:.80} are not in order")
    return found

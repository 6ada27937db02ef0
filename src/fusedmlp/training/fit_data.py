"""What ``Trainer.fit`` is given, as arrays for engines: converted once, here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from fusedmlp.class_labels import Targets
from fusedmlp.data_frames import as_numbers, column_names
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import host_copy
from fusedmlp.training.row_weights import row_weights
from fusedmlp.validation import check_input_shape

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.class_labels import Labels
    from fusedmlp.model import MLP
    from fusedmlp.training.row_weights import ClassWeight
    from fusedmlp.types import Inputs, InputsLike

ValidationData: TypeAlias = (
    "tuple[InputsLike, npt.ArrayLike] | tuple[InputsLike, npt.ArrayLike, npt.ArrayLike | None]"
)
"""Inputs and targets, and weights if there are three."""


@dataclass(frozen=True, slots=True)
class FitData:
    """The data of a training.

    Parameters
    ----------
    x, y, weights
        Inputs, targets and weights for engines.
    labels, feature_names
        Those that the model will have; None for class indices, and for inputs without names.
    """

    x: Inputs
    y: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None
    labels: Labels | None
    feature_names: tuple[str, ...] | None


def fit_data(
    mlp: MLP,
    x: InputsLike,
    y: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    class_weight: ClassWeight | None,
) -> FitData:
    """Convert the data of a training of ``mlp``, which is not changed.

    Raises
    ------
    InvalidInputError
        Something else than numbers and labels was given, or labels that the model does not have.
    """
    if y is None:
        raise InvalidInputError("training needs targets: y is None")
    names = mlp.feature_names
    if names is None and mlp.preprocessing is None:
        names = column_names(x)
        if len(set(names or ())) < len(names or ()):
            names = None  # columns of one name cannot be told apart later
    inputs, targets = mlp.network_inputs(x, names), Targets("y", y, mlp.network)
    check_input_shape(inputs.shape, mlp.network)
    labels = targets.named_by(mlp.labels, mlp.class_names) or targets.learned()
    encoded = targets.encoded(labels)
    weights = None
    if sample_weight is not None:
        weights = as_numbers("sample_weight", host_copy("sample_weight", sample_weight))
    if class_weight is not None:
        weights = row_weights(class_weight, encoded, weights, mlp.network, labels)
    return FitData(inputs, encoded, weights, labels, names)


def validation_arrays(
    given: ValidationData, mlp: MLP, training: FitData
) -> tuple[Inputs, npt.NDArray[Any], npt.ArrayLike | None]:
    """Convert the arguments of an engine's ``stage`` for the validation rows.

    Raises
    ------
    InvalidInputError
        It is not two or three arrays, or a label is not one of the training's.
    """
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise InvalidInputError(
            f"validation_data is a {type(given).__qualname__}: give (x, y) or (x, y, sample_weight)"
        )
    x, y, *weights = given
    encoded = Targets("y of validation_data", y, mlp.network).encoded(training.labels)
    inputs = mlp.network_inputs(x, training.feature_names)
    return inputs, encoded, weights[0] if weights else None

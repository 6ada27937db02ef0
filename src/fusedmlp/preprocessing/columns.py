"""How one column of a table becomes inputs of a network: scaled numbers, one-hot categories.

The statistics are those of scikit-learn's ``SimpleImputer(strategy="median", add_indicator=True)``,
``StandardScaler`` or ``RobustScaler``, and ``OneHotEncoder(handle_unknown="ignore")`` with
``max_categories``. They are plain values here, so that a model file can hold them as data.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np

from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Scale = Literal["standard", "robust", "none"]

SCALES: Final[tuple[str, ...]] = get_args(Scale)
"""standard: mean 0, standard deviation 1; robust: median 0, interquartile range 1."""

MOST_CATEGORIES: Final = 100
"""Inputs for the different texts of a column; the rarer texts share one more."""


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A column of numbers: one input (value − center)/scale, and an indicator where it is needed.

    Parameters
    ----------
    fill
        Value in place of a missing one: the median of the training rows.
    has_indicator
        Whether a second input is 1 for missing values and 0 for others: values were missing in
        the training rows.
    """

    name: str
    fill: float
    center: float
    scale: float
    has_indicator: bool

    @property
    def n_inputs(self) -> int:
        """Inputs that the column becomes."""
        return 1 + self.has_indicator

    @classmethod
    def fit(cls, name: str, values: NDArray[np.floating[Any]], scale: Scale) -> NumberColumn:
        """Compute the statistics of a column's training rows (N,).

        Raises
        ------
        InvalidInputError
            All values are missing, or one is infinite.
        """
        values = values.astype(np.float64)
        missing = np.isnan(values)
        if missing.all():
            raise InvalidInputError(
                f"column {name!r} has no value in any training row: leave it out (--drop)"
            )
        if np.isinf(values).any():
            row = int(np.argmax(np.isinf(values)))
            raise InvalidInputError(
                f"column {name!r} is {values[row]} in training row {row}: expected finite numbers"
            )
        fill = float(np.median(values[~missing])) if missing.any() else 0.0
        values[missing] = fill
        center, spread = 0.0, 1.0
        if scale == "standard":
            center, spread = float(values.mean()), float(values.std())
            if _is_constant(len(values), center, spread):
                spread = 1.0
        elif scale == "robust":
            low, center, high = map(float, np.percentile(values, (25, 50, 75)))
            spread = high - low
        if not missing.any():
            fill = float(np.median(values))
        # A constant column becomes zeros; a division by its spread would make it NaN.
        return cls(name, fill, center, spread or 1.0, bool(missing.any()))

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {
            "name": self.name,
            "fill": self.fill,
            "center": self.center,
            "scale": self.scale,
            "has_indicator": self.has_indicator,
        }


@dataclass(frozen=True, slots=True)
class CategoryColumn:
    """A column of text: one input for each category, 1 for the row's own and 0 for the others.

    Parameters
    ----------
    categories
        Texts in order; None, last, where values were missing in the training rows.
    has_other
        Whether one more input is 1 for all other texts: there were more than
        :data:`MOST_CATEGORIES`. Without it, a text that training did not have gives zeros.
    """

    name: str
    categories: tuple[str | None, ...]
    has_other: bool

    @property
    def n_inputs(self) -> int:
        """Inputs that the column becomes."""
        return len(self.categories) + self.has_other

    @classmethod
    def fit(cls, name: str, values: NDArray[np.object_]) -> CategoryColumn:
        """Find the categories of a column's training rows (N,).

        Raises
        ------
        InvalidInputError
            The texts identify rows: nearly all are different.
        """
        counts = Counter(values.tolist())
        if len(counts) > max(MOST_CATEGORIES, len(values) // 2):
            raise InvalidInputError(
                f"column {name!r} has {len(counts):,} different texts in {len(values):,} rows, "
                "which identify rows and are no categories: leave the column out (--drop)"
            )
        texts = sorted(text for text in counts if text is not None)
        has_other = len(texts) > MOST_CATEGORIES
        if has_other:
            frequent = sorted(texts, key=lambda text: -counts[text])[:MOST_CATEGORIES]
            texts = sorted(frequent)
        missing = (None,) if None in counts else ()
        return cls(name, (*texts, *missing), has_other)

    def encode(self, values: NDArray[np.object_], inputs: NDArray[np.floating[Any]]) -> None:
        """Write a column (N,) into ``inputs`` (N, n_inputs), which are zeros."""
        position: Mapping[str | None, int] = {text: i for i, text in enumerate(self.categories)}
        other = len(self.categories) if self.has_other else -1
        found = np.array([position.get(value, other) for value in values.tolist()], dtype=np.int64)
        rows = np.flatnonzero(found >= 0)
        inputs[rows, found[rows]] = 1.0

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {
            "name": self.name,
            "categories": list(self.categories),
            "has_other": self.has_other,
        }


Column: TypeAlias = NumberColumn | CategoryColumn


def column_from_dict(data: Mapping[str, Any]) -> Column:
    """Rebuild a column from ``to_dict``, with checks of all values.

    Raises
    ------
    InvalidInputError, TypeError
        The data are not those of a column.
    """
    name = data["name"]
    if "categories" in data:
        categories = tuple(data["categories"])
        if not all(isinstance(text, str | None) for text in (name, *categories)) or not categories:
            raise InvalidInputError(f"column {name!r} has categories that are no texts")
        return CategoryColumn(name, categories, data["has_other"] is True)
    fill, center, scale = (float(data[key]) for key in ("fill", "center", "scale"))
    if not all(map(math.isfinite, (fill, center, scale))) or scale <= 0:
        raise InvalidInputError(f"column {name!r} is scaled by {scale} from {center}")
    return NumberColumn(str(name), fill, center, scale, data["has_indicator"] is True)


def _is_constant(n_rows: int, mean: float, deviation: float) -> bool:
    """Whether a deviation is below the rounding error of the mean; the rule of StandardScaler."""
    epsilon = float(np.finfo(np.float64).eps)
    bound = n_rows * epsilon * deviation**2 + (n_rows * mean * epsilon) ** 2
    return deviation**2 <= bound

"""One comparison of two engines' results: the difference, the bound, and the verdict.

The bounds themselves, with their reasons, are in :mod:`fusedmlp.tolerance`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fusedmlp.errors import BreachedError
from fusedmlp.tolerance import difference, ulps

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatDtype


@dataclass(frozen=True, slots=True)
class Finding(ABC):
    """A measured difference with a bound; each subclass is a dataclass of plain values."""

    @property
    @abstractmethod
    def is_met(self) -> bool:
        """Whether the difference is within the bound; NaN is not."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line that names what was compared, the difference and the bound."""

    def document(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self) | {"met": self.is_met}

    def check(self) -> None:
        """Raise :class:`BreachedError` unless met."""
        if not self.is_met:
            raise BreachedError(self.describe())


@dataclass(frozen=True, slots=True)
class NamedArray:
    """One array that a check computes, and how it may be compared.

    Parameters
    ----------
    name
        Which of the check's results, such as ``weights of layer 1``.
    values
        An array of the engine's dtype, or float64 sums.
    bound
        Largest allowed max|a − b| / scale; 0 for equality.
    scale
        What errors are measured by; None for the reference's largest value. See
        :func:`fusedmlp.tolerance.difference`.
    """

    name: str
    values: npt.NDArray[np.generic]
    bound: float
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison(Finding):
    """The difference of one array between two engines.

    Parameters
    ----------
    operation, part
        Name of the check and of its array.
    backend, reference
        The compared backend, and the one that it is compared with.
    dtype
        Of both engines.
    max_ulp, mean_ulp
        Distances element by element, in units in the last place. Where terms cancel, an element
        near zero may be many ulp away although the sum that it came from is exact: the verdict
        goes by ``found``.
    found, bound
        max|a − b| / scale, and the most that is allowed.
    """

    operation: str
    part: str
    backend: str
    reference: str
    dtype: FloatDtype
    max_ulp: float
    mean_ulp: float
    found: float
    bound: float

    @property
    def is_met(self) -> bool:
        """See :class:`Finding`."""
        return self.found <= self.bound

    @property
    def share_of_bound(self) -> float:
        """The difference divided by its bound; where equality is demanded, 0 or infinity."""
        if self.bound:
            return self.found / self.bound
        return 0.0 if self.is_met else float("inf")

    def describe(self) -> str:
        """See :class:`Finding`."""
        return (
            f"{self.operation}: {self.part}: {self.backend} and {self.reference} in {self.dtype} "
            f"are {self.found:.3g} apart, allowed {self.bound:.3g}"
        )


def compare(
    operation: str,
    pair: tuple[str, str],
    dtype: FloatDtype,
    actual: NamedArray,
    expected: NamedArray,
) -> Comparison:
    """Compare two engines' results; bound and scale are the reference's.

    Parameters
    ----------
    pair
        Names of the backend and of the reference.
    actual, expected
        The backend's array, and the reference's.
    """
    found = difference(actual.values, expected.values, expected.scale)
    max_ulp = mean_ulp = float("inf")
    if actual.values.shape == expected.values.shape:
        distances = ulps(actual.values, expected.values, dtype)
        max_ulp = float(distances.max(initial=0.0))
        mean_ulp = float(distances.mean()) if distances.size else 0.0
    return Comparison(
        operation, expected.name, *pair, dtype, max_ulp, mean_ulp, found, expected.bound
    )


def worst_by_operation(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return, of each operation, pair and dtype, the array nearest to its bound or past it."""
    worst: dict[tuple[str, str, str, str], Comparison] = {}
    for each in comparisons:
        key = (each.operation, each.backend, each.reference, each.dtype)
        # The negation takes a NaN, which compares as false, for the worst.
        if key not in worst or not each.share_of_bound <= worst[key].share_of_bound:
            worst[key] = each
    return list(worst.values())

"""One comparison of two engines' results: what was found, what is allowed, and the verdict.

The bounds themselves, with their reasons, are in :mod:`fusedmlp.tolerance`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fusedmlp.errors import BreachedError
from fusedmlp.tolerance import difference, ulps

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatDtype


@dataclass(frozen=True, slots=True)
class Part:
    """One array that an operation gave, and how it may be compared.

    Parameters
    ----------
    name
        Which of the operation's results, such as ``weights of layer 1``.
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
class Comparison:
    """What two engines' results of one operation came to.

    Parameters
    ----------
    operation, part
        What was computed.
    backend, reference
        Who is compared, with whom.
    dtype
        Of both engines.
    max_ulp, mean_ulp
        Distances element by element, in units in the last place. Where terms cancel, an element
        near zero may be many ulp away though the sum that it came from is exact: the verdict goes
        by ``found``.
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
        """Within the bound; NaN is not."""
        return self.found <= self.bound

    @property
    def name(self) -> str:
        """The operation and its part."""
        return f"{self.operation}: {self.part}"

    def check(self) -> None:
        """Raise :class:`BreachedError` unless met."""
        if not self.is_met:
            raise BreachedError(
                f"{self.name} of {self.backend} differs from {self.reference}'s in {self.dtype} "
                f"by {self.found:.3g}, the bound is {self.bound:.3g}"
            )

    def document(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self) | {"met": self.is_met}


def compare(
    operation: str, names: tuple[str, str], dtype: FloatDtype, mine: Part, theirs: Part
) -> Comparison:
    """Compare two engines' results; bound and scale are the reference's.

    Parameters
    ----------
    names
        The backend, and the one that it is compared with.
    """
    found = difference(mine.values, theirs.values, theirs.scale)
    if mine.values.shape == theirs.values.shape:
        apart = ulps(mine.values, theirs.values, dtype)
        most, mean = (float(apart.max()), float(apart.mean())) if apart.size else (0.0, 0.0)
    else:
        most = mean = float("inf")
    return Comparison(operation, theirs.name, *names, dtype, most, mean, found, theirs.bound)

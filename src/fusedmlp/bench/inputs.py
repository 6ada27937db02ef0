"""The inputs of a benchmark task: data, starting weights and expected results, read from files.

prepare.py writes the files once for each task, so that all subjects use the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.network import Parameters

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.types import DenseInputs, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Inputs:
    """Data and starting weights of a task, and the NumPy backend's results on them.

    Parameters
    ----------
    x, y
        (N, D) inputs, uint8 pixels or of the task's dtype; (N,) class numbers.
    start
        Starting weights and biases.
    order
        Row numbers for the parity check of a training.
    expected, expected_loss
        Results of the NumPy backend. For a training: W1, b1, … and the mean loss over ``order``;
        for a prediction: its probabilities, and 0.
    """

    x: DenseInputs
    y: IntArray
    start: Parameters
    order: IntArray
    expected: list[FloatArray]
    expected_loss: float

    def floats(self, dtype: npt.DTypeLike) -> FloatArray:
        """Return the inputs as floats of this type, pixels divided by 255."""
        return as_floats(self.x, dtype)


def as_floats(x: DenseInputs, dtype: npt.DTypeLike) -> FloatArray:
    """Convert inputs to floats; pixels are divided by 255."""
    if x.dtype == np.uint8:
        scaled: FloatArray = x.astype(dtype) / np.asarray(255, dtype)
        return scaled
    return x.astype(dtype)


def write(inputs: Inputs, folder: Path) -> None:
    """Write the files to a new folder."""
    folder.mkdir(parents=True)
    arrays: dict[str, npt.NDArray[np.generic]] = {"order": inputs.order}
    arrays |= {f"start{index}": array for index, array in enumerate(inputs.start)}
    arrays |= {f"expected{index}": array for index, array in enumerate(inputs.expected)}
    arrays["loss"] = np.array(inputs.expected_loss)
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type] # its keywords
    np.save(folder / "x.npy", inputs.x)
    np.save(folder / "y.npy", inputs.y)


def read(folder: Path) -> Inputs:
    """Read what :func:`write` wrote."""
    with np.load(folder / "arrays.npz") as arrays:

        def series(name: str) -> list[FloatArray]:
            return [arrays[f"{name}{i}"] for i in range(sum(n.startswith(name) for n in arrays))]

        start = series("start")
        return Inputs(
            np.load(folder / "x.npy"),
            np.load(folder / "y.npy"),
            Parameters(tuple(start[::2]), tuple(start[1::2])),
            arrays["order"],
            series("expected"),
            float(arrays["loss"]),
        )

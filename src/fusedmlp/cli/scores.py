"""Figures of a model on labelled rows, for ``train`` and ``evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fusedmlp.training.progress import loss_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusedmlp.model import MLP

LEAST_GAIN: Final = 0.02
"""Gain over a constant prediction below which a model is said to have learnt nothing."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Loss, and what users compare: accuracy for classes and labels, R² and RMSE for quantities.

    Parameters
    ----------
    r2
        1 − Σ(y − ŷ)²/Σ(y − mean)², the mean over target columns; None if a column is constant.
    rmse
        √mean((y − ŷ)²) over all columns, in the unit of the target.
    constant
        Accuracy of predicting the most frequent class for every row; None for other tasks.
    """

    loss: float
    accuracy: float | None
    r2: float | None
    rmse: float | None
    constant: float | None

    @classmethod
    def of(cls, mlp: MLP, x: NDArray[Any], y: NDArray[Any]) -> Scores:
        """Measure a model on inputs (N, D) of its network and targets as in a data set."""
        metrics = mlp.evaluate(x, y)
        r2 = rmse = constant = None
        if mlp.network.predicts_values:
            difference = mlp.forward(x).astype(np.float64) - y
            spread = np.square(y - y.mean(axis=0, dtype=np.float64)).sum(axis=0)
            rmse = float(np.sqrt(np.mean(np.square(difference))))
            if spread.all():
                r2 = float(np.mean(1.0 - np.square(difference).sum(axis=0) / spread))
        elif mlp.network.output == "softmax":
            constant = float(np.bincount(y).max() / len(y))
        return cls(metrics.loss, metrics.accuracy, r2, rmse, constant)

    def lines(self, n_rows: int, prefix: str = "") -> list[tuple[str, str]]:
        """Return labels and texts to print."""
        lines = [(f"{prefix}loss", loss_text(self.loss))]
        if self.accuracy is not None:
            wrong = round((1 - self.accuracy) * n_rows)
            rate = f"error rate {100 * (1 - self.accuracy):.2f} %, {wrong:,} of {n_rows:,} wrong"
            lines.append((f"{prefix}accuracy", f"{self.accuracy:.4f} ({rate})"))
        if self.rmse is not None:
            lines.append((f"{prefix}RMSE", f"{self.rmse:.4g} (in the unit of the target)"))
        if self.r2 is not None:
            lines.append((f"{prefix}R²", f"{self.r2:.4f} (1 is perfect, 0 is the mean)"))
        return lines

    def advice(self) -> str | None:
        """Return what to say of a model that is hardly better than a constant prediction."""
        if self.accuracy is not None and self.constant is not None:
            if self.constant < 1 and self.accuracy < self.constant + LEAST_GAIN * (
                1 - self.constant
            ):
                found = f"the accuracy {self.accuracy:.2f} is about the share of the largest class"
                return f"{found} ({self.constant:.2f})"
        elif self.r2 is not None and self.r2 < LEAST_GAIN:
            return "the predictions are no better than the mean of the target"
        return None


ADVICE: Final = "the model has learnt little. Try more --epochs or another --lr"

TABLE_ADVICE: Final = (
    "; check the target column (--target) and the task (--task), and leave columns out that "
    "identify rows (--drop)"
)

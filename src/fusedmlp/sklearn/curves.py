"""What an estimator notes of every epoch, and when nothing has improved for too long.

The rules and the printed lines are scikit-learn's. The training itself is in base.py.
"""

from __future__ import annotations

import numpy as np

from fusedmlp.sklearn.parameters import STOCHASTIC_SOLVERS, Fitted


class Curves(Fitted):
    """The curves among the fitted attributes; not for direct use."""

    def _begin_curves(self) -> None:
        """Begin all curves anew."""
        self.n_iter_ = self.t_ = 0
        if self.solver in STOCHASTIC_SOLVERS:
            self.loss_curve_, self._stalled = [], 0
            self._begin_watched()

    def _begin_missing_curves(self) -> None:
        """Begin those that the fit which this one continues had not, with other parameters."""
        if not hasattr(self, "loss_curve_"):
            self.loss_curve_, self._stalled = [], 0
            self._begin_watched()
        elif bool(self.early_stopping) == (getattr(self, "validation_scores_", None) is None):
            self._begin_watched()

    def _begin_watched(self) -> None:
        """Begin what is watched: the score of rows held out, or else the loss."""
        scored = self.early_stopping
        self.best_loss_ = None if scored else np.inf
        self.validation_scores_ = [] if scored else None
        self.validation_loss_curve_ = [] if scored else None
        self.best_validation_score_ = -np.inf if scored else None

    def _note_epoch(self, loss: float, n_rows: int) -> None:
        """Note the loss of an epoch."""
        self.loss_ = loss
        self.n_iter_ += 1
        self.t_ += n_rows
        self.loss_curve_.append(loss)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {loss:.8f}")

    def _note_score(self, score: float, loss: float) -> bool:
        """Note the validation score and loss of an epoch; True where the score is the best."""
        assert self.validation_scores_ is not None
        assert self.validation_loss_curve_ is not None
        assert self.best_validation_score_ is not None
        self.validation_scores_.append(score)
        self.validation_loss_curve_.append(loss)
        if self.verbose:
            print(f"Validation score: {score:f}")
        improved = not score < self.best_validation_score_ + self.tol
        self._stalled = 0 if improved else self._stalled + 1
        is_best = score > self.best_validation_score_
        if is_best:
            self.best_validation_score_ = score
        return is_best

    def _note_best_loss(self) -> None:
        """Note whether the last loss is an improvement, where no score is watched."""
        assert self.best_loss_ is not None
        improved = not self.loss_ > self.best_loss_ - self.tol
        self._stalled = 0 if improved else self._stalled + 1
        self.best_loss_ = min(self.best_loss_, self.loss_)

    def _is_over(self) -> bool:
        """Move the rate after an epoch; True where nothing has improved for too long."""
        self._rate.epoch_ended(self.t_)
        if self._stalled <= self.n_iter_no_change:
            return False
        lowered = self._rate.lowered()
        if lowered:
            self._stalled = 0
        if self.verbose:
            what = "Validation score" if self.early_stopping else "Training loss"
            then = "Stopping."
            if lowered:
                then = f"Setting learning rate to {self._rate.now:f}"
            elif self._rate.is_smallest:
                then = "Learning rate too small. Stopping."
            print(
                f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} "
                f"consecutive epochs. {then}"
            )
        return not lowered

"""Loss and score curves of an estimator, and scikit-learn's rule for the end of training.

Rules and printed lines are scikit-learn's. The loop over epochs is :mod:`fusedmlp.training.loop`.
"""

from __future__ import annotations

import numpy as np

from fusedmlp.sklearn.estimator import EngineOptimizer, NetworkEstimator
from fusedmlp.sklearn.parameters import STOCHASTIC_SOLVERS


class Curves(NetworkEstimator):
    """Methods that keep the curves; a base class of the estimators."""

    def _start_curves(self) -> None:
        """Start all curves, for new weights."""
        self.n_iter_ = self.t_ = 0
        if self.solver in STOCHASTIC_SOLVERS:
            self.loss_curve_, self._no_improvement_count = [], 0
            self._start_monitored_curves()

    def _start_missing_curves(self) -> None:
        """Start the curves that an earlier fit, with other parameters, did not have."""
        if not hasattr(self, "loss_curve_"):
            self.loss_curve_, self._no_improvement_count = [], 0
            self._start_monitored_curves()
        elif bool(self.early_stopping) == (getattr(self, "validation_scores_", None) is None):
            self._start_monitored_curves()

    def _start_monitored_curves(self) -> None:
        """Start what the stopping rule monitors: the validation score, or else the loss."""
        scored = self.early_stopping
        self.best_loss_ = None if scored else np.inf
        self.validation_scores_ = [] if scored else None
        self.validation_loss_curve_ = [] if scored else None
        self.best_validation_score_ = -np.inf if scored else None

    def _add_loss(self, loss: float, n_rows: int) -> None:
        """Add the loss of an epoch of ``n_rows`` rows."""
        self.loss_ = loss
        self.n_iter_ += 1
        self.t_ += n_rows
        self.loss_curve_.append(loss)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {loss:.8f}")

    def _monitor_score(self, score: float, loss: float) -> bool:
        """Add the validation score and loss of an epoch; return whether the score is the best."""
        assert self.validation_scores_ is not None
        assert self.validation_loss_curve_ is not None
        assert self.best_validation_score_ is not None
        self.validation_scores_.append(score)
        self.validation_loss_curve_.append(loss)
        if self.verbose:
            print(f"Validation score: {score:f}")
        # Written so that NaN counts as an improvement here and is never the best, as there.
        self._count_epoch(improved=not score < self.best_validation_score_ + self.tol)
        is_best = score > self.best_validation_score_
        if is_best:
            self.best_validation_score_ = score
        return is_best

    def _monitor_loss(self) -> None:
        """Compare the last loss with the best, where there is no validation score."""
        assert self.best_loss_ is not None
        self._count_epoch(improved=not self.loss_ > self.best_loss_ - self.tol)
        self.best_loss_ = min(self.best_loss_, self.loss_)

    def _count_epoch(self, *, improved: bool) -> None:
        self._no_improvement_count = 0 if improved else self._no_improvement_count + 1

    @property
    def _has_converged(self) -> bool:
        """Whether too many epochs in a row have brought no improvement."""
        return self._no_improvement_count > self.n_iter_no_change

    def _stop_reason(self, optimizer: EngineOptimizer) -> str | None:
        """Change the rate after an epoch; return why to stop, or None."""
        optimizer.iteration_ends(self.t_)
        if not self._has_converged:
            return None
        reason = (
            f"{'Validation score' if self.early_stopping else 'Training loss'} did not improve "
            f"more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        )
        if optimizer.trigger_stopping(reason, self.verbose):
            return reason
        self._no_improvement_count = 0  # the rate was lowered instead
        return None

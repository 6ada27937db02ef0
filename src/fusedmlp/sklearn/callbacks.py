"""Who is told of a fit: our own callbacks and, from scikit-learn 1.9 on, scikit-learn's.

Ours are those of :mod:`fusedmlp.training.callbacks`, the parameter ``callbacks``. scikit-learn's
are set by its own ``set_callbacks``: to them a fit is a task, and its epochs or iterations are
subtasks. base.py and lbfgs.py decide when each is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedmlp.training.callbacks import Callback
from fusedmlp.training.history import EpochRecord, History

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp.backend import Engine
    from fusedmlp.network import Parameters


def _callback_support() -> type[object]:
    try:
        from sklearn.callback import CallbackSupportMixin
    except ImportError:
        return type("NoCallbackSupport", (), {})
    found: type[object] = CallbackSupportMixin
    return found


CallbackSupport: Any = _callback_support()
"""scikit-learn's mixin for estimators with callbacks; an empty class before its release 1.9."""


def checked(callbacks: Sequence[object] | None) -> tuple[Callback, ...]:
    """Return our callbacks, each checked to be one.

    Raises
    ------
    TypeError
        One is not.
    """
    for callback in callbacks or ():
        if not isinstance(callback, Callback):
            raise TypeError(
                f"callbacks holds {callback!r}, which is not a fusedmlp.Callback; "
                "scikit-learn's are given to set_callbacks()"
            )
    return tuple(callback for callback in callbacks or () if isinstance(callback, Callback))


class Tasks:
    """A fit as scikit-learn's callbacks see it.

    Parameters
    ----------
    root
        scikit-learn's context of the fit; None where it has no callbacks.
    name, most
        Name of the subtasks, and how many there will be at most.
    told
        ``estimator``, ``X``, ``y`` and ``metadata``, for callbacks that ask for them.
    """

    def __init__(self, root: Any, name: str, most: int, told: dict[str, object]) -> None:  # noqa: ANN401 - a class of scikit-learn's, untyped
        self._root, self._name, self._most, self._begun = root, name, most, 0
        self._told = told
        self._task: Any = None
        # A task tree that nobody looks at would cost more than the epochs of a small network.
        self._heard = bool(getattr(told["estimator"], "_skl_callbacks", ()))
        if root is not None:
            root.call_on_fit_task_begin(**told)

    def next_begins(self) -> None:
        """Tell that a subtask begins, if there may be another."""
        if self._heard and self._begun < self._most:
            self._task = self._root.subcontext(task_name=self._name)
            self._task.call_on_fit_task_begin(**self._told)
            self._begun += 1

    def ended(self, parameters: Callable[[], Parameters]) -> bool:
        """Tell that the subtask has ended; True where a callback asks to stop.

        Parameters
        ----------
        parameters
            Gives the parameters of the moment, for callbacks that ask for a fitted estimator.
        """
        if self._task is None:
            return False

        def attributes() -> dict[str, object]:
            now = parameters()
            return {"coefs_": list(now.weights), "intercepts_": list(now.biases)}

        task, self._task = self._task, None
        return bool(task.call_on_fit_task_end(**self._told, reconstruction_attributes=attributes))

    def end(self) -> None:
        """Tell that the fit has ended, and a subtask that was begun in vain."""
        for task in (self._task, self._root):
            if task is not None:
                task.call_on_fit_task_end(**self._told)
        self._task = None


class Fit:
    """A fit by epochs: a :class:`fusedmlp.training.callbacks.TrainingView` for our callbacks."""

    def __init__(
        self,
        engine: Engine,
        callbacks: tuple[Callback, ...],
        *,
        epochs: int,
        rows: int,
        validated: bool,
    ) -> None:
        self.engine, self.history = engine, History()
        self.epochs, self.rows, self.validated = epochs, rows, validated
        self.steps_per_epoch = -(-rows // engine.batch_size)
        self._callbacks = callbacks

    def stop(self, reason: str) -> None:
        """End the training after the running epoch."""
        self.history.stopped = reason

    def begin(self) -> None:
        """Tell that the first epoch begins."""
        for callback in self._callbacks:
            callback.on_train_begin(self)

    def rows_done(self, rows: int) -> None:
        """Tell how far the running epoch is."""
        for callback in self._callbacks:
            callback.on_progress(self, rows)

    def epoch_ended(self, record: EpochRecord) -> None:
        """Tell what the epoch came to."""
        self.history.records.append(record)
        for callback in self._callbacks:
            callback.on_epoch_end(self, record)

    def end(self) -> None:
        """Tell that training has ended, every callback, also where one before it raises."""
        if self._callbacks:
            first, *rest = self._callbacks
            self._callbacks = tuple(rest)
            try:
                first.on_train_end(self)
            finally:
                self.end()

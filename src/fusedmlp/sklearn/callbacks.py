"""Callbacks of an estimator: the package's own and, from scikit-learn 1.9 on, scikit-learn's.

The package's own (:mod:`fusedmlp.training.callbacks`) are the parameter ``callbacks``.
scikit-learn's are set by its ``set_callbacks``: a fit is then a task, and its epochs or
iterations are subtasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedmlp.training.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp.network import Parameters
    from fusedmlp.training.callbacks import TrainingView
    from fusedmlp.training.history import EpochRecord


def _callback_support() -> type[object]:
    try:
        from sklearn.callback import CallbackSupportMixin
    except ImportError:
        return type("NoCallbackSupport", (), {})
    found: type[object] = CallbackSupportMixin
    return found


CallbackSupport: Any = _callback_support()
"""scikit-learn's mixin for estimators with callbacks; an empty class before its release 1.9."""


def checked_callbacks(callbacks: Sequence[object] | None) -> tuple[Callback, ...]:
    """Return the package's own callbacks, each checked to be one.

    Raises
    ------
    TypeError
        An object is not a :class:`fusedmlp.Callback`.
    """
    for callback in callbacks or ():
        if not isinstance(callback, Callback):
            raise TypeError(
                f"callbacks holds {callback!r}, which is not a fusedmlp.Callback; "
                "pass scikit-learn's to set_callbacks()"
            )
    return tuple(callback for callback in callbacks or () if isinstance(callback, Callback))


class FitTasks:
    """The tasks of a fit for scikit-learn's callbacks.

    Parameters
    ----------
    root
        scikit-learn's context of the fit; None where it has no callbacks.
    name, most
        Name of the subtasks, and their largest number.
    arguments
        ``estimator``, ``X``, ``y`` and ``metadata``, passed to the callbacks.
    """

    def __init__(self, root: Any, name: str, most: int, arguments: dict[str, object]) -> None:  # noqa: ANN401 - a class of scikit-learn's, untyped
        self._root, self._name, self._most, self._started = root, name, most, 0
        self._arguments = arguments
        self._task: Any = None
        # Without callbacks no subtasks are made: they cost more than an epoch of a small network.
        self._active = bool(getattr(arguments["estimator"], "_skl_callbacks", ()))
        if root is not None:
            root.call_on_fit_task_begin(**arguments)

    def begin_next(self) -> None:
        """Begin a subtask, if another may follow."""
        if self._active and self._started < self._most:
            self._task = self._root.subcontext(task_name=self._name)
            self._task.call_on_fit_task_begin(**self._arguments)
            self._started += 1

    def end_current(self, parameters: Callable[[], Parameters]) -> bool:
        """End the subtask; return True if a callback requests the end of training.

        Parameters
        ----------
        parameters
            Returns the current parameters, for callbacks that need a fitted estimator.
        """
        if self._task is None:
            return False

        def attributes() -> dict[str, object]:
            current = parameters()
            return {"coefs_": list(current.weights), "intercepts_": list(current.biases)}

        task, self._task = self._task, None
        return bool(
            task.call_on_fit_task_end(**self._arguments, reconstruction_attributes=attributes)
        )

    def end(self) -> None:
        """End the fit, and a subtask that was interrupted."""
        for task in (self._task, self._root):
            if task is not None:
                task.call_on_fit_task_end(**self._arguments)
        self._task = None


class EpochTasks(Callback):
    """Makes every epoch a subtask of :class:`FitTasks`; the last callback of a fit."""

    def __init__(self, tasks: FitTasks) -> None:
        self._tasks = tasks

    def on_train_begin(self, run: TrainingView) -> None:
        """Begin the first epoch's task."""
        self._begin_next(run)

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """End the epoch's task and begin the next one's."""
        if self._tasks.end_current(run.engine.parameters):
            run.stop("a callback requested it")
        self._begin_next(run)

    def _begin_next(self, run: TrainingView) -> None:
        if run.history.stopped is None:
            self._tasks.begin_next()

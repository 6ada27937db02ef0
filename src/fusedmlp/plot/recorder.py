"""The decision boundary during a training: a callback, and the animation of what it has kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from fusedmlp.class_labels import Targets, n_classes
from fusedmlp.data_frames import columns_of
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import host_array, host_copy
from fusedmlp.plot.boundary import Grid, Points, draw_boundary
from fusedmlp.plot.classifier import axes_names, of_classes
from fusedmlp.plot.style import shown_figure
from fusedmlp.scalars import whole
from fusedmlp.training.callbacks import Callback
from fusedmlp.validation import validate_targets

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes

    from fusedmlp.backend import Engine
    from fusedmlp.network import Network
    from fusedmlp.training.callbacks import TrainingView
    from fusedmlp.training.history import EpochRecord
    from fusedmlp.types import FloatArray, InputsLike

GRID_SIDE: Final = 100
"""Points of the grid along each axis: fewer than in one picture, because every frame keeps them."""


class Frame(NamedTuple):
    """The state of a training after an epoch.

    Parameters
    ----------
    epoch
        From 1; 0 for the initial weights.
    probabilities
        (G, G, K) float32: value of the second input, value of the first input, class.
    """

    epoch: int
    probabilities: npt.NDArray[np.float32]


class BoundaryRecorder(Callback):
    """Keeps the probabilities over the plane of two inputs while a network is trained.

    A callback of the trainer or of an estimator. A resumed training adds frames, a new one starts
    over.

    Parameters
    ----------
    x, y
        Rows (N, 2), as floats as the network takes them, and their classes (N,): they are drawn
        over the probabilities, and the grid reaches around them. Labels are taken to be in sorted
        order, as a first training takes them; for a model whose ``labels`` were set in another
        order give class numbers.
    every
        Epochs from one frame to the next. The initial weights are the first frame, and the last
        epoch is always one. A frame of K classes takes 40·K kB.

    Attributes
    ----------
    frames
        The :class:`Frame` of each recorded epoch, oldest first.

    Raises
    ------
    InvalidInputError
        ``x`` is not (N, 2), or ``every`` is no whole number. When training begins: the network has
        not two inputs or no classes, or ``y`` does not fit it or ``x``.
    """

    def __init__(self, x: InputsLike, y: npt.ArrayLike, *, every: int = 1) -> None:
        rows = host_array("x", x)
        if rows.ndim != 2 or rows.shape[1] != 2 or not len(rows):
            raise InvalidInputError(f"x has shape {rows.shape}: a boundary needs rows (N, 2)")
        if rows.dtype == np.uint8:
            raise InvalidInputError(
                "x is uint8, which some models read as pixels: give x as floats, as the network "
                "takes them"
            )
        self._rows, self._y = rows.astype(np.float64), y
        names = tuple(column.name for column in columns_of(x) or ())
        self._axes = axes_names(names)
        self._every = whole("every", every)
        self._grid = Grid.around(self._rows, GRID_SIDE)
        self._points: Points | None = None
        self.frames: list[Frame] = []

    def on_train_begin(self, run: TrainingView) -> None:
        """Check that the network fits, and record its initial weights."""
        self._points = self._checked(run.engine.network)
        if not run.history.records:
            self.frames = []
            self._record(run.engine, 0)

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Record the epoch, if its turn has come or it is the last."""
        is_last = record.epoch == run.epochs or run.history.stopped is not None
        if is_last or record.epoch % self._every == 0:
            self._record(run.engine, record.epoch)

    def draw(self, index: int, ax: Axes | None = None) -> Axes:
        """Draw a frame as :func:`fusedmlp.plot.decision_boundary` does, its epoch as the title.

        Parameters
        ----------
        index
            Of ``frames``; -1 is the last.
        ax
            Where to draw; None for a new figure of ``pyplot``.

        Raises
        ------
        InvalidInputError
            There is no such frame.
        MissingDependencyError
            Matplotlib is not installed.
        """
        points = self._drawable()
        n = len(self.frames)
        if not -n <= index < n:
            raise InvalidInputError(f"frame {index} is not one of {n}: give one from 0 to {n - 1}")
        if ax is None:
            ax = shown_figure(5.0, 4.2).subplots()
        frame = self.frames[index]
        draw_boundary(ax, self._grid, frame.probabilities, points)
        ax.set_title(f"epoch {frame.epoch:,}")
        return ax

    def animation(self, interval_ms: int = 200) -> FuncAnimation:
        """Return all frames as an animation; ``.save("moons.gif", writer="pillow")`` writes it.

        Parameters
        ----------
        interval_ms
            Milliseconds from one frame to the next.

        Raises
        ------
        InvalidInputError
            There is no frame.
        MissingDependencyError
            Matplotlib is not installed.
        """
        self._drawable()
        figure = shown_figure(5.0, 4.2)
        from matplotlib.animation import FuncAnimation

        ax = figure.subplots()

        def update(index: int) -> list[Axes]:
            ax.clear()
            return [self.draw(index, ax)]

        return FuncAnimation(
            figure, update, frames=len(self.frames), interval=interval_ms, init_func=lambda: [ax]
        )

    def _drawable(self) -> Points:
        if self._points is None or not self.frames:
            raise InvalidInputError(
                "nothing is recorded: pass the recorder to a training, such as "
                "Trainer(callbacks=recorder)"
            )
        return self._points

    def _checked(self, network: Network) -> Points:
        """Return the rows as they are drawn, checked to fit the network."""
        if network.n_inputs != 2 or n_classes(network) is None:
            raise InvalidInputError(
                f"a boundary needs a network of two inputs that predicts classes, not {network}"
            )
        targets = Targets("y", self._y, network)
        labels = targets.learned()
        checked = validate_targets(targets.encoded(labels), len(self._rows), network, "float64")
        names = range(n_classes(network) or 0) if labels is None else labels
        return Points(
            self._rows,
            checked.reshape(-1).astype(np.int64),
            tuple(map(str, names)),
            self._axes,
        )

    def _record(self, engine: Engine, epoch: int) -> None:
        outputs: FloatArray = host_copy("probabilities", engine.forward(self._grid.points))
        probabilities = self._grid.spread(of_classes(outputs)).astype(np.float32)
        self.frames.append(Frame(epoch, probabilities))

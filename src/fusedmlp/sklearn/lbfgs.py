"""The solver lbfgs: SciPy's L-BFGS-B over the engine's loss and gradients of all rows at once."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning

from fusedmlp.backend import State
from fusedmlp.network import Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedmlp.backend import Data, Engine
    from fusedmlp.network import Network
    from fusedmlp.sklearn.callbacks import FitTasks
    from fusedmlp.types import Float64Vector


class Minimum(NamedTuple):
    """Result of the solver.

    Parameters
    ----------
    parameters
        In float64; those evaluated last where the search was interrupted.
    loss
        The objective there; NaN where nothing was evaluated.
    n_iter
        Iterations.
    interrupt
        What Ctrl-C raised, or None.
    """

    parameters: Parameters
    loss: float
    n_iter: int
    interrupt: KeyboardInterrupt | None = None


def minimise(
    engine: Engine,
    data: Data,
    start: Parameters,
    options: Mapping[str, float],
    *,
    verbose: bool,
    tasks: FitTasks,
    stacklevel: int,
) -> Minimum:
    """Minimise the engine's objective over all rows of ``data``.

    Parameters
    ----------
    engine
        Its batch size is at least the number of rows; the L2 term is that of its objective.
    options
        ``maxiter``, ``maxfun`` and ``gtol`` of SciPy's L-BFGS-B: the most iterations and
        evaluations, and the largest element of the gradient at a minimum.
    tasks
        Each iteration is a subtask; a callback may end the search.
    stacklevel
        Of a warning, seen from here.

    Warns
    -----
    ConvergenceWarning
        A bound was reached first, or the line search failed.
    """
    network, rows, stopped = engine.network, np.arange(data.rows), False
    latest = Minimum(start, np.nan, 0)

    def objective(flat: Float64Vector) -> tuple[float, Float64Vector]:
        nonlocal latest
        if not np.isfinite(flat).all():
            return np.nan, np.full_like(flat, np.nan)  # ends the search, after a non-finite loss
        parameters = unflattened(flat, network)
        engine.load(State(parameters, (), 0))
        metrics, gradients = engine.loss_and_gradients(data, rows)
        loss = metrics.loss
        if metrics.squares is not None:
            loss += 0.5 * engine.objective.l2 * float(metrics.squares[0])
        latest = Minimum(unflattened(flat.copy(), network), loss, latest.n_iter)
        if verbose:
            print(f"loss = {loss:.8f}")
        return loss, flattened(gradients)

    def iteration_finished(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        # SciPy chooses the argument by the parameter's name, and StopIteration ends the search.
        nonlocal stopped, latest
        latest = latest._replace(n_iter=latest.n_iter + 1)
        stopped = tasks.end_current(lambda: unflattened(intermediate_result.x.copy(), network))
        if stopped:
            raise StopIteration
        tasks.begin_next()

    tasks.begin_next()
    try:
        found = scipy.optimize.minimize(
            objective,
            flattened(start),
            method="L-BFGS-B",
            jac=True,
            callback=iteration_finished,
            options=dict(options),
        )
    except KeyboardInterrupt as interrupt:
        return latest._replace(interrupt=interrupt)
    max_iter = int(options["maxiter"])
    n_iter = min(found.nit, max_iter)
    if found.status != 0 and not stopped:
        remedies = ["You might also want to scale the data."]
        if n_iter == max_iter:
            more = "Increase the number of iterations to improve the convergence"
            remedies.insert(0, f"{more} (max_iter={max_iter}).")
        warnings.warn(
            f"lbfgs failed to converge after {n_iter} iteration(s) (status={found.status}):\n"
            f"{found.message}\n\n" + "\n".join(remedies),
            ConvergenceWarning,
            stacklevel=stacklevel,
        )
    return Minimum(unflattened(found.x, network), float(found.fun), n_iter)


def flattened(parameters: Parameters) -> Float64Vector:
    """Return W1, b1, W2, b2, … as one float64 vector."""
    return np.concatenate([array.ravel() for array in parameters]).astype(np.float64)


def unflattened(flat: Float64Vector, network: Network) -> Parameters:
    """Return views of a vector that :func:`flattened` made."""
    weights, biases, at = [], [], 0
    for fan_in, fan_out in network.layer_shapes:
        weights.append(flat[at : at + fan_in * fan_out].reshape(fan_in, fan_out))
        at += fan_in * fan_out
        biases.append(flat[at : at + fan_out])
        at += fan_out
    return Parameters(tuple(weights), tuple(biases))

"""The parity checks: every operation of the contract, one by one, on random numbers.

A check builds engines of one backend, runs them, and returns arrays with the bounds that apply to
them. It uses engines through the contract alone, so that it fits every backend. Where the contract
gives no access to an inner result, the network is chosen so that the result is an output: a weight
matrix that is the identity shows an activation unchanged, for instance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from fusedmlp.backend import State
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective, Parameters, zeros
from fusedmlp.parity.comparison import NamedArray, compare
from fusedmlp.parity.masks import MASKED_STEPS, dropout_masks
from fusedmlp.parity.problems import OPTIMIZERS, STORAGES, engine, order, problem, start
from fusedmlp.tolerance import kernel_bound
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fusedmlp.backend import Backend, BatchMetrics, Engine
    from fusedmlp.network import HiddenActivation, Output
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.parity.comparison import Comparison
    from fusedmlp.parity.problems import Problem
    from fusedmlp.types import FloatArray, FloatDtype, IntArray

    RunCheck: TypeAlias = Callable[[Backend, FloatDtype], list[NamedArray]]

SIZES: Final = (13, 7, 11, 5)
"""Odd widths, so that the last vector, tile and block of every layer is a partial one."""

BATCH: Final = 8

_GRID: Final = np.concatenate(
    [np.linspace(-30.0, 30.0, 241), [-1000.0, -88.0, -1e-8, 0.0, 1e-8, 88.0, 1000.0]]
)
"""Arguments of activations: where they bend, where they are flat, and far out."""


@dataclass(frozen=True, slots=True)
class ParityCheck:
    """The name of an operation in the certificate, and a function that runs it on a backend."""

    name: str
    run: RunCheck


def parity_checks() -> Iterator[ParityCheck]:
    """Every check, from the first product to the optimizers."""
    for storage in STORAGES:
        title = storage.replace("csr", "sparse float")
        yield ParityCheck(
            f"weighted sums, inputs in {title}", partial(weighted_sums, storage=storage)
        )
    yield ParityCheck("biases of hidden units", hidden_biases)
    for hidden in HIDDEN_ACTIVATIONS:
        yield ParityCheck(f"{hidden} of hidden units", partial(hidden_values, hidden=hidden))
    for output in OUTPUTS:
        yield ParityCheck(f"{output} output", partial(output_values, output=output))
    for output in OUTPUTS:
        yield ParityCheck(f"loss and accuracy, {output} output", partial(metrics, output=output))
    for hidden, output in product(HIDDEN_ACTIVATIONS, OUTPUTS):
        task = problem(SIZES, hidden, output)
        yield ParityCheck(
            f"gradients, {hidden} units, {output} output", partial(gradients, task=task)
        )
    weighted = problem(SIZES, weighted=True)
    for objective in (Objective("mean", 0.3), Objective("sum", 0.3)):
        name = f"gradients, weighted rows, {objective.reduction} and penalty"
        yield ParityCheck(name, partial(gradients, task=weighted, objective=objective))
    dropping = problem(SIZES, dropout=0.4)
    # The masks first: where they are wrong, so are these gradients, and the report's first line
    # should name the cause.
    yield ParityCheck("dropout masks", mask_bits)
    yield ParityCheck("gradients, dropout", partial(gradients, task=dropping))
    for name, optimizer in OPTIMIZERS.items():
        yield ParityCheck(f"update, {name}", partial(update, optimizer=optimizer))
    for name, optimizer in OPTIMIZERS.items():
        yield ParityCheck(f"training step, {name}", partial(training_step, optimizer=optimizer))
    for rows in (1, 1500):
        yield ParityCheck(f"prediction of {counted(rows, 'row')}", partial(prediction, rows=rows))


def comparisons(
    backends: dict[str, Backend], dtypes: Iterable[FloatDtype]
) -> Iterator[list[Comparison]]:
    """Run every check on every backend and compare every pair of backends.

    Parameters
    ----------
    backends
        By name. In a pair, the earlier one is the reference.
    """
    names = list(backends)
    pairs = [(names[j], names[i]) for i in range(len(names)) for j in range(i + 1, len(names))]
    for dtype, check in product(dtypes, parity_checks()):
        results = {name: check.run(backend, dtype) for name, backend in backends.items()}
        yield [
            compare(check.name, (name, reference), dtype, actual, expected)
            for name, reference in pairs
            for actual, expected in zip(results[name], results[reference], strict=True)
        ]


def weighted_sums(backend: Backend, dtype: FloatDtype, storage: str) -> list[NamedArray]:
    """Z = xW + b, for one storage of the inputs."""
    task = problem((97, 33), output="identity", rows=50, storage=storage)
    built, _ = engine(backend, task, dtype=dtype)
    W, b = (np.abs(each.astype(np.float64)) for each in built.parameters())
    stored = task.x if isinstance(task.x, np.ndarray) else task.x.toarray()
    x = np.abs(stored.astype(np.float64)) / (255 if storage == "uint8" else 1)
    scale = float((x @ W + b).max())
    return [NamedArray("z", built.forward(task.x), kernel_bound(dtype, 97), scale)]


def hidden_biases(backend: Backend, dtype: FloatDtype) -> list[NamedArray]:
    """Z + b of a hidden layer of identity units: the weights are identity matrices."""
    network = Network((8, 8, 8), "identity", "identity")
    biases = start(network, OPTIMIZERS["sgd"], dtype).parameters.biases[0], np.zeros(8, dtype)
    built = _with_identity_weights(backend, dtype, network, biases)
    z = np.random.default_rng(0).normal(size=(21, 8)).astype(dtype)
    return [NamedArray("values", built.forward(z), kernel_bound(dtype))]


def hidden_values(
    backend: Backend, dtype: FloatDtype, hidden: HiddenActivation
) -> list[NamedArray]:
    """f(z) of a hidden layer: the weights are identity matrices, the biases zero."""
    built = _with_identity_weights(backend, dtype, Network((8, 8, 8), hidden, "identity"))
    z = np.resize(_GRID, (31, 8)).astype(dtype)
    return [NamedArray("values", built.forward(z), kernel_bound(dtype))]


def output_values(backend: Backend, dtype: FloatDtype, output: Output) -> list[NamedArray]:
    """ŷ of random logits, some of them large: the weights are an identity matrix."""
    z = np.random.default_rng(0).normal(size=(50, 10)) * np.repeat([1.0, 30.0], 25)[:, None]
    built = _with_identity_weights(backend, dtype, Network((10, 10), output=output))
    # e^(z − max z) has the error of its argument, which is that of z: up to 100 here.
    return [NamedArray("values", built.forward(z.astype(dtype)), kernel_bound(dtype, 10))]


def metrics(backend: Backend, dtype: FloatDtype, output: Output) -> list[NamedArray]:
    """Losses, rows predicted right and weights: of more rows than a batch, and of chosen rows."""
    task = problem(SIZES, "tanh", output, rows=1500, weighted=True)
    built, data = engine(backend, task, dtype=dtype)
    bound = kernel_bound(dtype, 1500)
    chosen = built.evaluate(data, np.arange(3, 700, 2))
    return [
        *_metric_arrays("all rows", built.evaluate(data), bound),
        *_metric_arrays("chosen rows", chosen, bound),
    ]


def gradients(
    backend: Backend, dtype: FloatDtype, task: Problem, objective: Objective | None = None
) -> list[NamedArray]:
    """Loss and gradients of one batch, with dropout where the network has it."""
    rows = order(int(task.x.shape[0]))[:BATCH]
    built, data = engine(backend, task, objective=objective, dtype=dtype, batch_size=BATCH)
    sums, found = built.loss_and_gradients(data, rows)
    # The longest sum is a product over the layer's inputs, the batch or the outputs; errors
    # of one layer pass through those after it.
    bound = kernel_bound(dtype, max(*task.network.sizes, BATCH) * task.network.n_layers)
    sizes = _term_sizes(backend, task, rows, objective or Objective())
    scales = [
        max(size, float(np.abs(gradient).max()))
        for size, gradient in zip(sizes, found, strict=True)
    ]
    return [
        *_metric_arrays("the batch", sums, bound),
        *_parameter_arrays("gradient", found, bound, scales),
    ]


def mask_bits(backend: Backend, dtype: FloatDtype) -> list[NamedArray]:
    """Which units are dropped, for every row, in two layers, at several steps: equal bits."""
    found = dropout_masks(backend, dtype)
    return [
        NamedArray(f"layer {layer + 1} at step {step:,}", mask, 0.0)
        for step, layers in zip(MASKED_STEPS, found, strict=True)
        for layer, mask in enumerate(layers)
    ]


def update(backend: Backend, dtype: FloatDtype, optimizer: Optimizer) -> list[NamedArray]:
    """Three optimizer steps with given gradients."""
    task = problem(SIZES)
    built, _ = engine(backend, task, optimizer, dtype=dtype)
    for seed in range(3):
        given = start(task.network, optimizer, dtype, seed=100 + seed).parameters
        built.apply_gradients(given, optimizer.lr)
    return _state_arrays(built, optimizer, kernel_bound(dtype, 3))


def training_step(backend: Backend, dtype: FloatDtype, optimizer: Optimizer) -> list[NamedArray]:
    """One step of ``train_epoch``, in which engines fuse the operations of the checks above."""
    task = problem(SIZES, weighted=True)
    built, data = engine(backend, task, optimizer, Objective(l2=0.01), dtype=dtype)
    rows = order(int(task.x.shape[0]))[:BATCH]
    sums = built.train_epoch(data, rows, np.array([optimizer.lr]))
    bound = kernel_bound(dtype, max(*SIZES, BATCH) * task.network.n_layers)
    return [*_metric_arrays("the batch", sums, bound), *_state_arrays(built, optimizer, bound)]


def prediction(backend: Backend, dtype: FloatDtype, rows: int) -> list[NamedArray]:
    """Predict with a whole network whose dropout must be off."""
    task = problem(SIZES, dropout=0.5, rows=rows)
    built, _ = engine(backend, task, dtype=dtype)
    bound = kernel_bound(dtype, max(SIZES) * task.network.n_layers)
    return [NamedArray("outputs", built.forward(task.x), bound)]


def _with_identity_weights(
    backend: Backend,
    dtype: FloatDtype,
    network: Network,
    biases: tuple[FloatArray, ...] | None = None,
) -> Engine:
    task = problem(network.sizes, network.hidden, network.output, rows=1)
    built, _ = engine(backend, task, dtype=dtype)
    ones = tuple(np.eye(fan_in, dtype=dtype) for fan_in, _ in network.layer_shapes)
    built.load(State(Parameters(ones, biases or zeros(network, dtype).biases), (), 0))
    return built


def _metric_arrays(name: str, sums: BatchMetrics, bound: float) -> list[NamedArray]:
    """Loss, rows predicted right and weights; one is added so that no value is zero."""
    right = np.array([sums.correct.sum() + 1.0, sums.weights.sum() + 1.0])
    return [
        NamedArray(f"loss of {name}", np.array([sums.losses.sum()]), bound),
        NamedArray(f"rows right of {name}", right, bound),
    ]


def _parameter_arrays(
    what: str, arrays: Iterable[FloatArray], bound: float, scales: Sequence[float] = ()
) -> list[NamedArray]:
    """Name arrays W1, b1, W2, b2, … after their layers."""
    return [
        NamedArray(
            f"{what} of the {('weights', 'biases')[i % 2]} of layer {i // 2 + 1}",
            array,
            bound,
            scales[i] if scales else None,
        )
        for i, array in enumerate(arrays)
    ]


def _state_arrays(built: Engine, optimizer: Optimizer, bound: float) -> list[NamedArray]:
    state = built.state()
    named = _parameter_arrays("new values", state.parameters, bound)
    for name, slot in zip(optimizer.slots, state.slots, strict=True):
        named += _parameter_arrays(name.replace("_", " "), slot, bound)
    return named


def _term_sizes(
    backend: Backend, task: Problem, rows: IntArray, objective: Objective
) -> list[float]:
    """Largest sum of the rows' absolute gradients, array by array: the scale of rounding errors.

    A batch's gradient is the sum of these terms, which may cancel. They are computed without
    dropout in float64, and divided by Σ wᵢ where the objective is a mean.
    """
    plain = replace(task, network=replace(task.network, dropout=0.0))
    built, data = engine(backend, plain, objective=Objective("sum"))
    each = [built.loss_and_gradients(data, rows[i : i + 1]) for i in range(len(rows))]
    weight = sum(float(sums.weights[0]) for sums, _ in each)
    divisor = weight if objective.reduction == "mean" and weight else 1.0
    columns = zip(*(found for _, found in each), strict=True)
    return [float(sum(np.abs(g) for g in column).max()) / divisor for column in columns]

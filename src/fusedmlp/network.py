"""Networks as data: sizes, activations, output, objective, parameters and initialisation.

The forward and backward passes are in :mod:`fusedmlp.reference` and in the backends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

import numpy as np

from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.scalars import store_reals
from fusedmlp.seeding import Stream, generator
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fusedmlp.types import Float64Array, FloatArray, FloatDtype

HiddenActivation: TypeAlias = Literal[
    "sigmoid", "tanh", "relu", "identity", "leaky_relu", "elu", "gelu", "silu"
]
Output: TypeAlias = Literal["softmax", "sigmoid", "identity", "exp"]
Reduction: TypeAlias = Literal["mean", "sum"]
Initialisation: TypeAlias = Literal["auto", "glorot", "he", "workshop"]

HIDDEN_ACTIVATIONS: Final = get_args(HiddenActivation)
OUTPUTS: Final = get_args(Output)
REDUCTIONS: Final = get_args(Reduction)
INITIALISATIONS: Final = get_args(Initialisation)

Task = Literal["classification", "multilabel", "regression"]

OUTPUT_OF_TASK: Final[dict[Task, Output]] = {
    "classification": "softmax",
    "multilabel": "sigmoid",
    "regression": "identity",
}
"""Output layer for each task of a data set; the loss follows from it."""

DERIVATIVE_NEEDS_Z: Final[frozenset[HiddenActivation]] = frozenset({"gelu", "silu"})
"""Hidden activations that are not monotonic: f'(z) does not follow from a = f(z) alone."""

RECTIFIERS: Final[frozenset[HiddenActivation]] = frozenset(
    {"relu", "leaky_relu", "elu", "gelu", "silu"}
)
"""Hidden activations close to max(z, 0), for which the initialisation of He et al. is derived."""

MAX_LAYER_WEIGHTS: Final = 2**60 - 1
"""Eight bytes each: an array has less than 2^63 bytes. Memory ends long before."""

LEAKY_RELU_SLOPE: Final = 0.01
"""Slope of ``leaky_relu`` below 0 (Maas et al., 2013)."""


@dataclass(frozen=True, slots=True)
class Network:
    """The architecture of a multilayer perceptron: everything but its parameters.

    Parameters
    ----------
    sizes
        ``(D, H1, …, K)``. ``(D, 1)`` with a sigmoid output is a single neuron, the perceptron.
    hidden
        Activation of every hidden layer.
    output
        ``softmax`` (one class of K ≥ 2, cross-entropy), ``sigmoid`` (K independent binary labels,
        binary cross-entropy), ``identity`` (K real targets, half the squared error) or ``exp``
        (K counts or rates, at least 0, half the Poisson deviance). For each of these pairs of
        output and loss, the output delta is ŷ − y.
    dropout
        Probability in [0, 1) with which a hidden unit is set to 0 in a training step; kept units
        are scaled by 1/(1 − dropout) ("inverted dropout", Srivastava et al., 2014).
    """

    sizes: tuple[int, ...]
    hidden: HiddenActivation = "sigmoid"
    output: Output = "softmax"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", _checked_sizes(self.sizes))
        if self.hidden not in HIDDEN_ACTIVATIONS:
            raise UnknownNameError.of("hidden activation", self.hidden, HIDDEN_ACTIVATIONS)
        if self.output not in OUTPUTS:
            raise UnknownNameError.of("output", self.output, OUTPUTS)
        store_reals(self, "dropout")
        if not 0.0 <= self.dropout < 1.0:
            raise InvalidInputError(f"dropout {self.dropout} is not a probability in [0, 1)")
        if self.output == "softmax" and self.n_outputs < 2:
            raise InvalidInputError(
                "a softmax over 1 output is always 1: use output='sigmoid' for two classes, "
                "or 2 outputs"
            )

    @property
    def n_inputs(self) -> int:
        """D."""
        return self.sizes[0]

    @property
    def n_outputs(self) -> int:
        """K."""
        return self.sizes[-1]

    @property
    def predicts_values(self) -> bool:
        """Whether the outputs are real values, without classes and so without an accuracy."""
        return self.output in ("identity", "exp")

    @property
    def keeps_z(self) -> bool:
        """Whether the backward pass needs z of the hidden layers, and not only a = f(z)."""
        return self.hidden in DERIVATIVE_NEEDS_Z and self.n_layers > 1

    @property
    def n_layers(self) -> int:
        """L, the number of layers with weights."""
        return len(self.sizes) - 1

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """The shape (fan-in, fan-out) of each layer's weights, first layer first."""
        return tuple(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in self.layer_shapes)

    def layer_rows(self) -> list[tuple[str, str, str, str]]:
        """Return a row of a table for each layer: number, shape, activation, parameters."""
        activations = [*[self.hidden] * (self.n_layers - 1), self.output]
        return [
            (str(number), str(shape), activation, f"{(shape[0] + 1) * shape[1]:,}")
            for number, (shape, activation) in enumerate(
                zip(self.layer_shapes, activations, strict=True), start=1
            )
        ]

    @property
    def flops_per_row(self) -> int:
        """Floating-point operations of the matrix products, per row and training step.

        A layer's forward product and its weight gradient take 2·D·H each, and so does the product
        delta·Wᵀ for the layer before it. The first layer does not compute the latter.
        """
        products = [2 * fan_in * fan_out for fan_in, fan_out in self.layer_shapes]
        return 3 * sum(products) - products[0]

    def __str__(self) -> str:
        shape = "-".join(map(str, self.sizes))
        hidden = f"{self.hidden} hidden, " if self.n_layers > 1 else ""
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        return f"{shape} ({hidden}{self.output} output{dropout})"


@dataclass(frozen=True, slots=True)
class Objective:
    """The objective of training: the reduction of row losses over a batch, and the L2 penalty.

    Parameters
    ----------
    reduction
        ``mean``: Σ wᵢ·lossᵢ / Σ wᵢ over the batch, so that a weight of 2 equals a repeated row;
        ``sum``: Σ wᵢ·lossᵢ, the workshop's convention.
    l2
        λ of the penalty ½·λ·Σ W², added after the reduction. Biases are not penalised.
    """

    reduction: Reduction = "mean"
    l2: float = 0.0

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise UnknownNameError.of("reduction", self.reduction, REDUCTIONS)
        store_reals(self, "l2")
        if not (math.isfinite(self.l2) and self.l2 >= 0.0):
            raise InvalidInputError(f"l2 {self.l2} is not a finite number of at least 0")


@dataclass(frozen=True)
class Parameters:
    """Weights and biases, or arrays of the same shapes: gradients, velocities, moments.

    ``weights[l]`` is (fan-in, fan-out) and ``biases[l]`` (fan-out,), C order, one dtype.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]

    def __iter__(self) -> Iterator[FloatArray]:
        """Yield W1, b1, W2, b2, …."""
        for W, b in zip(self.weights, self.biases, strict=True):
            yield W
            yield b

    def __repr__(self) -> str:
        """Describe the arrays in one line, without their values."""
        shapes = " ".join(str(W.shape) for W in self.weights)
        return f"Parameters({counted(len(self.weights), 'layer')}: {shapes}, {self.dtype})"

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The common dtype of all arrays."""
        return cast("np.dtype[np.floating]", self.weights[0].dtype)

    def copy(self, dtype: FloatDtype | np.dtype[np.floating] | None = None) -> Parameters:
        """Copy into new C-ordered arrays, converted if ``dtype`` is given."""
        return Parameters(
            tuple(np.array(W, dtype=dtype or W.dtype, order="C") for W in self.weights),
            tuple(np.array(b, dtype=dtype or b.dtype, order="C") for b in self.biases),
        )

    def check(self, network: Network) -> None:
        """Raise :class:`InvalidInputError` unless the arrays fit ``network`` and are finite."""
        if len(self.weights) != network.n_layers or len(self.biases) != network.n_layers:
            raise InvalidInputError(
                f"parameters of {counted(len(self.weights), 'layer')} do not fit a network of "
                f"{network.n_layers}"
            )
        expected = [s for shape in network.layer_shapes for s in (shape, shape[1:])]
        for index, (array, shape) in enumerate(zip(self, expected, strict=True)):
            name = f"{'Wb'[index % 2]}{index // 2 + 1}"
            if array.shape != shape:
                raise InvalidInputError(
                    f"{name} has shape {array.shape}, the network needs {shape}"
                )
            if not np.isfinite(array).all():
                raise InvalidInputError(f"{name} holds NaN or infinite values")


def zeros(network: Network, dtype: FloatDtype | np.dtype[np.floating]) -> Parameters:
    """Return arrays of zeros in the shapes of the network's parameters."""
    return Parameters(
        tuple(np.zeros(shape, dtype) for shape in network.layer_shapes),
        tuple(np.zeros(shape[1], dtype) for shape in network.layer_shapes),
    )


def initialise(
    network: Network, seed: int, dtype: FloatDtype = "float32", scheme: Initialisation = "auto"
) -> Parameters:
    """Draw initial weights; biases are 0.

    Weights are drawn in float64 on the host, so that all backends and both dtypes start from the
    same values (rounded for float32).

    Parameters
    ----------
    scheme
        ``glorot``: uniform on ±√(6/(fan-in + fan-out)) (Glorot and Bengio, 2010, eq. 16);
        ``he``: normal with deviation √(2/fan-in) (He et al., 2015, eq. 10);
        ``workshop``: uniform on [0, 1)/√fan-in, all positive as in the workshop;
        ``auto``: ``he`` for layers followed by one of :data:`RECTIFIERS`, else ``glorot``.
    """
    if scheme not in INITIALISATIONS:
        raise UnknownNameError.of("initialisation", scheme, INITIALISATIONS)
    rng = generator(seed, Stream.WEIGHTS)
    weights = []
    for layer, (fan_in, fan_out) in enumerate(network.layer_shapes):
        feeds_rectifier = network.hidden in RECTIFIERS and layer < network.n_layers - 1
        chosen = ("he" if feeds_rectifier else "glorot") if scheme == "auto" else scheme
        draw = _DRAWS[chosen]
        weights.append(draw(rng, fan_in, fan_out).astype(dtype))
    return Parameters(tuple(weights), zeros(network, dtype).biases)


def _glorot(rng: np.random.Generator, fan_in: int, fan_out: int) -> Float64Array:
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, (fan_in, fan_out))


def _he(rng: np.random.Generator, fan_in: int, fan_out: int) -> Float64Array:
    return rng.normal(0.0, math.sqrt(2.0 / fan_in), (fan_in, fan_out))


def _workshop(rng: np.random.Generator, fan_in: int, fan_out: int) -> Float64Array:
    return rng.random((fan_in, fan_out)) / math.sqrt(fan_in)


_DRAWS: Final[dict[str, Callable[[np.random.Generator, int, int], Float64Array]]] = {
    "glorot": _glorot,
    "he": _he,
    "workshop": _workshop,
}


def _checked_sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    sizes = tuple(sizes)
    if len(sizes) < 2:
        raise InvalidInputError(f"sizes {sizes} need at least the inputs and the outputs: (D, K)")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise InvalidInputError(f"sizes {sizes}: {size!r} is not a whole number of at least 1")
    for fan_in, fan_out in pairwise(sizes):
        if int(fan_in) * int(fan_out) > MAX_LAYER_WEIGHTS:
            raise InvalidInputError(
                f"sizes {sizes}: {fan_in} inputs and {fan_out} units have more than the "
                f"{MAX_LAYER_WEIGHTS} weights that one array can hold"
            )
    return tuple(int(size) for size in sizes)

"""Optimizers as hyper-parameters: frozen, hashable and comparable, without computation.

The update formulas are below. :mod:`fusedmlp.reference.updates` computes them, and the backends
have kernels of the same names. θ is a weight or bias array, g its gradient, lr the step's learning
rate from the schedule and t the number of the step, from 1.

=========  ==================================================================================
sgd        θ ← θ − lr·g
momentum   v ← μ·v − lr·g;  θ ← θ + v                                        (Polyak, 1964)
nesterov   v ← μ·v − lr·g;  θ ← θ + μ·v − lr·g                        (Sutskever et al., 2013)
adam       m ← β₁·m + (1 − β₁)·g;  v ← β₂·v + (1 − β₂)·g²;
           θ ← θ − lr·(m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)           (Kingma and Ba, 2015)
           with ``eps_hat``, ε = ε̂ / √(1 − β₂ᵗ)            (there, at the end of section 2)
adamw      θ ← θ − lr·λ·θ (weights only), then adam            (Loshchilov and Hutter, 2019)
lion       u = sign(β₁·m + (1 − β₁)·g);  θ ← θ − lr·λ·θ (weights only) − lr·u;
           m ← β₂·m + (1 − β₂)·g                                       (Chen et al., 2023)
=========  ==================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias

import numpy as np

from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.portable import powers
from fusedmlp.scalars import store_reals

if TYPE_CHECKING:
    from fusedmlp.types import Float64Array, Float64Vector


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent, with momentum μ if it is above 0.

    Parameters
    ----------
    lr
        Base learning rate, above 0.
    momentum
        μ, in [0, 1).
    nesterov
        Take the gradient's step from where the momentum leads; needs a momentum.
    """

    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        store_reals(self, "lr", "momentum")
        _check_positive("lr", self.lr)
        _check_unit_interval("momentum", self.momentum)
        if self.nesterov and not self.momentum:
            raise InvalidInputError("nesterov needs a momentum above 0, such as momentum=0.9")

    @property
    def kernel(self) -> Literal["sgd", "momentum", "nesterov"]:
        """Name of the update formula."""
        if not self.momentum:
            return "sgd"
        return "nesterov" if self.nesterov else "momentum"

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the optimizer's state arrays for each parameter."""
        return ("velocity",) if self.momentum else ()


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam, with decoupled weight decay (AdamW) if ``weight_decay`` is above 0.

    Parameters
    ----------
    lr
        Base learning rate.
    beta1, beta2
        Decay rates of the moments, in [0, 1).
    eps
        ε, which bounds the step for vanishing gradients.
    weight_decay
        λ of AdamW.
    eps_hat
        Use ``eps`` as ε̂, which is added to the uncorrected √v: the form at the end of section 2 of
        Kingma and Ba (2015), which TensorFlow and scikit-learn compute. The equivalent ε is larger
        in the first steps, up to 32 times with the default β₂.
    """

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    eps_hat: bool = False

    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")

    def __post_init__(self) -> None:
        store_reals(self, "lr", "beta1", "beta2", "eps", "weight_decay")
        _check_positive("lr", self.lr)
        _check_unit_interval("beta1", self.beta1)
        _check_unit_interval("beta2", self.beta2)
        _check_positive("eps", self.eps)
        _check_weight_decay(self.weight_decay)

    def __repr__(self) -> str:
        # Checkpoints compare settings as text; those written before eps_hat lack it.
        values = f"lr={self.lr!r}, beta1={self.beta1!r}, beta2={self.beta2!r}, eps={self.eps!r}"
        hat = ", eps_hat=True" if self.eps_hat else ""
        return f"Adam({values}, weight_decay={self.weight_decay!r}{hat})"

    @property
    def kernel(self) -> Literal["adam"]:
        """Name of the update formula; AdamW is ``adam`` with weight decay."""
        return "adam"

    def bias_corrections(self, first_step: int, n_steps: int) -> Float64Array:
        """1 − β₁ᵗ and 1 − β₂ᵗ for each step, in float64 on the host.

        Parameters
        ----------
        first_step
            Number of steps already taken: the first row is for t = first_step + 1.

        Returns
        -------
        (n_steps, 2) float64
        """
        columns = [powers(beta, first_step + 1, n_steps) for beta in (self.beta1, self.beta2)]
        return 1.0 - np.stack(columns, axis=1)

    def epsilons(self, first_step: int, n_steps: int) -> Float64Vector:
        """Return the ε that is added to the corrected √v in each step, in float64 on the host.

        Parameters
        ----------
        first_step
            See :meth:`bias_corrections`.

        Returns
        -------
        (n_steps,) float64
        """
        if not self.eps_hat:
            return np.full(n_steps, self.eps)
        corrections = self.bias_corrections(first_step, n_steps)[:, 1]
        epsilons: Float64Vector = self.eps / np.sqrt(corrections)
        return epsilons


@dataclass(frozen=True, slots=True)
class Lion:
    """Lion ("evolved sign momentum"): every parameter changes by lr in each step.

    Parameters
    ----------
    lr
        Base learning rate; Chen et al. (2023) recommend a third to a tenth of Adam's.
    beta1
        Weight of the momentum in the direction of a step, in [0, 1).
    beta2
        Decay rate of the momentum, in [0, 1).
    weight_decay
        λ; three to ten times AdamW's for the same effect, since lr is smaller.
    """

    lr: float = 0.0001
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    slots: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        store_reals(self, "lr", "beta1", "beta2", "weight_decay")
        _check_positive("lr", self.lr)
        _check_unit_interval("beta1", self.beta1)
        _check_unit_interval("beta2", self.beta2)
        _check_weight_decay(self.weight_decay)

    @property
    def kernel(self) -> Literal["lion"]:
        """Name of the update formula."""
        return "lion"


Optimizer: TypeAlias = SGD | Adam | Lion

UPDATE_FORMULAS: Final = ("sgd", "momentum", "nesterov", "adam", "lion")
"""Names of the formulas at the head of this file, each an optimizer's ``kernel``. Compiled engines
know a formula by its position here."""

OPTIMIZER_NAMES: Final = ("sgd", "momentum", "nesterov", "adam", "adamw", "lion")
"""Names that :func:`make_optimizer` takes: a formula, with or without weight decay."""

DEFAULT_MOMENTUM: Final = 0.9
DEFAULT_WEIGHT_DECAY: Final = 0.01


def make_optimizer(name: str, lr: float | None = None) -> Optimizer:
    """Return an optimizer with its usual hyper-parameters, by name.

    Parameters
    ----------
    name
        One of :data:`OPTIMIZER_NAMES`.
    lr
        Base learning rate; None for the default of the class.
    """
    optimizer: Optimizer
    match name:
        case "sgd":
            optimizer = SGD()
        case "momentum":
            optimizer = SGD(momentum=DEFAULT_MOMENTUM)
        case "nesterov":
            optimizer = SGD(momentum=DEFAULT_MOMENTUM, nesterov=True)
        case "adam":
            optimizer = Adam()
        case "adamw":
            optimizer = Adam(weight_decay=DEFAULT_WEIGHT_DECAY)
        case "lion":
            optimizer = Lion()
        case _:
            raise UnknownNameError.of("optimizer", name, OPTIMIZER_NAMES)
    return optimizer if lr is None else replace(optimizer, lr=lr)


def as_optimizer(optimizer: Optimizer | str) -> Optimizer:
    """Return an optimizer, given itself or by name with the usual hyper-parameters.

    Raises
    ------
    InvalidInputError
        It is neither.
    """
    if isinstance(optimizer, str):
        return make_optimizer(optimizer)
    if not isinstance(optimizer, Optimizer):
        raise InvalidInputError(
            f"optimizer {optimizer!r:.80} is not one of fusedmlp: give SGD(), Adam() or Lion(), or "
            f"a name of {', '.join(OPTIMIZER_NAMES)}"
        )
    return optimizer


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise InvalidInputError(f"{name} {value} is not a finite number above 0")


def _check_unit_interval(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise InvalidInputError(f"{name} {value} is not in [0, 1)")


def _check_weight_decay(value: float) -> None:
    if not (math.isfinite(value) and value >= 0.0):
        raise InvalidInputError(f"weight_decay {value} is not at least 0")

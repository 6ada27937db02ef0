"""An optimizer's steps on all parameters of a network at once, and the rates that they take.

The formulas are in formulas.cu and :mod:`fusedmlp_numpy.kernels`; the rates of coming steps are
computed here in float64 and go up once a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.optimizers import SGD
from fusedmlp_cupy import kernels

if TYPE_CHECKING:
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Vector
    from fusedmlp_cupy.buffers import Buffers
    from fusedmlp_cupy.kernels import Batch
    from fusedmlp_cupy.programs import DeviceArray, Program


@dataclass(frozen=True, slots=True)
class Updates:
    """One optimizer on one network's parameters.

    Parameters
    ----------
    theta, gradient, slots
        Flat arrays in one order; the first ``n_weights`` of each are weights'.
    """

    optimizer: Optimizer
    program: Program
    buffers: Buffers
    theta: DeviceArray
    gradient: DeviceArray
    slots: tuple[DeviceArray, ...]
    n_weights: int

    @property
    def is_plain(self) -> bool:
        """Whether a step is lr times the gradient and nothing else."""
        return isinstance(self.optimizer, SGD) and not self.optimizer.momentum

    def constants(self, l2: float) -> tuple[float, ...]:
        """Return the kernel's numbers: l2, then the optimizer's own."""
        optimizer = self.optimizer
        if not isinstance(optimizer, SGD):
            beta1, beta2 = optimizer.beta1, optimizer.beta2
            return l2, beta1, beta2, 1.0 - beta1, 1.0 - beta2
        return (l2, optimizer.momentum) if optimizer.momentum else (l2,)

    def take_step(self, rates: DeviceArray, batch: Batch, *, l2: float) -> None:
        """Take one step along the gradients, at the rates of a batch."""
        arrays = (self.theta, self.gradient, *self.slots)
        kernels.update(
            self.program,
            self.optimizer.kernel,
            arrays,
            self.n_weights,
            rates,
            batch,
            self.constants(l2),
        )

    def upload_rates(self, lr: Float64Vector, step: int) -> DeviceArray:
        """Compute the scalars of the steps from ``step`` on in float64: formulas.cu's Rate."""
        columns = np.zeros((len(lr), kernels.RATE_COLUMNS))
        columns[:, 0] = lr
        if not isinstance(self.optimizer, SGD):
            corrections = self.optimizer.bias_corrections(step, len(lr))
            columns[:, 1] = lr / corrections[:, 0]
            columns[:, 2] = corrections[:, 1]
            columns[:, 3] = 1.0 - lr * self.optimizer.weight_decay
            columns[:, 4] = self.optimizer.epsilons(step, len(lr))
        host = columns.astype(self.theta.dtype)
        return self.buffers.upload("rates", host, each=kernels.RATE_COLUMNS)

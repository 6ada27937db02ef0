"""What all parts of one engine share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusedmlp.network import Network, Objective
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.runtime.buffers import Buffers
    from fusedmlp_cupy.runtime.device import CupyDevice
    from fusedmlp_cupy.runtime.types import Program
    from fusedmlp_cupy.tuning import Tuning


@dataclass(frozen=True, slots=True)
class Context:
    """The engine's device, kernels and network.

    Parameters
    ----------
    program
        The compiled kernels; ``program.strict`` tells which arithmetic they have.
    buffers
        Arrays that calls reuse.
    batch_size
        Rows of the largest batch.
    """

    device: CupyDevice
    program: Program
    buffers: Buffers
    network: Network
    objective: Objective
    batch_size: int
    dtype: FloatDtype
    tuning: Tuning

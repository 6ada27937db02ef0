"""The CuPy backend of a checkout that need not be installed, in each way to launch steps."""

from __future__ import annotations

from adapters import TF32_SLACK
from fusedmlp.bench.adapter import UnsupportedError
from fusedmlp.bench.backend_adapter import BackendAdapter
from fusedmlp.errors import BackendUnavailableError
from fusedmlp_cupy import CupyBackend


class CupyEngine(BackendAdapter):
    """The backend with the options of a name such as ``cupy+tf32``."""

    packages = ("fusedmlp", "cupy-cuda13x", "cupy-cuda12x")

    def create(self, name):
        self._options = name.split("+")[1:]
        return CupyBackend(**dict.fromkeys(self._options, True))

    def training(self, task, inputs):
        try:
            training = super().training(task, inputs)
        except BackendUnavailableError as error:  # this way to launch steps is not for the network
            raise UnsupportedError(str(error)) from error
        if "tf32" in self._options:
            training.slack = TF32_SLACK
        return training

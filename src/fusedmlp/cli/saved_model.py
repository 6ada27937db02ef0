"""The model that ``evaluate`` and ``predict`` read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fusedmlp.cli.outputs import MODEL_NAME
from fusedmlp.cli.settings import RunOptions
from fusedmlp.datasets import Fitted
from fusedmlp.datasets.targets import TargetCoding
from fusedmlp.io.atomic import storage_errors
from fusedmlp.model import MLP
from fusedmlp.network import OUTPUT_OF_TASK

ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A model.safetensors, or the folder of a training.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A model with its file and the name of the backend that it runs on."""

    path: Path
    mlp: MLP
    backend: str

    @classmethod
    def load(cls, path: Path, run: RunOptions) -> "SavedModel":
        """Read a model file, given itself or the folder of its training."""
        with storage_errors(f"cannot read {path}", "name a model or the folder of a training"):
            file = path / MODEL_NAME if path.is_dir() else path
        mlp = MLP.load(file, backend=run.backend, threads=run.threads)
        selection, mlp.backend = mlp.select_backend()
        return cls(file, mlp, str(selection))

    def fitted(self) -> Fitted | None:
        """Return what the model expects of a table; None for a model of other inputs."""
        if self.mlp.preprocessing is None:
            return None
        network = self.mlp.network
        task = next(task for task, output in OUTPUT_OF_TASK.items() if output == network.output)
        coding = TargetCoding(task, network.n_outputs, self.mlp.labels)
        return Fitted(self.mlp.preprocessing, coding)

    @property
    def output_names(self) -> list[str]:
        """Names of the K outputs: of the classes where the model has them, else numbers."""
        return list(self.mlp.class_names or map(str, range(self.mlp.network.n_outputs)))

"""fusedmlp: one multilayer perceptron and one trainer that run unchanged on several backends.

Names are imported at their first use: NumPy then, and Numba, CuPy, scikit-learn or SciPy only where
a module needs them. ``import fusedmlp`` alone takes a millisecond, so that the command can answer
Ctrl-C from its start.
"""

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this file
if TYPE_CHECKING:
    from fusedmlp.backend import Backend as Backend
    from fusedmlp.backend import Engine as Engine
    from fusedmlp.datasets import Dataset as Dataset
    from fusedmlp.datasets import load_dataset as load_dataset
    from fusedmlp.errors import FusedMLPError as FusedMLPError
    from fusedmlp.model import MLP as MLP
    from fusedmlp.model import Metrics as Metrics
    from fusedmlp.network import Network as Network
    from fusedmlp.network import Objective as Objective
    from fusedmlp.network import Parameters as Parameters
    from fusedmlp.optimizers import SGD as SGD
    from fusedmlp.optimizers import Adam as Adam
    from fusedmlp.optimizers import Lion as Lion
    from fusedmlp.optimizers import make_optimizer as make_optimizer
    from fusedmlp.registry import availability as availability
    from fusedmlp.training.callbacks import Callback as Callback
    from fusedmlp.training.callbacks import HistoryWriter as HistoryWriter
    from fusedmlp.training.early_stopping import EarlyStopping as EarlyStopping
    from fusedmlp.training.history import History as History
    from fusedmlp.training.progress import ProgressBar as ProgressBar
    from fusedmlp.training.schedules import make_schedule as make_schedule
    from fusedmlp.training.tensorboard import TensorBoardWriter as TensorBoardWriter
    from fusedmlp.training.trainer import Trainer as Trainer

    __version__: str

_NAMES = {
    "backend": ("Backend", "Engine"),
    "datasets": ("Dataset", "load_dataset"),
    "errors": ("FusedMLPError",),
    "model": ("MLP", "Metrics"),
    "network": ("Network", "Objective", "Parameters"),
    "optimizers": ("SGD", "Adam", "Lion", "make_optimizer"),
    "registry": ("availability",),
    "training.callbacks": ("Callback", "HistoryWriter"),
    "training.early_stopping": ("EarlyStopping",),
    "training.history": ("History",),
    "training.progress": ("ProgressBar",),
    "training.schedules": ("make_schedule",),
    "training.tensorboard": ("TensorBoardWriter",),
    "training.trainer": ("Trainer",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    from importlib import import_module
    from importlib.util import find_spec

    if name == "__version__":
        value: object = _version()
    elif name in _MODULE_OF:
        value = getattr(import_module(f"fusedmlp.{_MODULE_OF[name]}"), name)
    elif not name.startswith("_") and find_spec(f"fusedmlp.{name}") is not None:
        return import_module(f"fusedmlp.{name}")
    else:
        raise AttributeError(f"module 'fusedmlp' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fusedmlp")
    except PackageNotFoundError:  # a source checkout on the module search path
        return "unknown"

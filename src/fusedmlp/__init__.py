"""fusedmlp: one multilayer perceptron and one trainer that run unchanged on several backends.

Importing this package imports NumPy, but not Numba, CuPy, scikit-learn or SciPy.
"""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

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
from fusedmlp.training.schedules import make_schedule as make_schedule
from fusedmlp.training.trainer import Trainer as Trainer

try:
    __version__ = _version("fusedmlp")
except _NotInstalled:  # a source checkout on the module search path
    __version__ = "unknown"

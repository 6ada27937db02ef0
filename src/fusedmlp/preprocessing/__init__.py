"""From the columns of a table to the inputs of a network: see :class:`Preprocessing`."""

from fusedmlp.preprocessing.columns import SCALES as SCALES
from fusedmlp.preprocessing.columns import Scale as Scale
from fusedmlp.preprocessing.encoding import Preprocessing as Preprocessing
from fusedmlp.preprocessing.table import Table as Table
from fusedmlp.preprocessing.target_scale import TargetScale as TargetScale

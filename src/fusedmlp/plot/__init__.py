"""Pictures of trainings and of trained models, drawn with Matplotlib.

A picture that is given no figure or axes makes a new figure of :mod:`matplotlib.pyplot`, which
notebooks and ``plt.show()`` display. Colours can be told apart with any colour vision, and all text
is readable where a picture is 400 pixels wide.

Needs the extra ``fusedmlp[plot]``; importing this package does not. For what scikit-learn has a
display of its own, such as ``RocCurveDisplay.from_estimator``, use that with the estimators of
:mod:`fusedmlp.sklearn`.
"""

from fusedmlp.plot.boundary import decision_boundary
from fusedmlp.plot.confusion import confusion_matrix
from fusedmlp.plot.curves import history
from fusedmlp.plot.images import first_layer_weights, misclassified
from fusedmlp.plot.recorder import BoundaryRecorder, Frame
from fusedmlp.plot.style import check_matplotlib_installed

__all__ = [
    "BoundaryRecorder",
    "Frame",
    "check_matplotlib_installed",
    "confusion_matrix",
    "decision_boundary",
    "first_layer_weights",
    "history",
    "misclassified",
]

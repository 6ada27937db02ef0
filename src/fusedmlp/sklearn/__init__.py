"""scikit-learn's MLP estimators on fusedmlp's engines: change the import, keep the rest.

``from fusedmlp.sklearn import MLPClassifier`` in place of
``from sklearn.neural_network import MLPClassifier``.
"""

from fusedmlp.sklearn.classifier import MLPClassifier as MLPClassifier
from fusedmlp.sklearn.regressor import MLPRegressor as MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]

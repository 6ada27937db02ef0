"""
In place of scikit-learn's MLP
==============================

An existing program uses scikit-learn's ``MLPClassifier`` in a pipeline and a grid search. One
import changes. The page checks that the results stay, and shows what is new.
"""

# %%
# The program
# -----------
# Everything but the import of ``MLPClassifier`` is scikit-learn's.
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from fusedmlp.sklearn import MLPClassifier  # was: from sklearn.neural_network import MLPClassifier

x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)

pipeline = make_pipeline(MinMaxScaler(), MLPClassifier(random_state=0, early_stopping=True))
grid = {
    "mlpclassifier__hidden_layer_sizes": [(20,), (60,)],
    "mlpclassifier__alpha": [1e-4, 1e-1],
}
search = GridSearchCV(pipeline, grid, cv=3).fit(x_train, y_train)
print(search.best_params_)
print(f"accuracy on the test rows {search.score(x_test, y_test):.3f}")

# %%
# The same weights
# ----------------
# Random numbers are drawn in the same order. With the same ``random_state`` both start from the
# same weights and train on the same batches, so in float64 they end at the same weights, up to
# rounding.
import warnings

import numpy as np
from sklearn import neural_network
from sklearn.exceptions import ConvergenceWarning

settings = {"hidden_layer_sizes": (30,), "max_iter": 10, "random_state": 0}
scaled = MinMaxScaler().fit_transform(x_train)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)  # 10 epochs are few
    theirs = neural_network.MLPClassifier(**settings).fit(scaled, y_train)
    ours = MLPClassifier(**settings).fit(scaled, y_train)

for layer, (a, b) in enumerate(zip(theirs.coefs_, ours.coefs_, strict=True), start=1):
    print(f"weights of layer {layer}: largest difference {np.abs(a - b).max():.1e}")
    np.testing.assert_allclose(b, a, atol=1e-6)
print(f"losses {theirs.loss_:.10f} and {ours.loss_:.10f}")

# %%
# It is a subclass, so ``isinstance`` and tools that ask for scikit-learn's class work.
assert isinstance(ours, neural_network.MLPClassifier)

# %%
# What is new
# -----------
# The validation loss of each epoch, class weights, dropout, any schedule, float32 and a choice of
# the backend, all as parameters:
best = search.best_estimator_[-1]
print(f"validation loss, first and last: {best.validation_loss_curve_[0]:.3f}", end=", ")
print(f"{best.validation_loss_curve_[-1]:.3f}")

modern = MLPClassifier(
    (60,),
    activation="gelu",
    dropout=0.2,
    class_weight="balanced",
    learning_rate="one-cycle",
    learning_rate_init=0.01,
    dtype="float32",
    early_stopping=True,
    random_state=0,
)
modern.fit(scaled, y_train)
print(modern.coefs_[0].dtype, f"validation accuracy {modern.best_validation_score_:.3f}")

# %%
# Files
# -----
# Pickle works as before, and executes code when it is loaded. ``save`` writes a safetensors file,
# which holds numbers and names only.
import tempfile
from pathlib import Path

path = Path(tempfile.mkdtemp()) / "digits.safetensors"
modern.save(path)
loaded = MLPClassifier.load(path)
np.testing.assert_array_equal(loaded.predict_proba(scaled), modern.predict_proba(scaled))
print(f"{path.name}: {path.stat().st_size:,} bytes")

# %%
# :doc:`The page on the estimators </sklearn>` lists every difference.

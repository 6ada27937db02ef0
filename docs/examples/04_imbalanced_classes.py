"""
Imbalanced classes
==================

One row in twenty is a case, and a miss costs more than a false alarm. This page weighs classes,
chooses a threshold, and weighs rows by what is at stake. These are answers to three different
questions.
"""

# %%
# The data
# --------
# Made by scikit-learn, with classes that overlap: no classifier can separate them.
from collections import Counter

import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

x, y = make_classification(
    6000, 10, n_informative=5, n_redundant=0, weights=[0.95], class_sep=0.8, random_state=0
)
y = np.where(y == 1, "case", "none")
x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)
print(Counter(y_test.tolist()))

# %%
# Accuracy hides the failure
# --------------------------
# Answering "none" always is right for 95 of 100 rows. So look at recall, the share of the cases
# that are found, and at precision, the share of the alarms that are cases.
#
# The networks train for 60 epochs. Early stopping is not used here: for a classifier it watches the
# accuracy, as scikit-learn does, and that is 0.95 before the network has learnt anything.
import warnings

import matplotlib.pyplot as plt
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import ConfusionMatrixDisplay, precision_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fusedmlp.sklearn import MLPClassifier

warnings.simplefilter("ignore", ConvergenceWarning)  # 60 epochs are the plan


def train(class_weight=None, sample_weight=None):
    """Return a trained pipeline."""
    network = MLPClassifier((30,), class_weight=class_weight, max_iter=60, random_state=0)
    pipeline = make_pipeline(StandardScaler(), network)
    return pipeline.fit(x_train, y_train, mlpclassifier__sample_weight=sample_weight)


def report(name, model):
    """Print the three measures on the test rows."""
    found = model.predict(x_test)
    recall = recall_score(y_test, found, pos_label="case")
    precision = precision_score(y_test, found, pos_label="case")
    accuracy = np.mean(found == y_test)
    print(f"{name:18} accuracy {accuracy:.3f}  recall {recall:.3f}  precision {precision:.3f}")
    return recall


plain = train()
balanced = train(class_weight="balanced")
before, after = report("plain", plain), report("balanced", balanced)
assert after > before

# %%
# ``class_weight="balanced"`` multiplies the loss of each row by N / (K·N_k), where N_k rows are of
# its class: both classes then count alike. A mapping sets the weights by label, such as
# ``{"case": 10}``. In the trainer of the library it is ``Trainer(class_weight=…)``.
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for ax, (title, model) in zip(axes, {"plain": plain, "balanced": balanced}.items(), strict=True):
    ConfusionMatrixDisplay.from_estimator(
        model, x_test, y_test, cmap="Blues", colorbar=False, ax=ax
    )
    ax.set_title(title)
plt.show()

# %%
# The threshold
# -------------
# A curve of precision against recall shows every threshold of the probability at once. The two
# curves are close to each other: most of what the weights change is the threshold.
from sklearn.metrics import PrecisionRecallDisplay

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.set_prop_cycle(color=["#0072B2", "#E69F00"])
for name, model in (("plain", plain), ("balanced", balanced)):
    PrecisionRecallDisplay.from_estimator(model, x_test, y_test, pos_label="case", name=name, ax=ax)
ax.set(xlim=(0, 1), ylim=(0, 1.02))
plt.show()

# %%
# So the threshold can also be chosen afterwards, by cross-validation, for a measure of your own.
# Here a missed case costs 10 and a false alarm 1. With exact probabilities the best threshold would
# be 1 / (1 + 10): an alarm is worth its cost if one in eleven of such rows is a case.
from sklearn.metrics import make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV


def cost(true, found):
    """Return the mean cost of a row."""
    missed = np.mean((true == "case") & (found == "none"))
    alarms = np.mean((true == "none") & (found == "case"))
    return 10 * missed + alarms


scorer = make_scorer(cost, greater_is_better=False)
tuned = TunedThresholdClassifierCV(plain, scoring=scorer, cv=3, random_state=0)
tuned.fit(x_train, y_train)
report("tuned", tuned)
print(
    f"alarm from a probability of {1 - tuned.best_threshold_:.2f} on"
)  # positive is the last label
costs = {name: cost(y_test, m.predict(x_test)) for name, m in (("plain", plain), ("tuned", tuned))}
print(f"cost of a row: plain {costs['plain']:.3f}, with the threshold {costs['tuned']:.3f}")
assert costs["tuned"] < costs["plain"]

# %%
# The probabilities of the plain network can be taken at their word: their mean is the share of the
# cases. Those of the balanced network are too high, because it was trained as if cases were as
# frequent as the others.
share = np.mean(y_test == "case")
means = {}
for name, model in (("plain", plain), ("balanced", balanced)):
    means[name] = model.predict_proba(x_test)[:, list(model.classes_).index("case")].mean()
    print(f"{name:9} mean probability of a case {means[name]:.3f}")
print(f"share of cases {share:.3f}")
assert abs(means["plain"] - share) < 0.02 < means["balanced"] - share

# %%
# Weights of rows
# ---------------
# ``sample_weight`` is for what differs from row to row, such as the amount of money at stake. A
# weight of 2 means the same as the row twice. It multiplies the class weight.
amount = np.random.default_rng(0).lognormal(0, 1, len(y_train))
weighted = train(class_weight="balanced", sample_weight=amount)
recall = report("weighted by amount", weighted)

"""
Classifying text with TF-IDF
============================

Texts become sparse rows of word frequencies, and a network learns their classes. Everything stays
sparse from the vectorizer to the engine, and the pieces are scikit-learn's.
"""

# %%
# The texts
# ---------
# Each text is a paragraph about a function of SciPy: the beginning of its documentation. Its class
# is the part of SciPy that the function belongs to.
import inspect
from importlib import import_module

SUBJECTS = ["interpolate", "linalg", "ndimage", "optimize", "signal", "special", "stats"]

texts, labels = [], []
for subject in SUBJECTS:
    module = import_module(f"scipy.{subject}")
    for name in sorted(module.__all__):
        member = getattr(module, name)
        document = inspect.getdoc(member) if callable(member) else None
        if document and len(document) > 200:
            body = document.partition("\n\n")[2]  # without the line that may name the function
            texts.append(body[:600])
            labels.append(subject)

print(f"{len(texts)} texts of {len(SUBJECTS)} classes. One of them:")
print(texts[0][:200])

# %%
# The pipeline
# ------------
# ``TfidfVectorizer`` makes a CSR matrix (N, D): N texts, D words. Nearly all of its entries are
# zero, and only the others are stored.
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split

split = train_test_split(texts, labels, test_size=0.25, stratify=labels, random_state=0)
texts_train, texts_test, y_train, y_test = split

rows = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit_transform(texts_train)
print(f"{rows.shape[0]} rows, {rows.shape[1]} columns, {rows.nnz:,} stored values")
print(f"as a dense matrix it would have {rows.shape[0] * rows.shape[1]:,} values")

# %%
# The classifier takes the sparse rows and the labels as they are. It is scikit-learn's
# ``MLPClassifier`` by its parameters, so it fits into any pipeline. Words are many and rows are
# few, so dropout and early stopping keep the network from learning the rows by heart.
from sklearn.pipeline import make_pipeline

from fusedmlp.sklearn import MLPClassifier

pipeline = make_pipeline(
    TfidfVectorizer(stop_words="english", sublinear_tf=True),
    MLPClassifier((50,), batch_size=32, dropout=0.3, early_stopping=True, random_state=0),
)
pipeline.fit(texts_train, y_train)
accuracy = pipeline.score(texts_test, y_test)
largest = max(map(y_test.count, SUBJECTS)) / len(y_test)
print(f"accuracy on {len(y_test)} other texts: {accuracy:.3f}")
print(f"accuracy of always answering with the largest class: {largest:.3f}")
assert accuracy > 2 * largest

# %%
# What is confused with what:
import matplotlib.pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

figure, ax = plt.subplots(figsize=(6, 5), layout="constrained")
ConfusionMatrixDisplay.from_estimator(
    pipeline, texts_test, y_test, cmap="Blues", colorbar=False, xticks_rotation=45, ax=ax
)
plt.show()

# %%
# New texts
# ---------
questions = [
    "Do two samples of patients have the same mean?",
    "Remove the noise from a recorded signal with a low-pass filter.",
    "A smooth curve that passes through given points.",
    "Find the minimum of a function with constraints.",
]
for question, answer, p in zip(
    questions, pipeline.predict(questions), pipeline.predict_proba(questions), strict=True
):
    print(f"{answer:12} {p.max():.2f}  {question}")

# %%
# Sparse and dense are the same numbers
# -------------------------------------
# Engines skip the zeros of sparse rows. The probabilities are those of the dense rows, up to
# rounding.
import numpy as np

vectorizer, classifier = pipeline
sparse = vectorizer.transform(texts_test)
difference = classifier.predict_proba(sparse) - classifier.predict_proba(sparse.toarray())
print(f"largest difference {np.abs(difference).max():.1e}")
assert np.abs(difference).max() < 1e-6

# %%
# Pitfalls
# --------
# - Do not put a ``StandardScaler`` behind TF-IDF: subtracting the mean makes every zero a number.
#   TF-IDF rows have length 1 and need no scaling.
# - The vectorizer must see the training texts alone. In a pipeline, cross-validation takes care of
#   that.

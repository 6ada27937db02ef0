"""
From a CSV file to ONNX
=======================

A table in a CSV file becomes a trained model, and the model becomes an ONNX file that other
programs run without Python. The table has text and missing values, as real ones do. The page does
it twice: with commands, and in Python.
"""

# %%
# The table
# ---------
# Flats to let: did each find a tenant within a month? A sixth of the flats do not say when they
# were built, and some do not say what heats them.
import csv
import tempfile
from pathlib import Path

import numpy as np

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)


def flat():
    """Draw one flat, and whether it was let within a month."""
    district = rng.choice(["centre", "harbour", "hill"], p=[0.5, 0.3, 0.2])
    area = max(20, rng.normal(70, 20))
    rent = area * {"centre": 15, "harbour": 12, "hill": 18}[district] * rng.normal(1, 0.15)
    year = rng.integers(1900, 2025)
    heating = rng.choice(["gas", "heat pump", "oil"])
    value = (13 - rent / area) / 2 + (year - 1960) / 60 + (heating == "heat pump")
    let = "yes" if value + rng.normal(0, 0.5) > 0 else "no"
    known_year = year if rng.random() > 1 / 6 else ""
    known_heating = heating if rng.random() > 0.1 else ""
    return [district, f"{area:.0f}", f"{rent:.0f}", known_year, known_heating, let]


header = ["district", "area", "rent", "year", "heating", "let"]
with (folder / "flats.csv").open("w", newline="") as file:
    csv.writer(file).writerows([header, *(flat() for _ in range(1500))])

print("".join((folder / "flats.csv").read_text().splitlines(keepends=True)[:6]))

# %%
# With commands
# -------------
# ``fusedmlp train`` needs the file and nothing else. It says what it read and what it trains, and
# keeps a fifth of the rows for testing. The function below runs a command as a terminal would.
import shlex
import subprocess
import sys


def run(command):
    """Run a command in the folder, and print what it prints, but for the lines of the epochs."""
    program = [sys.executable, "-m", *shlex.split(command)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(program, cwd=folder, check=True, **pipes)
    print(f"$ {command}")
    print(*(line for line in done.stdout.splitlines() if not line.startswith("epoch ")), sep="\n")


run("fusedmlp train --dataset flats.csv --output out --epochs 60")

# %%
# ``evaluate`` uses the rows that were kept for testing. The model file has the scaling of the
# numbers, the categories of the text and the values that replace missing ones.
run("fusedmlp evaluate out")

# %%
# ``predict`` takes a file without the target. Columns are matched by name, so their order does not
# matter, and further columns are ignored.
(folder / "new.csv").write_text(
    "rent,area,heating,district,year,agent\n"
    "800,75,heat pump,harbour,2015,Ortiz\n"
    "1900,80,oil,hill,1930,Lee\n"
    "900,70,,centre,,Ortiz\n"
)
run("fusedmlp predict out new.csv")

# %%
# In Python
# ---------
# The same in Python: ``load_dataset`` reads the file, fits the preprocessing on the training rows
# and encodes them.
from fusedmlp import MLP, EarlyStopping, Trainer, load_dataset

data = load_dataset(folder / "flats.csv")
print(data)

mlp = MLP([data.n_inputs, 100, data.n_outputs], hidden="relu")
trainer = Trainer("adam", epochs=60, batch_size=32, validation=0.1, early_stopping=EarlyStopping())
history = trainer.fit(mlp, data.x_train, data.y_train)
metrics = mlp.evaluate(data.x_test, data.y_test)
share = np.bincount(data.y_test).max() / len(data.y_test)
print(f"best epoch {history.best_epoch}, accuracy on the test rows {metrics.accuracy:.3f}")
print(f"accuracy of always answering with the more frequent class {share:.3f}")
assert metrics.accuracy > share + 0.1

# %%
# The trained network takes encoded inputs. With the preprocessing and the labels of the data set it
# takes tables, such as data frames, and answers with labels.
import pandas as pd

mlp.preprocessing, mlp.labels = data.preprocessing, data.labels
new = pd.read_csv(folder / "new.csv")
print(mlp.predict(new), mlp.predict_proba(new).round(3), sep="\n")

# %%
# ONNX
# ----
# The ONNX file holds the preprocessing too. In a table with text, each column is an input of the
# model.
import onnxruntime

import fusedmlp.io.onnx

fusedmlp.io.onnx.export(mlp, folder / "flats.onnx")
session = onnxruntime.InferenceSession(folder / "flats.onnx")
for entry in [*session.get_inputs(), *session.get_outputs()]:
    print(f"{entry.name:14}{entry.type:16}{entry.shape}")

# %%
# onnxruntime takes one array (N, 1) for each column, float32 for numbers. A missing number is NaN,
# a missing text is ``""``. It gives the same labels, and the same probabilities to six digits.
columns = {}
for entry in session.get_inputs():
    values = new[[entry.name]]
    is_text = entry.type == "tensor(string)"
    columns[entry.name] = (values.fillna("") if is_text else values.astype("float32")).to_numpy()
labels, probabilities = session.run(["label", "probabilities"], columns)
print(labels, probabilities.round(3), sep="\n")
assert list(labels) == list(mlp.predict(new))
np.testing.assert_allclose(probabilities, mlp.predict_proba(new), atol=1e-6)

# %%
# The page on :doc:`tables </tables>` has every rule that was applied here, and the option that
# changes it.

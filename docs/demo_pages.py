"""Trains the networks of the documentation's demo pages: ``python docs/demo_pages.py FOLDER``.

``fusedmlp demo`` writes the same pages. ``nox -s docs`` publishes them with the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fusedmlp import MLP, Dataset, Trainer, load_dataset, make_optimizer
from fusedmlp.demo import demo_page


def digits() -> tuple[MLP, Dataset]:
    """Train a network on MNIST."""
    data = load_dataset("mnist")
    mlp = MLP([784, 128, 10], hidden="relu", dropout=0.1)
    Trainer("adam", "one-cycle", epochs=6).fit(mlp, data.x_train, data.y_train)
    return mlp, data


def moons() -> tuple[MLP, Dataset]:
    """Train a small network on the two moons."""
    data = load_dataset("moons")
    mlp = MLP([2, 5, 2], hidden="tanh")
    Trainer(make_optimizer("nesterov", 0.5), epochs=200).fit(mlp, data.x_train, data.y_train)
    return mlp, data


def main(folder: Path) -> None:
    """Write one page for each network."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, trained in (("digits", digits), ("moons", moons)):
        (folder / f"{name}.html").write_text(demo_page(*trained()), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

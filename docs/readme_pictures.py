"""Draws the animation at the top of README.md: ``python docs/readme_pictures.py``.

It is the workshop's network on the two moons. The chart beside it is one of docs/results.md.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from fusedmlp import MLP, SGD, Objective, Trainer, load_dataset, plot


def main() -> None:
    """Train for 20,000 epochs of one step and write the animation."""
    mpl.use("agg")
    data = load_dataset("moons")
    mlp = MLP([2, 5, 2], init="workshop", backend="numba", dtype="float64", seed=3)
    recorder = plot.BoundaryRecorder(data.x_train, data.y_train, every=500)
    trainer = Trainer(
        SGD(0.01), epochs=20_000, batch_size=200, objective=Objective("sum"), callbacks=recorder
    )
    trainer.fit(mlp, data.x_train, data.y_train)
    animation = recorder.animation(150)
    animation.save(Path(__file__).parent / "_static" / "moons.gif", writer="pillow", dpi=72)


if __name__ == "__main__":
    main()

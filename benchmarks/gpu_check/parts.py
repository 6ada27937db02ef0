"""The parts of a run, in the order in which they are run: what is needed most comes first.

Seconds are what a part may take at most. Together they are more than a run's budget: most parts
need a fraction of theirs, and the last ones are left out where the time is up.
"""

from __future__ import annotations

from functools import partial

from fusedmlp_cupy.training.execution import MODES
from gpu_check import engine, host, jax_peer, limits, parity, products, torch_peer
from gpu_check.running import Part

DEVICE = "device"
"""The part without which there is no other."""


def all_parts():
    """Every part by its name. A part ``a-b`` is one of the family ``a``."""
    parts = {DEVICE: Part(60, host.facts)}
    parts |= {f"parity-{way}": Part(40, partial(parity.parity, **{way: True})) for way in MODES}
    parts |= {f"training-{way}": Part(40, partial(engine.training, **{way: True})) for way in MODES}
    return parts | {
        "training-default": Part(40, engine.training),
        "parity-tf32": Part(40, parity.parity_tf32),
        "training-tf32": Part(40, partial(engine.training, tf32=True)),
        "masks": Part(20, parity.masks),
        "launches": Part(20, limits.launches),
        "graphs": Part(30, limits.graphs),
        "barriers": Part(30, limits.barriers),
        "handle": Part(30, products.handle),
        "products-float32": Part(30, products.ceilings),
        "products-tf32": Part(30, partial(products.ceilings, tf32=True)),
        "torch": Part(60, torch_peer.plain),
        "jax": Part(90, jax_peer.scans),
        "tests": Part(120, host.suite),
        "streaming": Part(30, engine.streaming),
        "interop": Part(30, engine.interop),
        "torch-compile": Part(120, torch_peer.compiled),
        "host": Part(60, host.cpu_engines),
    }


def chosen(words, parts):
    """The parts that words name, each by its own name or its family's, behind the device's.

    Raises
    ------
    ValueError
        A word names none.
    """
    families = {name.partition("-")[0] for name in parts}
    for word in words:
        if word not in parts and word not in families:
            raise ValueError(f"no part {word!r}: choose from {', '.join(parts)}, or a family")
    return {
        name: part
        for name, part in parts.items()
        if name == DEVICE or name in words or name.partition("-")[0] in words
    }

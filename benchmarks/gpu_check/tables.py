"""A run's figures as one table of text: epochs beside each other, then all else, then the parts."""

from __future__ import annotations

import math
import statistics

CEILINGS = {False: "products-float32", True: "products-tf32"}
EPOCH = "{:<34} {:>9} {:>9} {:>8} {:>8} {:>10}"
OURS = "fusedmlp "

LOSS_BOUND = 0.005
"""How far a first epoch's mean loss may be from the engine's, relatively: sums in another order and
TF32 stay far within it, another rate, start or order of the rows does not."""


def table(document):
    """All lines of the table.

    Parameters
    ----------
    document
        What gpu.py writes.
    """
    parts = document["parts"]
    lines = [*heading(document), "", *epoch_lines(parts), ""]
    for name, outcome in parts.items():
        figures = outcome["figures"]
        if name == "device":
            continue
        others = {key: value for key, value in figures.items() if "us_a_step" not in value}
        if name.startswith("parity"):
            others = parity_summary(others)
        lines += [f"{name}: {key}: {figures_text(value)}" for key, value in others.items()]
    lines.append("")
    lines += [f"NOT THE SAME TRAINING: {text}" for text in strangers(parts)]
    for name, outcome in parts.items():
        why = f": {outcome['why']}" if "why" in outcome else ""
        lines.append(f"{outcome['seconds']:6.1f} s  {name:<18} {outcome['state']}{why}")
    return lines


def heading(document):
    """Where it was measured, on what and with what."""
    lines = [document["device"]["text"]]
    cards = document.get("nvidia-smi", {}).get("cards", [])
    about = [("card", card) for card in cards]
    about += [(name, document[name]) for name in ("versions", "machine") if name in document]
    for name, figures in about:
        known = {key: value for key, value in figures.items() if value is not None}
        lines.append(f"{name}: {figures_text(known)}")
    return [*lines, f"command: {document['command']}"]


def strangers(parts):
    """Who did not train as the engine did, by the first epoch's loss: lines of text.

    The host's engines are left out: they train on fewer rows.
    """
    lines = []
    for workload, rows in epochs({n: each for n, each in parts.items() if n != "host"}).items():
        losses = {name: float(figures["first_loss"]) for name, figures, _ in rows}
        ours = [loss for name, loss in losses.items() if name.startswith(OURS)]
        if not ours:
            continue
        expected = statistics.median_low([each for each in ours if math.isfinite(each)] or ours)
        lines += [
            f"{workload}, {name}: first loss {loss:.5f}, the engine's {expected:.5f}"
            for name, loss in losses.items()
            if not abs(loss - expected) <= LOSS_BOUND * abs(expected)
        ]
    return lines


def epochs(parts):
    """Epochs of all implementations: {workload: [(implementation, figures, share of ceiling)]}."""
    found = {}
    for part, outcome in parts.items():
        for key, figures in outcome["figures"].items():
            if "us_a_step" not in figures:
                continue
            workload, _, detail = key.partition(", ")
            name = detail or OURS + (part.partition("-")[2] or part)
            ceiling = ceiling_of(parts, workload, tf32="tf32" in name.lower())
            share = ceiling / figures["us_a_step"] if ceiling and part != "host" else None
            found.setdefault(workload, []).append((name, figures, share))
    for rows in found.values():
        rows.sort(key=lambda row: row[1]["us_a_step"])
    return found


def ceiling_of(parts, workload, *, tf32):
    """Microseconds of a step's products alone, or None."""
    outcome = parts.get(CEILINGS[tf32], {"figures": {}})
    return outcome["figures"].get(f"{workload}, step", {}).get("us")


def epoch_lines(parts):
    lines = []
    for workload, rows in epochs(parts).items():
        heads = ("µs/step", "ms/epoch", "TFLOP/s", "ceiling", "first loss")
        lines.append(EPOCH.format(workload, *heads))
        for name, figures, share in rows:
            cells = (
                f"{figures['us_a_step']:,.1f}",
                f"{1e3 * figures['median_s']:,.2f}",
                f"{figures['tflops']:.3f}",
                "" if share is None else f"{share:.0%}",
                f"{float(figures['first_loss']):.5f}",
            )
            lines.append(EPOCH.format(f"  {name}", *cells))
    return lines


def parity_summary(cases):
    """The case that came nearest to its bound, and every one without a difference."""
    compared = {name: each for name, each in cases.items() if "difference" in each}
    others = {name: each for name, each in cases.items() if "difference" not in each}
    if not compared:
        return others
    nearest = max(compared, key=lambda name: compared[name]["difference"] / compared[name]["bound"])
    return {f"{len(compared)} cases, nearest to its bound {nearest}": compared[nearest]} | others


def figures_text(figures):
    """Figures on one line."""
    return "  ".join(
        f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )

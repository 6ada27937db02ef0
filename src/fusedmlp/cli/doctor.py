"""``fusedmlp doctor``: this machine as fusedmlp sees it; the facts are from diagnostics.py."""

from typing import TYPE_CHECKING

from fusedmlp.cli import console
from fusedmlp.cli.options import Json

if TYPE_CHECKING:
    from rich.console import Console

    from fusedmlp.diagnostics import Facts


def doctor(json_: Json = False) -> None:
    """Report versions, CPU, BLAS and its kernels, threads, GPU, folders and variables."""
    from fusedmlp.diagnostics import diagnose

    facts = diagnose()
    if json_:
        console.print_json(facts)
        return
    out = console.stdout()
    system, packages, cpu = _part(facts, "system"), _part(facts, "packages"), _part(facts, "cpu")
    _head("System", out)
    console.labelled(
        "python",
        f"{system['implementation']} {system['python']}, {system['executable']}",
        out,
        indent=2,
    )
    console.labelled("os", str(system["os"]), out, indent=2)
    _head("Packages", out)
    for name, found in packages.items():
        console.labelled(name, str(found or "not installed"), out, indent=2)
    _head("CPU", out)
    console.labelled("model", str(cpu["model"] or "unknown"), out, indent=2)
    features = cpu["features"]
    assert isinstance(features, list)
    console.labelled("features", ", ".join(features) or "unknown", out, indent=2)
    limit = "" if cpu["limit"] is None else f", limited to the time of {cpu['limit']:g}"
    console.labelled("cores", f"{cpu['usable']} of {cpu['cpus']} usable{limit}", out, indent=2)
    _print_blas(facts, out)
    _print_gpu(facts, out)
    _print_places(facts, out)


def _print_blas(facts: "Facts", out: "Console") -> None:
    _head("BLAS (matrix products of the numpy backend)", out)
    libraries = facts["blas"]
    assert isinstance(libraries, list)
    for library in libraries:
        kernels = f", {library['kernels']} kernels" if library["kernels"] else ""
        threads = f", {library['threads']} threads"
        name = f"{library['name']} {library['version']}{kernels}{threads}"
        console.labelled(library["used_by"] or "other", name, out, indent=2)
    if not libraries:
        console.labelled("none", "no BLAS library was recognised", out, indent=2)


def _print_gpu(facts: "Facts", out: "Console") -> None:
    _head("GPU", out)
    for name, found in _part(facts, "gpu").items():
        assert isinstance(found, dict)
        console.labelled(
            name, f"{found['state']}: {found.get('device', found['detail'])}", out, indent=2
        )
        if found["remedy"]:
            console.labelled("remedy", str(found["remedy"]), out, indent=2)


def _print_places(facts: "Facts", out: "Console") -> None:
    folders = _part(facts, "folders")
    _head("Folders and variables", out)
    cached = folders["cached"]
    assert isinstance(cached, list)
    holds = f" (holds {', '.join(cached)})" if cached else " (empty)"
    console.labelled("cache", f"{folders['cache']}{holds}", out, indent=2)
    console.labelled("data", str(folders["data"] or "FUSEDMLP_DATA is not set"), out, indent=2)
    for name, value in _part(facts, "variables").items():
        console.labelled("variable", f"{name}={value}", out, indent=2)
    hints = facts["hints"]
    assert isinstance(hints, list)
    if hints:
        _head("Hints", out)
    for hint in hints:
        console.labelled("-", hint, out, indent=2)


def _part(facts: "Facts", name: str) -> "Facts":
    part = facts[name]
    assert isinstance(part, dict)
    return part


def _head(text: str, out: "Console") -> None:
    from rich.text import Text

    out.print(Text(text, style="bold"))

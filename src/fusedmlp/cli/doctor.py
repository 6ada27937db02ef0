"""``fusedmlp doctor``: this machine as fusedmlp sees it; the facts are from diagnostics.py."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fusedmlp.cli import console
from fusedmlp.cli.options import Json
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from fusedmlp.diagnostics import Diagnosis

Line = tuple[str, str]
"""Label and text."""


def doctor(json_: Json = False) -> None:
    """Report versions, CPU, BLAS and its kernels, threads, GPU, folders and variables.

    Example: fusedmlp doctor --json
    """
    from rich.text import Text

    from fusedmlp.diagnostics import diagnose

    facts = diagnose()
    if json_:
        console.print_json(facts)
        return
    for title, lines in _sections(facts):
        console.show(Text(title, style="bold"))
        console.results(lines, indent=2)


def _sections(facts: "Diagnosis") -> Iterator[tuple[str, list[Line]]]:
    """Yield titles and lines of the report."""
    system = facts["system"]
    python = f"{system['implementation']} {system['python']}, {system['executable']}"
    yield "System", [("python", python), ("os", system["os"])]
    packages = facts["packages"].items()
    yield "Packages", [(name, version or "not installed") for name, version in packages]
    cpu = facts["cpu"]
    limit = "" if cpu["limit"] is None else f", limited to the time of {cpu['limit']:g}"
    yield (
        "CPU",
        [
            ("model", cpu["model"] or "unknown"),
            ("features", ", ".join(cpu["features"]) or "unknown"),
            ("cores", f"{cpu['usable']} of {cpu['cpus']} usable{limit}"),
        ],
    )
    yield "BLAS (matrix products of the numpy backend)", _blas(facts)
    yield "GPU", _gpu(facts)
    yield "Folders and variables", _folders_and_variables(facts)
    if facts["hints"]:
        yield "Hints", [("-", hint) for hint in facts["hints"]]


def _blas(facts: "Diagnosis") -> list[Line]:
    lines = []
    for library in facts["blas"]:
        kernels = f", {library['kernels']} kernels" if library["kernels"] else ""
        threads = counted(library["threads"], "thread")
        text = f"{library['name']} {library['version']}{kernels}, {threads}"
        lines.append((library["used_by"] or "other", text))
    return lines or [("none", "no BLAS library was recognised")]


def _gpu(facts: "Diagnosis") -> list[Line]:
    lines = []
    for name, found in facts["gpu"].items():
        lines.append((name, f"{found['state']}: {found.get('device', found['detail'])}"))
        if found["remedy"]:
            lines.append(("remedy", str(found["remedy"])))
    return lines


def _folders_and_variables(facts: "Diagnosis") -> list[Line]:
    folders = facts["folders"]
    cache, cached = folders["cache"], folders["cached"]
    if folders["cache_problem"]:
        cache = folders["cache_problem"]
    else:
        cache += f" (holds {', '.join(cached)})" if cached else " (empty)"
    return [
        ("cache", cache),
        ("data", folders["data"] or "FUSEDMLP_DATA is not set"),
        *(("variable", f"{name}={value}") for name, value in facts["variables"].items()),
    ]

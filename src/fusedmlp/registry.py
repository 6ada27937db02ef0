"""Selection of a backend: argument, then ``FUSEDMLP_BACKEND``, then ``auto``.

Backends are found through the entry-point group ``fusedmlp.backends``; this file names none of
them. A request that cannot be fulfilled is an error, never a fallback. Only the list of installed
backends is cached; their availability is probed at each call.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from fusedmlp.backend import Availability, Backend
from fusedmlp.errors import (
    BackendNotInstalledError,
    BackendUnavailableError,
    InvalidInputError,
    NoUsableDeviceError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedmlp.backend import Workload

ENTRY_POINT_GROUP: Final = "fusedmlp.backends"
ENVIRONMENT_VARIABLE: Final = "FUSEDMLP_BACKEND"
AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class Selection:
    """A selected backend, and the reason for the choice.

    Parameters
    ----------
    name, device
        The backend and, for ``cupy:1``, the device number.
    origin
        Source of the choice: ``argument``, ``FUSEDMLP_BACKEND`` or ``auto``.
    reason
        The reason, as one sentence for messages.
    options
        The requested options of the backend, such as ``tf32`` of ``cupy+tf32``.
    """

    name: str
    device: int | None
    origin: str
    reason: str
    options: tuple[str, ...] = ()

    @classmethod
    def from_request(cls, request: str, origin: str, reason: str = "") -> Selection:
        """Parse a request that names a backend; see :func:`parse`."""
        name, device, options = parse(request)
        return cls(name, device, origin, reason, options)

    def __str__(self) -> str:
        device = "" if self.device is None else f":{self.device}"
        return "+".join((self.name + device, *self.options))


class Request(NamedTuple):
    """The parts of ``name``, ``name:device``, ``name+option``, ``name:device+option+option``."""

    name: str
    device: int | None
    options: tuple[str, ...]


def known_backends() -> Mapping[str, EntryPoint]:
    """Return the entry points of all registered backends by name, without loading them.

    The look-up is cached for each ``sys.path``: it takes about ten milliseconds, longer than the
    training of a small network.
    """
    return _installed(tuple(sys.path))


@lru_cache(maxsize=4)
def _installed(_path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    points = sorted(entry_points(group=ENTRY_POINT_GROUP))
    return MappingProxyType({point.name: point for point in points})


def backend_class(name: str) -> type[Backend]:
    """Load a backend's class; this does not import the backend's heavy library.

    Raises
    ------
    UnknownNameError
        No such backend is registered.
    BackendUnavailableError
        Its package cannot be imported, or its entry point is not a Backend.
    """
    points = known_backends()
    if name not in points:
        raise UnknownNameError.of("backend", name, (*points, AUTO))
    try:
        loaded = points[name].load()
    except Exception as error:
        raise BackendUnavailableError(
            f"backend {name!r} ({points[name].value}) does not import: {error}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Backend)):
        raise BackendUnavailableError(
            f"backend {name!r}: {points[name].value} is not a fusedmlp.backend.Backend"
        )
    return loaded


def availability() -> dict[str, Availability]:
    """Probe all registered backends; see :meth:`fusedmlp.backend.Backend.probe`."""
    states = {}
    for name in known_backends():
        try:
            states[name] = backend_class(name).probe()
        except BackendUnavailableError as error:
            states[name] = Availability("broken", str(error), f"reinstall the package of {name!r}")
    return states


def select(
    request: str | None,
    workload: Workload,
    environment: Mapping[str, str] = os.environ,
    *,
    strict: bool = False,
) -> Selection:
    """Select a backend. A backend named explicitly is not probed here; :func:`create` fails for it.

    Parameters
    ----------
    request
        ``numpy``, ``numba``, ``cupy``, ``cupy:1``, ``cupy+tf32``, ``auto``, …; None for the value
        of ``FUSEDMLP_BACKEND``, or ``auto`` if it is not set.
    workload
        The input of the ``auto`` choice.
    strict
        Restrict ``auto`` to backends with strict mode.
    """
    origin = "argument"
    if request is None and environment.get(ENVIRONMENT_VARIABLE):
        request, origin = environment[ENVIRONMENT_VARIABLE], ENVIRONMENT_VARIABLE
    if request is None or request == AUTO:
        return _select_auto(workload, strict=strict)
    return Selection.from_request(request, origin, f"requested by {origin}")


def parse(request: str) -> Request:
    """Split a request into its parts and check the names.

    Raises
    ------
    UnknownNameError
        The backend or one of its options does not exist.
    InvalidInputError
        The text after the colon is not a device number, or an option is repeated.
    """
    backend, *options = request.split("+")
    name, colon, number = backend.partition(":")
    if name not in known_backends():
        raise UnknownNameError.of("backend", request, (*known_backends(), AUTO))
    if colon and not number.isdecimal():
        raise InvalidInputError(
            f"backend {request!r}: {number!r} is not a device number; write {name}:0"
        )
    if options:
        _check_options(request, name, options)
    return Request(name, int(number) if colon else None, tuple(options))


def _check_options(request: str, name: str, options: list[str]) -> None:
    known = backend_class(name).options
    if not known:
        raise InvalidInputError(f"backend {request!r}: {name} has no options; write {name}")
    for option in options:
        if option not in known:
            raise UnknownNameError.of(f"option of backend {name}", option, tuple(known))
    if len(set(options)) < len(options):
        raise InvalidInputError(f"backend {request!r}: name each option once")


def create(selection: Selection, *, threads: int | None = None, strict: bool = False) -> Backend:
    """Build the selected backend.

    Raises
    ------
    BackendNotInstalledError, NoUsableDeviceError, BackendUnavailableError
        It cannot be used on this machine; the message has the remedy.
    InvalidInputError
        ``strict`` is set, and the backend has no strict mode.
    """
    backend = backend_class(selection.name)
    options = dict.fromkeys(selection.options, True)
    if not strict:
        return backend(device=selection.device, threads=threads, **options)
    if not backend.has_strict:
        raise InvalidInputError(
            f"strict mode was requested, but backend {selection.name!r} has none: use one of "
            f"{', '.join(strict_backends())}, or leave strict out"
        )
    return backend(device=selection.device, threads=threads, strict=True, **options)


def strict_backends() -> tuple[str, ...]:
    """Return the names of the registered backends with strict mode, usable or not."""
    names = []
    for name in known_backends():
        try:
            if backend_class(name).has_strict:
                names.append(name)
        except BackendUnavailableError:
            continue  # a plugin that cannot be imported cannot be built either
    return tuple(names)


def unavailable(name: str, probed: Availability) -> BackendUnavailableError:
    """Return the error for a backend that its probe found unusable."""
    kinds: dict[str, type[BackendUnavailableError]] = {
        "missing": BackendNotInstalledError,
        "no-device": NoUsableDeviceError,
    }
    remedy = f". Remedy: {probed.remedy}" if probed.remedy else ""
    return kinds.get(probed.state, BackendUnavailableError)(
        f"backend {name!r} is {probed.state}: {probed.detail}{remedy}"
    )


def _select_auto(workload: Workload, *, strict: bool) -> Selection:
    found = availability()
    usable = {
        name: backend_class(name) for name, probed in found.items() if probed.state == "usable"
    }
    preferences = {
        name: backend.preference(workload)
        for name, backend in usable.items()
        if not strict or backend.has_strict
    }
    if not preferences:
        kind = "backend with strict mode" if strict else "backend"
        raise BackendUnavailableError(f"no {kind} is usable here: run 'fusedmlp backends'")
    best = max(preferences, key=lambda name: preferences[name].score)
    # A backend that is not installed, or has no device, is no news; one that is broken is.
    broken = [f"{name} is broken: {p.detail}" for name, p in found.items() if p.state == "broken"]
    return Selection(best, None, AUTO, "; ".join([preferences[best].reason, *broken]))

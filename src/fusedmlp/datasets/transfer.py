"""One bounded HTTP download, and the time limits that all network sources share.

Bounded in time (connect, silence, total) and in size, because a mirror may stall, trickle, or
answer with something else. It checks no digest: the caller does.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from http.client import HTTPResponse

_CHUNK = 1 << 18
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds, before a source counts as failed."""

    connect: float = 3.0  # name look-up and connection, all addresses of the host together
    silence: float = 5.0  # between two pieces of an answer
    download: float = 300.0  # one file
    openml: float = 900.0  # download and parse, in a process of its own
    pip: float = 300.0  # one wheel
    pip_silence: float = 10.0  # an index that first fetches the wheel elsewhere takes a while


def require_reachable(url: str, limits: Limits) -> None:
    """Check within ``limits.connect`` seconds that something listens at the host of ``url``.

    ``urllib`` applies its timeout to each address of a host in turn, and to the name look-up not
    at all, so that behind a firewall that drops packets one request can take minutes. A thread
    bounds both together. Where a proxy is set, the proxy is what must be reachable.

    Raises
    ------
    DataUnavailableError
        If there is no connection in time.
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    name = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(name):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80))
    outcome: list[str] = []  # one entry when the attempt is over: "" or why it failed

    def attempt() -> None:
        try:
            socket.create_connection(address, limits.connect).close()
        except OSError as error:
            outcome.append(error.strerror or str(error) or type(error).__name__)
        else:
            outcome.append("")

    # A daemon, because a name look-up cannot be interrupted and must not delay the exit.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(limits.connect)
    reason = outcome[0] if outcome else f"no connection within {limits.connect:g} s"
    if reason:
        raise DataUnavailableError(f"{address[0]}: {reason}")


def download(url: str, max_bytes: int, limits: Limits) -> bytes:
    """Fetch ``url``, at most ``max_bytes`` of it.

    Raises
    ------
    DataUnavailableError
        On any HTTP or connection error, on silence, and when the answer is shorter than
        announced or longer than ``max_bytes``.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    host = urlsplit(url).hostname
    request = Request(url, headers={"User-Agent": "fusedmlp", "Accept-Encoding": "identity"})
    try:
        with urlopen(request, timeout=limits.silence) as response:
            return _read(response, max_bytes, time.monotonic() + limits.download, url)
    except HTTPError as error:
        error.close()
        raise DataUnavailableError(f"{host}: HTTP {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise DataUnavailableError(f"{host}: silent for {limits.silence:g} s") from error
    except URLError as error:
        raise DataUnavailableError(f"{host}: {error.reason}") from error
    except DataUnavailableError:
        raise
    except (OSError, HTTPException) as error:
        raise DataUnavailableError(f"{host}: {error or type(error).__name__}") from error


def _read(response: HTTPResponse, max_bytes: int, deadline: float, url: str) -> bytes:
    announced = response.length
    if announced is not None and announced > max_bytes:
        raise DataUnavailableError(
            f"{url}: {announced:,} bytes announced, expected {max_bytes:,} at most"
        )
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > max_bytes:
            raise DataUnavailableError(f"{url}: more than the expected {max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise DataUnavailableError(f"{url}: too slow: {len(content):,} bytes so far")
    if announced is not None and len(content) < announced:
        raise DataUnavailableError(f"{url}: cut off after {len(content):,} of {announced:,} bytes")
    return bytes(content)

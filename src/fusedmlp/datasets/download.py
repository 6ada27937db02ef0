"""HTTP downloads and child processes, bounded in time and size, and the source ``mirror``.

A mirror may stall, trickle, or answer with something else, so there are limits for the connection,
for silence, for the whole file and for its size.

It uses ``urllib``, because a library on top of ``requests`` gives no limit for the name look-up,
for all addresses of a host together, or for the whole of a slow answer.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from fusedmlp.datasets.idx import GZIP_MAGIC, gunzip
from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from http.client import HTTPResponse

    from numpy.typing import NDArray

    from fusedmlp.datasets.published import IdxFile, PublishedSet, RawFiles

_CHUNK = 1 << 18
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Timeouts:
    """Seconds after which a source counts as failed."""

    connect: float = 3.0  # name look-up and connection, all addresses of the host together
    read: float = 5.0  # between two pieces of an answer
    download: float = 300.0  # one file
    openml: float = 900.0  # download and parse, in a process of its own
    pip: float = 300.0  # one wheel
    pip_read: float = 10.0  # longer than read: an index may first fetch the wheel elsewhere


def check_reachable(url: str, timeouts: Timeouts) -> None:
    """Check that the host of ``url`` accepts a connection within ``timeouts.connect`` seconds.

    ``urllib`` applies its timeout to each address of a host in turn, and to the name look-up not
    at all, so that behind a firewall that drops packets one request can take minutes. Here a
    thread bounds both together. Where a proxy is set, the connection is to the proxy.

    Raises
    ------
    DataUnavailableError
        If there is no connection in time.
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80))
    failure = f"no connection within {timeouts.connect:g} s"  # empty after a success

    def connect() -> None:
        nonlocal failure
        try:
            socket.create_connection(address, timeouts.connect).close()
        except OSError as error:
            failure = error.strerror or str(error) or type(error).__name__
        else:
            failure = ""

    # A daemon, because a name look-up cannot be interrupted and must not delay the exit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeouts.connect)
    reason = failure  # read once: the thread may still be running
    if reason:
        raise DataUnavailableError(f"{address[0]}: {reason}")


def download(url: str, max_bytes: int, timeouts: Timeouts) -> bytes:
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
        with urlopen(request, timeout=timeouts.read) as response:
            return _read(response, max_bytes, time.monotonic() + timeouts.download, url)
    except DataUnavailableError:
        raise
    except HTTPError as error:
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
    except TimeoutError:
        reason = f"silent for {timeouts.read:g} s"
    except URLError as error:
        reason = str(error.reason)
    except (OSError, HTTPException) as error:
        reason = str(error) or type(error).__name__
    raise DataUnavailableError(f"{host}: {reason}")


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


def run_process(
    command: Sequence[str], what: str, limit: float, environment: Mapping[str, str] | None = None
) -> None:
    """Run a child process for at most ``limit`` seconds; ``what`` names it in messages.

    Raises
    ------
    DataUnavailableError
        If it cannot be started, does not end in time, or fails; the message is then the last line
        of its stderr that begins with ``ERROR:``, else the last line.
    """
    import subprocess

    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataUnavailableError(f"{what} not finished within {limit:g} s") from error
    except OSError as error:
        raise DataUnavailableError(f"cannot start {command[0]}: {error}") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise DataUnavailableError(
            (errors or lines or [f"{what}: exit status {done.returncode}"])[-1]
        )


def from_mirrors(published: PublishedSet, timeouts: Timeouts) -> RawFiles:
    """Download the four files, each from the first mirror that has the right one.

    Each file is verified at once, because another mirror may have the right one.

    Raises
    ------
    DataUnavailableError
        If a file is on no mirror; the message has each mirror's reason.
    """
    files: RawFiles = {}
    reasons: list[str] = []
    for mirror in published.mirrors:
        try:
            check_reachable(mirror, timeouts)
            for file in published.files:
                if file.name not in files:
                    files[file.name] = _from_mirror(file, mirror, timeouts)
        except DataUnavailableError as error:
            reasons.append(str(error))
        else:
            return files
    raise DataUnavailableError("; ".join(reasons))


def _from_mirror(file: IdxFile, mirror: str, timeouts: Timeouts) -> NDArray[np.uint8]:
    host = urlsplit(mirror).hostname or mirror
    # Deflate adds five bytes a block to what it cannot compress; one block holds at least 4 KiB
    # in practice. The rest is for the gzip header with its name.
    max_bytes = file.n_bytes + file.n_bytes // 512 + 512
    content = download(f"{mirror}{file.name}.gz", max_bytes, timeouts)
    # Object stores decompress on the way where the file is marked as encoded.
    if content.startswith(GZIP_MAGIC):
        content = gunzip(io.BytesIO(content), len(content), f"{host}: {file.name}.gz")
    elif not content.startswith(b"\0\0"):
        raise DataUnavailableError(
            f"{host}: {file.name}.gz is no gzip file, it starts with {content[:20]!r}"
        )
    raw = np.frombuffer(content, np.uint8)
    file.verify(raw, f"{host}: ")
    return raw

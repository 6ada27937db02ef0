"""Mirrors that work, and mirrors that stall, lie, break off and answer with something else."""

from __future__ import annotations

import gzip
import re
import socket
import threading
import time

import pytest

from fusedmlp.datasets.download import Timeouts, check_reachable, download, from_mirrors
from fusedmlp.errors import DataUnavailableError

LABELS = "train-labels-idx1-ubyte"


def serve_all(server, raw, folder, compress=gzip.compress):
    for name, content in raw.items():
        server.serve(f"/{folder}/{name}.gz", compress(content))


def contents(files):
    return {name: content.tobytes() for name, content in files.items()}


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["gzip", "undone by the store"])
def test_first_mirror_is_enough(server, raw, published, timeouts, compress):
    serve_all(server, raw, "a", compress)
    assert contents(from_mirrors(published, timeouts)) == raw
    assert server.requests == [f"/a/{name}.gz" for name in raw]


def wrong_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


# A fault of a mirror, given the server, the path and the right content; words of the reason.
FAULTS = {
    "404": (lambda s, path, _: s.answers.pop(path), "HTTP 404"),
    "504": (lambda s, path, _: s.serve(path, b"gateway", status=504), "HTTP 504"),
    "html": (
        lambda s, path, _: s.serve(path, b"<!DOCTYPE html><p>no"),
        "is no gzip file, it starts with b'<!DOCTYPE html>",
    ),
    "bytes": (
        lambda s, path, raw: s.serve(path, gzip.compress(wrong_byte(raw))),
        "is damaged or another file",
    ),
    "cut off": (lambda s, path, raw: s.serve(path, raw[:-5], length=len(raw)), "cut off after"),
    "cut off, no length": (
        lambda s, path, raw: s.serve(path, gzip.compress(raw)[:-5], length=None),
        "damaged gzip",
    ),
    "more after it": (
        lambda s, path, raw: s.serve(path, gzip.compress(raw) + b"and more"),
        "damaged gzip",
    ),
    "too long": (lambda s, path, raw: s.serve(path, raw * 1000), "bytes announced, expected"),
    "too long, no length": (
        lambda s, path, raw: s.serve(path, raw * 1000, length=None),
        "more than the expected",
    ),
    "stall": (lambda s, path, _: s.stall(path), "silent for 1 s"),
    "no http": (
        lambda s, path, _: s.answers.update({path: lambda r: r.wfile.write(b"what?\r\n\r\n")}),
        "what?",
    ),
}


@pytest.mark.parametrize(("fault", "words"), FAULTS.values(), ids=FAULTS)
def test_bad_mirror_gives_its_reason_and_the_next_one_helps(
    server, raw, published, timeouts, fault, words
):
    serve_all(server, raw, "a")
    fault(server, f"/a/{LABELS}.gz", raw[LABELS])
    with pytest.raises(DataUnavailableError, match=re.escape(words)):
        from_mirrors(published, timeouts)  # the second mirror is empty
    serve_all(server, raw, "b")
    server.requests.clear()
    assert contents(from_mirrors(published, timeouts)) == raw
    # A right file of the first mirror is not fetched again.
    assert "/a/train-images-idx3-ubyte.gz" in server.requests
    assert "/b/train-images-idx3-ubyte.gz" not in server.requests
    assert f"/b/{LABELS}.gz" in server.requests


def test_each_mirror_is_named_when_all_fail(published, timeouts):
    with pytest.raises(DataUnavailableError) as caught:
        from_mirrors(published, timeouts)
    assert str(caught.value).count("HTTP 404") == 2


def test_trickle_is_cut_by_the_total_limit(server):
    def trickle(request):
        request.send_response(200)
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b"x")
            request.wfile.flush()
            if server.released.wait(0.05):
                return

    server.answers["/slow"] = trickle
    start = time.monotonic()
    with pytest.raises(DataUnavailableError, match="too slow"):
        download(f"{server.url}slow", 1000, Timeouts(read=2.0, download=0.3))
    assert time.monotonic() - start < 3


def test_closed_port_and_unknown_host(closed_url, timeouts):
    with pytest.raises(DataUnavailableError, match=r"127\.0\.0\.1: .*refused"):
        check_reachable(closed_url, timeouts)
    with pytest.raises(DataUnavailableError, match="refused"):
        download(closed_url, 10, timeouts)
    with pytest.raises(DataUnavailableError, match=r"no-such-host\.invalid: "):
        check_reachable("https://no-such-host.invalid/", timeouts)


def test_dropped_packets_cost_no_more_than_the_limit(monkeypatch):
    release = threading.Event()

    def hang(_address, _timeout):
        release.wait(20)  # a name look-up has no timeout
        raise OSError("late")

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.monotonic()
    with pytest.raises(DataUnavailableError, match=r"no connection within 0\.2 s"):
        check_reachable("https://example.invalid/", Timeouts(connect=0.2))
    assert time.monotonic() - start < 2
    release.set()


def test_proxy_is_what_must_be_reachable(monkeypatch, server, closed_url, timeouts):
    monkeypatch.setenv("https_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    check_reachable("https://no-such-host.invalid/", timeouts)
    monkeypatch.setenv("https_proxy", closed_url.removeprefix("http://").rstrip("/"))
    with pytest.raises(DataUnavailableError, match="refused"):
        check_reachable("https://no-such-host.invalid/", timeouts)

"""Mirrors that work, and mirrors that stall, lie, break off and answer with something else."""

from __future__ import annotations

import gzip
import re
import socket
import threading
import time

import pytest

from fusedmlp.datasets.download import Timeouts, check_reachable, download
from fusedmlp.datasets.mirrors import from_mirrors
from fusedmlp.errors import DataUnavailableError

NAME = "train-labels-idx1-ubyte"


def serve_all(server, raw, folder):
    for name, content in raw.items():
        server.serve(f"/{folder}/{name}.gz", gzip.compress(content))


def as_bytes(payloads):
    return {name: payload.tobytes() for name, payload in payloads.items()}


def test_first_mirror_is_enough(server, raw, published, timeouts):
    serve_all(server, raw, "a")
    assert as_bytes(from_mirrors(published, timeouts)) == raw
    assert server.asked == [f"/a/{name}.gz" for name in raw]


def test_store_that_undoes_gzip_on_the_way(server, raw, published, timeouts):
    for name, content in raw.items():
        server.serve(f"/a/{name}.gz", content)
    assert as_bytes(from_mirrors(published, timeouts)) == raw


def spoil_404(server, _raw):
    del server.answers[f"/a/{NAME}.gz"]


def spoil_504(server, _raw):
    server.serve(f"/a/{NAME}.gz", b"gateway", status=504)


def spoil_html(server, _raw):
    server.serve(f"/a/{NAME}.gz", b"<!DOCTYPE html><p>no")


def spoil_bytes(server, raw):
    wrong = bytearray(raw[NAME])
    wrong[-1] ^= 1
    server.serve(f"/a/{NAME}.gz", gzip.compress(bytes(wrong)))


def spoil_length(server, raw):
    body = gzip.compress(raw[NAME])
    server.serve(f"/a/{NAME}.gz", body[:-5], length=len(body))


def spoil_silent_cut(server, raw):
    server.serve_endless(f"/a/{NAME}.gz", gzip.compress(raw[NAME])[:-5])


def spoil_garbage(server, raw):
    server.serve(f"/a/{NAME}.gz", gzip.compress(raw[NAME]) + b"and more")


def spoil_announced(server, raw):
    server.serve(f"/a/{NAME}.gz", raw[NAME] * 1000)


def spoil_flood(server, raw):
    server.serve_endless(f"/a/{NAME}.gz", raw[NAME] * 1000)


def spoil_stall(server, _raw):
    server.stall(f"/a/{NAME}.gz")


def spoil_protocol(server, _raw):
    server.answers[f"/a/{NAME}.gz"] = lambda request: request.wfile.write(b"what?\r\n\r\n")


SPOILERS = {
    spoil_404: "HTTP 404",
    spoil_504: "HTTP 504",
    spoil_html: "is no gzip file, it starts with b'<!DOCTYPE html>",
    spoil_bytes: "is damaged or another file",
    spoil_length: "cut off after",
    spoil_silent_cut: "damaged gzip",
    spoil_garbage: "damaged gzip",
    spoil_announced: "bytes announced, expected",
    spoil_flood: "more than the expected",
    spoil_stall: "silent for 1 s",
    spoil_protocol: "what?",
}


@pytest.mark.parametrize(
    ("spoil", "words"), SPOILERS.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_bad_mirror_gives_its_reason_and_the_next_one_helps(
    server, raw, published, timeouts, spoil, words
):
    serve_all(server, raw, "a")
    spoil(server, raw)
    with pytest.raises(DataUnavailableError, match=re.escape(words)):
        from_mirrors(published, timeouts)  # the second mirror is empty
    serve_all(server, raw, "b")
    server.asked.clear()
    assert as_bytes(from_mirrors(published, timeouts)) == raw
    # What the first mirror delivered right is not fetched again.
    assert "/a/train-images-idx3-ubyte.gz" in server.asked
    assert "/b/train-images-idx3-ubyte.gz" not in server.asked
    assert f"/b/{NAME}.gz" in server.asked


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


def test_nothing_listens(closed_url, timeouts):
    with pytest.raises(DataUnavailableError, match=r"127\.0\.0\.1: .*refused"):
        check_reachable(closed_url, timeouts)
    with pytest.raises(DataUnavailableError, match="refused"):
        download(closed_url, 10, timeouts)


def test_unknown_host(timeouts):
    with pytest.raises(DataUnavailableError, match=r"no-such-host\.invalid: "):
        check_reachable("https://no-such-host.invalid/", timeouts)


def test_dropped_packets_cost_no_more_than_the_limit(monkeypatch):
    release = threading.Event()

    def hang(_address, _timeout):
        release.wait(20)  # as a name look-up does, deaf to timeouts
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

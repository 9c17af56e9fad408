"""Web servers that send without end, trickle, or lead elsewhere."""

from __future__ import annotations

import contextlib
import gzip
import os
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tecogan_dist.base import transfers
from tecogan_dist.base.errors import UserError
from tecogan_dist.data.prepare.download import Retrying, describe, downloaded, fetch
from tecogan_dist.data.prepare.limits import Limits, Watch
from tests.support.web_server import Site, serving

QUICK = Retrying(attempts=2, first_pause=0.05, timeout=2)
FILM = b"\0\0\0 ftypisom" + bytes(30_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        site.files["/film.mp4"] = FILM
        site.files["/page.html"] = b"<html><head><title>x</title></head><body>" + b"word " * 10_000
        yield site


def refused(site: Site, folder: Path, path: str, sentence: str, **most: float) -> None:
    began = time.monotonic()
    allowed = Limits(bytes=int(most.get("bytes", 10**6)), seconds=most.get("seconds", 60))
    with pytest.raises(UserError, match=sentence) as caught:
        fetch(site.url(path), folder, retrying=QUICK, limits=allowed)
    assert str(caught.value).isprintable()
    assert time.monotonic() - began < 45


def test_too_much_is_refused_before_and_while_it_comes(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "PAGE_BYTES", 100_000)
    refused(site, tmp_path, "/film.mp4", r"has 0\.0 GB: allow more with --max-download-gigabytes", bytes=20_000)
    assert sum(request.sent for request in site.log) <= 2 * len(FILM)
    site.endless |= {"/film.mp4", "/page.html"}
    refused(site, tmp_path, "/film.mp4", "sends more than 0.001 GB: allow more with --max-download-gigabytes")
    refused(site, tmp_path, "/page.html", "answers with more than 0 MB where a page is wanted")
    site.endless.clear()
    site.headers["/page.html"] = {"Content-Encoding": "gzip"}
    site.files["/page.html"] = gzip.compress(b"<html>" + bytes(10**7))
    refused(site, tmp_path, "/page.html", "answers with more than 0 MB where a page is wanted")
    assert not list(tmp_path.iterdir())


def test_a_server_that_trickles_is_given_up(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.bytes_per_second = 1  # the server makes 50 of it
    refused(site, tmp_path, "/film.mp4", "took longer than 1 s: allow more with --download-timeout", seconds=1)
    with monkeypatch.context() as patch:
        patch.setattr(transfers, "SLOW_SECONDS", 0.5)
        refused(site, tmp_path, "/film.mp4", "sends less than 200 bytes a second: run it again later")
        refused(site, tmp_path, "/page.html", "sends less than 200 bytes a second: run it again later")
    with pytest.raises(UserError, match="took longer than 1 s"):
        describe(site.url("/page.html"), retrying=QUICK, limits=Limits(seconds=1))


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/a.mp4", "data:video/mp4,x", "http://[::1", "gopher://a/", "/again.mp4"],
)
def test_redirects_lead_to_the_web_only(tmp_path: Path, site: Site, target: str) -> None:
    site.redirects["/again.mp4"] = target
    with pytest.raises(UserError) as caught:
        fetch(site.url("/again.mp4"), tmp_path / "d", retrying=QUICK)
    assert "Traceback" not in str(caught.value)
    assert not list((tmp_path / "d").iterdir())


def test_a_site_elsewhere_has_no_business_on_this_machine(tmp_path: Path) -> None:
    watch = Watch("https://films.example.org/a", "https://films.example.org/a", Limits(), tmp_path)
    watch.asks("https://cdn.example.org/b")
    with pytest.raises(OSError, match=r"leads to 169\.254\.169\.254 on this machine or its network"):
        watch.asks("http://169.254.169.254/latest/meta-data")
    with pytest.raises(OSError, match=r"169\.254"):
        watch.check()
    with pytest.raises(OSError, match="leads to localhost"):
        Watch("https://films.example.org/a", "a", Limits()).asks("http://localhost:8265/api/jobs")


def test_a_password_goes_to_its_host_only_and_is_not_shown(tmp_path: Path, site: Site) -> None:
    with serving() as other:
        other.files["/film.mp4"] = FILM
        site.redirects["/there.mp4?token=hidden1"] = other.url("/film.mp4")
        url = site.url("/there.mp4?token=hidden1").replace("://", "://me:hidden2@")
        path = fetch(url, tmp_path, retrying=QUICK)
        assert path.read_bytes() == FILM
        assert [request.authorization != "" for request in site.log] == [True] * len(site.log)
        assert [request.authorization for request in other.log] == [""] * len(other.log)
    # Signed anew it is the same.
    assert downloaded(site.url("/there.mp4?token=other"), tmp_path) == path
    with pytest.raises(UserError) as caught:
        fetch(url.replace("there", "none"), tmp_path, retrying=QUICK)
    assert "hidden" not in str(caught.value)
    assert f"{site.url('/none.mp4')} is gone" in str(caught.value)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", b"a" * 1000),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n<html\r\n0\r\n", b"X: a\r\n"),
        (OK + b"Content-Length: 99999999999999999999999\r\n\r\n<html>", b""),
        (OK + b"Content-Length: -5\r\n\r\nabc", b""),
        (bytes(range(256)) * 9, b""),
        (b"HTTP/1.1 99999 \x1b[2J\x07\r\n\r\n", b""),
        (b"", b""),
    ],
)
def test_whatever_a_server_answers_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes, rest: bytes
) -> None:
    """``rest`` is repeated for ever."""
    monkeypatch.setattr(transfers, "PAGE_BYTES", 100_000)

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.recv(65536)
                self.request.sendall(start)
                while rest:
                    self.request.sendall(rest * 20)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads, server.block_on_close = True, False
    url = f"http://127.0.0.1:{server.server_address[1]}/a.mp4?token=hidden"
    began = time.monotonic()
    with server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(UserError) as caught:
            fetch(url, tmp_path, retrying=QUICK, limits=Limits(bytes=100_000, seconds=10))
        server.shutdown()
    assert time.monotonic() - began < 45
    assert str(caught.value).isprintable()
    assert "hidden" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("proxy", ["http://[::1", "gopher://me:hidden@h", "http://h:99999"])
def test_a_proxy_that_cannot_be_one_is_said(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UserError, match="the environment's http_proxy is no use") as caught:
        fetch(site.url("/film.mp4"), tmp_path, retrying=QUICK)
    assert "hidden" not in str(caught.value)
    assert not site.log


def test_no_program_is_started_and_no_plugin_loaded(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ffmpeg", "ffprobe", "deno", "node", "phantomjs"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    site.files["/list.m3u8"] = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n"
    site.types["/list.m3u8"] = "application/vnd.apple.mpegurl"
    site.files["/a.ts"] = bytes(188)
    fetch(site.url("/list.m3u8"), tmp_path / "d", retrying=QUICK)
    assert not (tmp_path / "started").exists()

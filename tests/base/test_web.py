"""Files from a real web server on loopback that breaks off, is busy, redirects, changes its file, or says nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tecogan_dist.base import transfers, web_connections
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.transfers import Limits, NoSpace
from tecogan_dist.base.web import Retrying, download, forget
from tecogan_dist.base.web_connections import RedirectHandler, Unavailable, Unreachable
from tests.support.small_disk import small_disk
from tests.support.web_server import Site, serving

QUICK = Retrying(attempts=3, first_pause=0.02, timeout=1.0)
PLENTY = Limits()
FILE = np.random.RandomState(0).bytes(300_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        site.files["/model.zip"] = FILE
        yield site


def fetch(site: Site, tmp_path: Path, path: str = "/model.zip", *, limits: Limits = PLENTY) -> bytes:
    partial = tmp_path / "part"
    download(site.url(path), partial, limits=limits, retrying=QUICK)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["part", "part.note"]
    return partial.read_bytes()


def test_a_file_comes_whole_in_one_request_and_its_progress_is_shown(tmp_path: Path, site: Site) -> None:
    seen: list[tuple[int, int | None]] = []
    download(site.url("/model.zip"), tmp_path / "part", limits=Limits(), show=lambda *now: seen.append(now))
    assert (tmp_path / "part").read_bytes() == FILE
    assert len(site.log) == 1
    assert seen[0] == (0, len(FILE))
    assert seen[-1] == (len(FILE), len(FILE))
    assert sorted(seen) == seen


def test_a_busy_server_is_asked_again_and_each_cut_is_continued_where_it_was(tmp_path: Path, site: Site) -> None:
    # Each of five cuts moves it: that is more than the attempts that are made without one.
    site.faults["/model.zip"] = [503, "cut", "cut", 500, "cut", "cut", "cut"]
    assert fetch(site, tmp_path) == FILE
    begins = [request.first_byte for request in site.log if request.status == 206]
    assert begins == sorted(begins)
    assert begins[0] == len(FILE) // 2
    assert sum(request.sent for request in site.log) == len(FILE)


def test_a_later_call_goes_on_and_one_after_all_has_come_asks_nothing(tmp_path: Path, site: Site) -> None:
    site.faults["/model.zip"] = ["cut", 503, 503]
    with pytest.raises(Unavailable, match=r"answers 503 Service Unavailable, 3 times"):
        fetch(site, tmp_path)
    assert (tmp_path / "part").stat().st_size == len(FILE) // 2
    site.log.clear()
    assert fetch(site, tmp_path) == FILE
    assert [request.first_byte for request in site.log] == [len(FILE) // 2]
    assert fetch(site, tmp_path) == FILE
    assert len(site.log) == 1


def test_a_server_that_sends_nothing_more_is_left_and_asked_again(tmp_path: Path, site: Site) -> None:
    site.faults["/model.zip"] = ["stuck"]
    began = time.monotonic()
    assert fetch(site, tmp_path) == FILE
    assert 0.9 < time.monotonic() - began < 10


@pytest.mark.parametrize("status", [404, 410, 403, 401])
def test_what_is_gone_is_said_at_once(tmp_path: Path, site: Site, status: int) -> None:
    site.faults["/model.zip"] = [status, status]
    with pytest.raises(Unavailable, match=rf"^(is gone|answers).*{status}"):
        fetch(site, tmp_path)
    assert len(site.log) == 1
    assert not list(tmp_path.iterdir())


def test_redirects_are_followed_to_the_file_and_a_part_is_asked_for_there(tmp_path: Path, site: Site) -> None:
    site.redirects |= {"/old": "/older", "/older": "/model.zip"}
    site.faults["/model.zip"] = ["cut"]
    assert fetch(site, tmp_path, "/old") == FILE
    assert [request.first_byte for request in site.asked("/model.zip")] == [0, len(FILE) // 2]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("/loop", r"^leads from one address to the next, without an end \(302\)$"),
        ("http://[::1/x", "^leads to an address that cannot be one$"),
        ("ftp://example.org/x", "leads elsewhere"),
        ("file:///etc/passwd", "leads elsewhere"),
    ],
)
def test_redirects_that_lead_nowhere_or_elsewhere_are_refused(
    tmp_path: Path, site: Site, target: str, why: str
) -> None:
    site.redirects["/loop"] = target
    with pytest.raises(UserError, match=why):
        fetch(site, tmp_path, "/loop")
    assert not (tmp_path / "part").exists()


def test_a_page_of_the_world_may_not_lead_to_this_machine(tmp_path: Path) -> None:
    watch = transfers.Watch("https://example.org/a", "https://example.org/a", Limits(), tmp_path)
    with pytest.raises(OSError, match=r"leads to 127\.0\.0\.1 on this machine"):
        watch.asks("http://127.0.0.1:8265/api/jobs")
    handler = RedirectHandler(transfers.Watch("https://example.org/a", "a", Limits(), tmp_path))
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(Unavailable, match="leads from https to http"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/a")


def test_another_version_of_the_file_is_fetched_anew(tmp_path: Path, site: Site) -> None:
    site.headers["/model.zip"] = {"ETag": '"one"'}
    site.faults["/model.zip"] = ["cut", 503, 503]
    with pytest.raises(Unavailable):
        fetch(site, tmp_path)
    # Of the same length, and by a server that does not heed If-Range: only the mark tells.
    site.files["/model.zip"] = changed = FILE[::-1]
    site.headers["/model.zip"] = {"ETag": '"two"'}
    assert fetch(site, tmp_path) == changed


@pytest.mark.parametrize("shorter", [100, 200_000])
def test_a_file_that_has_become_shorter_is_fetched_anew(tmp_path: Path, site: Site, shorter: int) -> None:
    site.faults["/model.zip"] = ["cut", 503, 503]
    with pytest.raises(Unavailable):
        fetch(site, tmp_path)
    site.files["/model.zip"] = FILE[:shorter]
    site.faults["/model.zip"] = [416] if shorter < len(FILE) // 2 else []
    assert fetch(site, tmp_path) == FILE[:shorter]


@pytest.mark.parametrize("note", [None, "", "{}", '{"url": 1, "mark": 2, "size": "x"}', "\0", '{"url": "x"}'])
def test_a_partial_file_of_nobody_is_not_continued(tmp_path: Path, site: Site, note: str | None) -> None:
    (tmp_path / "part").write_bytes(b"something else")
    if note is not None:
        (tmp_path / "part.note").write_text(note)
    assert fetch(site, tmp_path) == FILE
    assert [request.first_byte for request in site.log] == [0]


def test_a_file_without_a_length_ends_with_its_connection(tmp_path: Path, site: Site) -> None:
    site.without_length.add("/model.zip")
    assert fetch(site, tmp_path) == FILE


def test_more_than_is_allowed_is_given_up_before_and_while_it_comes(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "PAGE_BYTES", 1000)
    with pytest.raises(UserError, match=r"has 0.0 GB: that is not what is wanted here"):
        fetch(site, tmp_path, limits=Limits(bytes=50_000))
    site.endless.add("/model.zip")
    with pytest.raises(UserError, match=r"sends more than"):
        fetch(site, tmp_path, limits=Limits(bytes=50_000))
    assert not list(tmp_path.iterdir())


def test_an_answer_that_is_packed_is_not_taken_for_the_file(tmp_path: Path, site: Site) -> None:
    site.headers["/model.zip"] = {"Content-Encoding": "gzip"}
    with pytest.raises(Unavailable, match="packed in a way that was not asked for"):
        fetch(site, tmp_path)


@contextlib.contextmanager
def saying(*answers: bytes) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server that gives these answers, one a connection, as they are; and the ranges that were asked."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                with contextlib.suppress(OSError), server.accept()[0] as connection:
                    lines = connection.recv(65536).decode().splitlines()
                    asked.append(next((line for line in lines if line.startswith("Range: ")), "")[7:])
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a", asked
        server.close()
        thread.join(10)


def answered(data: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, "Connection: close", "")).encode() + data


def part(first: int, stop: int, *headers: str) -> bytes:
    return answered(
        FILE[first:stop], f"Content-Range: bytes {first}-{stop - 1}/{len(FILE)}", *headers, status="206 Partial Content"
    )


FIRST = answered(FILE[:1000], f"Content-Length: {len(FILE)}")


@pytest.mark.parametrize(
    ("answers", "ranges"),
    [
        # Of what is asked for, a server may give a part.
        (
            (FIRST, part(1000, 5000, "Content-Length: 4000"), part(5000, len(FILE))),
            ["", "bytes=1000-", "bytes=5000-"],
        ),
        # The rest breaks off, and did not say how long it was.
        ((FIRST, part(1000, 7000), part(7000, len(FILE))), ["", "bytes=1000-", "bytes=7000-"]),
        # The rest, which is not the rest but all, breaks off too.
        ((FIRST, part(0, 5000, "Content-Length: 5000"), part(5000, len(FILE))), ["", "bytes=1000-", "bytes=5000-"]),
        # The first answer breaks off in its headers.
        ((answered(b"")[:15], b"HTTP/1.1 200 OK\r\nServer: x", answered(FILE)), ["", "", ""]),
        # More comes than the file has.
        ((FIRST, part(1000, len(FILE)) + b"more", answered(FILE)), ["", "bytes=1000-", ""]),
    ],
)
def test_no_part_is_taken_for_the_whole(tmp_path: Path, answers: tuple[bytes, ...], ranges: list[str]) -> None:
    with saying(*answers) as (url, asked):
        download(url, tmp_path / "part", limits=PLENTY, retrying=Retrying(attempts=4, first_pause=0.01, timeout=5.0))
    assert (tmp_path / "part").read_bytes() == FILE
    assert asked == ranges


def test_what_is_no_web_server_is_not_quoted(tmp_path: Path) -> None:
    again = Retrying(attempts=2, first_pause=0.01, timeout=5.0)
    with (
        saying(FILE[:5000], FILE[:5000]) as (url, _),
        pytest.raises(Unavailable, match=r"^does not answer as a web server, 2 times$"),
    ):
        download(url, tmp_path / "part", limits=PLENTY, retrying=again)


def test_no_network_is_known_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unreachable, match=r"cannot be reached \(Connection refused\)"):
        download(f"http://127.0.0.1:{port}/a", tmp_path / "part", limits=Limits())
    with pytest.raises(Unreachable, match=r"cannot be reached"):
        download("http://no-such-host.invalid/a", tmp_path / "part", limits=Limits())
    monkeypatch.setattr(web_connections, "LOOKUP_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_words, **_settings: time.sleep(3))  # a resolver that is silent
    with pytest.raises(Unreachable, match=r"nobody tells the address of its name"):
        download("http://example.org/a", tmp_path / "part", limits=Limits())
    assert time.monotonic() - began < 8


def test_a_wrong_proxy_is_a_sentence(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret@:1")
    with pytest.raises(UserError, match="the environment's http_proxy is no use") as raised:
        fetch(site, tmp_path)
    assert "secret" not in str(raised.value)


def test_a_full_disk_keeps_what_has_come(tmp_path: Path, site: Site) -> None:
    site.files["/model.zip"] = bytes(3_000_000)
    site.without_length.add("/model.zip")
    with small_disk(tmp_path / "disk", kilobytes=2048) as disk:
        with pytest.raises(NoSpace, match="full"):
            download(site.url("/model.zip"), disk / "part", limits=Limits(), retrying=QUICK)
        assert (disk / "part").stat().st_size > 0
        forget(disk / "part")
        assert not list(disk.iterdir())


def test_a_link_in_place_of_the_partial_file_is_not_followed(tmp_path: Path, site: Site) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "part").symlink_to(tmp_path / "mine")
    download(site.url("/model.zip"), tmp_path / "part", limits=Limits(), retrying=QUICK)
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert (tmp_path / "part").read_bytes() == FILE

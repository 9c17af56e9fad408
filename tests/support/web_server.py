"""A web server on loopback with byte ranges and faults on order."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TYPES = {"mp4": "video/mp4", "html": "text/html", "zip": "application/zip"}


@dataclasses.dataclass
class Request:
    method: str
    path: str
    first_byte: int
    """0 without a Range header."""
    status: int
    sent: int = 0
    """Bytes of the body; in the log before it is known, for a client has the last byte before its server goes on."""
    authorization: str = ""


@dataclasses.dataclass
class Site:
    """What is served, the faults of the next requests for a path (the first goes first), and what was asked."""

    address: str = ""
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    types: dict[str, str] = dataclasses.field(default_factory=dict)
    redirects: dict[str, str] = dataclasses.field(default_factory=dict)
    faults: dict[str, list[int | str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    """A status code; "ok"; "cut": half of what is left, then the end; "stuck": half, then nothing more."""
    bytes_per_second: float | None = None
    without_length: set[str] = dataclasses.field(default_factory=set)
    """Paths whose answers do not say how long they are."""
    headers: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """More headers of a path's answers."""
    endless: set[str] = dataclasses.field(default_factory=set)
    """Paths whose answers have no end: their file over and over."""
    log: list[Request] = dataclasses.field(default_factory=list)
    released: threading.Event = dataclasses.field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"{self.address}{path}"

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.log if request.path == path]


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path
            fault = site.faults[path].pop(0) if site.faults[path] else "ok"
            data = site.files.get(path.partition("?")[0])
            if path in site.redirects:
                fault = 302
            if isinstance(fault, int) or data is None:
                status = fault if isinstance(fault, int) else 404
                site.log.append(Request(self.command, path, 0, status, 0, self.headers.get("Authorization", "")))
                self.send_response(status)
                if path in site.redirects:
                    self.send_header("Location", site.redirects[path])
                self.send_header("Content-Length", "0")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                return
            asked = self.headers.get("Range", "")
            first = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("Content-Type", site.types.get(path, TYPES.get(path.rpartition(".")[2], "text/plain")))
            if path not in site.without_length | site.endless:
                self.send_header("Content-Length", str(len(data) - first))
            for name, value in site.headers.get(path, {}).items():
                self.send_header(name, value)
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.send_header("Connection", "close")
            self.close_connection = True
            self.end_headers()
            end = first + (len(data) - first) // 2 if fault in ("cut", "stuck") else len(data)
            authorization = self.headers.get("Authorization", "")
            request = Request(self.command, path, first, 206 if asked else 200, authorization=authorization)
            site.log.append(request)
            request.sent = self.send(data[first:end]) if body else 0
            while path in site.endless and body and not site.released.is_set():
                sent = self.send(data)
                request.sent += sent
                if sent < len(data):
                    break
            if fault == "stuck" and body:
                site.released.wait(60)

        def send(self, data: bytes) -> int:
            """Bytes that went out before the client hung up."""
            step = len(data) or 1
            if site.bytes_per_second is not None:
                step = max(1, int(site.bytes_per_second / 50))
            sent = 0
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while sent < len(data):
                    self.wfile.write(data[sent : sent + step])
                    sent += len(data[sent : sent + step])
                    if site.bytes_per_second is not None:
                        time.sleep(0.02)
            return sent

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.released.set()
        server.shutdown()
        server.server_close()
        thread.join()

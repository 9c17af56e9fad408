"""What a web server may answer, and a server on loopback that answers so."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections.abc import Iterator
from random import Random

from fuzzing import raw

URL_FILE, ANSWER_FILE = "url", "answer"
PATHS = "/film.mp4", "/page.html", "/list.m3u8", "/feed.mpd", "/clips.zip", "/", "/a%00b.mp4", "/film.mp4?token=secret"
STATUS_LINES = (
    *("HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 206 Partial Content", "HTTP/1.0 200"),
    *(
        "HTTP/1.1 301 Moved",
        "HTTP/1.1 404 Not Found",
        "HTTP/1.1 416 Range",
        "HTTP/1.1 999 \x1b[31mred",
        "HTTP/9.9 200 OK",
    ),
    *("HTTP/1.1 -1 OK", "HTTP/1.1 200", "ICY 200 OK", "\0", "HTTP/1.1 403 " + "x" * 70000, "HTTP/1.1 401 Unauthorized"),
)
HEADERS = (
    *("Content-Type: video/mp4", "Content-Type: text/html; charset=utf-8", "Content-Type: application/x-mpegURL"),
    *(
        "Content-Type: application/dash+xml",
        "Content-Type: text/html; charset=rot13",
        "Content-Type: \x00",
        "Content-Type:",
    ),
    *("Content-Length: 0", "Content-Length: -1", "Content-Length: x", f"Content-Length: {2**64}", "Content-Length: 5"),
    *("Transfer-Encoding: chunked", "Content-Encoding: gzip", "Content-Encoding: br", "Content-Encoding: x, y"),
    *("Content-Range: bytes 0-1/2", "Content-Range: bytes x", "Accept-Ranges: bytes", "Retry-After: x", "Location: /"),
    *("Location: file:///etc/passwd", "Location: http://[::1", "Location: //", "Location: ftp://127.0.0.1/x"),
    *("Location: /%0d%0a", "Location: data:text/html,x", 'Content-Disposition: attachment; filename="../../x.sh"'),
    *("Set-Cookie: a=b; Domain=.", "Last-Modified: never", "X: " + "y" * 70000, "no colon", ": empty", "ETag: \xff"),
)
BODIES = (
    b"<html><head><title>\x1b[31mA \xff page</title></head><body><video src='/film.mp4'></video></body></html>",
    b"<html><body><video src='file:///etc/passwd'></video><source src='concat:/etc/passwd'></body></html>",
    b'<html><script type="application/ld+json">{"@type": "VideoObject", "contentUrl": "/film.mp4", "duration": "PT"}'
    b"</script><meta property='og:video' content='/film.mp4'></html>",
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/film.mp4\n#EXT-X-ENDLIST\n",
    b'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="file:///etc/passwd"\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n',
    b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,RESOLUTION=9x9\nrtmp://127.0.0.1/x\n",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><MPD>&b;</MPD>",
    b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static' mediaPresentationDuration='PT1S'>"
    b"<Period><AdaptationSet mimeType='video/mp4'><Representation id='1' bandwidth='1' width='9' height='9'>"
    b"<BaseURL>/film.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
    b"<rss version='2.0'><channel><item><title>a</title><link>/film.mp4</link></item></channel></rss>",
    b"",
)


def sample(film: bytes) -> dict[str, bytes]:
    """A right answer."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {len(film)}\r\n\r\n"
    return {URL_FILE: b"/film.mp4", ANSWER_FILE: head.encode() + film}


def changed(files: dict[str, bytes], random: Random) -> dict[str, bytes]:
    """Another answer, to another address."""
    head, _, film = files[ANSWER_FILE].partition(b"\r\n\r\n")
    body = random.choice((film, *BODIES))
    url = random.choice(PATHS).encode()
    if random.random() < 0.3:
        return {URL_FILE: url, ANSWER_FILE: raw.changed(head + b"\r\n\r\n" + body[:3000], random)}
    if random.random() < 0.5:
        body = raw.changed(body, random)
    headers = random.sample(HEADERS, random.randrange(5))
    if "Content-Encoding: gzip" in headers and random.random() < 0.5:
        body = gzip.compress(b"<html>" + b"\0" * 20_000_000 if random.random() < 0.1 else body, mtime=0)
    if random.random() < 0.6:
        headers.append(f"Content-Length: {len(body)}")
    if random.random() < 0.02:
        headers *= 200
    lines = "\r\n".join([random.choice(STATUS_LINES), *headers])
    return {URL_FILE: url, ANSWER_FILE: lines.encode("latin-1", "replace") + b"\r\n\r\n" + body}


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server on loopback that answers every request with these bytes and hangs up; its address."""
    head = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listening.accept()
                    with connection:
                        connection.settimeout(1)
                        request = connection.recv(65536)
                        connection.sendall(head if request.startswith(b"HEAD") else answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()

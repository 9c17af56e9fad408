"""Addresses that are none, servers that are no Ray, and tokens that are none: a sentence, soon, without secrets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster import embedded
from tecogan_dist.cluster.connect import check_answers, cluster_address, connected
from tecogan_dist.cluster.internals import ray_core
from tecogan_dist.cluster.tokens import check_mode, check_own_token

SECRET = "a-value-that-must-not-be-printed"


@pytest.mark.parametrize(
    "address",
    [
        *("ray://", ":::", ":6379", "host", "host:", "host:99999", "host:0", "host:-1", "host:6379/x", "a b:6379", " "),
        *("a\x1b[31m:1", "\u202e:1", "a\nb:1", f"{'a' * 300}:6379", "http://host:8265", "[::1", "host:\uff16379"),
        *(
            f"user:{SECRET}@host:6379",
            f"ray://user:{SECRET}@host:10001",
            "file:///etc/passwd",
            "anyscale://x",
            "$(id):1",
        ),
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UserError, match=r"is not the address of a Ray cluster: .*give HOST:PORT") as raised:
        check_answers(address)
    assert SECRET not in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400


def test_local_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(None) == cluster_address("") == "10.0.0.1:6379"
    assert cluster_address("local") is None


@contextlib.contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """``HOST:PORT`` of a server that ``talk`` is the whole of."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peers = []  # stay open
            with contextlib.suppress(OSError):
                while True:
                    peers.append(server.accept()[0])
                    with contextlib.suppress(OSError):
                        talk(peers[-1])

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def say_nothing(_: socket.socket) -> None:
    pass


def hang_up(peer: socket.socket) -> None:
    peer.close()


def as_ssh(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def as_web(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def as_http2(peer: socket.socket) -> None:
    """A server of the protocol below gRPC that answers no call."""
    peer.sendall(b"\0\0\0\4\0\0\0\0\0")


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize(
    ("talk", "sentence"),
    [
        (say_nothing, "does not answer"),
        (hang_up, "does not answer"),
        (as_http2, "does not answer"),
        (as_ssh, "answers, but not as a Ray cluster does"),
        (as_web, "is a web server"),
    ],
)
def test_what_listens_and_is_no_ray(
    talk: Callable[[socket.socket], None], sentence: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_core, "ANSWER_SECONDS", 0.3)
    with listening(talk) as address:
        begun = time.monotonic()
        with pytest.raises(UserError, match=rf"^what listens at {scheme}{address} {sentence}"):
            check_answers(scheme + address)
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("mode", ["tokens", " token", "yes", "\x1b[2J"])
def test_a_mode_that_ray_would_take_for_disabled(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with (
        pytest.raises(UserError, match=r"^RAY_AUTH_MODE is .*set it to token or disabled") as raised,
        connected(None, cpus=1),
    ):
        pass
    assert str(raised.value).isprintable()


def test_an_empty_mode_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "")
    check_mode()
    assert "RAY_AUTH_MODE" not in os.environ


@pytest.mark.parametrize("token", [f"{SECRET}\nx", f"{SECRET} x", f"{SECRET}\x1b", f"{SECRET}ä", SECRET * 1000])
def test_a_token_that_cannot_be_sent(token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (tmp_path / "token").write_text(token)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UserError, match="holds what cannot be a token") as in_file:
        check_own_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(UserError, match=r"^RAY_AUTH_TOKEN holds what cannot be a token") as in_environment:
        check_own_token(environment_only=True)
    assert SECRET not in f"{in_file.value}{in_environment.value}"


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "missing", "link"])
def test_a_token_file_of_another_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    if kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "device":
        file = Path("/dev/zero")
    elif kind == "link":
        file.symlink_to(file)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with pytest.raises(UserError, match=str(file)):
        check_own_token()


def test_ray_keeps_its_files_where_nobody_else_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray opens its own folder to everybody, who could put another socket in the place of one."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(embedded, "SOCKET_BYTES", 4096)
    tmp_path.chmod(0o700)
    assert embedded._private_folder() == tmp_path
    tmp_path.chmod(0o755)
    folder = embedded._private_folder()
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(UserError, match="is not a folder of yours that only you may enter"):
        embedded._private_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="is not a folder of yours that only you may enter"):
        embedded._private_folder()


def test_a_slow_start_is_tried_once_more(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    starts = []

    def slow(*_: object, **__: object) -> None:
        starts.append(1)
        raise RuntimeError("Timed out waiting for file /tmp/x\nmore")

    monkeypatch.setattr("ray.init", slow)
    with pytest.raises(
        UserError, match=r"could not be started on this machine \(2 times\): Timed out waiting"
    ) as raised:
        embedded._start(dashboard=False, _temp_dir="/tmp/x")
    assert len(starts) == 2
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().err.count("\n") == 1

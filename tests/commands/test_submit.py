"""``tecogan submit``: what is refused before anything is sent, and servers that are something else."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from tecogan_dist import cli
from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.internals import ray_jobs
from tecogan_dist.cluster.jobs import job_name, plain
from tecogan_dist.cluster.packing import MOST_BYTES
from tecogan_dist.cluster.stopping import IN_JOB, STOP_WAIT, warn_of_short_stops
from tecogan_dist.commands.places import READ, WRITTEN
from tecogan_dist.commands.submit import COMMANDS, main

SECRET = "a-value-that-must-not-be-printed"
TRAIN = ("train", "--config", "frvsr", "--data", "s3://films/store", "--output", "s3://films/frvsr")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with some files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "mine.yaml").write_text("perceptual: {weights: vgg19.pth}\n")
    (tmp_path / "films.yaml").write_text("sources: [{source: films/a.mkv}]\n")
    (tmp_path / "large.safetensors").write_bytes(bytes(MOST_BYTES + 1))
    (tmp_path / "inner").mkdir()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    return tmp_path


NO_JOBS = ("dashboard", "list", "status")
"""They look at what others do, from wherever that can be read."""


def test_all_commands_that_work_can_be_submitted() -> None:
    assert {*COMMANDS, "submit", *NO_JOBS} == set(cli.COMMANDS)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "--config", "frvsr"], "give the command after --, as in: tecogan submit"),
        (["--"], "give the command after --"),
        (["--", "trian"], "'trian' cannot be submitted: did you mean train"),
        (["--", "submit"], "'submit' cannot be submitted"),
        (["--adress", "x", "--", *TRAIN], "no option --adress: did you mean --address"),
        (["--env", f"KEY={SECRET}", "--", *TRAIN], "--env takes names, and a value beside KEY shows in ps"),
        (["--env", "NOT_SET_ANYWHERE", "--", *TRAIN], "there is no such variable in the environment"),
        (["--", *TRAIN, "--setps", "3"], "no setting --setps: did you mean --steps"),
        (["--", "train", "--config", "frvsr"], "give --data and --output"),
        (
            ["--", *TRAIN[:-1], "runs/x"],
            "--output runs/x is a place on this machine, and the job runs on another: give",
        ),
        (["--", *TRAIN, "--data=runs"], "--data runs is a place on this machine"),
        (["--", *TRAIN, "--initial_weights", "runs"], "--initial-weights runs is a place on this machine"),
        (
            ["--", *TRAIN, "--initial-weights", "large.safetensors"],
            "has 4 MB, and files of more than 4 MB do not travel",
        ),
        (["--", *TRAIN[:2], "mine.yaml", *TRAIN[3:]], "mine.yaml says perceptual.weights: vgg19.pth, a place on this"),
        (
            ["--", "prepare", "films/*.mkv", "--output", "s3://films/store"],
            "SOURCE films/.* is a place on this machine",
        ),
        (["--", "prepare", "films.yaml", "--output", "/shared/store"], "films.yaml names films/a.mkv, a place on this"),
        (
            ["--", "upscale", "/shared/in.mp4", "out.mp4", "--weights", "/w"],
            "OUTPUT out.mp4 is a place on this machine",
        ),
        (["--", "evaluate", "--results", "/a,b", "--targets", "/c,/d", "--output", "/e"], "--results b is a place on"),
        (["--", "convert", "model/TecoGAN", "/shared/tecogan.safetensors"], "SOURCE model/TecoGAN is a place on this"),
        (["--address", "ray://127.0.0.1:10001", "--", *TRAIN], "to a cluster's dashboard, not to ray://.*http://HEAD"),
        (["--address", "127.0.0.1:1", "--", *TRAIN], r"no Ray cluster answers at 127\.0\.0\.1:1"),
        (["--", *TRAIN], r"nobody listens at http://127\.0\.0\.1:1 .*--include-dashboard=false"),
    ],
)
@pytest.mark.usefixtures("here")
def test_mistakes_are_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        main(words)
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_outside_of_the_working_directory_does_not_travel(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "inner")
    with pytest.raises(UserError, match=r"--config \.\./mine\.yaml is outside of the working directory"):
        main(["--", *TRAIN[:2], "../mine.yaml", *TRAIN[3:]])


def test_the_help_of_a_submitted_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--", "upscale", "--help"])
    assert ended.value.code == 0
    assert "usage: tecogan upscale" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_that_names_a_place_is_known(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    pattern = r"^  (--[\w-]+) (?:DIR|FILE|PATH|STORE|SPACE|PRESET\|FILE|auto\|never\|PATH|A\[,B\.\.\.\])\b"
    assert set(re.findall(pattern, capsys.readouterr().out, re.MULTILINE)) <= {*READ, *WRITTEN}


def test_names_can_be_read_and_are_new() -> None:
    name = job_name("train", "s3://films/my run?region=x")
    assert re.fullmatch(r"train-my-run-region-x-[0-9a-f]{6}", name)
    assert name != job_name("train", "s3://films/my run?region=x")
    assert re.fullmatch(r"doctor-[0-9a-f]{6}", job_name("doctor", None))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"ray_version": "2.40.0"}, r"runs Ray 2\.40\.0 and this package needs 2\.60"),
        ({"hello": "world"}, "what answers at http://.* is not a Ray dashboard"),
        (None, "what answers at http://.* is not a Ray dashboard"),
    ],
)
def test_a_server_that_is_another(answer: dict[str, str] | None, sentence: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=sentence):
            main(["--address", f"http://127.0.0.1:{server.server_port}", "--", *TRAIN])
        server.shutdown()


def _trickle(peer: socket.socket) -> None:
    for _ in range(100):
        peer.sendall(b"x")
        time.sleep(0.1)


def _endless(peer: socket.socket) -> None:
    while True:
        peer.sendall(bytes(2**16))


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
VERSION = OK + b'\r\n{"ray_version": "%s"}' % ray.__version__.encode()


@pytest.mark.parametrize(
    ("answer", "then", "sentence"),
    [
        (OK + b"\r\n" + b"[" * 100_000, None, "is not a Ray dashboard"),
        (OK + b"\r\n[1]", None, "is not a Ray dashboard"),
        (OK + b'\r\n{"ray_version": 3}', None, "is not a Ray dashboard"),
        (OK + b'\r\n{"ray_version": "9.9.0"}', None, r"runs Ray 9\.9\.0 and this package needs"),
        (OK + b"Content-Encoding: gzip\r\n\r\nabc", None, "is not a Ray dashboard"),
        (OK + b"\r\n", _endless, r"is not a Ray dashboard \(an answer of more than 1 MB\)"),
        (OK + b"\r\n", _trickle, r"is not a Ray dashboard \(no whole answer in 1 s\)"),
        (b"", _trickle, r"is not a Ray dashboard \(no whole answer in 1 s\)"),
        (b"", lambda _: time.sleep(3), r"is not a Ray dashboard"),
        (
            b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:9/\r\n\r\n",
            None,
            "sends its visitors to another address",
        ),
        (b"HTTP/1.1 401 X\r\n\r\n", None, "wants a token"),
        (VERSION, None, "does not say which jobs it has"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_answers_anything(
    answer: bytes, then: Callable[[socket.socket], None] | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence in little time, without what the address says of a password."""
    for name, value in {"FIRST_SECONDS": 1.0, "ANSWER_SECONDS": 1.0, "MOST_BYTES": 2**20}.items():
        monkeypatch.setattr(ray_jobs, name, value)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer, contextlib.suppress(OSError):
                        if peer.recv(2**16):
                            peer.sendall(answer)
                            if then is not None:
                                then(peer)

        threading.Thread(target=serve, daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(UserError, match=sentence) as raised:
            main(["--address", f"http://user:{SECRET}@127.0.0.1:{server.getsockname()[1]}", "--", *TRAIN])
        assert time.monotonic() - begun < 10
        assert "\n" not in str(raised.value)
        assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http://[",
        "http://a b",
        "http://x:99999",
        "ftp://x",
        f"http://{'a' * 300}",
        ":::",
        "ray://",
        "x:0",
        "\x1b",
    ],
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UserError) as raised:
        main(["--address", address, "--", *TRAIN])
    assert str(raised.value).isprintable()


def test_a_log_cannot_steer_the_terminal() -> None:
    assert plain("a\tb\r\n\x1b[36mblue\x1b[0m") == "a\tb\r\n\x1b[36mblue\x1b[0m"
    assert plain("\x1b]0;title\x07 \x1b[2J \u202e \x9b").isprintable()


def test_a_driver_says_that_it_would_be_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(IN_JOB, raising=False)
    monkeypatch.delenv(STOP_WAIT, raising=False)
    warn_of_short_stops()
    monkeypatch.setenv(IN_JOB, "{}")
    monkeypatch.setenv(STOP_WAIT, "600")
    warn_of_short_stops()
    assert capsys.readouterr().out == ""
    monkeypatch.delenv(STOP_WAIT)
    warn_of_short_stops()
    assert capsys.readouterr().out.startswith("note: 'ray job stop' would kill this job after 3 seconds, ")

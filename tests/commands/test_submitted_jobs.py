"""Jobs of ``tecogan submit`` on a real head that wants a token: followed, stopped, resumed, failed, refused."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tecogan_dist.cluster.stopping import STOP_WAIT
from tests.support.paths import REPOSITORY
from tests.support.training_runs import STEPS, TINY, Command, StartedHead, free_ports, ray_head, until, write_store

TOKEN = "0123456789abcdef" * 2
SECRET = "a-value-that-must-not-be-printed"
ON_PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"
TRAIN = ("train", "--config", "frvsr", "--data", "s3://films/store", "--output", "s3://films/frvsr")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartedHead]:
    """A head that wants a token, and whose environment does not say how long a job may take to stop."""
    home = tmp_path_factory.mktemp("home")
    with ray_head(cpus=4, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, HOME=str(home), PATH=ON_PATH) as running:
        yield running


@contextlib.contextmanager
def submitted(*words: str, env: dict[str, str], cwd: Path) -> Iterator[Command]:
    """``tecogan submit WORDS``; killed at the end if it still runs."""
    env = {"PYTHONPATH": str(REPOSITORY), **env}
    command = Command([sys.executable, "-m", "tecogan_dist.submit", *words], env=env, cwd=cwd)
    try:
        yield command
    finally:
        command.kill()


def details(head: StartedHead, job: str) -> dict[str, Any]:
    """What the head tells its clients about a job."""
    request = urllib.request.Request(f"{head.dashboard}/api/jobs/{job}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))


class Tunnel:
    """A way to the dashboard that can be cut and mended, as an SSH tunnel's."""

    def __init__(self, dashboard: str) -> None:
        self.target = int(dashboard.rpartition(":")[2])
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._open += [near, far]
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(a, b), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def stopped(head: StartedHead) -> Iterator[None]:
    """Meanwhile the workers' processes are stopped: their present step takes as long as that."""
    workers: list[psutil.Process] = until(head.workers, "training workers")
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            worker.resume()


def printed(run: Command, kind: str) -> list[str]:
    """The words of a command line that was printed: follow, stop or resume."""
    run.wait_for(r"^  resume: ")
    (line,) = run.all(rf"^  {kind}: ")
    return shlex.split(line.partition(":")[2])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_jobs_life(head: StartedHead, tmp_path: Path) -> None:
    """Submitted through a tunnel that breaks, stopped in a long step, resumed, left alone, done."""
    store, output, cwd = write_store(tmp_path / "store"), tmp_path / "run", tmp_path / "here"
    (cwd / "settings").mkdir(parents=True)
    (cwd / "settings" / "tiny.yaml").write_text(TINY)
    train = ["train", "--config", "settings/tiny.yaml", "--data", str(store), "--output", str(output)]
    env = head.env | {"WANDB_API_KEY": SECRET, "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/key.json"}
    tunnel = Tunnel(head.dashboard)
    with submitted("--address", tunnel.url, "--follow", "--", *train, env=env, cwd=cwd) as first:
        line = first.wait_for(r"^step 3/")
        with stopped(head):
            tunnel.cut()
            line = first.wait_for(r"^\[no connection to http://127\.0\.0\.1:\d+: trying again", after=line)
            time.sleep(3)
            tunnel.mend()
            # Longer than the 3 seconds after which Ray kills by itself.
            job = printed(first, "stop")[-1]
            assert printed(first, "stop")[:3] == ["ray", "job", "stop"]
            stop = head.job("stop", job)
            time.sleep(8)
            assert details(head, job)["status"] == "RUNNING"
        assert stop.finish() == 0, stop.end
        assert first.finish() == 130, first.end
    assert first.all("^uploaded: this package and settings/tiny.yaml ")
    assert first.all("^passed from the environment: WANDB_API_KEY$")
    assert first.all("^note: Ray shows values of passed variables")
    assert first.all("^not passed: GOOGLE_APPLICATION_CREDENTIALS, ")
    assert not first.all(SECRET)
    assert not first.all("^note: 'ray job stop' would kill")
    assert first.all("^asked to stop: the run ends after this step, with a checkpoint")
    (end,) = first.all(rf"^stopped after \d+ of {STEPS} steps: the same command goes on from .*checkpoint_")
    assert first.lines[-1] == f"job {job} was stopped"
    steps = [int(text.split()[1].partition("/")[0]) for text in first.all(r"^step \d+/")]
    assert steps == sorted(set(steps))  # the tunnel cost no line, and none came twice
    assert details(head, job)["runtime_env"]["env_vars"] == {"WANDB_API_KEY": SECRET, STOP_WAIT: "600"}

    again = printed(first, "resume")
    assert again[:2] == ["tecogan", "submit"]
    with submitted(*again[2:], env=env, cwd=cwd) as second:
        second.wait_for(rf"^going on after step {end.split()[2]} ")
        with stopped(head):
            running = printed(second, "stop")[-1]
            assert re.fullmatch(r"train-run-[0-9a-f]{6}", running)
            assert running != job
            with submitted(*again[2:], env=env, cwd=cwd) as third:
                assert third.finish() == 2
            (refused,) = third.lines
            assert refused.startswith(f"error: the job {running} writes to {output} and has not ended: follow it with")
            second.process.send_signal(signal.SIGINT)
            assert second.finish() == 130, second.end
        assert second.all(r"^no longer following; the job goes on: 'ray job logs --follow ")
    until(lambda: details(head, running)["status"] == "SUCCEEDED", "the job's end")

    with submitted("--id", running, *again[2:], env=env, cwd=cwd) as taken:
        assert taken.finish() == 2
    assert taken.lines[-1] == f"error: the cluster has had a job named {running}: give another name (--id)."
    with submitted(*again[2:], env=env, cwd=cwd) as last:
        assert last.finish() == 0, last.end
    assert last.all(rf"is trained: {STEPS} steps are done")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_that_fails_in_a_folder_full_of_junk(head: StartedHead, tmp_path: Path) -> None:
    for junk in ("junk", ".git", ".venv"):
        (tmp_path / junk).mkdir()
        with (tmp_path / junk / "file").open("wb") as file:
            for _ in range(200):
                file.write(b"junk" * 2**18)
    before = uploads(head)
    words = ["--address", head.dashboard, "--follow", "--no-secrets", "--id", "fails", "--stop-wait", "30", "--"]
    words += ["train", "--config", "frvsr", "--data", str(tmp_path / "nothing"), "--output", str(tmp_path / "run")]
    env = head.env | {"WANDB_API_KEY": SECRET}
    with submitted(*words, env=env, cwd=tmp_path) as run:
        assert run.finish() == 1, run.end
    assert run.lines[-1] == "error: the job fails failed: its command ended with status 2, the reason is above."
    assert run.all(r"^error: .*nothing")
    assert details(head, "fails")["runtime_env"]["env_vars"] == {STOP_WAIT: "30"}
    assert printed(run, "resume")[:7] == ["tecogan", "submit", "--address", head.dashboard, "--follow", *words[3:4],
        "--stop-wait"]  # fmt: skip
    (uploaded,) = uploads(head) - before
    assert {path.name for path in uploaded.iterdir()} == {"tecogan_dist"}
    (size,) = (int(line.partition("(")[2].split()[0]) for line in run.all("^uploaded: this package "))
    assert size < 2000


def uploads(head: StartedHead) -> set[Path]:
    """Folders that the head has unpacked for jobs."""
    return {path for path in head.session.glob("runtime_resources/working_dir_files/_ray_pkg_*") if path.is_dir()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rays_own_command_works_and_the_job_says_what_is_missing(head: StartedHead, tmp_path: Path) -> None:
    train = ["python", "-m", "tecogan_dist.train", "--config", "frvsr", "--data", str(tmp_path / "nothing")]
    shutil.copytree(REPOSITORY / "tecogan_dist", tmp_path / "here" / "tecogan_dist")
    run = head.job("submit", "--working-dir", str(tmp_path / "here"), "--", *train, "--output", str(tmp_path / "run"))
    assert run.finish() == 1
    assert run.all("^note: 'ray job stop' would kill this job after 3 seconds, ")
    assert run.all(r"^error: .*nothing")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            {"RAY_AUTH_MODE": "disabled"},
            "wants a token: set RAY_AUTH_MODE=token, and give the cluster's token in RAY_A",
        ),
        ({"RAY_AUTH_TOKEN": "another" * 6}, "refuses the token in RAY_AUTH_TOKEN: give the cluster's own token in"),
        (
            {"RAY_AUTH_TOKEN_PATH": "/nowhere"},
            "the token file of RAY_AUTH_TOKEN_PATH, /nowhere does not exist: check the name",
        ),
    ],
)
def test_a_token_that_is_missing_or_wrong(
    env: dict[str, str], sentence: str, head: StartedHead, tmp_path: Path
) -> None:
    env = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path), **env}
    with submitted("--address", head.dashboard, "--", *TRAIN, env=env, cwd=tmp_path) as run:
        assert run.finish() == 2
    assert len(run.lines) == 1, run.end
    assert sentence in run.lines[0]
    store = write_store(tmp_path / "store")
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = ["--config", str(tmp_path / "tiny.yaml"), "--data", str(store), "--output", str(tmp_path / "run")]
    words += ["--cluster.address", head.address]
    train = Command([sys.executable, "-m", "tecogan_dist.train", *words], env=env, cwd=REPOSITORY)
    assert train.finish() == 2, train.end
    assert [line for line in train.lines if sentence in line] == train.lines[-1:], train.end
    assert not train.all("Traceback|InvalidAuthToken")

"""A command's own Ray is nobody else's: where it listens, what a stranger may do, and what is left of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tecogan_dist.base.garbage import ALLOCATIONS
from tests.support.paths import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DRIVER = """
import gc, sys, time, ray
from tecogan_dist.cluster.connect import connected
from tecogan_dist.cluster.embedded import ends_with_this_process

class Trial:
    def ends_with_this_process(self):
        from tecogan_dist.cluster.embedded import ends_with_this_process
        return ends_with_this_process()

with connected(None, cpus=2, dashboard=True):
    allocations = ray.get(ray.remote(lambda: gc.get_threshold()[0]).remote())
    trial = ray.remote(num_cpus=0)(Trial).remote()
    ends = f"{ends_with_this_process()}, {ray.get(trial.ends_with_this_process.remote())}"
    print(ends, allocations, ray.get_runtime_context().gcs_address, flush=True)
    time.sleep(300)
"""
STARTING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
from tecogan_dist.base.errors import run_command
from tecogan_dist.cluster.embedded import embedded_ray

def main(argv):
    with embedded_ray(cpus=2, dashboard=False, importing=["slow_module_of_a_test"]):
        print("started", flush=True)

run_command(main)
"""
SLOW = """
import time, ray
while not ray.is_initialized():
    time.sleep(0.01)
time.sleep(0.5)
print("importing", flush=True)
time.sleep(4)
"""
STRANGER = """
import os, sys, ray
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
ray.get(ray.remote(lambda path: open(path, "w").close()).remote(sys.argv[2]))
"""
PATIENCE = 30.0
"""Seconds after which nothing of a killed command may be left."""


@dataclass(frozen=True)
class Driver:
    process: subprocess.Popen[str]
    address: str
    """Of its Ray."""

    def everything(self) -> list[psutil.Process]:
        """It, and what it has started."""
        driver = psutil.Process(self.process.pid)
        return [driver, *driver.children(recursive=True)]


def environment(home: Path, **variables: str) -> dict[str, str]:
    """This one with another home, and of Ray's only what is given."""
    home.mkdir(exist_ok=True)
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | {"HOME": str(home), **variables}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A process with a Ray inside, as a command without a cluster has it."""
    env = environment(tmp_path_factory.mktemp("driver") / "home")
    with subprocess.Popen([sys.executable, "-c", DRIVER], env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            here, trial, allocations, address = process.stdout.readline().split()
            assert (here, trial) == ("True,", "False")  # a trial ends, and the places of its workers are given back
            assert int(allocations) == ALLOCATIONS  # our processes within it look for garbage as rarely as this one
            yield Driver(process, address)
        finally:
            process.kill()


def test_it_listens_on_loopback_only(driver: Driver) -> None:
    """And its token is in no command line, which everybody can read, and in no file."""
    places = set()
    for process in driver.everything():
        token = process.environ().get("RAY_AUTH_TOKEN", "")
        assert not token or token not in " ".join(process.cmdline())
        places |= {item.laddr.ip for item in process.net_connections("inet") if item.status == psutil.CONN_LISTEN}
    assert places == {"127.0.0.1", "::ffff:127.0.0.1"}
    assert driver.address.startswith("127.0.0.1:")


def test_a_stranger_runs_nothing(driver: Driver, tmp_path: Path) -> None:
    """Somebody on the same machine, by Ray's own client, which would else replace 127.0.0.1 by another address."""
    strangers = {
        "without a mode": {"RAY_AUTH_MODE": "disabled"},
        "without a token": {"RAY_AUTH_MODE": "token"},
        "with another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
    }
    trace = tmp_path / "was_here"
    words = [sys.executable, "-c", STRANGER, driver.address, str(trace)]
    with contextlib.ExitStack() as running:
        started = []
        for name, variables in strangers.items():
            env = environment(tmp_path / name, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", **variables)
            process = running.enter_context(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
            running.callback(process.kill)
            started.append(process)
        for process in started:
            _, said = process.communicate(timeout=90)
            assert process.returncode != 0
            assert "AuthenticationError" in said
    assert not trace.exists()
    assert driver.process.poll() is None


def test_no_port_takes_a_job_of_a_stranger(driver: Driver, tmp_path: Path) -> None:
    """The dashboard and the agents, whichever of the ports these are."""
    trace, answers = tmp_path / "was_here", set()
    body = json.dumps({"entrypoint": f"touch {trace}"}).encode()
    connections = [item for process in driver.everything() for item in process.net_connections("inet")]
    for port in {item.laddr.port for item in connections if item.status == psutil.CONN_LISTEN}:
        for path in ("/api/jobs/", "/api/job_agent/jobs/"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                answers.add(connection.getresponse().status)
            connection.close()
    assert 401 in answers
    assert all(status >= 400 for status in answers)
    time.sleep(2)
    assert not trace.exists()


def test_nothing_is_left_of_a_killed_command(driver: Driver) -> None:
    """Runs last: SIGKILL, after which the command can end nothing itself."""
    processes = driver.everything()
    assert {"gcs_server", "raylet"} <= {process.name() for process in processes}
    driver.process.kill()
    driver.process.wait()
    deadline = time.monotonic() + PATIENCE
    while any(process.is_running() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not [process.name() for process in processes if process.is_running()]


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_start_ends_it_in_one_line(kind: signal.Signals, tmp_path: Path) -> None:
    """Below Python, Ray sets a handler of SIGTERM that prints addresses and ends the process by an alarm after 3 s."""
    (tmp_path / "slow_module_of_a_test.py").write_text(SLOW)
    env = environment(tmp_path / "home", PYTHONPATH=os.pathsep.join([str(tmp_path), str(REPOSITORY)]))
    words = [sys.executable, "-c", STARTING]
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(kind)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.count("\n") == 1, err
    assert err.startswith("interrupted")

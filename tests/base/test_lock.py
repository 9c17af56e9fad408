from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tecogan_dist.base import lock
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import WriterLock
from tecogan_dist.base.storage import Location
from tests.support.paths import REPOSITORY as ROOT
from tests.support.s3_server import S3Server

HEARTBEAT, STALE = 0.5, 4.0
OTHER_PROCESS = f"""
import sys
from tecogan_dist.base import lock
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location

lock.HEARTBEAT_SECONDS, lock.STALE_SECONDS = {HEARTBEAT}, {STALE}
with lock.WriterLock(Location(sys.argv[1])) as held:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        held.check()
        print("still held", flush=True)
    except UserError as error:
        print(error, flush=True)
"""


@pytest.fixture(params=["local", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Location:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", HEARTBEAT)
    monkeypatch.setattr(lock, "STALE_SECONDS", STALE)
    return Location.of(tmp_path if request.param == "local" else server.uri(tmp_path.name))


def start_other(place: Location) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(place)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_living_writer_is_not_disturbed(place: Location) -> None:
    other = start_other(place)
    for _ in range(2):
        with pytest.raises(UserError, match=r"another process .*is writing to"), WriterLock(place):
            pass
    time.sleep(STALE)
    with pytest.raises(UserError, match=r"another process .*is writing to"), WriterLock(place):
        pass
    output, _ = other.communicate("end\n", timeout=60)
    assert output == "still held\n"
    began = time.monotonic()
    with WriterLock(place) as held:
        held.check()
    assert time.monotonic() - began < 2  # nobody to wait for


def test_a_killed_writer_s_lock_is_taken_over(place: Location) -> None:
    other = start_other(place)
    other.kill()
    other.wait(timeout=30)
    with WriterLock(place) as held:
        held.check()
        with pytest.raises(UserError, match="another process"), WriterLock(place):
            pass


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_writer_that_was_stopped_for_long_notices_that_it_lost_the_lock(place: Location) -> None:
    """As a machine that sleeps; a local lock is not lost by that."""
    other = start_other(place)
    other.send_signal(signal.SIGSTOP)
    with WriterLock(place):
        other.send_signal(signal.SIGCONT)
        time.sleep(3 * HEARTBEAT)
        output, _ = other.communicate("check\n", timeout=60)
        assert "another process" in output
    with WriterLock(place) as held:
        held.check()


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_lock_outlives_a_server_that_is_away_for_a_while(place: Location, server: S3Server) -> None:
    with WriterLock(place) as held:
        server.stop()
        time.sleep(STALE)
        server.start()
        held.check()
        assert len((place / ".lock").entries()) == 1
    assert (place / ".lock").entries() == []

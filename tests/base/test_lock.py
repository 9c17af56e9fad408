from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tecogan_dist.base import lock
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import WriterLock, output_lock
from tecogan_dist.base.owners import Owner
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
    began = time.monotonic()
    with WriterLock(place) as held:
        assert time.monotonic() - began < STALE  # it ran on this machine, where it is seen to be gone
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


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_of_two_that_start_at_once_one_goes_on(place: Location) -> None:
    outcomes: list[str] = []

    def enter() -> None:
        try:
            with WriterLock(place) as held:
                time.sleep(3 * HEARTBEAT)
                held.check()
                outcomes.append("held")
        except UserError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("held") == 1, outcomes
    assert sum("another process" in outcome for outcome in outcomes) == 2


def test_one_process_writes_an_output(tmp_path: Path) -> None:
    target = tmp_path / "new" / "film.mp4"
    with output_lock(target):
        sentence = rf"another process \(pid {os.getpid()} on .*\) is writing .*film.mp4: wait for its end"
        with pytest.raises(UserError, match=sentence), output_lock(tmp_path / "new" / ".." / "new" / "film.mp4"):
            pass
        with output_lock(target.with_name("other.mp4")):
            pass
    assert list(target.parent.iterdir()) == []
    with output_lock(target):
        pass


def test_a_lock_goes_through_no_link_and_keeps_a_file_of_the_user_s(tmp_path: Path) -> None:
    mine = tmp_path / ".film.mp4.tecogan_lock"
    mine.write_text("my notes")
    film = tmp_path / "film.mp4"
    with output_lock(film), pytest.raises(UserError, match="another process"), output_lock(film):
        pass
    assert mine.read_text() == "my notes"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("my notes")
    with WriterLock(Location.of(tmp_path / "run")):
        pass
    assert (tmp_path / "run" / ".lock").read_text() == "my notes"
    (tmp_path / ".a.tecogan_lock").symlink_to(mine)
    os.mkfifo(tmp_path / ".b.tecogan_lock")
    (tmp_path / ".c.tecogan_lock").mkdir()
    for name in "abc":
        with pytest.raises(UserError), output_lock(tmp_path / name):
            pass
    assert mine.read_text() == "my notes"


def test_a_full_disk_is_told_of_the_output_and_leaves_no_lock(tmp_path: Path) -> None:
    """A limit of a file's size fails as a full disk does: the file can be made, and nothing written into it."""
    target = tmp_path / "report.html"
    lock = tmp_path / ".report.html.tecogan_lock"

    def fail() -> str:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            with pytest.raises(UserError) as error, output_lock(target):
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return str(error.value)

    assert fail().startswith(f"{target} cannot be written (")
    assert list(tmp_path.iterdir()) == []
    with output_lock(target):
        assert "another process" in fail()
        assert lock.exists()  # that process's


def test_a_lock_outlives_a_long_name_and_needs_a_place(tmp_path: Path) -> None:
    with output_lock(tmp_path / ("x" * 255)):
        pass
    for place in (Path("/proc/film.mp4"), tmp_path / ("x" * 256), tmp_path / "file" / "film.mp4"):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError), output_lock(place):
            pass


def test_an_owner_is_known_by_more_than_its_number() -> None:
    me = Owner.me()
    assert Owner.parse(me.line()) == me
    assert not me.is_dead()
    earlier = Owner.parse(me.line().replace(b"started ", b"started 1"))
    assert earlier is not None
    assert earlier.is_dead()
    elsewhere = Owner.parse(me.line().replace(b"machine ", b"machine x"))
    assert elsewhere is not None
    assert not elsewhere.is_dead()
    for line in (b"", b"claimed", b"\xff", me.line() * 2, me.line()[:-5]):
        assert Owner.parse(line) is None or Owner.parse(line) != me

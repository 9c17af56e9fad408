"""Clips verified here and by Ray tasks: the same findings, with progress, and an end in order."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands import prepare
from tecogan_dist.data.clips import ClipStore, verify, written_scenes
from tecogan_dist.data.prepare import verifying
from tecogan_dist.data.prepare.verifying import verified
from tests.support.local_ray import small_ray
from tests.support.paths import REPOSITORY
from tests.support.s3_server import S3Server
from tests.support.video_files import write_store


@pytest.fixture(scope="module")
def local_ray(server: S3Server) -> Iterator[None]:  # noqa: ARG001 - tasks need the server's environment
    with small_ray(cpus=2):
        yield


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server) -> ClipStore:
    """One of three scenes is damaged, one is gone."""
    store = write_store({"local": str(tmp_path / "s"), "s3": server.uri(tmp_path.name)}[request.param], scenes=3)
    (store.location / store.scenes[0].file).write_bytes(b"other bytes")
    (store.location / store.scenes[2].file).delete()
    return store


FINDINGS = [
    "clips/scene_2000.mp4 is damaged: its bytes are not those that were written.",
    None,
    "clips/scene_2002.mp4 is missing.",
]


def test_in_this_process_where_nothing_is_fetched(store: ClipStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", None)
    assert list(verified(store.location, store.scenes, workers=1)) == list(zip(store.scenes, FINDINGS, strict=True))
    if store.location.is_local:
        assert [problem for _, problem in verified(store.location, store.scenes)] == FINDINGS


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("scenes_of_task", [1, 2, 64])
def test_tasks_find_the_same_in_the_same_order(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch, scenes_of_task: int
) -> None:
    monkeypatch.setattr(verifying, "SCENES_OF_TASK", scenes_of_task)
    scenes = written_scenes(store.location)
    assert list(verified(store.location, scenes, workers=2)) == list(verify(store.location))
    assert [problem for _, problem in verified(store.location, scenes)] == FINDINGS
    assert list(verified(store.location, scenes[:0])) == []


@pytest.mark.usefixtures("local_ray")
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    store = write_store(tmp_path, scenes=2)
    clip = tmp_path / store.scenes[1].file
    clip.unlink()
    clip.mkdir()
    with pytest.raises(UserError, match=r"scene_2001\.mp4 .*a folder") as caught:
        list(verified(store.location, store.scenes, workers=2))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("local_ray")
def test_a_process_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, mark = write_store(tmp_path / "s", scenes=2), tmp_path / "died"

    def dies_once(_store: object, scenes: list[object]) -> list[None]:
        import os

        if not mark.exists():
            mark.touch()
            os._exit(1)
        return [None] * len(scenes)

    monkeypatch.setattr(verifying, "_problems", dies_once)
    assert [problem for _, problem in verified(store.location, store.scenes, workers=2)] == [None, None]
    assert mark.exists()


def test_the_command_shows_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path / "s", scenes=3)
    prepare.main(["--verify", "--output", str(tmp_path / "s")])
    printed, progress = capsys.readouterr()
    assert printed == f"3 of 3 scenes of {tmp_path / 's'} are what was written.\n"
    assert progress.startswith("verified: 3 of 3 scenes, ")


SLOW_TASKS = """
import sys, time
from pathlib import Path
from tecogan_dist.cli import main
from tecogan_dist.data.prepare import verifying

place = Path(sys.argv[1])

def slow(store, scenes):
    (place / f"begun_{scenes[0].number}").touch()
    time.sleep(300)

verifying._problems, verifying.SCENES_OF_TASK = slow, 1
sys.argv[1:] = ["prepare", "--verify", "--workers", "2", "--output", str(place / "s")]
main()
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ctrl_c_ends_all_tasks(tmp_path: Path) -> None:
    write_store(tmp_path / "s", scenes=3)
    command = subprocess.Popen(
        [sys.executable, "-c", SLOW_TASKS, str(tmp_path)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(list(tmp_path.glob("begun_*"))) < 2:
        assert command.poll() is None
        time.sleep(0.1)
    children = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 130
    assert errors.strip().splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in errors
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running()]
    assert sorted(path.name for path in tmp_path.glob("begun_*")) == ["begun_2000", "begun_2001"]

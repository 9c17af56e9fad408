"""Real processes that are killed, interrupted and run out of disk: the same command ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.upscale import main
from tecogan_dist.upscaling.folder import MARKER, unfinished_path
from tecogan_dist.video.open import open_video
from tecogan_dist.weights.format import save_weights
from tests.support.films import moving, packets_of, write_film
from tests.support.small_disk import small_disk
from tests.support.upscaling import TINY, scene_frames, tiny_model, write_images
from tests.support.video_files import write_video

FRAMES = 13
DYING = """
import importlib, os, signal, sys
where, calls, *words = sys.argv[1:]
module, name = where.split(":")
module = importlib.import_module("tecogan_dist.upscaling." + module)
*owners, last = name.split(".")
for owner in owners:
    module = getattr(module, owner)
original, left = getattr(module, last), [int(calls)]
def dying(*positional, **named):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*positional, **named)
setattr(module, last, dying)
from tecogan_dist.commands.upscale import main
main(words)
"""
"""A command that is killed when a function is called for the n-th time."""
PLACES = {
    "in the look": ("source:scenes_of", 1),
    "in a segment": ("segment:check_result", 6),
    "before a segment is checked": ("segment:check_written", 2),
    "before a segment is recorded": ("folder:WorkFolder.finish", 2),
    "between segments": ("job:Job.done", 2),
    "in the join": ("placing:_check", 1),
    "before it is put in place": ("placing:_put", 1),
    "before the folder is removed": ("folder:WorkFolder.clear", 2),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, upscaler_state=tiny_model().state_dict(), model=TINY, run_config=None)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "film.mkv", FRAMES, height=24, width=32)


def words(film: Path, output: Path, weights: Path, *more: object) -> list[str]:
    options = ("--weights", weights, "--segment-frames", 4, "--device", "cpu", "--workers", 1, "--threads", 1, *more)
    return [str(word) for word in (film, output, *options)]


def killed(where: str, calls: int, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING, where, str(calls), *command], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def straight(film: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What a command gives that nothing happens to, by the output's suffix."""
    folder = tmp_path_factory.mktemp("straight")
    for suffix in (".mp4", ""):
        main(words(film, folder / f"large{suffix}", weights))
    return {suffix: contents(folder / f"large{suffix}") for suffix in (".mp4", "")}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ""])
@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere_the_same_command_ends_alike(
    film: Path, weights: Path, straight: dict[str, dict[str, bytes]], tmp_path: Path, place: str, suffix: str
) -> None:
    output = tmp_path / f"large{suffix}"
    command = words(film, output, weights)
    killed(*PLACES[place], command)
    assert output.exists() == (place == "before the folder is removed")
    main(command)
    assert contents(output) == straight[suffix]
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tecogan_dist.upscale", *command],
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background ignores Ctrl-C, and children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_playable_file_and_says_how_to_go_on(
    weights: Path, tmp_path: Path, kind: signal.Signals
) -> None:
    film = write_film(tmp_path / "my film.mp4", moving(60, height=96, width=128), sound="aac")
    output = tmp_path / "large.mp4"
    command = words(film, output, weights)
    folder = unfinished_path(output)
    with running(command) as process:
        deadline = time.monotonic() + 120
        while not (folder / "segment_00002.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(kind)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    found = re.fullmatch(
        r"interrupted: (\d+) of 60 frames are done, and the first (\d+) can be watched in (.*)\. To go on: (.*)", last
    )
    assert found, said
    frames = int(found[2])
    assert 12 <= frames == int(found[1]) < 60
    assert found[3] == str(folder / "so_far.mp4")
    assert len(list(open_video(found[3]).frames())) == frames
    last_sound = packets_of(Path(found[3]), "audio")[-1][0]
    assert frames / 25 - 0.1 < last_sound <= frames / 25 + 0.05
    assert shlex.split(found[4]) == ["tecogan", "upscale", *command]
    main(shlex.split(found[4])[2:])
    assert open_video(output).count_frames() == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.mp4", "my film.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mkv", ""])
def test_a_disk_that_fills_up_at_any_place(weights: Path, tmp_path: Path, suffix: str) -> None:
    """More room is given a little at a time, so that it fills up in segments, in states and in the join."""
    source = write_images(tmp_path / "source", scene_frames([16], height=24, width=32))
    quality = ("--crf", 0) if suffix else ()
    main(words(source, tmp_path / f"straight{suffix}", weights, *quality))
    refused = []
    with small_disk(tmp_path / "disk", 64) as disk:
        output = disk / f"large{suffix}"
        for kilobytes in range(96, 4096, 48):
            try:
                main(words(source, output, weights, *quality))
                break
            except UserError as error:
                refused.append(str(error))
                assert not output.exists()
            resize = ["mount", "-o", f"remount,size={kilobytes}k", str(disk)]
            subprocess.run(resize, check=True, timeout=30)
        assert contents(output) == contents(tmp_path / f"straight{suffix}")
        assert [path.name for path in disk.iterdir()] == [output.name]
    assert len(refused) > 2
    for text in refused:
        assert re.search(r"No space left|needs at least|cannot be written|no space left", text), text


MEASURED = """
import resource, sys
from tecogan_dist.commands.upscale import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(weights: Path, tmp_path: Path) -> None:
    peaks = []
    for frames in (100, 1200):
        film = write_video(tmp_path / f"{frames}.mp4", frames, height=16, width=16)
        command = [str(film), str(tmp_path / f"large_{frames}.mp4"), "--weights", str(weights), "--device", "cpu"]
        words = [sys.executable, "-c", MEASURED, *command, "--workers", "1", "--threads", "1"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=250, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.05 * peaks[0], peaks


def test_what_another_wrote_into_the_folder_stays(film: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "large"
    killed("job:Job.done", 2, words(film, output, weights))
    notes = unfinished_path(output) / "notes.txt"
    notes.write_text("mine")
    main(words(film, output, weights))
    assert open_video(output).count == FRAMES
    assert [path.name for path in unfinished_path(output).iterdir()] == ["notes.txt"]
    assert not (unfinished_path(output) / MARKER).exists()

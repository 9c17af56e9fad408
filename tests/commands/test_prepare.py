from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.prepare import main
from tecogan_dist.data.clips import ClipStore, open_clip
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter
from tests.support.video_files import write_video


def prepare(output: Path, *arguments: object) -> ClipStore:
    main([*map(str, arguments), "--output", str(output)])
    return ClipStore.open(output)


def test_a_video_is_cut_into_consecutive_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "film.mp4", 50)
    store = prepare(tmp_path / "store", video, "--scene-length", 20, "--encoding", "lossless")
    assert [(s.number, s.source_start, s.frames, s.height, s.width) for s in store.scenes] == [
        (2000, 0, 20, 48, 64),
        (2001, 20, 20, 48, 64),
    ]
    assert {scene.source for scene in store.scenes} == {str(video.resolve())}
    blue = [round(frame[..., 2].mean()) for frame in open_clip(store.path, store.scenes[1]).frames()]
    assert np.abs(np.array(blue) - np.arange(20, 40)).max() <= 4
    printed, progress = capsys.readouterr()
    assert "the last 10 frames are less than a scene: dropped" in printed
    assert "2 of 2 scenes" in progress


def test_range_and_downscale(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(60, 190, (6, 12, 16, 3), dtype=np.uint8)
    with FrameWriter(tmp_path / "images") as writer:
        for frame in frames:
            writer.write(np.pad(np.repeat(np.repeat(frame, 4, 0), 4, 1), ((0, 1), (0, 0), (0, 0))))
    store = prepare(
        tmp_path / "store", tmp_path / "images", "--scene-length", 2, "--downscale", 2,
        "--start-frame", 1, "--end-frame", 5, "--first-scene", 7, "--encoding", "lossless",
    )  # fmt: skip
    assert [(s.number, s.source_start, s.frames, s.height, s.width) for s in store.scenes] == [
        (7, 1, 2, 24, 32),
        (8, 3, 2, 24, 32),
    ]
    read = [frame for scene in store.scenes for frame in open_clip(store.path, scene).frames()]
    for before, after in zip(frames[1:5], read, strict=True):
        assert np.array_equal(np.repeat(np.repeat(before, 2, 0), 2, 1), after)


def test_a_video_shorter_than_a_scene_is_one_scene(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mkv"):  # mkv does not say how many frames it has
        video = write_video(tmp_path / name, 15)
        for _ in range(2):
            store = prepare(tmp_path / name[0], video)
            assert [(s.number, s.frames) for s in store.scenes] == [(2000, 15)]


def test_scene_folders_keep_their_numbers(tmp_path: Path) -> None:
    for number in (2003, 2010):
        with FrameWriter(tmp_path / "original" / f"scene_{number}") as writer:
            for index in range(3):
                writer.write(np.full((40, 48, 3), number % 200 + index, np.uint8), name=f"col_high_{index:04d}")
    store = prepare(tmp_path / "all", tmp_path / "original")
    assert [(s.number, s.frames) for s in store.scenes] == [(2003, 3), (2010, 3)]
    store = prepare(tmp_path / "one", tmp_path / "original" / "scene_2010")
    assert [s.number for s in store.scenes] == [2010]
    assert prepare(tmp_path / "all", tmp_path / "original").scenes[1].number == 2010


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_running_again_changes_nothing_and_adds_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    write_video(folder / f"a{suffix}", 25)
    write_video(folder / f"b{suffix}", 20)
    store = prepare(tmp_path / "store", folder, "--scene-length", 10)
    before = {clip: clip.stat().st_mtime_ns for clip in (store.path / "clips").iterdir()}
    assert len(before) == 4
    capsys.readouterr()
    assert prepare(tmp_path / "store", folder, "--scene-length", 10).scenes == store.scenes
    assert "scene 2000:" not in capsys.readouterr().out
    write_video(folder / f"c{suffix}", 10)
    after = prepare(tmp_path / "store", folder, "--scene-length", 10)
    assert after.scenes[:4] == store.scenes
    assert [(s.number, Path(s.source).name) for s in after.scenes[4:]] == [(2004, f"c{suffix}")]
    assert {clip: clip.stat().st_mtime_ns for clip in before} == before


def test_a_scene_of_another_source_or_form_is_never_replaced(tmp_path: Path) -> None:
    video, other = write_video(tmp_path / "a.mp4", 20), write_video(tmp_path / "b.mp4", 20)
    store = prepare(tmp_path / "store", video, "--scene-length", 10)
    for arguments in (
        [other, "--scene-length", 10],
        [video, "--scene-length", 5],
        [video, "--scene-length", 10, "--downscale", 2],
        [video, "--scene-length", 10, "--start-frame", 1],
    ):
        with pytest.raises(UserError, match=r"scene 2000 .* another --first-scene or a new store"):
            prepare(tmp_path / "store", *arguments)
    assert ClipStore.open(tmp_path / "store").scenes == store.scenes
    assert len(prepare(tmp_path / "store", other, "--scene-length", 10, "--first-scene", 2002).scenes) == 4


def test_damaged_inputs_are_reported_and_the_others_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_video(tmp_path / "good.mp4", 20)
    cut = write_video(tmp_path / "cut.mkv", 60)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "nothing").mkdir()
    inputs = [tmp_path / "text.mp4", cut, tmp_path / "nothing", tmp_path / "missing.mp4", good]
    prepare(tmp_path / "store", *inputs, "--scene-length", 10)
    table = capsys.readouterr().out
    with pytest.raises(UserError, match="4 of 5 inputs could not be used in full"):
        prepare(tmp_path / "store", *inputs, "--scene-length", 10, "--strict")
    for line in (
        "text.mp4 cannot be read as a video",
        "cut.mkv is cut off",
        "nothing holds no videos",
        "missing.mp4 does not exist",
    ):
        assert line in table
    sources = [Path(scene.source).name for scene in ClipStore.open(tmp_path / "store").scenes]
    assert sources.count("good.mp4") == 2
    assert set(sources) == {"good.mp4", "cut.mkv"}  # what was whole before the damage


def test_a_damaged_image_stops_its_scene_only(tmp_path: Path) -> None:
    for number in (1, 2):
        with FrameWriter(tmp_path / "in" / f"scene_{number:04d}") as writer:
            for _ in range(3):
                writer.write(np.zeros((40, 48, 3), np.uint8))
    Image.new("RGBA", (48, 40), (0, 0, 0, 0)).save(tmp_path / "in" / "scene_0001" / "frame_0002.png")
    with pytest.raises(UserError, match="1 of 2 inputs"):
        prepare(tmp_path / "store", tmp_path / "in", "--strict")
    assert [scene.number for scene in ClipStore.open(tmp_path / "store").scenes] == [2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scene-length", "0"],
        ["--downscale", "0"],
        ["--start-frame", "5", "--end-frame", "5"],
        ["--start-frame", "-1"],
    ],
)
def test_impossible_arguments_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(UserError, match="must be"):
        prepare(tmp_path / "store", write_video(tmp_path / "a.mp4", 5), *arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.mp4", "--scene-lenth", "20"], "there is no option --scene-lenth: did you mean --scene-length?"),
        (["a.mp4", "--max_scene", "20"], "there is no option --max-scene: did you mean --max-scenes?"),
        (["a.mp4", "--scene-length", "some"], "--scene-length: invalid whole number value: 'some'"),
        (["a.mp4", "--workers", "0"], "--workers: must be at least 1, not 0"),
        (["a.mp4", "--cut", "sometimes"], "--cut: invalid choice: 'sometimes'"),
        ([], "give at least one SOURCE"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "store", *arguments)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_options_may_be_spelled_with_underscores(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 20)
    store = prepare(tmp_path / "store", video, "--scene_length", 10, "--first_scene=7")
    assert [(s.number, s.frames) for s in store.scenes] == [(7, 10), (8, 10)]


def test_the_help_begins_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out.startswith("examples:\n  tecogan prepare films/*.mkv --output clips\n")


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 5)
    with pytest.raises(UserError, match="no scene was made"):
        prepare(tmp_path / "store", video, "--start-frame", 10)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_killed_run_leaves_a_valid_store_and_is_completed_by_the_next(tmp_path: Path) -> None:
    video = write_video(tmp_path / "film.mp4", 400, height=120, width=160)
    command = [sys.executable, "-m", "tecogan_dist.prepare", str(video), "--output", str(tmp_path / "store")]
    command += ["--scene-length", "20"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("scene 2003:"):
            break
    time.sleep(0.03)  # into the next scene
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL

    store = ClipStore.open(tmp_path / "store")
    assert 4 <= len(store.scenes) < 20
    assert all(open_video(store.path / scene.file).count == 20 for scene in store.scenes)
    assert all(len(list(open_clip(store.path, scene).frames())) == 20 for scene in store.scenes)

    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    complete = ClipStore.open(tmp_path / "store")
    assert complete.scenes[: len(store.scenes)] == store.scenes
    assert [(s.number, s.source_start) for s in complete.scenes] == [(2000 + n, 20 * n) for n in range(20)]
    assert sorted(clip.name for clip in (tmp_path / "store" / "clips").iterdir()) == [
        f"scene_{number}.mp4" for number in range(2000, 2020)
    ]


def test_a_failing_command_ends_with_status_2_and_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tecogan_dist.prepare", str(tmp_path / "no.mp4"), "--output", str(tmp_path / "s")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 2
    assert finished.stderr.strip().splitlines()[-1].startswith("error: 1 of 1 inputs")
    assert "Traceback" not in finished.stderr

"""The upscale command on real videos and image folders."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import output_lock
from tecogan_dist.base.progress import Progress
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.upscale import main
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.config.schema import Config, DataConfig, ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.ops.images import quantize
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.upscaling.folder import MARKER
from tecogan_dist.upscaling.sequence import upscale_float, upscale_frames
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter
from tecogan_dist.weights.format import save_weights
from tests.support.s3_server import S3Server

RATE = Fraction(30000, 1001)
CPU = torch.device("cpu")


def moving_pattern(count: int, height: int, width: int) -> np.ndarray:
    """(T, H, W, 3) uint8: a smooth pattern that shifts by 2 and 1 pixels a frame."""
    t, y, x = np.mgrid[0:count, 0:height, 0:width].astype(float)
    x, y = x - 2 * t, y - t
    channels = [np.sin(x / 5) + np.cos(y / 6), np.sin((x + y) / 8), np.cos((x - y) / 7)]
    return np.stack([127 + 60 * channel for channel in channels], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = ModelConfig(blocks=1, channels=8, flow_width=4, output_init_scale=0.1)
    upscaler = build_upscaler(model)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, upscaler_state=upscaler.state_dict(), model=model, run_config=None)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """9 frames of 40x32 at 29.97 a second."""
    path = tmp_path / "input.mp4"
    with FrameWriter(path, rate=RATE) as writer:
        for frame in moving_pattern(9, 32, 40):
            writer.write(frame)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """7 images of 37x29 whose names are not a plain count."""
    path = tmp_path / "images"
    path.mkdir()
    for i, frame in enumerate(moving_pattern(7, 29, 37)):
        Image.fromarray(frame).save(path / f"shot_{5 * i + 3}.png")
    return path


def read(path: Path) -> np.ndarray:
    return np.stack(list(open_video(path).frames()))


def expected(path: Path, weights: Path, *, start: int = 0, stop: int | None = None) -> np.ndarray:
    model = load_upscaler(weights, "cpu")
    frames = [torch.tensor(frame) for frame in open_video(path).frames(start, stop)]
    return np.stack([image.numpy() for image in upscale_frames(model, frames, device=CPU)])


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments] + ["--device", "cpu"])


def test_a_video_keeps_its_rate_and_count(video: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "large.mp4"
    run(video, output, "--weights", weights, "--crf", 0)
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (160, 128, RATE)
        assert stream.frames == 9
    error = read(output).astype(int) - expected(video, weights)
    assert np.abs(error).mean() < 2  # chroma subsampling


def test_images_keep_their_names_and_every_level(folder: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "large"
    run(folder, output, "--weights", weights)
    assert sorted(image.name for image in output.iterdir()) == sorted(image.name for image in folder.iterdir())
    assert np.array_equal(read(output), expected(folder, weights))


def test_a_part_of_the_input(folder: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "large"
    run(folder, output, "--weights", weights, "--start-frame", 2, "--frames", 3)
    assert open_video(output).names == ("shot_13", "shot_18", "shot_23")
    assert np.array_equal(read(output), expected(folder, weights, start=2, stop=5))


def test_a_plain_degrade_is_bd_wherever_it_stands(tmp_path: Path, weights: Path) -> None:
    source = tmp_path / "hr"
    with FrameWriter(source) as writer:
        for image in moving_pattern(2, 61, 70):
            writer.write(image)
    for name, words in {"first": ["--degrade"], "named": ["--degrade", "BD"], "other": ["--degrade", "BI"]}.items():
        main([*words, str(source), str(tmp_path / name), "--weights", str(weights)])
    run(source, tmp_path / "last", "--weights", weights, "--degrade")
    first = read(tmp_path / "first")
    assert np.array_equal(first, read(tmp_path / "named"))
    assert np.array_equal(first, read(tmp_path / "last"))
    assert not np.array_equal(first, read(tmp_path / "other"))


@pytest.mark.parametrize("degradation", ["BD", "BI"])
def test_weights_of_scale_2(tmp_path: Path, degradation: Degradation) -> None:
    model = ModelConfig(blocks=1, channels=8, flow_width=4, output_init_scale=0.1, scale=2)
    config = Config(model=model, data=DataConfig(degradation=degradation))
    torch.manual_seed(0)
    upscaler = build_upscaler(model, degradation=degradation)
    path = tmp_path / "double.safetensors"
    save_weights(path, upscaler_state=upscaler.state_dict(), model=config.model, run_config=config)
    frames = moving_pattern(7, 37, 44)
    source, large, again, beside = (tmp_path / name for name in ("source", "large", "again", "beside"))
    with FrameWriter(source) as writer:
        for frame in frames:
            writer.write(frame)
    run(source, large, "--weights", path, "--frames", 6, "--side-by-side", tmp_path / "pair")
    expected = list(upscale_frames(upscaler.eval(), list(torch.from_numpy(frames[:6])), device=CPU))
    assert read(large).shape == (6, 74, 88, 3)
    assert np.abs(read(large).astype(int) - torch.stack(expected).numpy()).max() <= 1  # another memory order
    assert read(tmp_path / "pair").shape == (6, 74 + 24, 2 * 88, 3)

    run(source, again, "--weights", path, "--degrade", degradation, "--side-by-side", beside)
    assert read(again).shape == frames.shape
    bicubic, truth = read(beside)[:, 24:, :44], read(beside)[:, 24:, 88:]
    assert np.array_equal(truth, frames)
    # Beside its place, by half a pixel or more, the enlargement would be off by 4 levels.
    assert np.abs(bicubic[:, 4:-4, 4:-4].astype(float) - frames[:, 4:-4, 4:-4]).mean() < 2.5


def test_degraded_input_comes_back_at_its_size(tmp_path: Path, weights: Path) -> None:
    source, output, comparison = tmp_path / "hr", tmp_path / "sr", tmp_path / "comparison"
    frames = moving_pattern(8, 61, 70)
    with FrameWriter(source) as writer:
        for frame in frames:
            writer.write(frame)
    run(source, output, "--weights", weights, "--degrade", "--side-by-side", comparison)
    result, shown = read(output), read(comparison)
    assert result.shape == frames.shape
    # beside it the bicubic enlargement of what the model saw, and the truth, each the same frame as the result
    assert shown.shape == (8, 61 + 24, 3 * 70, 3)
    model = load_upscaler(weights, "cpu")
    upscaled = upscale_float(model, list(torch.from_numpy(frames)), device=CPU, degrade="BD")
    bicubic = torch.stack([quantize(resize_bicubic(frame.lr_frame[None]))[0] for frame in upscaled])
    pictures = shown[:, 24:]
    assert np.array_equal(pictures[:, :, :70], bicubic.permute(0, 2, 3, 1).numpy()[:, :61, :70])
    assert np.array_equal(pictures[:, :, 70:140], result)
    assert np.array_equal(pictures[:, :, 140:], frames)


def test_side_by_side_without_truth_has_two_panels(video: Path, weights: Path, tmp_path: Path) -> None:
    comparison = tmp_path / "comparison.mp4"
    run(video, tmp_path / "large.mp4", "--weights", weights, "--side-by-side", comparison)
    source = open_video(comparison)
    assert (source.width, source.height, source.count, source.rate) == (320, 128 + 24, 9, RATE)


def test_an_existing_video_is_not_replaced_unasked(video: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "large.mp4"
    output.write_bytes(b"precious")
    with pytest.raises(UserError, match="--overwrite"):
        run(video, output, "--weights", weights)
    assert output.read_bytes() == b"precious"
    run(video, output, "--weights", weights, "--overwrite", "--frames", 2)
    assert open_video(output).count == 2


def test_the_input_is_not_an_output(video: Path, weights: Path) -> None:
    with pytest.raises(UserError, match="different"):
        run(video, video, "--weights", weights, "--overwrite")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--start-frame", "-1"], "--start-frame: must be at least 0, not -1"),
        (["--frames", "0"], "--frames: must be at least 1, not 0"),
        (["--frames", "two"], "invalid whole number value: 'two'"),
        (["--degrade=BX"], "invalid choice: 'BX'"),
        (["--crf", "99"], "--crf: must be at most 51, not 99"),
        (["--crf", "-1"], "--crf: must be at least 0, not -1"),
        (["--start-frame", "9" * 30], "--start-frame: must be at most 9223372036854775807"),
        (["--side-by-side", ""], "--side-by-side: is empty"),
        (["--side-by-side", "/proc/x.mp4"], "among the system's own files"),
        (["--start_frames", "3"], "no option --start-frames: did you mean --start-frame"),
    ],
)
def test_mistakes_are_one_sentence(video: Path, weights: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run(video, tmp_path / "large.mp4", "--weights", weights, *words)


def test_no_arguments_are_one_sentence() -> None:
    with pytest.raises(UserError, match="required: INPUT, OUTPUT"):
        main([])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "OUTPUT: is empty"),
        (".", "must name a file or folder of its own"),
        ("/", "must name a file or folder of its own"),
        ("/proc/large.mp4", "system's own files"),
        ("x" * 300, "too long for a path"),
        ("images/large", "is inside .*images, with which it would be mixed"),
        ("images", "must be different"),
        ("hard.mp4", "must be different"),
        ("circle.mp4", "symbolic links"),
        ("nowhere.mp4", r"nowhere\.mp4 exists: .*--overwrite"),
        ("fifo.mp4", "neither a file nor a folder"),
        ("precious", "is not empty"),
        ("precious.png", "cannot be written: use .mp4"),
        ("precious.tif", "cannot be written: use .mp4"),
        ("link", "is a link or a disk of its own"),
        ("other", r"other\.unfinished is in the way of unfinished work and holds other things: move it away"),
        ("s3://bucket/large", "must be a local path"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_any_work(
    folder: Path, video: Path, weights: Path, tmp_path: Path, name: str, sentence: str
) -> None:
    os.link(video, tmp_path / "hard.mp4")
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "circle.mp4").symlink_to(tmp_path / "circle.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "missing")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "diary.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "other.unfinished" / "segment_00000").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    source = video if name == "hard.mp4" else folder
    output = tmp_path / name if name not in ("", ".", "/") and "://" not in name else name
    with pytest.raises(UserError, match=sentence):
        run(source, output, "--weights", weights)
    assert sorted(tmp_path.rglob("*")) == before


def test_of_two_upscalings_into_one_output_the_second_is_refused(folder: Path, weights: Path, tmp_path: Path) -> None:
    for output in (tmp_path / "large", tmp_path / "large.mp4"):
        with output_lock(output), pytest.raises(UserError, match=rf"another process \(pid {os.getpid()} on"):
            run(folder, output, "--weights", weights, "--overwrite")
        unfinished = tmp_path / f"{output.name}.unfinished"  # what one left that was killed at its beginning
        unfinished.mkdir()
        (unfinished / MARKER).touch()
        run(folder, output, "--weights", weights, "--frames", 3)
        assert open_video(output).count_frames() == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "large", "large.mp4"]


def test_a_gap_is_refused_unless_allowed(folder: Path, weights: Path, tmp_path: Path) -> None:
    (folder / "shot_13.png").unlink()
    with pytest.raises(UserError, match=r"shot_8\.png and shot_18\.png are missing: .*, or .* with --allow-gaps\.$"):
        run(folder, tmp_path / "large", "--weights", weights)
    run(folder, tmp_path / "large", "--weights", weights, "--allow-gaps", "--frames", 3)
    assert (tmp_path / "large" / "shot_18.png").exists()


def test_frames_beyond_all_memory_are_refused_before_they_are_read(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "huge").mkdir()
    Image.new("1", (11_500, 11_500)).save(tmp_path / "huge" / "0.png")
    with pytest.raises(UserError, match=r"frames of 11500x11500 need \d+ GB of memory .* tile by tile"):
        run(tmp_path / "huge", tmp_path / "large", "--weights", weights)
    assert not (tmp_path / "large").exists()


def test_weights_are_looked_for(video: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights are at"):
        run(video, tmp_path / "large.mp4", "--weights", tmp_path / "nothing")


def test_weights_on_an_object_store(folder: Path, weights: Path, tmp_path: Path, server: S3Server) -> None:
    Location(server.uri("runs/small.safetensors")).put(weights)
    run(folder, tmp_path / "large", "--weights", server.uri("runs/small.safetensors"), "--start_frame", 1)
    assert np.array_equal(read(tmp_path / "large"), expected(folder, weights, start=1))


def test_a_start_beyond_the_end_is_refused(video: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 9 frames"):
        run(video, tmp_path / "large.mp4", "--weights", weights, "--start-frame", 9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused(video: Path, tmp_path: Path, weights: Path) -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        main([str(video), str(tmp_path / "large.mp4"), "--weights", str(weights), "--device", "cuda"])


def test_a_damaged_input_leaves_the_old_output(video: Path, weights: Path, tmp_path: Path) -> None:
    damaged = bytearray(video.read_bytes())
    start = damaged.index(b"mdat") + 4
    size = int.from_bytes(damaged[start - 8 : start - 4], "big") - 8
    damaged[start + size // 2 : start + size] = bytes(size - size // 2)
    video.write_bytes(damaged)
    output = tmp_path / "large.mp4"
    output.write_bytes(b"precious")
    with pytest.raises(UserError, match="damaged"):
        run(video, output, "--weights", weights, "--overwrite")
    assert output.read_bytes() == b"precious"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("name", "file"), [("large.mkv", "segment_00000.mp4"), ("large", "segment_00000")])
def test_a_disk_without_room_ends_with_a_sentence(
    folder: Path, weights: Path, tmp_path: Path, name: str, file: str
) -> None:
    """A limit on the size of files stands in for the full disk: the system refuses the write in the same place."""
    command = [sys.executable, "-m", "tecogan_dist.upscale", str(folder), str(tmp_path / name), "--device", "cpu"]
    command += ["--crf", "0"] if file.endswith(".mp4") else []
    done = subprocess.run(
        [*command, "--weights", str(weights)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert f"error: {tmp_path / name}.unfinished/{file} cannot be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / name).exists()


def test_progress_off_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(40, seconds_between_lines=0.2) as progress:
        for _ in range(40):
            time.sleep(0.01)
            progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4  # one each 0.2 s of 0.4 s and more, and the last
    assert " of 40 frames, " in lines[0]
    assert lines[0].endswith(" left")
    assert lines[-1].startswith("40 of 40 frames, ")

"""The upscale command on films with sound and odd clocks, damaged ones, and its options of codecs and depth."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.upscale import main
from tecogan_dist.commands.upscale_options import parse
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.upscaling.sequence import upscale_float, upscale_frames
from tecogan_dist.video.open import open_video
from tecogan_dist.weights.format import save_weights
from tests.support.films import packets_of, shown_at, variable_times, write_film
from tests.support.upscaling import TINY, scene_frames, tiny_model, write_images

CPU = torch.device("cpu")
LENGTHS = (14, 9)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, upscaler_state=tiny_model().state_dict(), model=TINY, run_config=None)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with sound, whose frames are shown for 22 to 66 ms."""
    frames = scene_frames(LENGTHS, height=48, width=64)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_film(path, frames, times=variable_times(len(frames)), sound="aac", options={"crf": "4"})


def run(*words: object) -> None:
    main([*map(str, words), "--device", "cpu", "--workers", "1"])


def read(path: Path, *, deep: bool = False) -> np.ndarray:
    return np.stack(list(open_video(path, deep=deep).frames()))


def by_scenes(film: Path) -> list[torch.Tensor]:
    """(H, W, 3) uint8 of each frame, the network's memory ending where the film is cut."""
    frames = [torch.tensor(frame) for frame in open_video(film).frames()]
    first = upscale_frames(tiny_model(), frames[: LENGTHS[0]], device=CPU)
    return [*first, *upscale_frames(tiny_model(), frames[LENGTHS[0] :], device=CPU)]


def test_sound_and_times_are_the_films_own(film: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "large.mp4"
    run(film, output, "--weights", weights, "--segment-frames", 5)
    assert shown_at(output) == shown_at(film)
    assert packets_of(output, "audio") == packets_of(film, "audio")
    assert np.abs(read(output).astype(int) - torch.stack(by_scenes(film)).numpy()).mean() < 3  # chroma is halved


def test_a_cut_ends_the_networks_memory_to_the_last_bit(film: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "large.mkv"
    run(film, output, "--weights", weights, "--codec", "ffv1", "--pix-fmt", "bgr0", "--segment-frames", 6)
    assert np.array_equal(read(output), torch.stack(by_scenes(film)).numpy())
    run(film, tmp_path / "uncut.mkv", "--weights", weights, "--codec", "ffv1", "--pix-fmt", "bgr0", "--cut", "none")
    differ = (read(tmp_path / "uncut.mkv") != read(output)).any((1, 2, 3))
    assert not differ[: LENGTHS[0]].any()
    assert differ[LENGTHS[0] :].any()


def test_sixteen_bits_are_the_networks_own(weights: Path, tmp_path: Path) -> None:
    frames = scene_frames([4])
    run(write_images(tmp_path / "source", frames), tmp_path / "large", "--weights", weights, "--png16")
    upscaled = upscale_float(tiny_model(), [torch.tensor(frame) for frame in frames], device=CPU)
    expected = torch.stack([to_image(frame.sr_frame, deep=True) for frame in upscaled]).numpy()
    found = read(tmp_path / "large", deep=True)
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - expected).max() <= 1  # another order of sums
    assert len(np.unique(found % 257)) > 100  # more than 8 bits


@pytest.mark.parametrize("suffix", [".gif", ".webm", ".mov", ".avi"])
def test_other_containers(weights: Path, tmp_path: Path, suffix: str) -> None:
    frames = scene_frames([7])
    run(write_images(tmp_path / "source", frames), tmp_path / f"large{suffix}", "--weights", weights)
    expected = list(upscale_frames(tiny_model(), [torch.tensor(frame) for frame in frames], device=CPU))
    result = read(tmp_path / f"large{suffix}")
    assert np.abs(result.astype(int) - torch.stack(expected).numpy()).mean() < 8  # a gif has 256 colours


def damaged(film: Path, tmp_path: Path) -> Path:
    """A copy with a hole in the middle."""
    path, data = tmp_path / "damaged.mp4", bytearray(film.read_bytes())
    middle = packets_of(film, "video")[12][2]
    at = data.index(middle)
    data[at + 8 : at + len(middle)] = b"\xa5" * (len(middle) - 8)
    path.write_bytes(data)
    return path


def test_damage_stops_before_any_work_or_repeats_the_last_good_frame(
    film: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = damaged(film, tmp_path)
    with pytest.raises(UserError, match="damaged"):
        run(broken, tmp_path / "large.mp4", "--weights", weights)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.mp4"]
    capsys.readouterr()
    run(broken, tmp_path / "large.mp4", "--weights", weights, "--on-damage", "repeat", "--segment-frames", 5)
    assert "damaged.mp4 is damaged: " in capsys.readouterr().err
    assert len(read(tmp_path / "large.mp4")) == sum(LENGTHS)
    assert shown_at(tmp_path / "large.mp4") == shown_at(film)


def test_one_frame(weights: Path, tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", scene_frames([1]))
    run(film, tmp_path / "large.mp4", "--weights", weights)
    assert read(tmp_path / "large.mp4").shape == (1, 96, 128, 3)


def test_a_file_without_pictures_is_refused(weights: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = 48000, 0, Fraction(1, 48000)
        container.mux([*stream.encode(block), *stream.encode(None)])
    with pytest.raises(UserError, match=r"sound\.mp4 holds no video stream"):
        run(tmp_path / "sound.mp4", tmp_path / "large.mp4", "--weights", weights)


def test_weights_of_something_else_are_refused(film: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=r"notes\.safetensors is not a safetensors file, or is damaged"):
        run(film, tmp_path / "large.mp4", "--weights", tmp_path / "notes.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.safetensors"]


def test_without_weights_and_without_a_network_the_small_model_is_used(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TECOGAN_CACHE", "/dev/null/cache")  # as good as no network: nothing can be fetched into it
    run(film, tmp_path / "large.mp4", "--frames", 2)
    assert "the small model of this package (small) is used instead" in capsys.readouterr().err
    assert len(read(tmp_path / "large.mp4")) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--exact", "--precision", "bf16"], "--exact is fp32, and --precision is bf16"),
        (["--png16"], "--png16 is for images, and out.mp4 is a video"),
        (["--encoder-option", "tune"], "must be KEY=VALUE, not 'tune'"),
        (["--encoder-option", "a=1", "--encoder-option", "a=2"], "--encoder-option gives a twice"),
        (["--tile", "many"], "--tile: invalid"),
        (["--tile", "1"], "--tile: must be at least"),
        (["--on-damage", "ignore"], "invalid choice: 'ignore'"),
        (["--quality", "64"], "--quality: must be at most 63"),
        (["--segment-frames", "0"], "--segment-frames: must be at least 1"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse(["in.mp4", "out.mp4", *words])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--codec", "h266"], "there is no codec h266"),
        (["--codec", "vp8"], "there is no codec vp8"),
        (["--codec", "prores"], "files do not take prores"),
        (["--preset", "quick"], "takes the presets .* not quick"),
        (["--pix-fmt", "yuv999"], "does not take the pixel format yuv999"),
        (["--encoder-option", "threads=3"], "threads is set by this program"),
        (["--encoder-option", "tuen=film"], "has no option tuen"),
        (["--video-stream", "4"], "video stream"),
        (["--start-frame", "23"], "has 23 frames: --start-frame must be below that"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_work(
    film: Path, weights: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        run(film, tmp_path / "large.mp4", "--weights", weights, *words)
    assert not list(tmp_path.iterdir())


def test_options_of_videos_are_refused_for_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "source", scene_frames([1]))
    for words in (["--codec", "hevc"], ["--crf", "3"], ["--encoder-option", "a=b"]):
        with pytest.raises(UserError, match=f"{'--quality' if '--crf' in words else words[0]} is for videos"):
            parse([str(folder), str(tmp_path / "large"), *words])
    for words in (["--deinterlace"], ["--video-stream", "0"]):
        with pytest.raises(UserError, match=f"{words[0]} is for videos"):
            parse([str(folder), str(tmp_path / "large"), *words])

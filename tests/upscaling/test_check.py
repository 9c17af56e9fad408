"""The look of frames: what a codec does to them is not seen, what a failure does is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.check import SAME, check_result, check_written, look
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter


def coloured_noise(count: int, height: int, width: int, *, coarse: int = 1) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    small = generator.integers(0, 256, (count, -(-height // coarse), -(-width // coarse), 3), dtype=np.uint8)
    return list(small.repeat(coarse, axis=1).repeat(coarse, axis=2)[:, :height, :width])


def test_a_look_is_in_grey_levels_whatever_the_depth() -> None:
    frame = coloured_noise(1, 300, 700, coarse=40)[0]
    shallow, deep = look(frame), look(frame.astype(np.uint16) * 257)
    assert shallow.mean == pytest.approx(frame.mean(), abs=2)
    assert shallow.deviation == pytest.approx(frame.std((0, 1)).max(), abs=2)
    assert shallow.cells.shape == (4, 4, 3)
    np.testing.assert_allclose(shallow.cells[1, 2], frame[75:150, 350:525].mean((0, 1)), atol=6)
    assert deep.mean == pytest.approx(shallow.mean)
    np.testing.assert_allclose(deep.cells, shallow.cells)


@pytest.mark.parametrize(("size", "coarse"), [((16, 16), 1), ((16, 16), 8), ((64, 96), 1), ((180, 320), 16)])
@pytest.mark.parametrize("crf", [0, 23, 51])
def test_no_quality_of_x264_is_taken_for_a_failure(
    tmp_path: Path, size: tuple[int, int], coarse: int, crf: int
) -> None:
    frames = coloured_noise(6, *size, coarse=coarse)
    with FrameWriter(tmp_path / "film.mp4", crf=crf) as writer:
        for frame in frames:
            writer.write(frame)
    decoded = list(map(look, open_video(tmp_path / "film.mp4").frames()))
    given = list(map(look, frames))
    check_written(decoded, given, first=0, name="film.mp4")
    assert max(np.abs(a.cells - b.cells).max() for a, b in zip(decoded, given, strict=True)) < 0.7 * SAME


@pytest.mark.parametrize("failure", ["black", "green", "one colour", "another frame", "upside down"])
def test_failures_of_an_encoder_are_seen(failure: str) -> None:
    frames = coloured_noise(4, 64, 64, coarse=32)
    written = list(frames)
    written[2] = {
        "black": np.zeros_like(frames[2]),
        "green": np.full_like(frames[2], (0, 135, 0)),
        "one colour": np.full_like(frames[2], frames[2].mean()),
        "another frame": frames[3],
        "upside down": frames[2][::-1],
    }[failure]
    with pytest.raises(UserError, match=r"segment_00003\.mkv does not hold what the network gave: frame 12 is off"):
        check_written(map(look, written), list(map(look, frames)), first=10, name="segment_00003.mkv")


@pytest.mark.parametrize("count", [0, 3, 5])
def test_another_number_of_frames_is_seen(count: int) -> None:
    looks = list(map(look, coloured_noise(5, 32, 32)))
    with pytest.raises(UserError, match="does not hold 4 frames but"):
        check_written(looks[:count], looks[:4], first=0, name="file")


def test_a_black_film_is_no_failure_and_a_dark_scene_gone_black_is_one() -> None:
    black, picture = np.zeros((32, 32, 3), np.uint8), coloured_noise(1, 32, 32)[0]
    check_written([look(black)], [look(black)], first=0, name="file")
    check_result(look(black), look(black), frame=0, advice="")
    check_result(look(picture), look(picture), frame=0, advice="")
    with pytest.raises(UserError, match=r"frame 7 came out of the network as one colour .*take others"):
        check_result(look(picture), look(black), frame=7, advice="take others")
    dark = (coloured_noise(1, 64, 64, coarse=16)[0] * 0.12).astype(np.uint8)
    with pytest.raises(UserError, match="does not hold"):
        check_written([look(np.zeros_like(dark))], [look(dark)], first=0, name="file")

"""A part of a film beside bicubic: which part a word means, and that it is what the whole film would have."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.ops.images import quantize
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.upscaling.preview import LEAD, Span, parse_span, preview_frames, preview_path, write_preview
from tecogan_dist.upscaling.segment import Rendering
from tecogan_dist.upscaling.sequence import upscale_frames
from tecogan_dist.video.open import open_video
from tecogan_dist.video.timeline import Timeline
from tests.support.upscaling import scene_frames, tiny_model, write_images

CPU = torch.device("cpu")
STRIP = 24


@pytest.mark.parametrize(
    ("text", "length", "start"),
    [
        ("5s", Fraction(5), Fraction(0)),
        ("5s@1:30", Fraction(5), Fraction(90)),
        ("2.5s@1:02:03.5", Fraction(5, 2), Fraction(3723) + Fraction(1, 2)),
        ("120f@300f", 120, 300),
        ("120f@90:00", 120, Fraction(5400)),
        ("1:30@10s", Fraction(90), Fraction(10)),
        (" 1f ", 1, Fraction(0)),
    ],
)
def test_parts_by_their_names(text: str, length: int | Fraction, start: int | Fraction) -> None:
    assert parse_span(text) == Span(length, start)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5s@",
        "@5s",
        "5s@90",
        "-5s",
        "5m",
        "1:60@0s",
        "1:60:00@0s",
        "1.5f",
        "5s@1:30@2",
        "5 s",
        "\u0665s",
        "nan",
        "0x5f",
    ],
)
def test_what_names_no_part(text: str) -> None:
    with pytest.raises(UserError, match=r"is not a part of a film: give LENGTH"):
        parse_span(text)


@pytest.mark.parametrize("text", ["0s", "0f@5s", "0:00"])
def test_a_part_without_frames(text: str) -> None:
    with pytest.raises(UserError, match="would be empty"):
        parse_span(text)


def test_frames_of_a_part() -> None:
    def frames(text: str, timeline: Timeline | None = None) -> tuple[int, int]:
        found = parse_span(text).frames(timeline, count=100, rate=Fraction(10), name="film.mp4")
        return found.start, found.stop

    assert frames("2s@1s") == (10, 30)
    assert frames("2s@95f") == (95, 100)  # to the end
    assert frames("0.01s@1s") == (10, 11)  # at least one
    assert frames("7f@1s") == (10, 17)
    with pytest.raises(UserError, match=r"film\.mp4 has 100 frames and is 10 s long, .* earlier start"):
        frames("1s@10s")
    # A film whose second half runs at half the speed: frame 50 + n is shown at 5 + n / 5 seconds.
    pts = np.concatenate([np.arange(50), 50 + 2 * np.arange(50)])
    uneven = Timeline(pts=pts, keys=pts == 0, last_duration=2, time_base=Fraction(1, 10))
    assert frames("2s@4s", uneven) == (40, 55)
    assert frames("2s@12s", uneven) == (85, 95)
    with pytest.raises(UserError, match="is 15 s long"):
        frames("2s@15s", uneven)


def parts_of(shown: list[np.ndarray], *, height: int, width: int) -> list[np.ndarray]:
    """Each panel of all frames: (frames, height, width, 3)."""
    frames = np.stack(shown)
    assert frames.shape[1] == STRIP + height
    return np.split(frames[:, STRIP:], frames.shape[2] // width, axis=2)


def test_a_part_over_a_cut_is_what_the_whole_film_has(tmp_path: Path) -> None:
    frames = scene_frames([10, 12], height=16, width=24)
    source = open_video(write_images(tmp_path / "source", frames))
    model, part = tiny_model(), range(7, 14)
    shown = list(preview_frames(model, source, part=part, rendering=Rendering(), cut=True))
    bicubic, result = parts_of(shown, height=64, width=96)
    # The lead reaches back to the first frame, so that all of the past is there; the film is cut at 10.
    tensors = [torch.tensor(frame) for frame in frames]
    scenes = [upscale_frames(model, tensors[:10], device=CPU), upscale_frames(model, tensors[10:], device=CPU)]
    assert np.array_equal(result, torch.stack([frame for scene in scenes for frame in scene])[7:14])
    enlarged = resize_bicubic(torch.stack(tensors[7:14]).permute(0, 3, 1, 2).float() / 255, 4)
    assert np.array_equal(bicubic, quantize(enlarged).permute(0, 2, 3, 1))
    uncut = list(preview_frames(model, source, part=part, rendering=Rendering(), cut=False))
    differ = (parts_of(uncut, height=64, width=96)[1] != result).any((1, 2, 3))
    assert not differ[:3].any()
    assert differ[3:].any()


def test_no_more_than_the_part_and_its_lead_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = scene_frames([30], height=32, width=40)
    source = open_video(write_images(tmp_path / "source", frames))
    asked: list[tuple[int, int | None]] = []
    original = source.frames

    def watched(start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        asked.append((start, stop))
        return original(start, stop)

    monkeypatch.setattr(source, "frames", watched)
    rendering = Rendering(degrade="BD")
    shown = list(preview_frames(tiny_model(), source, part=range(20, 24), rendering=rendering, cut=False))
    assert asked == [(20 - LEAD, 24 + 5)]  # lazily: the last five are for the warm-up of a scene that begins there
    _, result, truth = parts_of(shown, height=32, width=40)
    past = [torch.tensor(frame) for frame in frames[20 - LEAD :]]
    expected = list(upscale_frames(tiny_model(), past, device=CPU, degrade="BD"))[LEAD : LEAD + 4]
    assert np.array_equal(result, torch.stack(expected))
    assert np.array_equal(truth, np.stack(frames[20:24]))


def test_a_video_that_plays(tmp_path: Path) -> None:
    source = open_video(write_images(tmp_path / "source", scene_frames([20], height=16, width=24)))
    counted: list[int] = []
    path = tmp_path / "part.mp4"
    write_preview(
        tiny_model(),
        source,
        path,
        part=range(3, 8),
        rendering=Rendering(threads=1),
        cut=True,
        advance=lambda: counted.append(1),
    )
    video = open_video(path)
    assert (video.count, video.height, video.width) == (5, STRIP + 64, 2 * 96)
    assert video.rate == source.rate
    assert len(counted) == 5


def test_where_it_goes() -> None:
    assert preview_path(Path("a/film_x4.mkv")) == Path("a/film_x4.preview.mp4")
    assert preview_path(Path("a/frames")) == Path("a/frames.preview.mp4")

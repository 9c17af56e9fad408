"""How long and how large, by a few frames: against what then came out, and in words."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tecogan_dist.upscaling.beginning import begin
from tecogan_dist.upscaling.estimate import KEY_FRAMES, SAMPLE, Estimate, duration, estimate
from tecogan_dist.upscaling.job import Here
from tecogan_dist.upscaling.request import Request, open_request
from tecogan_dist.upscaling.source import SourceOptions
from tests.support.upscaling import scene_frames, tiny_model, write_images


@pytest.mark.parametrize("name", ["large.mkv", "large"])
def test_the_size_is_about_what_comes_out(tmp_path: Path, name: str) -> None:
    source = write_images(tmp_path / "source", scene_frames([40], height=24, width=32))
    request = Request(source=SourceOptions(path=source), output=tmp_path / name)
    opened = open_request(request)
    job = begin(request, tiny_model(), opened=opened)
    made = estimate(tiny_model(), opened.source, job.target, job.rendering, start=0, total=job.frames, left=job.frames)
    assert (made.frames, made.total_frames, made.sample) == (40, 40, SAMPLE)
    assert made.frame_seconds > 0
    Here(model=tiny_model())(job.todo, done=job.done, advance=lambda _: None, note=lambda _: None)
    files = [file for file in job.folder.path.rglob("*") if file.suffix in (job.target.suffix or ".png", ".png")]
    size = sum(file.stat().st_size for file in files if file.name.startswith(("segment", "shot")))
    assert size / 3 < made.size < 3 * size  # a key frame more or less is much of 40 small frames
    # A trial leaves nothing.
    assert not list(tmp_path.glob("tecogan_estimate_*"))


def test_what_is_done_once_is_not_counted(tmp_path: Path) -> None:
    """As the capture of a graph, which is in the first step that has a frame before it."""
    source = write_images(tmp_path / "source", scene_frames([12], height=16, width=24))
    request = Request(source=SourceOptions(path=source), output=tmp_path / "large")
    opened = open_request(request)
    job = begin(request, tiny_model(), opened=opened)
    model, calls = tiny_model(), 0

    def takes_long_once(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            time.sleep(2)

    model.flow.register_forward_pre_hook(takes_long_once)  # not in a scene's first frame
    made = estimate(model, opened.source, job.target, job.rendering, start=0, total=job.frames, left=job.frames)
    assert calls == 1 + SAMPLE
    assert made.frame_seconds < 2 / SAMPLE


def test_what_is_left_and_how_many_make_it() -> None:
    made = Estimate(frames=3000, sample=8, frame_seconds=2.0, frame_bytes=1e5, total_frames=14000, processes=2)
    assert made.seconds == 3000
    assert made.in_sentence() == "about 50 min, 1.4 GB (by 8 frames from the middle: 2 s and 100 KB each; 2 processes)"
    assert KEY_FRAMES == 250


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (45, "45 s"),
        (99, "99 s"),
        (100, "2 min"),
        (3599, "1 h"),
        (12000, "3 h 20 min"),
        (86400, "1 d"),
        (190800, "2 d 5 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words

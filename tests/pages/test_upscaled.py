"""The page of a result: complete, self-contained and safe, with the frames and the part of them that it should show."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.ops.degrade import degrade_frames
from tecogan_dist.ops.images import quantize
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.pages.upscaled import (
    HEIGHT,
    MOVE,
    WIDTH,
    Images,
    Upscaling,
    choose_frames,
    most_different,
    render_upscaled,
    write_upscaled,
)
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter
from tests.support.pages import Page, pixels, policy_of

RANDOM = np.random.default_rng(0)


def folder_of(path: Path, frames: Images) -> Path:
    with FrameWriter(path) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def smooth(count: int, height: int, width: int) -> Images:
    """What JPEG changes little."""
    t, y, x = np.mgrid[0:count, 0:height, 0:width]
    return np.stack([40 + 20 * t + x, 60 + y + 0 * x, 128 + 0 * x], axis=-1).clip(0, 255).astype(np.uint8)


def upscaling_of(tmp_path: Path, *, degrade: Degradation | None = None, start: int = 0, result: int = 0) -> Upscaling:
    """7 frames of 30x22; the result begins with frame ``start`` and is ``result`` levels lighter than bicubic."""
    source = smooth(7, 22, 30)
    tensors = torch.tensor(source).permute(0, 3, 1, 2)
    enlarged = resize_bicubic(degrade_frames(tensors, degrade, 4), 4, centred=degrade == "BI")
    bicubic = quantize(enlarged).permute(0, 2, 3, 1).numpy()
    height, width = (22, 30) if degrade else (88, 120)
    lighter = (bicubic[start:, :height, :width].astype(int) + result).clip(0, 255).astype(np.uint8)
    return Upscaling(
        source=open_video(folder_of(tmp_path / "<b>source", source)),
        result=open_video(folder_of(tmp_path / "re&sult", lighter)),
        scale=4,
        centred=False,
        degradation=degrade,
        start=start,
    )


@pytest.mark.parametrize(("degrade", "start"), [(None, 0), ("BD", 2), ("BI", 0)])
def test_each_frame_as_bicubic_result_and_truth(tmp_path: Path, degrade: Degradation | None, start: int) -> None:
    upscaling = upscaling_of(tmp_path, degrade=degrade, start=start, result=30)
    page = Page(render_upscaled(upscaling, [1, 3], facts=[("weights", "<script>alert(1)</script>")]))
    assert "<script>alert(1)</script>" in page.words  # as text
    layers = [image for image in page.named("img") if "class" in image]
    names = ["bicubic", "upscaled", *(["truth"] if degrade else [])]
    assert [image["class"] for image in layers] == 2 * names
    shown = {(image["alt"]): pixels(image["src"]).astype(int) for image in layers}
    for frame in (1, 3):
        result = next(iter(upscaling.result.frames_at([frame]))).astype(int)
        assert np.abs(shown[f"upscaled, frame {frame + start}"] - result).mean() < 2
        difference = shown[f"upscaled, frame {frame + start}"] - shown[f"bicubic, frame {frame + start}"]
        assert abs(difference.mean() - 30) < 2  # the result was made 30 levels lighter than bicubic
        if degrade:
            truth = next(iter(upscaling.source.frames_at([frame + start]))).astype(int)
            assert np.abs(shown[f"truth, frame {frame + start}"] - truth).mean() < 2


def test_it_loads_nothing_and_runs_one_script(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_upscaled(path, upscaling_of(tmp_path, degrade="BD"), [0, 6])
    html = path.read_text("utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form", "video"} == set()
    links = [attributes["href"] for attributes in page.named("a")]
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link[0] for link in links} == {"#"}
    assert {link[1:] for link in links} == places == {"top", "frame-0", "frame-6"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert "src" not in attributes or (tag == "img" and attributes["src"].startswith("data:image/"))
    assert page.executed() == [MOVE]
    assert page.policy == policy_of([MOVE])
    # Each pair of layers has its button, and the style that shows it.
    pairs = [a["value"] for a in page.named("input") if a.get("name") == "pair"]
    assert pairs == [f"{a}-{b}" for a, b in itertools.combinations(("bicubic", "upscaled", "truth"), 2)]
    assert all(f'[data-pair="{pair}"] .wipe img' in html for pair in pairs)


def test_a_video_of_odd_size_and_a_result_of_another_source(tmp_path: Path) -> None:
    source = open_video(folder_of(tmp_path / "source", smooth(3, 21, 31)))
    with FrameWriter(tmp_path / "result.mp4", rate=Fraction(25)) as writer:
        for frame in smooth(3, 21, 31):
            writer.write(frame)  # comes back as 22x32
    result = open_video(tmp_path / "result.mp4")
    assert (result.height, result.width) == (22, 32)
    page = Page(render_upscaled(Upscaling(source=source, result=result, scale=4, centred=False, degradation="BD"), [0]))
    assert [(a["width"], a["height"]) for a in page.named("img") if "class" in a] == 3 * [("31", "21")]
    with pytest.raises(UserError, match=r"32x22 pixels, and .*source upscaled has 124x84"):
        render_upscaled(Upscaling(source=source, result=result, scale=4, centred=False), [0])
    other = Upscaling(source=source, result=result, scale=4, centred=False, degradation="BD", start=2)
    with pytest.raises(UserError, match=r"source has no frame 3 to show"):
        render_upscaled(other, [1])


def test_of_a_large_frame_the_part_that_differs_most() -> None:
    first = RANDOM.integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    second = first.copy()
    second[900:1000, 1500:1700] ^= 255
    rows, columns = most_different(first, second, height=HEIGHT, width=WIDTH)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (HEIGHT, WIDTH)
    assert rows.start <= 900
    assert rows.stop >= 1000
    assert columns.start <= 1500
    assert columns.stop >= 1700
    # Also where only the outermost position holds it, and where it is a part in one direction alone.
    second = first.copy()
    second[-1, -1] ^= 255
    rows, columns = most_different(first, second, height=1000, width=4000)
    assert (rows, columns) == (slice(80, 1080), slice(0, 1920))


@pytest.mark.parametrize(
    ("count", "number", "scenes", "expected"),
    [
        (100, 4, [], [12, 37, 62, 87]),
        (3, 8, [], [0, 1, 2]),
        (1, 8, [], [0]),
        # The longest scenes' middles; a long one twice.
        (100, 2, [range(60), range(60, 62), range(62, 100)], [30, 81]),
        (100, 3, [range(60), range(60, 62), range(62, 100)], [15, 45, 81]),
        (4, 8, [range(1), range(1, 4)], [0, 1, 2, 3]),
    ],
)
def test_chosen_frames(count: int, number: int, scenes: list[range], expected: list[int]) -> None:
    assert choose_frames(count, number=number, scenes=scenes) == expected
    assert all(0 <= frame < count for frame in expected)

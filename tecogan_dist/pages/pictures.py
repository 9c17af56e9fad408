"""What a sequence looks like where it is worst, and over time: pictures as data URIs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tecogan_dist.metrics.measuring import PROFILE_FRAMES, Profile
from tecogan_dist.metrics.protocol import Images, Protocol, match_size
from tecogan_dist.metrics.temporal import flow_difference, grey, optical_flow
from tecogan_dist.pages.data_uris import data_uri
from tecogan_dist.video.source import FrameSource

PICTURE_WIDTH = 480
PROFILE_HEIGHT = 360

COLOUR_MAP = np.array(
    [(9, 0, 63), (59, 0, 109), (132, 0, 128), (212, 0, 99), (254, 101, 37), (254, 182, 92), (254, 242, 197)]
)
"""From little to much: equal steps of Oklab lightness, 0.16 to 0.96, each as colourful as sRGB allows near its hue."""


@dataclass(frozen=True)
class Picture:
    """An image of the page; ``width`` and ``height`` in its own pixels."""

    caption: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class WorstFrame:
    """``value`` is the blamed metric's; ``flow_range`` is where the scale of the flow difference ends, in pixels.

    The latter is None for a first frame, which has no motion and no such picture.
    """

    frame: int
    value: float
    pictures: list[Picture]
    flow_range: float | None


def read_worst(chosen: dict[int, float], sources: tuple[FrameSource, FrameSource]) -> Iterator[WorstFrame]:
    """The ``chosen`` frames, given with their values, in the sequence's order."""
    positions = sorted({position for frame in chosen for position in (frame - 1, frame) if position >= 0})
    previous: tuple[int, Images, Images] | None = None
    for position, result, target in zip(positions, *(s.frames_at(positions) for s in sources), strict=True):
        result = match_size(result, target)
        if position in chosen:
            before = previous[1:] if previous is not None and previous[0] == position - 1 else None
            pictures, flow_range = _pictures(result, target, before)
            yield WorstFrame(position, chosen[position], pictures, flow_range)
        previous = position, result, target


def _pictures(
    result: Images, target: Images, before: tuple[Images, Images] | None
) -> tuple[list[Picture], float | None]:
    """Result, target, their difference and, with the pair ``before``, that of their motion with its scale's end."""
    difference = np.abs(result.astype(np.int16) - target)
    # The largest power of two that leaves 99 of 100 values unclipped.
    typical = max(float(np.quantile(difference, 0.99)), 1.0)
    gain = 2 ** int(math.log2(255 / typical))
    pictures = [
        _picture("result", result),
        _picture("target", target),
        _picture(
            f"difference, absolute, \N{MULTIPLICATION SIGN}{gain}", np.minimum(difference * gain, 255).astype(np.uint8)
        ),
    ]
    if before is None:
        return pictures, None
    flows = [optical_flow(grey(old), grey(new)) for old, new in zip(before, (result, target), strict=True)]
    distance = flow_difference(*flows)
    flow_range = max(0.1, tick_step(float(np.quantile(distance, 0.99))))
    return [*pictures, _picture("flow difference", colours(distance / flow_range))], flow_range


def colours(share: NDArray[np.floating]) -> Images:
    """COLOUR_MAP at each of (H, W) values from 0 to 1, and beyond 1 its last: (H, W, 3) uint8 RGB."""
    stops = np.linspace(0, 1, len(COLOUR_MAP))
    channels = [np.interp(share, stops, COLOUR_MAP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _picture(caption: str, pixels: Images) -> Picture:
    """At most PICTURE_WIDTH wide by averages of areas: a sharper filter would add halos that no frame has."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width > PICTURE_WIDTH:
        height = max(1, round(image.height * PICTURE_WIDTH / image.width))
        image = image.resize((PICTURE_WIDTH, height), Image.Resampling.BOX)
    return Picture(caption, data_uri(image, "JPEG"), image.width, image.height)


def region_style(protocol: Protocol, height: int, width: int) -> str:
    """The protocol's part of a frame as CSS lengths of an overlay; empty where everything is measured."""
    if not protocol.crops:
        return ""
    rows, columns = protocol.region(height, width)
    top, bottom = 100 * rows.start / height, 100 * (1 - rows.stop / height)
    left, right = 100 * columns.start / width, 100 * (1 - columns.stop / width)
    return f"inset: {top:.3f}% {right:.3f}% {bottom:.3f}% {left:.3f}%"


@dataclass(frozen=True)
class ProfilePicture:
    """A profile's two pictures, a frame a pixel column, each of which is drawn ``zoom`` pixels wide.

    ``shown`` of ``frames`` frames; ``rows`` is the column's height in the frame, the pictures' may be less. Each is
    drawn ``drawn_height`` high.
    """

    column: int
    shown: int
    frames: int
    rows: int
    zoom: int
    ticks: list[int]
    pictures: list[Picture]
    drawn_height: int


def profile_picture(profile: Profile) -> ProfilePicture:
    """The page's pictures of a temporal profile, of its first PROFILE_FRAMES frames."""
    frames, rows = profile.targets.shape[:2]
    shown = min(frames, PROFILE_FRAMES)
    zoom = max(1, min(24, 960 // shown))
    pictures = []
    for caption, columns in (("result", profile.results), ("target", profile.targets)):
        image = Image.fromarray(np.ascontiguousarray(columns[:shown].transpose(1, 0, 2)))
        if rows > PROFILE_HEIGHT:
            image = image.resize((shown, PROFILE_HEIGHT), Image.Resampling.BOX)
        # PNG: what JPEG does to a profile looks like flicker, or hides it.
        pictures.append(Picture(caption, data_uri(image, "PNG"), image.width, image.height))
    return ProfilePicture(
        column=profile.column,
        shown=shown,
        frames=frames,
        rows=rows,
        zoom=zoom,
        ticks=list(range(0, shown, math.ceil(tick_step(60 / zoom)))),
        pictures=pictures,
        drawn_height=pictures[0].height * max(1, 200 // pictures[0].height),
    )


def tick_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... and 0.5, 0.2, 0.1, ... that is not below ``least``, which may be 0."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))

"""The encoders that outputs are made with: their quality, presets and pixel formats, and what makes them repeatable.

Thread counts are fixed: x264's and x265's results depend on them. Eight threads of x264 keep 8 cores busy at 1080p and
lose nothing on fewer; x265 works on 2 frames at a time with a pool of 8. Larger machines make several segments at once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.video.properties import Properties


@dataclass(frozen=True)
class Quality:
    """``option`` None: the codec is lossless."""

    option: str | None
    default: int = 0
    limits: tuple[int, int] = (0, 51)


@dataclass(frozen=True)
class Preset:
    option: str
    default: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """``ffmpeg`` is its name there; ``shallow`` and ``deep`` are its pixel formats for 8 bits and for more.

    ``parameters`` go into one option of FFmpeg's, ``parameters_option``, as KEY=VALUE:KEY=VALUE. ``segment`` is the
    suffix of the files that hold its segments, ``software`` the name of the encoder that takes its place.
    """

    name: str
    ffmpeg: str
    quality: Quality
    preset: Preset | None = None
    shallow: str = "yuv420p"
    deep: str | None = "yuv420p10le"
    formats: tuple[str, ...] = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
    fixed: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    parameters_option: str | None = None
    segment: str = ".mp4"
    software: str | None = None
    is_rgb: bool = False
    chroma: tuple[str, ...] = ("left",)
    limited_only: bool = False


SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
NVENC_PRESETS = Preset("preset", "p5", ("p1", "p2", "p3", "p4", "p5", "p6", "p7"))
NVENC_FIXED = {"rc": "vbr", "b": "0", "g": "250", "forced-idr": "1", "strict_gop": "1", "no-scenecut": "1"}
NVENC_FORMATS = ("yuv420p", "yuv444p", "p010le")


def _nvenc(name: str, software: str, most: int) -> Encoder:
    return Encoder(
        name=name,
        ffmpeg=name,
        quality=Quality("cq", 19, (1, most)),
        preset=NVENC_PRESETS,
        deep=None if name == "h264_nvenc" else "p010le",
        formats=NVENC_FORMATS[:2] if name == "h264_nvenc" else NVENC_FORMATS,
        fixed=NVENC_FIXED,
        software=software,
    )


ENCODERS = {
    encoder.name: encoder
    for encoder in (
        Encoder(
            name="h264",
            ffmpeg="libx264",
            quality=Quality("crf", 16, (0, 51)),
            preset=Preset("preset", "medium", SPEEDS),
            fixed={"threads": "8", "thread_type": "frame", "g": "250", "flags": "+cgop"},
            chroma=("left", "center", "topleft", "top", "bottomleft", "bottom"),
        ),
        Encoder(
            name="hevc",
            ffmpeg="libx265",
            quality=Quality("crf", 18, (0, 51)),
            preset=Preset("preset", "medium", SPEEDS),
            formats=("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le"),
            fixed={"g": "250"},
            chroma=("left", "center", "topleft", "top", "bottomleft", "bottom"),
            parameters={"pools": "8", "frame-threads": "2", "open-gop": "0", "log-level": "none", "info": "0"},
            parameters_option="x265-params",
        ),
        Encoder(
            name="av1",
            ffmpeg="libsvtav1",
            quality=Quality("crf", 20, (0, 63)),
            preset=Preset("preset", "6", tuple(str(number) for number in range(14))),
            formats=("yuv420p", "yuv420p10le"),
            fixed={"g": "240"},
            chroma=("left", "topleft"),
            parameters={"lp": "4"},
            parameters_option="svtav1-params",
        ),
        Encoder(
            name="vp9",
            ffmpeg="libvpx-vp9",
            quality=Quality("crf", 20, (0, 63)),
            preset=Preset("cpu-used", "2", tuple(str(number) for number in range(9))),
            deep=None,
            formats=("yuv420p", "yuv422p", "yuv444p"),
            fixed={"b": "0", "threads": "4", "row-mt": "0", "tile-columns": "2", "g": "240", "auto-alt-ref": "1"},
        ),
        Encoder(
            name="prores",
            ffmpeg="prores_ks",
            quality=Quality("profile", 3, (0, 5)),
            shallow="yuv422p10le",
            deep="yuv422p10le",
            formats=("yuv422p10le", "yuv444p10le"),
            fixed={"threads": "8", "vendor": "apl0"},
            segment=".mov",
            limited_only=True,
        ),
        Encoder(
            name="ffv1",
            ffmpeg="ffv1",
            quality=Quality(None),
            shallow="yuv444p",
            deep="yuv444p10le",
            formats=(
                *("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv444p12le"),
                *("yuv444p16le", "bgr0", "gbrp16le"),
            ),
            fixed={"threads": "8", "slices": "16", "slicecrc": "1", "level": "3", "g": "1"},
            segment=".mkv",
        ),
        Encoder(
            name="gif",
            ffmpeg="ffv1",
            quality=Quality(None),
            shallow="bgr0",
            deep=None,
            formats=("bgr0",),
            fixed={"threads": "8", "slices": "16", "slicecrc": "1", "level": "3", "g": "1"},
            segment=".mkv",
            is_rgb=True,
        ),
        _nvenc("h264_nvenc", "h264", 51),
        _nvenc("hevc_nvenc", "hevc", 51),
        _nvenc("av1_nvenc", "av1", 63),
    )
}
"""By the names of the option; `gif` is kept without loss until the palette of the whole film is known."""
NAMES = {"libx264": "h264", "x264": "h264", "libx265": "hevc", "x265": "hevc", "h265": "hevc", "libsvtav1": "av1"}
NAMES |= {"prores_ks": "prores", "libvpx-vp9": "vp9"}
"""Other names that are understood."""
_MP4 = ("h264", "hevc", "av1", "vp9", "h264_nvenc", "hevc_nvenc", "av1_nvenc")
CONTAINERS = {
    ".mp4": _MP4,
    ".m4v": ("h264", "hevc", "h264_nvenc", "hevc_nvenc"),
    ".mov": ("h264", "hevc", "prores", "h264_nvenc", "hevc_nvenc"),
    ".mkv": (*_MP4[:4], "prores", "ffv1", *_MP4[4:]),
    ".webm": ("vp9", "av1", "av1_nvenc"),
    ".avi": ("h264", "ffv1"),
    ".gif": ("gif",),
}
"""Which codecs a file takes, the usual one first."""


@functools.cache
def machine_options(ffmpeg_name: str) -> dict[str, str]:
    """What an encoder has to be told on this machine so that it gives what it gives on others, and each time.

    x264's AVX-512 code for macroblock trees gives different results for the same frames where they are less than 128
    pixels wide (seen with the x264 of PyAV 18.1: 3 results in 40 runs of 64x48). What it does for AVX2 does not.
    """
    if not ffmpeg_name.startswith("libx264"):
        return {}
    try:
        has_avx512 = " avx512f " in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        has_avx512 = False
    return {"x264-params": "asm=avx2"} if has_avx512 else {}


def check_values(encoder: Encoder, pix_fmt: str, options: Mapping[str, str]) -> None:
    """Raise :class:`UserError` for options with values that the encoder does not take, by opening it.

    x264, x265 and SVT-AV1 do not fail for what they do not know among their own parameters, and say so in a log.
    """
    context: Any = av.CodecContext.create(encoder.ffmpeg, "w")
    context.width, context.height, context.pix_fmt = 256, 256, pix_fmt
    context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
    context.options = dict(options)
    level = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    failed = False
    try:
        with av.logging.Capture() as lines:
            context.open()
    except (av.FFmpegError, ValueError):
        failed = True
    finally:
        av.logging.set_level(level)
    complaints = [text.strip() for _, _, text in lines if failed or COMPLAINT.search(text)]
    if failed or complaints:
        said = printable("; ".join(complaints) or "it does not open with them")
        raise UserError(f"{encoder.name} does not take these options: {said.rstrip('.')}.")


COMPLAINT = re.compile(r"unknown option|invalid value|error parsing|bad option|failed to set|not recognized", re.I)


@functools.cache
def opens(name: str) -> bool:
    """Whether the hardware encoder of this name really works here: some pictures are encoded."""
    encoder = ENCODERS[name]
    try:
        context: Any = av.CodecContext.create(encoder.ffmpeg, "w")
        context.width, context.height, context.pix_fmt = 256, 256, encoder.shallow
        context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
        context.options = {**encoder.fixed, "cq": "19", "preset": "p5"}
        packets = []
        for index in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((256, 256, 3), 40 * index, np.uint8), format="rgb24")
            picture = picture.reformat(format=encoder.shallow)
            picture.pts, picture.time_base = index, Fraction(1, 25)
            packets += context.encode(picture)
        packets += context.encode(None)
    except (av.FFmpegError, ValueError, OSError):
        return False
    return len(packets) == 5


def hdr_parameters(encoder: Encoder, properties: Properties) -> dict[str, str]:
    """What says in the stream how high dynamic range was graded, in the words of x265 and SVT-AV1.

    x265 counts chromaticities in 1/50000 and luminances in 1/10000 cd/m2; SVT-AV1 takes plain numbers.
    """
    found: dict[str, str] = {}
    if not properties.is_hdr or encoder.ffmpeg not in ("libx265", "libsvtav1"):
        return found
    is_hevc = encoder.ffmpeg == "libx265"
    mastering, levels = properties.mastering, properties.light_levels
    if mastering is not None:
        scale, light = (50000, 10000) if is_hevc else (1, 1)
        names = zip("GBR", (mastering.green, mastering.blue, mastering.red), strict=True)
        points = [*names, ("WP", mastering.white)]
        text = "".join(f"{name}({_number(x * scale)},{_number(y * scale)})" for name, (x, y) in points)
        text += f"L({_number(mastering.maximum * light)},{_number(mastering.minimum * light)})"
        found["master-display" if is_hevc else "mastering-display"] = text
    if levels is not None:
        found["max-cll" if is_hevc else "content-light"] = f"{levels[0]},{levels[1]}"
    if is_hevc:
        found["hdr10"] = "1" if mastering is not None else "0"
        found["repeat-headers"] = "0"
    return found


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"

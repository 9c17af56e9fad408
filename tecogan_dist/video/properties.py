"""What a video is beside its frames: sizes, colours, clock, and the streams that are beside it."""

from __future__ import annotations

import itertools
import re
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.reformatter import ColorRange

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.video.colours import (
    BT470BG,
    BT601,
    BT709,
    HDR,
    RGB_MATRIX,
    UNSAID_CHROMA,
    UNSPECIFIED,
    depth_of,
    hdr_refusal,
)
from tecogan_dist.video.colours import matrix_of as matrix_of_frame
from tecogan_dist.video.formats import FOLDER_RATE
from tecogan_dist.video.opening import open_film, rate_of, reading_reason
from tecogan_dist.video.source import Damaged

LOOKED_AT = 12
"""First frames that are asked whether they are interlaced: some films begin with a progressive title.

Later ones are asked when a job looks through all of them (:func:`tecogan_dist.upscaling.source.look_through`).
"""
FIELD_ORDERS = {0: "unknown", 1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}
CHROMA_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")
"""By the numbers of H.264's and HEVC's chroma_sample_loc_type, under FFmpeg's names."""
LOCATION_FIELDS = {
    "h264": ("chroma_sample_loc_type_top_field", CHROMA_LOCATIONS),
    "hevc": ("chroma_sample_loc_type_top_field", CHROMA_LOCATIONS),
    "av1": ("chroma_sample_position", ("left", "left", "topleft")),
}
"""Of the headers that say where chroma lies, and what their numbers mean."""
_LOG = Lock()


@dataclass(frozen=True)
class Mastering:
    """The display that high dynamic range was graded on: x, y of red, green, blue and white, and cd/m2."""

    red: tuple[Fraction, Fraction]
    green: tuple[Fraction, Fraction]
    blue: tuple[Fraction, Fraction]
    white: tuple[Fraction, Fraction]
    minimum: Fraction
    maximum: Fraction


@dataclass(frozen=True)
class OtherStream:
    """A stream beside the film: ``kind`` is video, cover, audio, subtitle, data or attachment."""

    index: int
    kind: str
    codec: str
    language: str
    title: str


@dataclass(frozen=True)
class Properties:
    """Of a video's film; ``width`` and ``height`` as it is shown, after rotation, and ``sample_aspect`` with them.

    ``matrix``, ``primaries`` and ``transfer`` are the numbers of H.273 that the pixels are to be taken by: where the
    file names none, those that the reader takes (:func:`tecogan_dist.video.colours.matrix_of`). ``rotation`` is what
    the reader has turned the pixels by, in degrees counter-clockwise. ``lost`` names what no output can keep.
    """

    width: int
    height: int
    codec: str
    pix_fmt: str
    bit_depth: int
    rate: Fraction
    time_base: Fraction
    rotation: int = 0
    sample_aspect: Fraction = Fraction(1)
    full_range: bool = False
    matrix: int = BT709
    primaries: int = BT709
    transfer: int = BT709
    chroma_location: str = "left"
    field_order: str = "progressive"
    is_rgb: bool = False
    mastering: Mastering | None = None
    light_levels: tuple[int, int] | None = None
    streams: tuple[OtherStream, ...] = ()
    format: str = ""
    lost: tuple[str, ...] = ()

    @property
    def is_hdr(self) -> bool:
        return self.transfer in HDR

    @property
    def is_interlaced(self) -> bool:
        return self.field_order not in ("progressive", "unknown")


def of_images(width: int, height: int, *, rate: Fraction = FOLDER_RATE, bit_depth: int = 8) -> Properties:
    """Those of a folder of images: sRGB, which becomes BT.709 where a video is made of it."""
    name = "rgb24" if bit_depth == 8 else "rgb48le"
    return Properties(
        width, height, "png", name, bit_depth, rate, 1 / rate, full_range=True, is_rgb=True, format="images"
    )


def read_properties(path: Path, *, video_stream: int | None = None) -> Properties:
    """The properties of a video file, by its headers and its first frames. Raises :class:`UserError`."""
    with ExitStack() as stack:
        container, stream = open_film(path, stack, video_stream=video_stream)
        packets: list[Any] = []
        try:
            frames = _frames(container, stream, packets)
            first = list(itertools.islice(frames, LOOKED_AT))
        except (av.FFmpegError, OSError) as error:
            raise Damaged(f"{path} is damaged at its beginning ({reading_reason(error)}).") from error
        if not first:
            raise UserError(f"{path} holds no frames: give another video.")
        rate = rate_of(path, stream, video_stream=video_stream)
        return _properties(container, stream, first, packets[0], rate)


def _frames(container: Any, stream: Any, packets: list[Any]) -> Any:
    count = 0
    for packet in container.demux(stream):
        if packet.size and not packets:
            packets.append(packet)
        try:
            decoded = packet.decode()
        except (av.FFmpegError, OSError):
            if not count:
                raise
            return  # the reader says where, when it gets there
        count += len(decoded)
        yield from decoded


def _properties(container: Any, stream: Any, first: list[Any], packet: Any, rate: Fraction) -> Properties:
    frame, context = first[0], stream.codec_context
    swapped = bool(frame.rotation % 180)
    aspect = Fraction(stream.sample_aspect_ratio or 1)  # the container's, or else the codec's
    is_rgb = frame.colorspace == RGB_MATRIX or frame.format.is_rgb
    matrix = BT709 if is_rgb else matrix_of_frame(frame.colorspace, frame.height)
    primaries, transfer = _primaries(frame, matrix), _transfer(frame, matrix)
    interlaced = any(shown.interlaced_frame for shown in first)
    order = FIELD_ORDERS.get(int(context.field_order), "unknown")
    side_data = {data.type: bytes(data) for data in frame.side_data}
    return Properties(
        width=frame.height if swapped else frame.width,
        height=frame.width if swapped else frame.height,
        codec=context.codec.canonical_name,
        pix_fmt=frame.format.name,
        bit_depth=depth_of(frame.format),
        rate=rate,
        time_base=Fraction(stream.time_base),
        rotation=frame.rotation % 360,
        sample_aspect=1 / aspect if swapped else aspect,
        full_range=is_rgb or frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj"),
        matrix=matrix,
        primaries=primaries,
        transfer=transfer,
        chroma_location=chroma_location(stream, packet),
        field_order="tt" if interlaced and order in ("unknown", "progressive") else order,
        is_rgb=is_rgb,
        mastering=_mastering(side_data.get(SideData.MASTERING_DISPLAY_METADATA)),
        light_levels=_light_levels(side_data.get(SideData.CONTENT_LIGHT_LEVEL)),
        streams=tuple(_other(other) for other in container.streams if other.index != stream.index),
        format=container.format.name,
        lost=tuple(name for kind, name in LOST.items() if any(kind in _kinds(shown) for shown in first)),
    )


LOST = {
    SideData.A53_CC: "closed captions inside the pictures (CEA-608/708)",
    SideData.DOVI_METADATA: "Dolby Vision's layer (HDR10 below it is kept)",
    SideData.DYNAMIC_HDR_PLUS: "HDR10+'s curves (HDR10 below them is kept)",
    SideData.STEREO3D: "the mark that it is 3D",
    SideData.SPHERICAL: "the mark that it is a 360 degree video",
}
"""What hangs on pictures and does not survive that they are made anew."""


def _kinds(frame: Any) -> set[Any]:
    return {data.type for data in frame.side_data}


def _primaries(frame: Any, matrix: int) -> int:
    """Where untagged, what players take: by the matrix, and SD by its number of lines (as mpv does)."""
    if frame.color_primaries not in (0, UNSPECIFIED):
        return int(frame.color_primaries)
    if matrix in (BT601, BT470BG):
        return {576: BT470BG, 480: BT601, 486: BT601}.get(frame.height, BT709)
    return matrix if matrix in (BT709, 7, 9) else BT709


def _transfer(frame: Any, matrix: int) -> int:
    if frame.color_trc not in (0, UNSPECIFIED):
        return int(frame.color_trc)
    return BT601 if matrix in (BT601, BT470BG) else BT709


def _other(stream: Any) -> OtherStream:
    kind = stream.type
    if kind == "video" and stream.disposition & Disposition.attached_pic:
        kind = "cover"
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else (getattr(stream, "name", None) or "unknown")
    metadata = stream.metadata
    return OtherStream(stream.index, kind, codec, metadata.get("language", ""), printable(metadata.get("title", "")))


def chroma_location(stream: Any, packet: Any) -> str:
    """Where chroma samples lie, by the stream's own headers; PyAV does not hand on what the decoder knows."""
    name = stream.codec_context.codec.canonical_name
    if name not in LOCATION_FIELDS:
        return UNSAID_CHROMA.get(name, "center" if name in ("mjpeg", "vp8", "mpeg1video") else "left")
    with _LOG:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            with av.logging.Capture() as lines:
                BitStreamFilterContext("trace_headers", stream).filter(packet)
        except (av.FFmpegError, ValueError):
            return "left"
        finally:
            av.logging.set_level(level)
    field, locations = LOCATION_FIELDS[name]
    found = re.search(rf"{field}[^\n]*= (\d+)", "".join(text for _, _, text in lines))
    number = int(found[1]) if found else 0
    return locations[number] if number < len(locations) else "left"


def _mastering(data: bytes | None) -> Mastering | None:
    """FFmpeg's AVMasteringDisplayMetadata: ten fractions (red, green, blue, white; darkest, brightest), two flags."""
    if data is None or len(data) < 88:
        return None
    numbers = struct.unpack("@20i2i", data[:88])
    if not (numbers[20] and numbers[21]) or not all(numbers[1:20:2]):
        return None
    values = [Fraction(numbers[index], numbers[index + 1]) for index in range(0, 20, 2)]
    pairs = [(values[index], values[index + 1]) for index in range(0, 8, 2)]
    return Mastering(pairs[0], pairs[1], pairs[2], pairs[3], values[8], values[9])


def _light_levels(data: bytes | None) -> tuple[int, int] | None:
    """FFmpeg's AVContentLightMetadata: MaxCLL and MaxFALL."""
    if data is None or len(data) < 8:
        return None
    most, average = struct.unpack("@2I", data[:8])
    return (most, average) if most or average else None


def interlaced_refusal(path: Path, frame: int | None = None) -> UserError:
    """What is wrong with fields, the first of them in a frame later than the first ones, and what mends it."""
    return UserError(
        f"{path} is interlaced{'' if frame is None else f' from frame {frame} on'}: convert it with "
        f'ffmpeg -i "{path}" -vf bwdif=mode=send_frame -c:v libx264 -crf 12 -c:a copy "progressive.mkv" first, or have '
        "it done here with --deinterlace."
    )


def check_upscalable(properties: Properties, path: Path, *, deinterlace: bool = False, deep: bool = False) -> list[str]:
    """Sentences on what an output cannot keep of the film. Raises :class:`UserError` for what must not be upscaled.

    That is interlaced video, unless it is deinterlaced while it is read, and high dynamic range in 8 bits.
    """
    if properties.is_interlaced and not deinterlace:
        raise interlaced_refusal(path)
    if properties.is_hdr and not deep:
        raise hdr_refusal(path, properties.transfer)
    sentences = [f"{path}: {what} cannot be kept." for what in properties.lost]
    films = [stream for stream in properties.streams if stream.kind == "video"]
    if films:
        sentences.append(
            f"{path} has {len(films) + 1} video streams: one is upscaled, the others are copied as they are."
        )
    return sentences

"""Pixels of videos as RGB and back, by the colour matrix and range that a video is tagged with.

Numbers of matrices, primaries and transfers are those of ITU-T H.273, which FFmpeg shares.
"""

from __future__ import annotations

import threading
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import require

RGB_MATRIX, BT709, UNSPECIFIED, BT470BG, BT601, BT2020_NCL = 0, 1, 2, 5, 6, 9
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
# Rounding that does not depend on the processor's vector units, so that machines of one cluster agree on every pixel.
EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
MATRICES = {
    BT709: Colorspace.ITU709,
    4: Colorspace.FCC,
    BT470BG: Colorspace.ITU601,
    BT601: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    BT2020_NCL: Colorspace.BT2020,
}
"""Those that can be written: FFmpeg's converter knows no others."""
MATRIX_NAMES = {BT709: "bt709", 4: "fcc", BT470BG: "bt601", BT601: "bt601", 7: "smpte240m", BT2020_NCL: "bt2020"}
UNSAID_CHROMA = {"vp9": "left", "ffv1": "left", "prores": "left", "dnxhd": "left"}
"""Codecs whose decoders do not say where chroma lies, and where it is taken to lie."""


def matrix_of(colorspace: int, height: int) -> int:
    """The matrix that pixels are read by: untagged HD is BT.709 and untagged SD BT.601, as players assume."""
    if colorspace == UNSPECIFIED:
        return BT709 if height >= 720 else BT601
    return colorspace


def source_matrix(frame: Any) -> Colorspace | None:
    """The colour matrix that a frame does not name: untagged HD is BT.709; None: its own, or BT.601 for untagged SD."""
    return Colorspace.ITU709 if frame.colorspace == UNSPECIFIED and frame.height >= 720 else None


def depth_of(pixel_format: Any) -> int:
    """Bits of a channel."""
    return max(component.bits for component in pixel_format.components)


def to_rgb(frame: Any, *, deep: bool = False, chroma: str | None = None) -> np.ndarray:
    """(height, width, 3) RGB, uint8, or uint16 where ``deep``; turned as the frame asks for.

    By the frame's own colour matrix; untagged HD is BT.709 and untagged SD BT.601, as players assume. ``chroma`` is
    where shared chroma samples lie (left, center, topleft...), None: where the decoder says, or in the centre.
    """
    name = "rgb48le" if deep else "rgb24"
    matrix = source_matrix(frame)
    if frame.format.name.startswith("gray"):
        rgb = _from_grey(frame, deep=deep)
    elif chroma is None or not _is_subsampled(frame.format.name):
        rgb = frame.to_ndarray(format=name, src_colorspace=matrix, interpolation=EXACT)
    else:
        options = f"in_chroma_loc={chroma}" + (":in_color_matrix=bt709" if matrix is not None else "")
        rgb = _scaled(frame, name, options).to_ndarray()
    if deep and not (frame.format.is_rgb or frame.format.name.startswith(("gray", "xyz"))):
        rgb = _to_full_scale(rgb, depth_of(frame.format) if frame.color_range == ColorRange.JPEG else 8)
    # The display matrix's angle is counter-clockwise, as is numpy's.
    return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90)) if frame.rotation % 360 else rgb


def _to_full_scale(rgb: np.ndarray, bits: int) -> np.ndarray:
    """uint16 whose white is 65535: FFmpeg's converter counts a level of ``bits`` as 2**16 / 2**bits, white less one."""
    rgb = np.minimum(rgb, 2**16 - 2 ** (16 - bits))
    return rgb + (rgb >> bits) if bits < 16 else rgb


def _from_grey(frame: Any, *, deep: bool) -> np.ndarray:
    """A picture without chroma; FFmpeg's converter takes all of these to be of the full range, whatever they say."""
    if frame.format.is_big_endian:
        frame = frame.reformat(format=frame.format.name.removesuffix("be") + "le")
    bits, plane = depth_of(frame.format), frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height]
    levels = rows.view(np.uint8 if bits == 8 else "<u2")[:, : frame.width].astype(np.float32)
    if frame.color_range == ColorRange.MPEG:
        black, white = 16 * 2 ** (bits - 8), 235 * 2 ** (bits - 8)
    else:
        black, white = 0, 2**bits - 1
    most, kind = (65535, np.uint16) if deep else (255, np.uint8)
    grey = np.clip(np.rint((levels - black) * (most / (white - black))), 0, most).astype(kind)
    return grey[:, :, None].repeat(3, axis=2)


def from_rgb(frame: np.ndarray, *, pix_fmt: str, matrix: int, full_range: bool, chroma: str = "left") -> av.VideoFrame:
    """A picture of ``pix_fmt`` from (height, width, 3) RGB, uint8 or uint16, by ``matrix`` unless it stays RGB.

    Chroma that is shared by pixels lies at ``chroma``, and needs even sizes: :func:`padded`.
    """
    require(frame.dtype in (np.uint8, np.uint16) and frame.ndim == 3 and frame.shape[2] == 3, "frames are RGB")
    deep = frame.dtype == np.uint16
    if deep and matrix != RGB_MATRIX:  # to FFmpeg's scale, whose white is 65280
        frame = frame - ((frame - (frame >> 8) + 128) >> 8)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb48le" if deep else "rgb24")
    if matrix == RGB_MATRIX:
        return picture.reformat(format=pix_fmt, interpolation=EXACT)
    if full_range:
        return _in_full_range(picture, pix_fmt, f"out_color_matrix={MATRIX_NAMES[matrix]}:out_chroma_loc={chroma}")
    if _is_subsampled(pix_fmt):
        return _scaled(
            picture, pix_fmt, f"out_color_matrix={MATRIX_NAMES[matrix]}:out_range=tv:out_chroma_loc={chroma}"
        )
    return picture.reformat(
        format=pix_fmt, dst_colorspace=MATRICES[matrix], dst_color_range=ColorRange.MPEG, interpolation=EXACT
    )


def _in_full_range(picture: av.VideoFrame, pix_fmt: str, options: str) -> av.VideoFrame:
    """By 16 bits, and from there by rounding: FFmpeg's converter moves chroma of the full range by half a level.

    It maps 16..240 to 0..255, where 128, no colour, becomes 127.5 (`init_range_convert_constants` of FFmpeg 7.1 to 8):
    at 8 bits a picture turns green by a level. At 16 bits that is nothing.
    """
    planar = {"nv12": "yuv420p", "p010le": "yuv420p10le"}.get(pix_fmt, pix_fmt)
    fine = _scaled(picture, f"{planar[:7]}16le", f"{options}:out_range=pc")
    rounded = av.VideoFrame(picture.width, picture.height, planar)
    rounded.color_range = ColorRange.JPEG
    bits = depth_of(rounded.format)
    most = 2**bits - 1
    for number, (source, target) in enumerate(zip(fine.planes, rounded.planes, strict=True)):
        levels = np.frombuffer(memoryview(source), "<u2").reshape(-1, source.line_size // 2)[
            : source.height, : source.width
        ]
        middle = 2 ** (bits - 1) - 2**15 * most / 65535 if number else 0.0
        wanted = np.rint(levels * np.float32(most / 65535) + np.float32(middle))
        rows = np.zeros((target.height, target.line_size), np.uint8)
        rows.view(np.uint8 if bits == 8 else "<u2")[:, : target.width] = np.minimum(wanted, most)
        target.update(rows.tobytes())
    return rounded if planar == pix_fmt else rounded.reformat(format=pix_fmt)


def padded(frame: np.ndarray, pix_fmt: str) -> np.ndarray:
    """The frame with its last row and column repeated where chroma is shared by two of them and one is missing."""
    height, width, _ = frame.shape
    tall = height % 2 if "420" in pix_fmt or pix_fmt in ("nv12", "p010le") else 0
    wide = width % 2 if tall or any(part in pix_fmt for part in ("420", "422", "nv12", "p010")) else 0
    return np.pad(frame, ((0, tall), (0, wide), (0, 0)), mode="edge") if tall or wide else frame


def _is_subsampled(pix_fmt: str) -> bool:
    return any(part in pix_fmt for part in ("420", "422", "nv12", "p010"))


def _scaled(frame: av.VideoFrame, pix_fmt: str, options: str) -> av.VideoFrame:
    """The frame as FFmpeg's scale filter converts it: as `reformat` does, which knows nothing of chroma's places."""
    key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, pix_fmt, options)
    if getattr(_GRAPHS, "key", None) != key:
        graph = Graph()
        size = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/25:pixel_aspect=1/1"
        source = graph.add("buffer", f"{size}:colorspace={frame.colorspace}:range={frame.color_range}")
        scale = graph.add("scale", f"flags=bicubic+full_chroma_int+accurate_rnd+bitexact:{options}")
        _GRAPHS.sink = graph.add("buffersink")
        graph.link_nodes(source, scale, graph.add("format", f"pix_fmts={pix_fmt}"), _GRAPHS.sink).configure()
        _GRAPHS.graph, _GRAPHS.key = graph, key
    frame.pts = 0
    _GRAPHS.graph.push(frame)
    converted: av.VideoFrame = _GRAPHS.sink.pull()
    return converted


_GRAPHS = threading.local()
"""The last converter of each thread."""
_REFORMATTER = VideoReformatter()
"""Keeps swscale's tables from part to part."""


class Decoded:
    """A frame of full chroma resolution, whose pixels are converted one by one: a part of it takes a part of the time.

    A window's crop of a 720p frame takes 0.2 ms, the whole frame 7.5 ms, longer than its decoding.
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._frame.height, self._frame.width, 3

    def __getitem__(self, rows_and_columns: tuple[slice, slice]) -> np.ndarray:
        frame = self._frame
        lines = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes)
        planes = [plane[: frame.height, : frame.width][rows_and_columns] for plane in lines]
        part = av.VideoFrame.from_ndarray(np.stack(planes), format="yuv444p")
        part.colorspace, part.color_range = frame.colorspace, frame.color_range
        rgb: np.ndarray = _REFORMATTER.reformat(
            part, format="rgb24", src_colorspace=source_matrix(frame), interpolation=EXACT
        ).to_ndarray()
        return rgb


def is_opaque(frame: Any) -> bool:
    """Whether no pixel of a frame with an alpha channel, or without, can be looked through."""
    if not any(component.is_alpha for component in frame.format.components):
        return True
    return bool(frame.to_ndarray(format="rgba", interpolation=EXACT)[:, :, 3].min() == 255)


def hdr_refusal(path: object, transfer: int) -> UserError:
    """What is wrong with high dynamic range where 8 bits are wanted, and the line that makes it SDR."""
    return UserError(
        f"{path} is high dynamic range video ({HDR[ColorTrc(transfer)]}): convert it to SDR (BT.709) first, as with "
        f'ffmpeg -i "{path}" -vf zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,'
        'zscale=t=bt709:m=bt709:r=tv,format=yuv420p -crf 12 -c:a copy "sdr.mkv".'
    )

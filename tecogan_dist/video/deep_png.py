"""PNG images of 16 bits a channel: Pillow reads and writes only the upper 8 of colours."""

from __future__ import annotations

import av
import numpy as np
from av.codec import CodecContext

HEAD = 26
"""Bytes of a PNG up to its colour type: signature, chunk's head, width, height, bits."""
CHANNELS = {0: 1, 2: 3}
"""By PNG's colour types: grey and RGB; those with transparency are left to Pillow."""


def is_deep(start: bytes) -> bool:
    """Whether a PNG that starts like this (:data:`HEAD` bytes) has 16 bits a channel, and neither palette nor alpha."""
    return len(start) >= HEAD and start[12:16] == b"IHDR" and start[24] == 16 and start[25] in CHANNELS


def decode(data: bytes) -> np.ndarray:
    """(height, width, 3) uint16 RGB of a PNG for which :func:`is_deep` holds, and whose checksums are right.

    Raises ``av.FFmpegError`` or ``ValueError`` for what cannot be decoded.
    """
    context = CodecContext.create("png", "r")
    context.thread_count = 1
    frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    if len(frames) != 1 or frames[0].format.name not in ("rgb48be", "gray16be"):
        raise ValueError("it holds no picture of 16 bits")
    pixels = frames[0].to_ndarray()
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def encode(frame: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel from (height, width, 3) uint16 RGB."""
    context = CodecContext.create("png", "w")
    context.height, context.width, _ = frame.shape
    context.pix_fmt = "rgb48be"
    context.thread_count = 1
    context.options = {"compression_level": "3", "pred": "up"}
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb48le").reformat(format="rgb48be")
    picture.pts = 0
    packets = [*context.encode(picture), *context.encode(None)]
    return b"".join(bytes(packet) for packet in packets)

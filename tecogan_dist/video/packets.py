"""What encoded packets say without being decoded: whether a packet of VP8 or VP9 shows a picture."""

from __future__ import annotations

from typing import Any


def is_shown(packet: Any, codec: str) -> bool:
    """Whether a picture comes out of a packet; of other codecs than VP8 and VP9 always.

    Both have packets that are only looked at by later ones (RFC 6386, 9.1; VP9 bitstream specification, 6.2 and
    annex B: of the frames in a superframe, those that show nothing do not count).
    """
    if codec == "vp8":
        return bool(memoryview(packet)[0] & 0x10)
    if codec == "vp9":
        return _is_vp9_shown(memoryview(packet))
    return True


def _is_vp9_shown(data: memoryview) -> bool:
    marker = data[-1]
    if marker & 0xE0 == 0xC0:
        frames, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
        length = 2 + frames * width
        if len(data) >= length and data[-length] == marker:
            sizes = data[-length + 1 : -1]
            position = 0
            for index in range(frames):
                size = int.from_bytes(sizes[index * width : (index + 1) * width], "little")
                if size and position < len(data) and _shows(data[position]):
                    return True
                position += size
            return False
    return _shows(data[0])


def _shows(first: int) -> bool:
    """By the first byte of a VP9 frame's header: 2 bits of mark, 2 of profile (3 has one more), then the flags."""
    if first >> 6 != 2:
        return True  # no VP9 frame: the decoder will say so
    bits = first << 1 if (first >> 4 & 3) == 3 else first
    show_existing, show = bits >> 3 & 1, bits >> 1 & 1
    return bool(show_existing or show)

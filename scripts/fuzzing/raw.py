"""Bytes changed without knowing what they mean: flipped, cut, spliced, and numbers among them replaced."""

from __future__ import annotations

import re
import struct
from random import Random

INTERESTING = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
)
NON_NUMBERS = struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), struct.pack("<d", float("nan"))
ENCODINGS = "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037"


def changed(data: bytes, random: Random, *, other: bytes = b"") -> bytes:
    """``data`` with one to four changes; ``other`` is what is spliced in."""
    for _ in range(random.choice((1, 1, 2, 4))):
        data = _changed_once(data, random, other)
    return data


def _changed_once(data: bytes, random: Random, other: bytes) -> bytes:
    size = len(data)
    if not size:
        return random.randbytes(random.choice((0, 1, 16)))
    at = _place(size, random)
    end = min(size, at + random.choice((1, 2, 4, 16, 256, 4096)))
    match random.randrange(12):
        case 0:
            flipped = bytearray(data)
            for _ in range(random.choice((1, 1, 3, 20))):
                flipped[_place(size, random)] ^= 1 << random.randrange(8)
            return bytes(flipped)
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:end] + data[at:end] * random.choice((1, 2, 50)) + data[end:]
        case 4:
            return data[:at] + random.randbytes(random.choice((1, 4, 64))) + data[at:]
        case 5:
            return data[:at] + random.randbytes(end - at) + data[end:]
        case 6:
            return data[:at] + bytes([random.choice((0, 0xFF))]) * (end - at) + data[end:]
        case 7 if other:
            begin = random.randrange(len(other))
            return data[:at] + other[begin:]
        case 8:
            return data + random.choice((data, b"\0" * 64, random.randbytes(64)))
        case 9:
            number = random.choice(NON_NUMBERS)
            return data[:at] + number + data[at + len(number) :]
        case _:
            width, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
            value = random.choice(INTERESTING) % 2 ** (8 * width)
            number = value.to_bytes(width, "big" if order == "big" else "little")
            return data[:at] + number + data[at + width :]


def _place(size: int, random: Random) -> int:
    """Anywhere, but more often near the beginning or the end, where formats have their tables."""
    match random.randrange(4):
        case 0:
            return random.randrange(min(size, 128))
        case 1:
            return size - 1 - random.randrange(min(size, 512))
        case _:
            return random.randrange(size)


def changed_text(data: bytes, random: Random) -> bytes:
    """Text in another encoding, with other ends of lines, with words and lines moved, doubled and dropped."""
    text = data.decode("utf-8", "surrogateescape")
    lines = text.splitlines(keepends=True) or [""]
    at = random.randrange(len(lines))
    match random.randrange(8):
        case 0:
            return text.encode(random.choice(ENCODINGS), "replace")
        case 1:
            return text.replace("\n", random.choice(("\r", "\r\n", "\0", "\u2028"))).encode("utf-8", "surrogateescape")
        case 2:
            lines.insert(at, lines[at])
        case 3:
            del lines[at]
        case 4:
            lines[at] = lines[at][: len(lines[at]) // 2]
        case 5:
            words = re.findall(r"\w+", text) or ["x"]
            return text.replace(random.choice(words), random.choice(words), 1).encode("utf-8", "surrogateescape")
        case 6:
            lines[at] = random.choice((" ", "\t", "#", "- ", "\ufeff")) + lines[at]
        case 7:
            numbers = list(re.finditer(r"-?\d+(\.\d+)?", text))
            if numbers:
                match = random.choice(numbers)
                number = random.choice(("-1", "0", "1e999", "9" * 5000, "nan", "1.5", str(2**64), "", "007", "\u0663"))
                return (text[: match.start()] + number + text[match.end() :]).encode("utf-8", "surrogateescape")
    return "".join(lines).encode("utf-8", "surrogateescape")

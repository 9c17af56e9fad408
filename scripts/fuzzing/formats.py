"""Files whose structure is kept while something in it is wrong: lengths, checksums and tables fit what is changed."""

from __future__ import annotations

import functools
import io
import json
import struct
import zipfile
import zlib
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fuzzing import raw, trees

Chunk = tuple[bytes, bytes]
PNG = b"\x89PNG\r\n\x1a\n"
DISGUISED = (
    *(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(outside) (w) file closefile\nshowpage\n",
        b"GIF89a\1\0\1\0\0\0\0;",
    ),
    *(
        b"BM" + bytes(60),
        b"II*\0\x08\0\0\0" + bytes(64),
        b"8BPS\0\1" + bytes(40),
        b"RIFF\x24\0\0\0WEBPVP8 " + bytes(40),
    ),
    *(
        b"P6 99999 99999 255\n",
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4\n",
    ),
    *(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"", b"\0" * 4096),
)
"""Other formats under the name of an expected one: some start programs or open other files where they are let."""
NAMES = (
    *("../outside.png", "/outside.png", "a/../../outside.png", "C:\\outside.png", "a\\..\\..\\x.png", "\x1b[31m.png"),
    *("x" * 300 + ".png", "a/" * 400 + "x.png", "\u202egnp.exe.png", "a.png/b.png", "con.png", ".png", "0\0.png"),
)
"""Of members of an archive."""


def png(data: bytes, random: Random) -> bytes:
    """Chunks with right checksums: sizes that are not true, unknown ones, ones that unpack to a lot."""
    chunks = _png_chunks(data)
    at = random.randrange(len(chunks))
    name, content = chunks[at]
    match random.randrange(7):
        case 0:
            sides = (0, 1, 7, 5000, 30_000, 60_000, 2**31 - 1, 2**32 - 1)
            depth = bytes(random.choice((0, 1, 2, 3, 4, 6, 8, 16)) for _ in range(2)) + content[10:13]
            content = struct.pack(">II", random.choice(sides), random.choice(sides)) + (
                depth if random.random() < 0.5 else chunks[0][1][8:13]
            )
            chunks[0] = (b"IHDR", content)
        case 1:
            chunks.insert(
                at, (random.choice((b"PLTE", b"tRNS", b"gAMA", b"acTL", b"fcTL", b"abcD")), random.randbytes(9))
            )
        case 2:
            chunks.insert(1, (random.choice((b"zTXt", b"iCCP")), b"name\0\0" + _packed_zeros(50_000_000)))
        case 3:
            del chunks[at]
        case 4:
            chunks.insert(1, (b"eXIf", b"Exif\0\0"[6 * random.randrange(2) :] + _exif(random)))
        case 5:
            chunks[at] = (name, raw.changed(content, random))
        case 6:
            chunks = [chunks[0], (b"IDAT", _packed_zeros(random.choice((0, 10, 50_000_000)))), chunks[-1]]
    return PNG + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


@functools.cache
def _packed_zeros(count: int) -> bytes:
    return zlib.compress(b"\0" * count)


def _png_chunks(data: bytes) -> list[Chunk]:
    chunks, at = [], len(PNG)
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return chunks


def _exif(random: Random) -> bytes:
    """An orientation, or something in its place."""
    kind, count = random.choice((1, 2, 3, 4, 5, 7, 99)), random.choice((0, 1, 2, 2**31))
    value = random.choice((0, 1, 3, 6, 8, 9, 2**16 - 1))
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, kind, count, value) + bytes(4)


def jpeg(data: bytes, random: Random) -> bytes:
    """Segments: another size of the picture, an Exif orientation, something else in one of them."""
    match random.randrange(3):
        case 0:
            begin = max(data.find(b"\xff\xc0"), 0)
            sides = struct.pack(">HH", random.choice((0, 1, 16, 65535)), random.choice((0, 1, 16, 65535)))
            return data[: begin + 5] + sides + data[begin + 9 :]
        case 1:
            content = b"Exif\0\0" + _exif(random)
            return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]
        case _:
            at = data.find(b"\xff", random.randrange(len(data) // 2))
            return data[: at + 2] + random.randbytes(2) + data[at + 4 :]


def mp4(data: bytes, random: Random) -> bytes:
    """Boxes: other lengths, other counts in their tables, doubled or dropped ones."""
    boxes = _boxes(data, 0, len(data))
    begin, size, name = random.choice(boxes)
    match random.randrange(5):
        case 0:
            length = random.choice((0, 1, 7, size - 1, size + 1, 2**31, 2**32 - 1))
            return data[:begin] + struct.pack(">I", length) + data[begin + 4 :]
        case 1:
            return data[:begin] + data[begin : begin + size] + data[begin:]
        case 2:
            return data[: begin + 4] + random.choice((b"free", b"moov", b"cmov", b"url ", b"dref")) + data[begin + 8 :]
        case 3:
            inner = raw.changed(data[begin + 8 : begin + size], random)[: size - 8].ljust(size - 8, b"\0")
            return data[: begin + 8] + inner + data[begin + size :]
        case _:
            at = begin + 8 + 4 * random.randrange(max(1, min(20, (size - 8) // 4)))
            value = random.choice(raw.INTERESTING) % 2**32
            return data[:at] + struct.pack(">I", value) + data[at + 4 :] if name != b"mdat" else data[:at]


def _boxes(data: bytes, begin: int, end: int) -> list[tuple[int, int, bytes]]:
    found = []
    while begin + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, begin)
        if size < 8 or begin + size > end:
            break
        found.append((begin, size, name))
        if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts"):
            found += _boxes(data, begin + 8, begin + size)
        begin += size
    return found


def safetensors(data: bytes, random: Random) -> bytes:
    """The header: its length, its JSON, the JSON within it; the tensors' offsets and values."""
    (size,) = struct.unpack_from("<Q", data)
    header, body = data[8 : 8 + size], data[8 + size :]
    match random.randrange(4):
        case 0:
            length = random.choice((0, 1, size - 1, size + 1, 100_000_001, 2**40, 2**63, 2**64 - 1))
            return struct.pack("<Q", length) + header + body
        case 1:
            at = 4 * random.randrange(len(body) // 4)
            return data[: 8 + size] + body[:at] + random.choice(raw.NON_NUMBERS)[:4] + body[at + 4 :]
        case _:
            tree = json.loads(header)
            if random.random() < 0.6:
                tree["__metadata__"] = trees.changed(tree["__metadata__"], random)
            else:
                tree = trees.changed(tree, random)
            header = trees.text_of(tree).encode("utf-8", "surrogatepass")
            return struct.pack("<Q", len(header)) + header + body


def parquet(data: bytes, random: Random) -> bytes:
    """Another table: rows with other values, columns of other types, missing, doubled or too many ones."""
    table = pq.read_table(io.BytesIO(data))
    rows = table.to_pylist()
    name = random.choice(table.column_names)
    at = random.randrange(len(rows))
    match random.randrange(7):
        case 0:
            table = table.drop_columns([name])
        case 1:
            table = table.append_column(random.choice((name, "new")), pa.array([None] * len(rows), pa.string()))
        case 2:
            column = table.column(name)
            values = pa.array([_fitting(column.type, random) if i == at else row[name] for i, row in enumerate(rows)])
            table = table.set_column(table.schema.get_field_index(name), name, values)
        case 3 | 4:
            field = table.schema.field(name)
            values = [_fitting(field.type, random) if i == at else row[name] for i, row in enumerate(rows)]
            try:
                table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
            except (pa.ArrowException, OverflowError):
                table = table.slice(0, 0)
        case 5:
            table = pa.concat_tables([table] * random.choice((2, 300)))
        case 6:
            table = pa.table({name: [[row] for row in rows]})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _fitting(kind: pa.DataType, random: Random) -> Any:
    """A hostile value that a column of this type can hold; None is one."""
    if pa.types.is_integer(kind):
        return random.choice((None, 0, -1, 1, 2**31 - 1, 10**6, -(2**31)))
    if pa.types.is_string(kind):
        value = random.choice(trees.WORDS)
        return random.choice((None, "clips/../../outside.mp4", "clips/missing.mp4", str(value)))
    return None


def archive(files: dict[str, bytes], random: Random) -> bytes:
    """A zip with names that lead outside, links, lies about sizes, bombs, and members that are not what they say."""
    content = dict(files)
    name = random.choice(sorted(content))
    info = zipfile.ZipInfo(random.choice((*NAMES, *NAMES, name)), (1980, 1, 1, 0, 0, 0))
    data = random.choice((content[name], content[name], *DISGUISED))
    match random.randrange(6):
        case 0:
            info.external_attr = 0o120777 << 16
        case 1:
            data = b"\0" * 80_000_000
        case 2:
            info.filename = info.filename.replace(".png", random.choice((".mp4", ".PNG", ".tif", ".jpg", ".zip")))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for each, bytes_of in content.items():
            target.writestr(zipfile.ZipInfo(each, (1980, 1, 1, 0, 0, 0)), bytes_of)
        target.writestr(info, data, random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)))
    packed = file.getvalue()
    at = packed.rfind(b"PK\x01\x02")  # the last member's entry in the directory
    offset, width = random.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (38, 4), (42, 4)))
    if random.random() < 0.5:
        value = random.choice(raw.INTERESTING) % 2 ** (8 * width)
        packed = packed[: at + offset] + value.to_bytes(width, "little") + packed[at + offset + width :]
    return packed

"""Zip archives as others may have made them."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.prepare.archives import unpack
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import Damaged
from tests.data.prepare.test_download import png, zipped
from tests.support.properties import EXAMPLES


def special(kind: int) -> Callable[[zipfile.ZipFile], None]:
    def write(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("frames/1.png")
        info.external_attr = (kind | 0o666) << 16
        archive.writestr(info, b"")

    return write


def twice(archive: zipfile.ZipFile) -> None:
    for level in (1, 2):
        archive.writestr("a/1.png", png(level))


def bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("a/1.png", bytes(101 * 10**6), zipfile.ZIP_DEFLATED)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        *((special(kind), "holds a device") for kind in (stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK)),
        (twice, r"holds a/1\.png twice"),
        (bomb, "would become 101 MB, which images and videos never do"),
        (lambda archive: archive.writestr("b/inner.zip", b"PK"), r"holds b/inner\.zip, and videos"),
        (lambda archive: archive.writestr("b/1.tif", b"II"), r"holds b/1\.tif, and videos"),
        (lambda archive: archive.writestr("a/1.png", png(1), zipfile.ZIP_LZMA), "packed by a method"),
        (lambda archive: archive.writestr("a/1.png", png(1), zipfile.ZIP_BZIP2), "packed by a method"),
        (lambda archive: archive.writestr("a/\x1b[2J\u202e.zip", b""), r"holds a/\\x1b\[2J\\u202e\.zip"),
        (lambda archive: archive.writestr("a" * 300 + "/1.png", png(1)), None),
    ],
)
def test_what_only_an_attack_holds_is_refused(
    tmp_path: Path, write: Callable[[zipfile.ZipFile], None], sentence: str | None
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        write(archive)
    if sentence is None:
        assert len(unpack(tmp_path / "a.zip", tmp_path / "out")) == 1
        return
    with pytest.raises(UserError, match=sentence):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_sizes_that_are_not_wanted_and_overlapping_members(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a/1.png": png(1), "a/2.png": os.urandom(10_000)})
    with pytest.raises(UserError, match=r"holds 0\.0 GB: allow more with --max-archive-gigabytes"):
        unpack(path, tmp_path / "out", most_bytes=5000)
    data = bytearray(path.read_bytes())
    # Both members are the bytes of the second.
    second = data.index(b"PK\3\4", 4)
    at = data.index(b"PK\1\2") + 42
    data[at : at + 4] = struct.pack("<I", second)
    path.write_bytes(data)
    with pytest.raises(UserError):
        unpack(path, tmp_path / "out")
    os.mkfifo(tmp_path / "fifo.zip")
    for name in ("fifo.zip", "/dev/zero", "none.zip", "."):
        with pytest.raises(UserError):
            unpack(tmp_path / name, tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zip", "fifo.zip"]


def test_an_eps_that_is_called_png_is_not_opened_and_gaps_are_not_closed(tmp_path: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n%%EndComments\n(/tmp/x) run\n"
    members = {"a/1.png": eps, "a/2.png": png(1), "b/1.png": png(1), "b/2.png": png(2), "b/4.png": png(4)}
    members |= {"c/1.png": png(1), "c/1.mp4": b"video", "d/1.png": png(1), "d/2.png": png(2)}
    found = {video.name: video for video in unpack(zipped(tmp_path / "a.zip", members), tmp_path / "out")}
    with pytest.raises(UserError, match="neither PNG nor JPEG"):
        open_video(found["a"].path)
    assert "between 2.png and 4.png are missing" in found["b"].problem
    assert "holds videos beside images" in found["c"].problem
    assert not found["d"].problem


REAL = io.BytesIO()
with zipfile.ZipFile(REAL, "w", zipfile.ZIP_DEFLATED) as real:
    for index in range(3):
        real.writestr(f"a/{index}.png", png(index))


@EXAMPLES
@given(
    st.lists(st.tuples(st.integers(0, len(REAL.getvalue()) - 1), st.binary(min_size=1, max_size=4)), max_size=5),
    st.integers(0, len(REAL.getvalue())),
)
def test_changed_bytes_are_unpacked_or_one_sentence(
    tmp_path: Path, changes: list[tuple[int, bytes]], length: int
) -> None:
    data = bytearray(REAL.getvalue())
    for position, value in changes:
        data[position : position + len(value)] = value
    folder = tmp_path
    for kept in (data, data[:length]):
        (folder / "a.zip").write_bytes(kept)
        try:
            unpack(folder / "a.zip", folder / "out")
        except (UserError, Damaged):
            assert [path.name for path in folder.iterdir() if path.name != "out"] == ["a.zip"]

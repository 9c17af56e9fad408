"""Archives as they are published, and hostile ones."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.published.unpacking import HEADER_BYTES, unpack_checkpoint, unpack_scenes
from tests.support.published_files import png, scenes_zip, tarred, zipped

PARTS = {"TecoGAN.index": b"i", "TecoGAN.data-00000-of-00001": b"d" * 1000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unpacked").mkdir()
    return tmp_path / "unpacked"


def checkpoint(tmp_path: Path, folder: Path, data: bytes, *, name: str = "model.zip", member: str = "TecoGAN") -> Path:
    (tmp_path / "fetched").write_bytes(data)
    return unpack_checkpoint(tmp_path / "fetched", folder, name=name, member=member)


def scenes(tmp_path: Path, folder: Path, data: bytes, *wanted: str) -> list[str]:
    (tmp_path / "fetched").write_bytes(data)
    return unpack_scenes(tmp_path / "fetched", folder, wanted=wanted)


@pytest.mark.parametrize("above", ["", "model/", "a/b/"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_the_files_of_a_checkpoint_and_no_others(tmp_path: Path, folder: Path, above: str, pack: object) -> None:
    assert callable(pack)
    others = {"README": b"r", "TecoGANmini.index": b"m", "__MACOSX/TecoGAN.index": b"x", "._TecoGAN.index": b"y"}
    data = pack({f"{above}{name}": content for name, content in PARTS.items()} | others)
    name = "model.zip" if pack is zipped else "model.tar.gz"
    assert checkpoint(tmp_path, folder, data, name=name) == folder / "TecoGAN"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == PARTS


def test_one_file_of_a_tar_archive(tmp_path: Path, folder: Path) -> None:
    data = tarred({"vgg_19.ckpt": b"v" * 10_000})
    assert checkpoint(tmp_path, folder, data, name="v.tar.gz", member="vgg_19.ckpt").read_bytes() == b"v" * 10_000


def test_scenes_keep_their_names_and_those_of_their_frames(tmp_path: Path, folder: Path) -> None:
    data = scenes_zip("walk", "calendar", folder="HR/")
    assert scenes(tmp_path, folder, data, "calendar") == ["calendar", "walk"]
    assert sorted(file.name for file in (folder / "walk").iterdir()) == ["0001.png", "0002.png"]
    assert (folder / "walk" / "0001.png").read_bytes() == png(1)


def flipped(data: bytes) -> bytes:
    """With a bit of a member's content changed."""
    changed = bytearray(data)
    changed[data.index(b"TecoGAN.data") + 40] ^= 1
    return bytes(changed)


def link_in_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("TecoGAN.index")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return file.getvalue()


def in_tar(name: str, kind: bytes, size: int = 0) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, "/etc/passwd", size
        archive.addfile(info, io.BytesIO(bytes(size)))
    return file.getvalue()


def header_bomb() -> bytes:
    """A pax header of 50 MB, which tarfile reads into memory, in 50 kB."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("TecoGAN.index")
        info.pax_headers = {"comment": "x" * 50_000_000}
        archive.addfile(info)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("m.zip", lambda: zipped({"../TecoGAN.index": b"x", **PARTS}), "leads outside"),
        ("m.zip", lambda: zipped({"..\\..\\TecoGAN.index": b"x"}), "leads outside"),
        ("m.zip", lambda: zipped({"/tmp/TecoGAN.index": b"x"}), "leads outside"),
        ("m.zip", lambda: zipped({"C:\\TecoGAN.index": b"x"}), "leads outside"),
        ("m.zip", link_in_zip, "holds a link"),
        ("m.zip", lambda: zipped({"TecoGAN.index": bytes(150_000_000)}), "never do"),
        ("m.zip", lambda: zipped({"a/TecoGAN.index": b"1", "b/TecoGAN.index": b"2"}), "File exists"),
        ("m.zip", lambda: b"<html>the domain is for sale</html>", "damaged or not an archive"),
        ("m.zip", lambda: zipped(PARTS)[:-30], "damaged or not an archive"),
        ("m.zip", lambda: flipped(zipped(PARTS)), "damaged or not an archive"),
        ("m.zip", lambda: zipped({"other.index": b"x"}), "holds no checkpoint TecoGAN"),
        ("m.tar.gz", lambda: tarred({"../TecoGAN.index": b"x"}), "leads outside"),
        ("m.tar.gz", lambda: tarred({"/etc/TecoGAN.index": b"x"}), "leads outside"),
        ("m.tar.gz", lambda: in_tar("TecoGAN.index", tarfile.SYMTYPE), "holds a link"),
        ("m.tar.gz", lambda: in_tar("TecoGAN.index", tarfile.LNKTYPE), "holds a link"),
        ("m.tar.gz", lambda: in_tar("TecoGAN.index", tarfile.CHRTYPE), "a device"),
        ("m.tar.gz", lambda: in_tar("TecoGAN.index", tarfile.FIFOTYPE), "a device"),
        ("m.tar.gz", lambda: in_tar("other", tarfile.REGTYPE, 150_000_000), "never do"),
        ("m.tar.gz", header_bomb, "more in it than its members"),
        ("m.tar.gz", lambda: gzip.compress(bytes(10 * HEADER_BYTES) + b"x"), "holds no checkpoint|more in it"),
        ("m.tar.gz", lambda: tarred(PARTS)[:-30], "damaged or not an archive"),
        ("m.tar.gz", lambda: b"<html>the domain is for sale</html>", "damaged or not an archive"),
    ],
)
def test_hostile_and_damaged_archives_are_a_sentence(
    tmp_path: Path, folder: Path, name: str, data: object, why: str
) -> None:
    assert callable(data)
    with pytest.raises(UserError, match=why):
        checkpoint(tmp_path, folder, data(), name=name)
    assert {path.name for path in tmp_path.iterdir()} == {"fetched", "unpacked"}  # nothing outside


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (lambda: zipped({"../../walk/0001.png": b"x"}), "leads outside"),
        (lambda: zipped({"0001.png": b"x"}), "not in a folder with a plain name"),
        (lambda: zipped({"wa lk;/0001.png": b"x"}), "not in a folder with a plain name"),
        (lambda: zipped({"a/walk/0001.png": b"x", "b/walk/0002.png": b"x"}), "two folders walk"),
        (lambda: zipped({"walk/notes.txt": b"x"}), "no images of walk"),
        (lambda: scenes_zip("city"), "no images of walk"),
        (lambda: b"", "damaged or not an archive"),
    ],
)
def test_archives_without_the_scenes(tmp_path: Path, folder: Path, data: object, why: str) -> None:
    assert callable(data)
    with pytest.raises(UserError, match=why):
        scenes(tmp_path, folder, data(), "walk")
    assert {path.name for path in tmp_path.iterdir()} == {"fetched", "unpacked"}

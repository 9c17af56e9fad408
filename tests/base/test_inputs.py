"""What may be opened as a file, and what may be a path at all."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_regular, open_regular
from tecogan_dist.base.storage import Location

IMPOSSIBLE = [
    ("", "an empty name"),
    ("a\0b", "has a NUL character"),
    ("x" * 300, "is too long for a path"),
    ("ü" * 200, "is too long for a path"),
    ("a/" * 3000, "is too long for a path"),
    ("\ud800", "is not proper text"),
]


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


STRANGE: list[tuple[Callable[[Path], object], str]] = [
    (make_fifo, "is a FIFO where an ordinary weights file is wanted"),
    (make_socket, "is a socket where"),
    (Path.mkdir, "is a folder where"),
    (lambda path: path.symlink_to("/dev/zero"), "is a device where"),
    (lambda path: path.symlink_to("/proc/self/status"), "is one of the system's own files"),
    (lambda path: path.symlink_to(path), "symbolic links lead in a circle"),
]


@pytest.mark.parametrize(("make", "sentence"), STRANGE)
def test_only_a_regular_file_is_opened_and_nothing_waits(
    make: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    make(path)
    began = time.monotonic()
    with pytest.raises(UserError, match=sentence):
        check_regular(path, what="weights file")
    with pytest.raises((UserError, OSError)):
        open_regular(path)
    with pytest.raises(UserError):
        Location.of(path).read_bytes()
    if not path.is_dir():
        with pytest.raises(UserError):
            (Location.of(path) / "below").write_bytes(b"")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("name", "sentence"), IMPOSSIBLE)
def test_what_cannot_be_a_path_is_one_sentence(name: str, sentence: str) -> None:
    for action in (lambda: Location.of(name), lambda: Location(name)):
        with pytest.raises(UserError, match=sentence) as caught:
            action()
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"gone does not exist: check the name"):
        check_regular(tmp_path / "gone")
    with pytest.raises(UserError, match=r"it is a symbolic link to what is not there"):
        check_regular(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "gone")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="a part of the path is a file"):
        check_regular(tmp_path / "file" / "x")


def test_a_file_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.bin")
    path.write_bytes(b"data")
    check_regular(path)
    with open_regular(path) as file:
        assert file.read() == b"data"
    place = Location.of(path)
    assert (place.exists(), place.is_file(), place.size(), place.read_bytes()) == (True, True, 4, b"data")

"""Which films inputs stand for, what they become, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.films import Outcome, in_sentence, is_complete, told
from tecogan_dist.upscaling.inputs import Film, films_of, is_many
from tecogan_dist.upscaling.source import SourceOptions
from tests.support.upscaling import scene_frames, write_images
from tests.support.video_files import write_video


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("b.mp4", "a.MKV", "c.avi", ".hidden.mp4", "notes.txt", "d.wmv"):
        (folder / name).touch()
    (folder / "more").mkdir()
    return folder


def images(folder: Path) -> Path:
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "0.png")
    return folder


def test_a_folder_of_videos_and_one_of_images(films: Path, tmp_path: Path) -> None:
    assert is_many([films])
    found = films_of([films], tmp_path / "out")
    assert [(film.source.name, film.output.name) for film in found] == [
        ("a.MKV", "a.MKV"),
        ("b.mp4", "b.mp4"),
        ("c.avi", "c.avi"),
        ("d.wmv", "d.mkv"),  # which is not written
    ]
    folder = images(tmp_path / "frames")
    assert not is_many([folder])
    assert films_of([folder, films / "b.mp4"], tmp_path / "out")[0] == Film(folder, tmp_path / "out" / "frames")
    (folder / "film.mp4").touch()
    with pytest.raises(UserError, match=r"holds videos \(film\.mp4\) and images \(0\.png\), .*/\*\.mp4"):
        is_many([folder])
    assert not is_many([tmp_path / "nothing.mp4"])
    assert is_many([films / "b.mp4", films / "c.avi"])


def test_a_list(films: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("# two\n\nfilms/b.mp4\n  films/c.avi  \nfilms/b.mp4\n")
    assert is_many([listed])
    assert [film.source for film in films_of([listed], tmp_path / "out")] == [films / "b.mp4", films / "c.avi"]
    listed.write_text("# none\n")
    with pytest.raises(UserError, match="names no videos"):
        films_of([listed], tmp_path / "out")
    listed.write_text("films/notes.txt\n")
    with pytest.raises(UserError, match="names another list"):
        films_of([listed], tmp_path / "out")
    with pytest.raises(UserError, match="does not exist"):
        films_of([tmp_path / "no.txt"], tmp_path / "out")


def test_results_that_would_be_mixed_are_refused(films: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.mp4").touch()
    with pytest.raises(UserError, match=r"b\.mp4 and .*other/b\.mp4 would both become .*out/b\.mp4"):
        films_of([films, tmp_path / "other" / "b.mp4"], tmp_path / "out")
    with pytest.raises(UserError, match="is an input"):
        films_of([films], films)
    with pytest.raises(UserError, match="give the name of a folder"):
        films_of([films], tmp_path / "out.mp4")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        films_of([films], tmp_path / "file")


def test_what_is_complete(tmp_path: Path) -> None:
    film = Film(write_video(tmp_path / "in.mp4", 9), tmp_path / "out.mp4")
    options = SourceOptions(path=film.source)
    assert not is_complete(film, options, 0, None)
    write_video(film.output, 9, height=192, width=256)
    assert is_complete(film, options, 0, None, times=(2, 4))
    assert is_complete(film, options, 0, None)
    with pytest.raises(UserError, match=r"out\.mp4 is 256x192 and should be 64x48 or 128x96: remove it, or replace"):
        is_complete(film, options, 0, None, times=(1, 2))
    with pytest.raises(UserError, match=r"out\.mp4 has 9 frames and should have 5: remove it"):
        is_complete(film, options, 4, None)
    film.output.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"out\.mp4 is in the way"):
        is_complete(film, options, 0, None)
    made = Outcome(film, "made", "no subtitles")
    assert told(made) == f"{film.output} is made (no subtitles)"
    failed = Outcome(film, "failed", "it is damaged.")
    assert told(failed) == f"{film.source} failed: it is damaged."
    assert in_sentence([made, failed, made]) == "3 films: 2 made, 1 failed"
    there = Outcome(film, "there")
    assert in_sentence([there]) == "1 film: 1 there already"
    assert told(there).startswith(f"{film.output} is there already, and is not made again (remove it, or give --over")


def test_sizes_are_compared_as_they_are_shown(tmp_path: Path) -> None:
    film = Film(write_video(tmp_path / "in.mp4", 3, height=32, width=48), tmp_path / "out.mp4")
    data = bytearray(film.source.read_bytes())
    one = 1 << 16
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)  # by 90 degrees
    film.source.write_bytes(data)
    options = SourceOptions(path=film.source)
    write_video(film.output, 3, height=192, width=128)
    assert is_complete(film, options, 0, None)
    write_video(film.output, 3, height=128, width=192)
    with pytest.raises(UserError, match=r"is 192x128 and should be 32x48 or 64x96 or 128x192"):
        is_complete(film, options, 0, None)


def test_a_source_of_odd_sides_has_a_result_of_even_ones(tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", scene_frames([3], height=25, width=33))
    film = Film(images, tmp_path / "out.mp4")
    write_video(film.output, 3, height=26, width=34, pix_fmt="yuv420p")
    assert is_complete(film, SourceOptions(path=images), 0, None, times=(1,))
    write_video(film.output, 3, height=28, width=34, pix_fmt="yuv420p")
    with pytest.raises(UserError, match="is 34x28 and should be 33x25"):
        is_complete(film, SourceOptions(path=images), 0, None, times=(1,))

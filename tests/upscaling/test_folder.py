"""The work folder: what counts as done, what is removed, and what never is."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.folder import MARKER, OURS, TILE, WorkFolder, beside_path, unfinished_path
from tecogan_dist.upscaling.targets import Target, choose_target
from tecogan_dist.video.codecs import Wishes
from tecogan_dist.video.properties import of_images


@pytest.fixture
def folder(tmp_path: Path) -> WorkFolder:
    folder = WorkFolder(tmp_path / "film.mp4")
    folder.begin({"segments": []})
    return folder


def finish(folder: WorkFolder, number: int) -> list[Path]:
    """A segment of a file and a folder of two."""
    file, images = folder.segment(number, ".mkv"), folder.beside(number, "")
    file.write_bytes(b"frames" * 50)
    images.mkdir()
    for name in ("a.png", "b.png"):
        (images / name).write_bytes(name.encode())
    facts = {"frames": 2, "means": [1.5, 2], "deviations": [0, 3.25], "tile": None}
    assert folder.finish(number, files=[file, images], **facts) == 310
    return [file, images]


def test_a_segment_counts_when_its_record_is_there(folder: WorkFolder) -> None:
    assert folder.is_begun
    assert folder.plan()["segments"] == []
    assert folder.finished(3) is None
    finish(folder, 3)
    done = folder.finished(3)
    assert done is not None
    assert (done.frames, done.means, done.deviations, done.size) == (2, (1.5, 2), (0, 3.25), 310)
    folder.record(3).unlink()
    assert folder.finished(3) is None


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "image", "one more", "record"])
def test_damage_is_seen(folder: WorkFolder, damage: str) -> None:
    file, images = finish(folder, 0)
    if damage == "bit":
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    if damage == "gone":
        file.unlink()
    if damage == "image":
        (images / "b.png").write_bytes(b"B.png")
    if damage == "one more":
        (images / "c.png").touch()
    if damage == "record":
        folder.record(0).write_text(folder.record(0).read_text()[:-9])
    assert folder.finished(0) is None
    folder.discard(0)
    assert sorted(path.name for path in folder.path.iterdir()) == [MARKER, "plan.json"]


def test_states_and_partial_files_are_tidied(folder: WorkFolder) -> None:
    finish(folder, 0)
    left = (".segment_00001.0a1b2c3d.partial.mkv", ".segment_00001.json.0a1b2c3d.partial", ".so_far.mp4.x")
    for name in ("state_00001.safetensors", "state_00002.safetensors", *left):
        (folder.path / name).touch()
    (folder.path / ".segment_00002.mkv.0a1b2c3d.partial").mkdir()
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / ".hidden").write_text("mine")
    folder.tidy(states=[2])
    assert sorted(path.name for path in folder.path.iterdir()) == [
        ".hidden",
        MARKER,
        "beside_00000",
        "notes.txt",
        "plan.json",
        "segment_00000.json",
        "segment_00000.mkv",
        "state_00002.safetensors",
    ]
    assert folder.finished(0) is not None
    folder.clear()
    assert sorted(path.name for path in folder.path.iterdir()) == [".hidden", "notes.txt"]
    with pytest.raises(UserError, match="holds other things"):
        assert folder.is_begun


def test_nothing_is_removed_through_a_link(folder: WorkFolder, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "precious.png").touch()
    (folder.path / "segment_00000").symlink_to(tmp_path / "films")
    folder.discard(0)
    folder.clear()
    assert (tmp_path / "films" / "precious.png").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling", "marker is a link"])
def test_what_is_not_ours_is_left_alone(tmp_path: Path, kind: str) -> None:
    folder, other = WorkFolder(tmp_path / "large"), tmp_path / "other"
    other.mkdir()
    (other / "segment_00000.json").write_text("{}")
    if kind == "file":
        folder.path.write_text("mine")
    elif kind == "folder":
        other.rename(folder.path)
    elif kind == "marker is a link":
        other.rename(folder.path)
        (folder.path / MARKER).symlink_to(tmp_path)
    else:
        folder.path.symlink_to(other if kind == "link" else tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="is in the way of unfinished work"):
        folder.check()
    folder.clear()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_was_killed_at_its_beginning_is_begun_anew(tmp_path: Path) -> None:
    for leftovers in ((), (f"{MARKER}.partial",), (MARKER,), (MARKER, ".plan.json.partial", "segment_00000.mkv")):
        folder = WorkFolder(tmp_path / "large")
        folder.path.mkdir()
        for name in leftovers:
            (folder.path / name).touch()
        assert not folder.is_begun
        folder.begin({"segments": [1]})
        assert folder.is_begun
        assert sorted(path.name for path in folder.path.iterdir()) == [MARKER, "plan.json"]
        folder.clear()
        assert not folder.path.exists()


def test_another_versions_plan_is_refused(folder: WorkFolder) -> None:
    for text in ('{"format": 2}', "[]", "{"):
        (folder.path / "plan.json").write_text(text)
        with pytest.raises(UserError, match=r"plan\.json is not"):
            folder.plan()


def test_names_of_any_length(tmp_path: Path) -> None:
    first, second = ("ä" * 120 + ending for ending in ("01.mp4", "02.mp4"))
    assert unfinished_path(tmp_path / "film.mp4").name == "film.mp4.unfinished"
    paths = {unfinished_path(tmp_path / name) for name in (first, second)}
    assert len(paths) == 2
    for path in paths:
        path.mkdir()
        assert path.name.endswith(".unfinished")
    paths = {beside_path(tmp_path / name) for name in (first, second)}
    assert len(paths) == 2
    for path in paths:
        path.touch()
        assert path.name.startswith(".ä")


def test_what_was_put_in_place_is_recognised(folder: WorkFolder, tmp_path: Path) -> None:
    output, images = tmp_path / "film.mp4", tmp_path / "images"
    for name in ("joined.mp4", "other"):
        (folder.path / name).write_bytes(b"film")
    (folder.path / "joined").mkdir()
    folder.announce({output: folder.path / "joined.mp4", images: folder.path / "joined"})
    assert not folder.has_placed(output)
    (folder.path / "joined.mp4").rename(output)
    (folder.path / "joined").rename(images)
    assert folder.has_placed(output)
    assert folder.has_placed(images)
    assert not folder.has_placed(tmp_path / "other.mp4")
    # The other one is placed later, by another command, which writes down what it places.
    (folder.path / "joined_beside.mp4").write_bytes(b"both")
    folder.announce({tmp_path / "beside.mp4": folder.path / "joined_beside.mp4"})
    assert folder.has_placed(output)
    assert folder.has_placed(images)
    output.write_bytes(b"another film")
    assert not folder.has_placed(output)


def test_tiles_that_fitted_are_known_to_later_commands(folder: WorkFolder) -> None:
    assert folder.tile() is None
    for tile in (224, 96, 480):
        folder.keep_tile(tile)
    assert WorkFolder(folder.path.with_suffix("")).tile() == 96
    for text in ("", "[]", '{"tile": "96"}', '{"tile": 1}', '{"tile": true}'):
        (folder.path / TILE).write_text(text)
        assert folder.tile() is None
    folder.clear()
    assert not folder.path.exists()


@pytest.mark.parametrize("codec", ["ffv1", None])
def test_two_writers_of_a_segment_do_not_meet(folder: WorkFolder, codec: str | None) -> None:
    """As when a worker that was given up is alive after all, on another machine."""
    target = Target()
    if codec:
        target, _ = choose_target(Path("film.mkv"), of_images(32, 24), Wishes(codec=codec), png16=False)
    path = folder.segment(1, target.suffix)
    frames = [np.full((24, 32, 3), 50 * number, np.uint8) for number in range(4)]
    with target.writer(path) as writer:
        for frame in frames:
            writer.write(frame)
        with contextlib.suppress(KeyboardInterrupt), target.writer(path) as given_up:
            given_up.write(frames[3])
            assert all(OURS.fullmatch(entry.name) for entry in folder.path.iterdir())
            raise KeyboardInterrupt
    read = list(target.frames(path, height=24, width=32))
    assert len(read) == len(frames)
    assert all((there == frame).all() for there, frame in zip(read, frames, strict=True))

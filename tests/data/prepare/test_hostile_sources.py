"""``tecogan prepare`` and sources that change, have secrets, are left out, or do not belong together."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.clips import ClipStore
from tecogan_dist.data.writing import ClipStoreWriter
from tecogan_dist.video.writer import FrameWriter
from tests.data.prepare.test_prepare_sources import identities, prepare, write_frames, write_list
from tests.data.prepare.test_scenes import shot
from tests.support.video_files import write_video
from tests.support.web_server import Site, serving


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving() as site:
        site.files["/film.mp4"] = write_video(tmp_path / "film.mp4", 100).read_bytes()
        yield site


def test_a_source_that_changed_under_its_name_and_length_does_not_count_as_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, other = write_video(tmp_path / "film.mp4", 30), write_video(tmp_path / "other.mp4", 20)
    arguments = (film, other, "--scene-length", 10)
    store = prepare(tmp_path / "store", *arguments)
    stamp, data = film.stat(), film.read_bytes()
    film.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(film, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    before = identities(store)
    for extra in ((), ("--verify",), ("--dry-run",)):
        with pytest.raises(UserError, match=r"film\.mp4 is not what it was when scenes 2000 to 2002 of the store were"):
            prepare(tmp_path / "store", *arguments, *extra)
    assert identities(ClipStore.open(tmp_path / "store")) == before
    # A shorter one would move the numbers of those after it.
    film.write_bytes(write_video(tmp_path / "short.mp4", 20).read_bytes())
    with pytest.raises(UserError, match="scene 2003 of the store is"):
        prepare(tmp_path / "store", *arguments, "--remake-changed")
    film.write_bytes(write_video(tmp_path / "new.mp4", 30, pix_fmt="yuv420p").read_bytes())
    again = prepare(tmp_path / "store", *arguments, "--remake-changed", "--strict")
    assert [(s.number, s.source_start) for s in again.scenes] == [(s.number, s.source_start) for s in store.scenes]
    assert again.scenes[3:] == store.scenes[3:]
    assert {name for name, identity in identities(again).items() if before[name] != identity} == {
        f"scene_{number}.mp4" for number in (2000, 2001, 2002)
    }
    assert prepare(tmp_path / "store", *arguments, "--verify").scenes == again.scenes
    # A store of an earlier version did not record it.
    with ClipStoreWriter(tmp_path / "store") as writer:
        for scene in again.scenes:
            writer.enter(dataclasses.replace(scene, content=None))
    capsys.readouterr()
    prepare(tmp_path / "store", *arguments, "--verify")
    assert "did not record what it was made of: not compared" in capsys.readouterr().out


def test_a_signed_link_is_one_source_and_no_secret_of_it_is_kept_or_shown(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = site.url("/film.mp4?v=1&X-Amz-Date=1&X-Amz-Signature=hidden").replace("://", "://me:hidden@")
    arguments = ("--minimum-size", 1, "--cut", "fixed", "--scene-length", 50)
    store = prepare(tmp_path / "store", signed, *arguments)
    assert {scene.source for scene in store.scenes} == {site.url("/film.mp4?v=1")}
    asked = len(site.log)
    again = signed.replace("hidden", "hidden2").replace("Date=1", "Date=2")
    assert prepare(tmp_path / "store", again, *arguments).scenes == store.scenes
    assert len(site.log) == asked
    with pytest.raises(UserError) as gone:
        prepare(tmp_path / "gone", signed.replace("film", "gone"))
    for text in (
        "ftp://me:hidden@h/a.mp4",
        "http://me:hidden hidden@h/a",
        "https://h:99999/a?token=hidden",
        "s3://me:hidden@bucket/a",
    ):
        with pytest.raises(UserError) as caught:
            prepare(tmp_path / "store", text)
        assert "hidden" not in str(caught.value)
        with pytest.raises(UserError) as caught:
            prepare(tmp_path / "store", write_list(tmp_path / "l.yaml", f"  - {{source: '{text}'}}\n"))
        assert "hidden" not in str(caught.value)
    printed = capsys.readouterr()
    assert "hidden" not in printed.out + printed.err + str(gone.value)
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "l.yaml"]
    assert not [file for file in files if b"hidden" in file.read_bytes() or "hidden" in file.name]


def test_what_is_left_out_of_a_folder_is_said_in_the_table_and_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    film = write_video(folder / "a.mp4", 10)
    (folder / "more").mkdir()
    for name in ("b.tif", "c.zip", "d.vob", "more/e.mp4", "notes.txt"):
        (folder / name).write_bytes(film.read_bytes())
    os.mkfifo(folder / "f.mp4")
    store = prepare(folder / "store", folder)
    assert [Path(scene.source).name for scene in store.scenes] == ["a.mp4"]
    printed = capsys.readouterr().out
    for name in ("b.tif", "c.zip", "d.vob", "f.mp4", "more"):
        assert f"{folder / name} is left out: " in printed
    assert "notes.txt" not in printed
    last = "holds 1 scene; 5 of 6 inputs could not be used in full, see the table (--strict makes that an error)."
    assert printed.splitlines()[-1].endswith(last)
    with pytest.raises(UserError, match="5 of 6 inputs"):
        prepare(folder / "store", folder, "--strict")
    # A pattern does not take the store's own clips for films.
    assert prepare(folder / "store", folder / "**" / "*.mp4", "--first-scene", 3000).select(3000, 3009)
    assert not [s for s in ClipStore.open(folder / "store").scenes if "/clips/" in s.source]


@pytest.mark.parametrize(
    ("high", "low", "sentence"),
    [
        (("1", "2", "4"), ("1", "2", "3"), "high has a gap in its numbers"),
        (("1", "2", "3"), ("1", "2", "4"), "low has a gap in its numbers"),
        (("a", "b", "c"), ("a", "b", "d"), "do not belong together, c would meet d"),
        (("1", "2", "3"), ("4", "5", "6"), "differ by 3: 1 is taken for 4"),
        (("a_1", "a_2", "a_3"), ("a_1x4", "a_2x4", "a_3x4"), ""),
    ],
)
def test_frames_of_a_pair_belong_together_by_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], high: tuple[str, ...], low: tuple[str, ...], sentence: str
) -> None:
    for side, names, size in (("high", high, (48, 64, 3)), ("low", low, (12, 16, 3))):
        with FrameWriter(tmp_path / side) as writer:
            for level, name in enumerate(names):
                writer.write(np.full(size, level, np.uint8), name=name)
    sources = write_list(tmp_path / "s.yaml", "  - {hr: high, lr: low, minimum_size: 1}\n")
    with contextlib.suppress(UserError):
        prepare(tmp_path / "store", sources)
    assert sentence in capsys.readouterr().out
    with contextlib.suppress(UserError):
        assert len(ClipStore.open(tmp_path / "store").scenes) == (not sentence or "differ by" in sentence)


def test_a_damaged_record_of_a_source_is_as_good_as_none(tmp_path: Path) -> None:
    film = write_frames(tmp_path / "a.mp4", np.concatenate([shot(1, 20), shot(2, 20)]))
    store = prepare(tmp_path / "store", film, "--cut", "detected")
    (record,) = (tmp_path / "store" / "sources").iterdir()
    whole = record.read_text()
    for text in (
        *("", "[" * 100_000, "null", "[]", '{"scenes": 1}', whole[:-5], "1" * 5000),
        *(whole.replace('"start": 0', f'"start": {start}') for start in ("-1", "1e400", "null", "9" * 30, "true")),
        *(whole.replace('"number": 2000', f'"number": {number}') for number in ("7", "2001", '"a"')),
    ):
        assert text != whole
        record.write_text(text)
        assert prepare(tmp_path / "store", film, "--cut", "detected").scenes == store.scenes
    assert record.read_text() == whole

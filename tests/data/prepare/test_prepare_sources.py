"""``tecogan prepare`` with sources of all kinds, from the web and from here, and what can go wrong with them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.prepare import main
from tecogan_dist.data.clips import ClipStore, open_clip, verify
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter
from tests.data.prepare.test_scenes import shot
from tests.support.local_ray import small_ray
from tests.support.s3_server import BUCKET, s3_server
from tests.support.small_disk import small_disk
from tests.support.video_files import write_video
from tests.support.web_server import Site, serving
from tests.video.test_bad_videos import write_with_hidden_frame


def prepare(output: Path, *arguments: object) -> ClipStore:
    main([*map(str, arguments), "--output", str(output), "--workers", "1"])
    return ClipStore.open(output)


def write_list(path: Path, text: str) -> Path:
    path.write_text("sources:\n" + text)
    return path


def write_frames(path: Path, frames: np.ndarray) -> Path:
    with FrameWriter(path, pix_fmt="yuv444p", crf=4) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def holds(store: ClipStore, number: int, positions: range) -> bool:
    """Whether a scene has these frames of write_video, by the numbers in their blue channel (codecs change it by 4)."""
    (scene,) = store.select(number, number)
    blue = np.array([frame[..., 2].mean() for frame in open_clip(store.path, scene).frames()])
    return len(blue) == len(positions) and float(np.abs(blue - positions).max()) <= 5


def identities(store: ClipStore) -> dict[str, tuple[int, int]]:
    files = (store.path / "clips").iterdir()
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving() as site:
        site.files["/film.mp4"] = write_video(tmp_path / "film.mp4", 100).read_bytes()
        yield site


def test_a_list_of_everything(tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    write_frames(tmp_path / "films" / "shots.mkv", np.concatenate([shot(1, 25), shot(2, 6), shot(3, 40)]))
    for name in ("calendar", "walk"):
        with FrameWriter(tmp_path / "vid4" / name) as writer:
            for frame in shot(4, 12):
                writer.write(frame)
    with zipfile.ZipFile(tmp_path / "frames.zip", "w") as archive:
        for file in (tmp_path / "vid4" / "walk").iterdir():
            archive.write(file, f"set/walk/{file.name}")
        archive.write(tmp_path / "films" / "shots.mkv", "set/film.mkv")
    site.files["/frames.zip"] = (tmp_path / "frames.zip").read_bytes()
    sources = write_list(
        tmp_path / "sources.yaml",
        f"""
  - source: {site.url("/film.mp4")}
    starts: [10, 22, 60, 95]
    scene_length: 20
  - source: {site.url("/gone.mp4")}
    starts: [0, 50]
  - source: films/*.mkv
  - source: vid4/*
  - source: {site.url("/frames.zip")}
    maximum_scenes: 5
  - source: {site.url("/film.mp4")}?again
    cut: fixed
    scene_length: 40
""",
    )
    arguments = (sources, "--scene-length", 30, "--minimum-size", 1, "--encoding", "lossless")
    store = prepare(tmp_path / "store", *arguments)
    rows = [(s.number, s.source.rpartition("/")[2], s.source_start, s.frames) for s in store.scenes]
    assert rows == [
        (2000, "film.mp4", 10, 20),
        (2001, "film.mp4", 22, 20),
        (2002, "film.mp4", 60, 20),
        (2006, "shots.mkv", 0, 25),
        (2007, "shots.mkv", 31, 30),
        (2008, "shots.mkv", 61, 10),
        (2106, "calendar", 0, 12),
        (2107, "walk", 0, 12),
        (2108, "film.mkv", 0, 25),
        (2109, "film.mkv", 31, 30),
        (2110, "film.mkv", 61, 10),
        (2111, "walk", 0, 12),
        (2113, "film.mp4?again", 0, 40),
        (2114, "film.mp4?again", 40, 40),
    ]
    assert holds(store, 2001, range(22, 42))
    assert holds(store, 2002, range(60, 80))
    assert store.select(2111, 2111)[0].source == f"{site.url('/frames.zip')}#set/walk"
    table = capsys.readouterr().out
    assert "3       0       1  " + site.url("/film.mp4") + ": its frames end before scene 2003" in table
    assert "0       0       2  " + site.url("/gone.mp4") + " is gone (404 Not Found)." in table
    assert "6 of 71 frames are in no scene: cuts, fades, or shots that are too short" in table

    before, asked = identities(store), len(site.log)
    again = prepare(tmp_path / "store", *arguments)
    assert (again.scenes, identities(again)) == (store.scenes, before)
    assert {request.path for request in site.log[asked:]} == {"/gone.mp4"}  # all else is known to be there
    with pytest.raises(UserError, match="2 of 7 inputs could not be used in full"):
        prepare(tmp_path / "store", *arguments, "--strict")

    site.files["/gone.mp4"] = site.files["/film.mp4"]  # back again: it has kept its numbers
    (store.path / "clips" / "scene_2109.mp4").unlink()
    repaired = prepare(tmp_path / "store", *arguments)
    assert [s.number for s in repaired.scenes if s not in store.scenes] == [2004, 2005]
    changed = {name for name, identity in identities(repaired).items() if before.get(name) != identity}
    assert changed == {"scene_2004.mp4", "scene_2005.mp4", "scene_2109.mp4"}


def test_a_dry_run_asks_and_writes_nothing(tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    sources = write_list(
        tmp_path / "s.yaml",
        f"""
  - {{source: "{site.url("/film.mp4")}", starts: [0, 50], scene_length: 10}}
  - {{source: "{site.url("/gone.mp4")}", starts: [0]}}
  - {{source: film.mp4, minimum_size: 1, cut: fixed, scene_length: 50}}
  - {{source: film.mp4, minimum_size: 400}}
""",
    )
    before = sorted(tmp_path.rglob("*"))
    main([str(sources), "--output", str(tmp_path / "store"), "--dry-run", "--workers", "1"])
    assert sorted(tmp_path.rglob("*")) == before
    assert [request.path for request in site.log] == ["/film.mp4", "/gone.mp4"]
    table = capsys.readouterr().out
    assert f"2       0          {site.url('/film.mp4')}: mp4: film" in table
    assert "is gone (404 Not Found)" in table
    assert f"2       0          {tmp_path}/film.mp4" in table
    assert "is 64x48, smaller than --minimum-size 400" in table
    with pytest.raises(UserError, match="2 of 4 inputs could not be used"):
        main([str(sources), "--output", str(tmp_path / "store"), "--dry-run", "--strict", "--workers", "1"])


def test_downloads_are_kept_or_removed_as_wanted(tmp_path: Path, site: Site) -> None:
    url = site.url("/film.mp4")
    arguments = ("--minimum-size", 1, "--cut", "fixed", "--scene-length", 40)
    kept = prepare(tmp_path / "kept", url, *arguments)
    assert [file.stat().st_size for file in (kept.path / "downloads").iterdir()] == [len(site.files["/film.mp4"])]
    removed = prepare(tmp_path / "removed", url, *arguments, "--remove-source", "--downloads", tmp_path / "d")
    assert not list((tmp_path / "d").iterdir())
    asked = len(site.log)
    for store in (kept, removed):
        assert [(s.number, s.frames) for s in prepare(store.path, url, *arguments).scenes] == [(2000, 40), (2001, 40)]
    assert len(site.log) == asked


def test_a_damaged_download_is_used_as_far_as_it_goes_and_fetched_anew(tmp_path: Path, site: Site) -> None:
    whole = write_video(tmp_path / "whole.mkv", 100).read_bytes()
    site.files["/film.mkv"] = whole[: len(whole) // 2]
    site.types["/film.mkv"] = "video/x-matroska"
    options = ("--minimum-size", 1, "--cut", "fixed", "--scene-length", 20, "--encoding", "lossless")
    arguments = (site.url("/film.mkv"), *options)
    store = prepare(tmp_path / "store", *arguments)
    assert 1 <= len(store.scenes) < 4
    site.files["/film.mkv"] = whole
    complete = prepare(tmp_path / "store", *arguments, "--strict")
    assert complete.scenes[: len(store.scenes)] == store.scenes
    assert len(complete.scenes) == 5
    assert holds(complete, 2004, range(80, 100))

    site.files["/page.mp4"] = b"<html><body>a page</body></html>"  # which the server calls a video
    with pytest.raises(UserError, match="1 of 1 inputs"):
        prepare(tmp_path / "other", site.url("/page.mp4"))
    assert not list((tmp_path / "other" / "downloads").iterdir())


def test_a_download_that_has_fewer_frames_than_it_says_is_done_nevertheless(tmp_path: Path, site: Site) -> None:
    site.files["/v.webm"] = write_with_hidden_frame(tmp_path / "v.webm").read_bytes()
    site.types["/v.webm"] = "video/webm"
    arguments = (site.url("/v.webm"), "--minimum-size", 1, "--cut", "fixed", "--scene-length", 5, "--remove-source")
    store = prepare(tmp_path / "store", *arguments, "--strict")
    assert [s.frames for s in store.scenes] == [5, 5, 5, 5]
    asked = len(site.log)
    assert prepare(tmp_path / "store", *arguments, "--strict").scenes == store.scenes
    assert len(site.log) == asked


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_kill_9_while_downloading_and_while_cutting(tmp_path: Path, site: Site) -> None:
    long = write_video(tmp_path / "long.mp4", 200, height=120, width=160).read_bytes()
    site.files["/a.mp4"] = site.files["/b.mp4"] = long
    sources = write_list(
        tmp_path / "s.yaml", "".join(f"  - source: {site.url(path)}\n" for path in ("/a.mp4", "/b.mp4"))
    )
    words = [str(sources), "--cut", "fixed", "--scene-length", "20", "--minimum-size", "1", "--workers", "1"]
    words += ["--encoding", "lossless"]
    command = [sys.executable, "-m", "tecogan_dist.prepare", *words, "--output", str(tmp_path / "store")]

    def run_until(condition: Callable[[], object]) -> None:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not condition():
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL

    clips, downloads = tmp_path / "store" / "clips", tmp_path / "store" / "downloads"
    run_until(lambda: (clips / "scene_2004.mp4").exists())
    half = ClipStore.open(tmp_path / "store")
    assert 4 <= len(half.scenes) < 10
    before = identities(half)
    site.bytes_per_second = len(long) / 5
    run_until(lambda: any(file.stat().st_size for file in downloads.glob("*.part")))
    site.bytes_per_second = None
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    store = ClipStore.open(tmp_path / "store")
    assert [(s.number, s.source_start) for s in store.scenes] == [
        *((2000 + index, 20 * index) for index in range(10)),
        *((2100 + index, 20 * index) for index in range(10)),
    ]
    after = identities(store)
    assert all(after[file] == before[file] for file in [f"scene_{s.number}.mp4" for s in half.scenes])
    assert all(holds(store, s.number, range(s.source_start, s.source_start + 20)) for s in store.scenes)
    # The first video was fetched once, and so was each byte of the second.
    assert len([request for request in site.asked("/a.mp4") if request.sent == len(long)]) <= 2  # one is the look
    resumed = site.asked("/b.mp4")[-1]
    assert (resumed.status, resumed.first_byte > 0) == (206, True)
    assert not list((tmp_path / "store" / "clips").glob(".*"))


def test_verify_finds_damaged_clips_and_with_the_sources_makes_them_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (write_video(tmp_path / "film.mp4", 50), "--scene-length", 10)
    store = prepare(tmp_path / "store", *arguments)
    assert prepare(tmp_path / "store", "--verify").scenes == store.scenes
    clips = store.path / "clips"
    data = bytearray((clips / "scene_2001.mp4").read_bytes())
    data[len(data) // 2] ^= 1
    (clips / "scene_2001.mp4").write_bytes(data)
    (clips / "scene_2003.mp4").unlink()
    before = identities(store)
    capsys.readouterr()
    with pytest.raises(UserError, match="2 of 5 scenes are damaged or missing: add their sources"):
        main(["--verify", "--output", str(store.path)])
    printed = capsys.readouterr().out
    assert "scene 2001: clips/scene_2001.mp4 is damaged" in printed
    assert "scene 2003: clips/scene_2003.mp4 is missing" in printed
    repaired = prepare(tmp_path / "store", *arguments, "--verify")
    assert [s.number for s in repaired.scenes] == [2000, 2001, 2002, 2003, 2004]
    after = identities(repaired)
    assert {name for name in after if after[name] != before.get(name)} == {"scene_2001.mp4", "scene_2003.mp4"}
    assert prepare(tmp_path / "store", "--verify").scenes == repaired.scenes


def test_own_pairs_keep_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    high = {name: shot(seed, 14)[:, :88] for seed, name in enumerate(("000", "001", "002", "003"))}
    low = {name: frames[:, 1::4, 2::4] for name, frames in high.items()}
    low["001"] = low["001"][:, :-1]
    low["002"] = low["002"][:-1]
    del low["003"]
    for side, content in (("sharp", high), ("X4", low)):
        for name, frames in content.items():
            with FrameWriter(tmp_path / side / name) as writer:
                for frame in frames:
                    writer.write(frame)
    sources = write_list(tmp_path / "s.yaml", "  - {hr: sharp/*, lr: X4/*, minimum_size: 1}\n")
    store = prepare(tmp_path / "store", sources)
    (scene,) = store.scenes
    assert (scene.number, scene.frames, scene.height, scene.width) == (2000, 14, 88, 160)
    kept = np.stack(list(open_clip(store.path, scene, low_resolution=True).frames()))
    assert np.array_equal(kept, low["000"])
    table = capsys.readouterr().out
    assert "is 40x21 and" in table
    assert "has 13 frames and" in table
    assert "holds nothing of the same name as" in table
    before = identities(store)
    assert identities(prepare(tmp_path / "store", sources)) == before

    videos = {
        "hr": write_frames(tmp_path / "h.mkv", np.concatenate([high["000"], high["001"]])),
        "lr": write_frames(tmp_path / "l.mkv", np.concatenate([low["000"], high["001"][:, 1::4, 2::4]])),
    }
    detected = prepare(
        tmp_path / "detected",
        write_list(tmp_path / "d.yaml", f"  - {{hr: {videos['hr']}, lr: {videos['lr']}, minimum_size: 1}}\n"),
    )
    assert [(s.source_start, s.frames) for s in detected.scenes] == [(0, 14), (14, 14)]
    read = np.stack(list(open_clip(detected.path, detected.scenes[1], low_resolution=True).frames()))
    assert np.abs(read.astype(int) - high["001"][:, 1::4, 2::4]).mean() < 3


def test_encodings(tmp_path: Path) -> None:
    short, long = write_video(tmp_path / "short.mp4", 15), write_video(tmp_path / "to_cut.mp4", 40)
    arguments = (short, long, "--scene-length", 20)
    for encoding in ("original", "lossless", "lossy"):
        store = prepare(tmp_path / encoding, *arguments, "--encoding", encoding)
        assert prepare(tmp_path / encoding, *arguments, "--encoding", encoding).scenes == store.scenes
        kept = (store.path / store.scenes[0].file).read_bytes() == short.read_bytes()
        exact = all(
            np.array_equal(a, b)
            for a, b in zip(open_clip(store.path, store.scenes[2]).frames(), open_video(long).frames(20), strict=True)
        )
        wanted = {"original": ["original", "lossy", "lossy"]}.get(encoding, [encoding] * 3)
        assert ([s.encoding for s in store.scenes], kept, exact) == (
            wanted,
            encoding == "original",
            encoding == "lossless",
        )
    with pytest.raises(UserError, match=r"scene 2000 .* use the options of the first run"):
        prepare(tmp_path / "lossless", *arguments)


def test_detected_scenes_are_limited_spread_and_keep_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [20, 20, 4, 20, 20, 20]
    write_frames(tmp_path / "a.mp4", np.concatenate([shot(seed, length) for seed, length in enumerate(lengths)]))
    write_frames(tmp_path / "b.mp4", shot(9, 30))
    arguments = (tmp_path / "a.mp4", tmp_path / "b.mp4", "--cut", "detected", "--max-scenes", 3)
    store = prepare(tmp_path / "store", *arguments)
    assert [(s.number, s.source_start, s.frames) for s in store.scenes] == [
        (2000, 0, 20),
        (2001, 20, 20),
        (2002, 64, 20),
        (2003, 0, 30),
    ]
    assert "3 of 5 scenes are taken (--max-scenes)" in capsys.readouterr().out
    # The second run knows the cuts, also of what was only touched: it does not look for them.
    video = tmp_path / "a.mp4"
    with monkeypatch.context() as patched:
        patched.setattr("tecogan_dist.data.prepare.rules.find_shots", None)
        assert prepare(tmp_path / "store", *arguments, "--strict").scenes == store.scenes
    os.utime(video)
    assert prepare(tmp_path / "store", *arguments, "--strict", "--verify").scenes == store.scenes
    video.unlink()
    assert prepare(tmp_path / "store", *arguments).scenes == store.scenes


def test_names_of_files_cannot_break_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    data = write_video(tmp_path / "v.mp4", 12).read_bytes()
    names = ["concat:a|b.mp4", "-rf.mp4", "%(title)s %03d.mp4", "a\nscene 1: ok\x1b[2J.mp4", "[x]*?.mp4", "ü\udcff.mp4"]
    for name in names:
        (folder / name).write_bytes(data)
    store = prepare(tmp_path / "store", folder)
    assert len(store.scenes) == len(names)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "a\\nscene 1: ok\\x1b[2J.mp4" in printed
    assert prepare(tmp_path / "store", folder).scenes == store.scenes
    assert len(prepare(tmp_path / "one", folder / "[x]*?.mp4").scenes) == 1


def test_a_disk_that_fills_up_stops_everything_and_leaves_a_valid_store(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        with FrameWriter(tmp_path / f"{name}.mp4") as writer:
            for _ in range(30):
                writer.write(random.integers(0, 255, (120, 160, 3), dtype=np.uint8))
    arguments = (tmp_path / "a.mp4", tmp_path / "b.mp4", "--scene-length", 5)
    with small_disk(tmp_path / "disk", 700) as disk:
        with pytest.raises(UserError, match="No space left on device"):
            prepare(disk / "store", *arguments)
        store = ClipStore.open(disk / "store")
        assert 0 < len(store.scenes) < 12
        assert all(problem is None for _, problem in verify(store.path))
        before = identities(store)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        complete = prepare(disk / "store", *arguments)
        assert len(complete.scenes) == 12
        assert identities(complete).items() >= before.items()


def test_two_sources_never_share_a_number(tmp_path: Path) -> None:
    for number in (2001, 2002):
        with FrameWriter(tmp_path / "in" / f"scene_{number}") as writer:
            for frame in shot(1, 3):
                writer.write(frame)
    film = write_video(tmp_path / "film.mp4", 30)
    with pytest.raises(UserError, match="scene 2001 would be made of"):
        prepare(tmp_path / "store", film, tmp_path / "in", "--scene-length", 10)
    with pytest.raises(UserError, match="is given twice"):
        prepare(tmp_path / "store", film, film)
    store = prepare(tmp_path / "store", film, tmp_path / "in", "--scene-length", 10, "--first-scene", 3000)
    assert [s.number for s in store.scenes] == [2001, 2002, 3000, 3001, 3002]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_tasks_make_what_one_process_makes_and_survive_the_loss_of_one(tmp_path: Path, site: Site) -> None:
    for name in "abc":
        site.files[f"/{name}.mp4"] = write_video(tmp_path / f"{name}.mp4", 60).read_bytes()
    site.faults["/b.mp4"] = ["ok", 503, "ok", "cut"]
    site.faults["/c.mp4"] = ["ok", "stuck"]
    sources = write_list(
        tmp_path / "s.yaml", "".join(f"  - {{source: '{site.url(f'/{name}.mp4')}', cut: fixed}}\n" for name in "abc")
    )
    # Lossless, to compare pixels: x264 does not give the same bytes every time.
    words = [str(sources), "--scene-length", "20", "--minimum-size", "1", "--encoding", "lossless", "--output"]
    with small_ray(cpus=2, megabytes=80):
        killer = Thread(target=kill_the_reader, args=(site,))
        killer.start()
        main([*words, str(tmp_path / "ray"), "--workers", "2", "--strict"])
        killer.join()
    assert site.asked("/c.mp4")[-1].first_byte > 0  # started again, where the lost process had stopped
    site.log.clear()
    alone = prepare(tmp_path / "alone", *words[:-1], "--downloads", tmp_path / "ray" / "downloads")
    assert not site.log
    together = ClipStore.open(tmp_path / "ray")
    assert [(s.number, s.source, s.frames) for s in together.scenes] == [
        (s.number, s.source, s.frames) for s in alone.scenes
    ]
    assert len(together.scenes) == 9
    for scene, same in zip(together.scenes, alone.scenes, strict=True):
        frames, expected = (list(open_clip(store.path, s).frames()) for store, s in ((together, scene), (alone, same)))
        assert np.array_equal(frames, expected)


def kill_the_reader(site: Site) -> None:
    """Kill the task that holds the partial download of /c.mp4, for which the server has fallen silent."""
    name = hashlib.sha256(site.url("/c.mp4").encode()).hexdigest()[:24]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if f"{name}." in os.readlink(link):
                    os.kill(int(link.parts[2]), signal.SIGKILL)
                    return
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_store_on_an_object_store(tmp_path: Path, site: Site) -> None:
    film = write_frames(tmp_path / "film.mp4", np.concatenate([shot(1, 25), shot(3, 40)]))
    with s3_server() as server:
        with server.files().open_output_stream(f"{BUCKET}/films/c.mp4") as stream:
            stream.write(site.files["/film.mp4"])
        words = [str(film), "s3://clips-of-tests/films/c.mp4", site.url("/film.mp4"), "--scene-length", "20"]
        words += ["--cut", "detected", "--minimum-size", "1", "--downloads", str(tmp_path / "d"), "--workers", "1"]
        words += ["--output", server.uri("store")]
        main([*words[:1], *words[3:]])
        rows = [(2000, 0, 20), (2001, 25, 20), (2002, 45, 20)]
        assert [(s.number, s.source_start, s.frames) for s in ClipStore.open(server.uri("store")).scenes] == rows
        written = [file.mtime for file in Location.of(server.uri("store/clips")).entries()]
        words[words.index("detected")] = "fixed"
        with pytest.raises(UserError, match="use the options of the first run"):
            main(words)
        main([*words, "--first-scene", "3000"])
        scenes = ClipStore.open(server.uri("store")).scenes
        assert len(scenes) == 3 + 3 + 5 + 5
        assert [file.mtime for file in Location.of(server.uri("store/clips")).entries()][:3] == written
        main(["--verify", "--output", server.uri("store")])
        (Location.of(server.uri("store")) / scenes[5].file).write_bytes(b"other bytes")
        with pytest.raises(UserError, match="1 of 16 scenes are damaged"):
            main(["--verify", "--output", server.uri("store")])
        main([*words, "--first-scene", "3000", "--verify"])
        main(["--verify", "--output", server.uri("store")])

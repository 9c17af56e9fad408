"""Downloads through yt-dlp from a real web server on loopback, and archives."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.prepare.archives import unpack
from tecogan_dist.data.prepare.download import NoSpace, Retrying, Unavailable, describe, downloaded, fetch
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import Damaged
from tests.support.small_disk import small_disk
from tests.support.video_files import write_video
from tests.support.web_server import Site, serving

QUICK = Retrying(attempts=4, first_pause=0.05)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving() as site:
        site.files["/film.mp4"] = write_video(tmp_path / "served.mp4", 100, height=120, width=160).read_bytes()
        site.files["/page.html"] = b"<html><head><title>A page</title></head><body>no video</body></html>"
        yield site


def test_a_file_comes_whole_under_a_name_of_our_own_and_only_once(tmp_path: Path, site: Site) -> None:
    folder = tmp_path / "downloads"
    url = site.url("/film.mp4?name=../../evil%2f..%2fx.sh")
    assert downloaded(url, folder) is None
    path = fetch(url, folder, retrying=QUICK)
    assert path.read_bytes() == site.files["/film.mp4"]
    assert path.parent == folder
    assert len(path.stem) == 24
    assert path.suffix == ".mp4"
    asked = len(site.log)
    assert fetch(url, folder, retrying=QUICK) == path == downloaded(url, folder)
    assert len(site.log) == asked
    assert [file.name for file in folder.iterdir()] == [path.name]


def test_a_busy_server_is_asked_again_and_a_cut_download_goes_on(tmp_path: Path, site: Site) -> None:
    data = site.files["/film.mp4"]
    # The first request is yt-dlp's look at the page.
    site.faults["/film.mp4"] = [503, "ok", 500, "ok", "cut", "ok", "cut"]
    path = fetch(site.url("/film.mp4"), tmp_path / "d", retrying=Retrying(attempts=6, first_pause=0.05))
    assert path.read_bytes() == data
    ranges = [request.first_byte for request in site.log if request.status == 206]
    assert len(ranges) == 2
    assert 0 < ranges[0] < ranges[1] < len(data)


def test_a_later_run_goes_on_with_a_partial_download(tmp_path: Path, site: Site) -> None:
    folder = tmp_path / "d"
    site.faults["/film.mp4"] = ["ok", "cut"]
    with pytest.raises(UserError, match=r"broke off .* 1 times: run it again later, it continues where it stopped"):
        fetch(site.url("/film.mp4"), folder, retrying=Retrying(attempts=1))
    (partial,) = folder.iterdir()
    assert partial.suffix == ".part"
    kept = partial.stat().st_size
    assert kept > 1000
    site.log.clear()
    assert fetch(site.url("/film.mp4"), folder, retrying=QUICK).read_bytes() == site.files["/film.mp4"]
    assert [request.first_byte for request in site.log] == [0, kept]


def test_a_killed_download_is_resumed(tmp_path: Path, site: Site) -> None:
    folder = tmp_path / "d"
    site.faults["/film.mp4"] = ["ok", "stuck"]
    code = "import sys; from pathlib import Path; from tecogan_dist.data.prepare.download import fetch; "
    code += "fetch(sys.argv[1], Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, site.url("/film.mp4"), str(folder)])
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.part")) or not next(folder.glob("*.part")).stat().st_size:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=30)
    site.log.clear()
    assert fetch(site.url("/film.mp4"), folder, retrying=QUICK).read_bytes() == site.files["/film.mp4"]
    assert site.log[-1].status == 206
    assert site.log[-1].first_byte > 0


def test_a_server_that_falls_silent_counts_as_cut_and_a_slow_one_does_not(tmp_path: Path, site: Site) -> None:
    impatient = Retrying(attempts=2, first_pause=0.05, timeout=1)
    site.faults["/film.mp4"] = ["ok", "stuck"]
    assert fetch(site.url("/film.mp4"), tmp_path / "a", retrying=impatient).read_bytes() == site.files["/film.mp4"]
    assert site.log[-1].first_byte > 0
    site.bytes_per_second = len(site.files["/film.mp4"]) / 1.5
    assert fetch(site.url("/film.mp4"), tmp_path / "b", retrying=impatient).read_bytes() == site.files["/film.mp4"]


def test_a_video_in_segments_is_put_together(tmp_path: Path, site: Site) -> None:
    """HLS, as big sites serve it, without an ffmpeg program."""
    with (
        av.open(str(tmp_path / "served.mp4")) as film,
        av.open(str(tmp_path / "film.m3u8"), "w", format="hls", options={"hls_time": "1", "hls_list_size": "0"}) as hls,
    ):
        stream = hls.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                hls.mux(packet)
    segments = sorted(tmp_path.glob("film*.ts"))
    assert segments
    for file in (tmp_path / "film.m3u8", *segments):
        site.files[f"/{file.name}"] = file.read_bytes()
    site.types["/film.m3u8"] = "application/vnd.apple.mpegurl"
    site.faults[f"/{segments[-1].name}"] = [503, "cut"]
    path = fetch(site.url("/film.m3u8"), tmp_path / "d", retrying=QUICK)
    served, read = (list(open_video(file).frames()) for file in (tmp_path / "served.mp4", path))
    assert len(read) == 100
    assert np.array_equal(np.stack(served), np.stack(read))
    assert [file.name for file in (tmp_path / "d").iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/none.mp4", None, "is gone (404 Not Found)"),
        ("/film.mp4", 410, "is gone (410 Gone)"),
        ("/film.mp4", 403, "is not available: the server answers 403 Forbidden"),
        ("/film.mp4", 451, "is not available: the server answers 451"),
        ("/page.html", None, "is a page without a video that yt-dlp finds"),
    ],
)
def test_what_will_not_pass_is_said_at_once(
    tmp_path: Path, site: Site, path: str, status: int | None, sentence: str
) -> None:
    if status is not None:
        site.faults[path] = [status]
    with pytest.raises(Unavailable) as caught:
        fetch(site.url(path), tmp_path / "d", retrying=Retrying(attempts=3, first_pause=60))
    assert str(caught.value).startswith(f"{site.url(path)} ")
    assert sentence in str(caught.value)
    assert len(site.log) == 1
    assert not list((tmp_path / "d").iterdir())


def test_a_link_to_a_video_that_answers_html_is_refused(tmp_path: Path, site: Site) -> None:
    site.files["/film2.mp4"] = site.files["/page.html"]
    site.types["/film2.mp4"] = "text/html; charset=utf-8"
    with pytest.raises(Unavailable, match="is a page without a video"):
        fetch(site.url("/film2.mp4"), tmp_path, retrying=QUICK)
    site.types["/film2.mp4"] = "video/mp4"  # a server that lies: it shows when the file is opened
    with pytest.raises(Damaged, match="cannot be read as a video"):
        open_video(fetch(site.url("/film2.mp4"), tmp_path, retrying=QUICK))


def test_a_server_that_is_not_there_is_tried_as_often_as_said(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be reached .* 3 times: run it again later"):
        fetch("http://127.0.0.1:9/film.mp4", tmp_path, retrying=Retrying(attempts=3, first_pause=0.2))
    assert time.monotonic() - began > 0.2 + 0.4


def test_a_page_that_shows_a_video_and_redirects_lead_to_it(tmp_path: Path, site: Site) -> None:
    site.files["/show.html"] = b"<html><body><video src='/film.mp4'></video></body></html>"
    site.redirects["/old"] = "/film.mp4"
    for path in ("/show.html", "/old"):
        assert fetch(site.url(path), tmp_path, retrying=QUICK).read_bytes() == site.files["/film.mp4"]
    site.files["/two.html"] = b"<html><body><video src='/film.mp4'></video><video src='/b.mp4'></video></body></html>"
    with pytest.raises(Unavailable, match="is a list of videos"):
        fetch(site.url("/two.html"), tmp_path, retrying=QUICK)


def test_files_of_this_machine_are_not_read_for_a_page(tmp_path: Path, site: Site) -> None:
    secret = write_video(tmp_path / "secret.mp4", 5)
    site.files["/show.html"] = f"<html><body><video src='file://{secret}'></video></body></html>".encode()
    with pytest.raises(UserError):
        fetch(site.url("/show.html"), tmp_path / "d", retrying=QUICK)
    assert not list((tmp_path / "d").iterdir())


def test_a_link_is_described_without_fetching_it(site: Site) -> None:
    assert describe(site.url("/film.mp4"), retrying=QUICK) == "mp4: film"
    with pytest.raises(Unavailable, match="is gone"):
        describe(site.url("/none.mp4"), retrying=QUICK)


def test_a_full_disk_is_said_and_the_download_goes_on_when_there_is_room(tmp_path: Path, site: Site) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        url = site.url("/film.mp4")
        with pytest.raises(
            NoSpace, match=r"the disk of the downloads is full: .* has 0\.\d MB, more than .* has room for"
        ):
            fetch(url, disk, retrying=Retrying(attempts=3, first_pause=60))
        assert not list(disk.iterdir())
        site.without_length.add("/film.mp4")  # nothing says how much there is
        with pytest.raises(NoSpace, match="the disk of the downloads is full"):
            fetch(url, disk, retrying=Retrying(attempts=3, first_pause=60))
        site.without_length.clear()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert fetch(site.url("/film.mp4"), disk, retrying=QUICK).read_bytes() == site.files["/film.mp4"]
        assert site.log[-1].first_byte > 10_000


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (level, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_an_archive_s_folders_and_videos_are_unpacked_under_names_of_our_own(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", 5).read_bytes()
    members = {f"vid4/walk/im{index}.png": png(index) for index in (10, 9, 1)}
    members |= {"vid4/city/0.jpg": png(3), "top.png": png(4), "films/a b.MP4": video, "readme.txt": b"text"}
    members |= {"__MACOSX/vid4/walk/._im1.png": b"x", "vid4/.hidden.png": b"x"}
    videos = unpack(zipped(tmp_path / "a.zip", members), tmp_path / "out")
    assert [video.name for video in videos] == ["", "films/a b.MP4", "vid4/city", "vid4/walk"]
    assert {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*")} == {
        "000000/00000000.png",
        "000001.mp4",
        "000002/00000000.jpg",
        "000003/00000000.png",
        "000003/00000001.png",
        "000003/00000002.png",
    }
    walk = [int(frame[0, 0, 0]) for frame in open_video(videos[3].path).frames()]
    assert walk == [1, 9, 10]
    assert open_video(videos[1].path).count == 5
    assert unpack(tmp_path / "a.zip", tmp_path / "out") == videos  # replaces what is there
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zip", "out", "v.mp4"]


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/evil.png", "..\\evil.png", "C:\\evil.png"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "a.zip", {"good/0.png": png(0), name: png(1)})
    with pytest.raises(UserError, match="holds a name that leads outside"):
        unpack(archive, tmp_path / "in" / "out")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.zip"]
    assert not (tmp_path / "in" / "out").exists()


def test_links_bombs_and_broken_archives_are_refused(tmp_path: Path) -> None:
    def refused(name: str, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            unpack(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".*"))

    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("frames")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
        archive.writestr("frames/0.png", png(0))
    refused("link.zip", "holds a link")

    free = os.statvfs(tmp_path)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(10**6))
        archive.infolist()[0].file_size = free.f_bavail * free.f_frsize  # what the directory says
    refused("bomb.zip", "GB free: make room")

    whole = zipped(
        tmp_path / "whole.zip", {"0.png": png(0), "1.png": np.random.default_rng(0).bytes(5000)}
    ).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    refused("cut.zip", r"cut\.zip cannot be read as a zip archive")
    position = whole.index(b"1.png") + 1000
    (tmp_path / "bits.zip").write_bytes(whole[:position] + b"\0\1\2" + whole[position + 3 :])
    refused("bits.zip", r"bits\.zip cannot be read as a zip archive")
    (tmp_path / "page.zip").write_bytes(b"<html></html>")
    refused("page.zip", r"page\.zip cannot be read as a zip archive")
    zipped(tmp_path / "text.zip", {"readme.txt": b""})
    refused("text.zip", "holds no videos")
    data = bytearray(whole)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    refused("locked.zip", "is encrypted")


def test_an_archive_comes_from_the_web(tmp_path: Path, site: Site) -> None:
    site.files["/frames.zip"] = zipped(
        tmp_path / "a.zip", {f"{index}.png": png(index) for index in range(3)}
    ).read_bytes()
    path = fetch(site.url("/frames.zip"), tmp_path / "d", retrying=QUICK)
    assert path.suffix == ".zip"
    (frames,) = unpack(path, tmp_path / "out")
    assert open_video(frames.path).count == 3

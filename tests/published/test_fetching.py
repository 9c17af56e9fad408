"""Published files from a real web server on loopback: dead addresses, wrong bytes, cuts, two processes, a bad cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.transfers import NoSpace
from tecogan_dist.base.web import Retrying
from tecogan_dist.published import cache as cache_module
from tecogan_dist.published import fetching
from tecogan_dist.published.cache import RECORD, Cache, Cached
from tecogan_dist.published.catalogue import Entry, parse
from tecogan_dist.published.fetching import Changed, NotFetched, obtain
from tecogan_dist.weights.format import read_weights_file
from tecogan_dist.weights.tensorflow.convert import convert
from tecogan_dist.weights.vgg import read_vgg
from tests.support.lpips_files import write_trunk
from tests.support.paths import REPOSITORY
from tests.support.published_files import checkpoint_zip, entry, scenes_zip, tarred, zipped
from tests.support.small_disk import small_disk
from tests.support.web_server import Site, serving
from tests.support.weights_files import assert_equal_states

torch.set_num_threads(1)
QUICK = Retrying(attempts=3, first_pause=0.02, timeout=2.0)
MODEL = checkpoint_zip(folder="model/")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        site.files |= {"/a/model.zip": MODEL, "/b/model.zip": MODEL}
        yield site


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def made(text: str) -> Entry:
    (found,) = parse(text, source="a test").values()
    return found


def weights(site: Site, *paths: str, more: str = "") -> Entry:
    return made(entry("tecogan", *map(site.url, paths or ("/a/model.zip",)), more=more))


def fetch(wanted: Entry, cache: Cache, *, again: bool = False) -> tuple[Cached, list[str]]:
    """The entry, and what was said."""
    said: list[str] = []
    return obtain(wanted, cache, say=said.append, again=again, retrying=QUICK), said


def test_weights_are_converted_kept_with_their_origin_and_fetched_once(
    tmp_path: Path, site: Site, cache: Cache
) -> None:
    found, said = fetch(weights(site), cache)
    (tmp_path / "model").mkdir()
    shutil.unpack_archive(_file(tmp_path / "model.zip", MODEL), tmp_path)
    convert(tmp_path / "model" / "TecoGAN", tmp_path / "expected.safetensors")
    assert found.path == cache.folder / "tecogan" / "tecogan.safetensors"
    assert_same(found.path, tmp_path / "expected.safetensors")

    record = json.loads((found.folder / RECORD).read_text())
    assert record["address"] == site.url("/a/model.zip")
    assert record["download"] == {"bytes": len(MODEL), "sha256": hashlib.sha256(MODEL).hexdigest()}
    assert record["files"] == {
        "tecogan.safetensors": {
            "bytes": found.path.stat().st_size,
            "sha256": hashlib.sha256(found.path.read_bytes()).hexdigest(),
        }
    }
    assert "2 residual blocks of 8 channels" in record["note"]
    assert said[0] == f"fetching tecogan from {site.url('/a/model.zip')}"
    assert "recorded" in said[-1]
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert not list((cache.folder / "downloads").iterdir())

    asked = len(site.log)
    assert fetch(weights(site), cache)[0].path == found.path
    assert len(site.log) == asked


def assert_same(first: Path, second: Path) -> None:
    """The same weights: the bytes of two files differ in the order of their metadata."""
    ours, theirs = read_weights_file(first), read_weights_file(second)
    assert ours.model == theirs.model
    assert_equal_states(ours.upscaler, theirs.upscaler)


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_addresses_are_tried_in_their_order_until_one_has_the_right_file(site: Site, cache: Cache) -> None:
    """One is gone, one has a page, one other weights, one other bytes; the fifth breaks off and is continued."""
    site.files |= {
        "/page/model.zip": b"<html>this domain is for sale</html>",
        "/other/model.zip": checkpoint_zip(blocks=3),
        "/hostile/model.zip": zipped({"../../TecoGAN.index": b"x"}),
    }
    site.faults["/b/model.zip"] = ["cut", 503, "cut"]
    paths = ("/gone/model.zip", "/page/model.zip", "/other/model.zip", "/hostile/model.zip", "/b/model.zip")
    found, said = fetch(weights(site, *paths, "/a/model.zip"), cache)
    assert found.record.address == site.url("/b/model.zip")
    assert [line.rpartition(" ")[2] for line in said if line.startswith("fetching")] == list(map(site.url, paths))
    assert not site.asked("/a/model.zip")
    assert sum(request.sent for request in site.asked("/b/model.zip")) == len(MODEL)
    assert sorted(path.name for path in cache.folder.iterdir()) == ["downloads", "tecogan"]
    assert not list((cache.folder / "downloads").iterdir())


@pytest.mark.parametrize("known", ["bytes", "sha256"])
def test_wrong_bytes_are_refused_and_the_next_address_is_asked(site: Site, cache: Cache, known: str) -> None:
    site.files["/a/model.zip"] = checkpoint_zip(seed=2) + (b"\0" if known == "bytes" else b"")
    value = len(MODEL) if known == "bytes" else hashlib.sha256(MODEL).hexdigest()
    wanted = weights(site, "/a/model.zip", "/b/model.zip", more=f"  {known}: {value}\n")
    found, said = fetch(wanted, cache)
    assert found.record.address == site.url("/b/model.zip")
    assert ("as published" in said[-1]) == (known == "sha256")
    site.files["/b/model.zip"] = site.files["/a/model.zip"]
    with pytest.raises(NotFetched, match=r"it has (\d+ bytes, not \d+|the SHA-256 [0-9a-f]{16}\.\.\., not)|0\.0 GB"):
        fetch(wanted, cache, again=True)
    assert fetch(wanted, cache)[0].record == found.record  # what was there stays


def test_when_all_addresses_are_dead_one_sentence_says_what_to_do_and_doing_it_helps(site: Site, cache: Cache) -> None:
    wanted = weights(site, "/gone/model.zip", "/lost/model.zip")
    with pytest.raises(NotFetched) as raised:
        fetch(wanted, cache)
    sentence = str(raised.value)
    assert sentence.count("is gone (404 Not Found)") == 2
    assert "with a browser" in sentence
    assert "tecogan convert" in sentence
    place = sentence.partition("put it at ")[2].partition(",")[0]
    assert place == str(cache.folder / "by-hand" / "model.zip")

    Path(place).write_bytes(b"<html>")  # what a browser saves of a page
    with pytest.raises(NotFetched, match=r"by-hand/model\.zip is no use: it is damaged or not an archive"):
        fetch(wanted, cache)
    Path(place).write_bytes(MODEL)
    found, _ = fetch(wanted, cache)
    assert found.record.address == place
    assert read_weights_file(found.path).model.blocks == 2


def test_what_has_no_address_can_be_put_there(cache: Cache) -> None:
    wanted = made(entry("tecogan-mini"))
    with pytest.raises(NotFetched, match=r"no address of tecogan-mini is known.*put its archive there"):
        fetch(wanted, cache)
    assert not cache.folder.exists()
    cache.by_hand(wanted).parent.mkdir(parents=True)
    cache.by_hand(wanted).write_bytes(MODEL)
    assert fetch(wanted, cache)[0].record.name == "tecogan-mini"


def test_again_is_the_same_file_or_is_refused(site: Site, cache: Cache) -> None:
    found, _ = fetch(weights(site), cache)
    again, _ = fetch(weights(site), cache, again=True)
    assert len(site.log) == 2
    assert again.record.download == found.record.download
    site.files["/a/model.zip"] = checkpoint_zip(seed=2)
    with pytest.raises(
        Changed, match=r"another file than when tecogan was first fetched .*: what the cache has is kept"
    ):
        fetch(weights(site), cache, again=True)
    assert fetch(weights(site), cache)[0].record == again.record
    shutil.rmtree(cache.folder / "tecogan")  # as the sentence says
    assert fetch(weights(site), cache)[0].record.download != found.record.download
    # A mirror may pack the same otherwise.
    assert fetch(weights(site, "/b/model.zip"), cache, again=True)[0].record.download == found.record.download


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def replace_by_fifo(folder: Path) -> None:
    (folder / RECORD).unlink()
    os.mkfifo(folder / RECORD)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "tecogan.safetensors"),
        lambda folder: (folder / "tecogan.safetensors").unlink(),
        lambda folder: (folder / "tecogan.safetensors").write_bytes(b""),
        lambda folder: (folder / RECORD).write_text(""),
        lambda folder: (folder / RECORD).write_text("{}"),
        lambda folder: (folder / RECORD).write_text((folder / RECORD).read_text().replace('"tecogan"', '"frvsr"')),
        lambda folder: (folder / RECORD).write_text(
            (folder / RECORD).read_text().replace("tecogan.safetensors", "../../x")
        ),
        replace_by_fifo,
        lambda folder: (
            (folder / "tecogan.safetensors").unlink(),
            (folder / "tecogan.safetensors").symlink_to("/dev/zero"),
        ),
    ],
)
def test_a_damaged_entry_is_fetched_again(site: Site, cache: Cache, damage: object) -> None:
    assert callable(damage)
    found, _ = fetch(weights(site), cache)
    before = read_weights_file(found.path).upscaler
    damage(found.folder)
    again, said = fetch(weights(site), cache)
    assert "tecogan in the cache is damaged and is fetched again" in said[0]
    assert_equal_states(read_weights_file(again.path).upscaler, before)


def test_a_partial_file_of_another_version_does_not_end_the_matter(site: Site, cache: Cache) -> None:
    """A server without marks, whose file changed but not its length: the whole is wrong, and is fetched once more."""
    site.files["/a/model.zip"] = MODEL[:-1] + b"\1"
    site.faults["/a/model.zip"] = ["cut", 503, 503]
    wanted = weights(site, more=f"  sha256: {hashlib.sha256(MODEL).hexdigest()}\n")
    with pytest.raises(NotFetched, match="answers 503"):
        fetch(wanted, cache)
    (partial,) = (path for path in (cache.folder / "downloads").iterdir() if not path.suffix)
    flip(partial)
    site.files["/a/model.zip"] = MODEL
    found, said = fetch(wanted, cache)
    assert "does not go with the rest" in said[1]
    assert found.record.download.bytes == len(MODEL)


def test_how_far_it_is_is_told_now_and_then(site: Site, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SECONDS_BETWEEN_LINES", 0.1)
    site.bytes_per_second = len(MODEL) / 1.0
    _, said = fetch(weights(site), cache)
    lines = [line for line in said if line.startswith("tecogan: ") and "MB/s" in line]
    assert len(lines) > 2
    assert all(re.fullmatch(r"tecogan: 0\.[01] of 0\.1 MB, \d\.\d\d MB/s(, \d s left)?", line) for line in lines)


def test_scenes_are_folders_of_images(site: Site, cache: Cache) -> None:
    site.files["/a/model.zip"] = scenes_zip("walk", "city", folder="HR/")
    found, _ = fetch(made(entry("vid4", site.url("/a/model.zip"), kind="scenes", more="  scenes: [city]\n")), cache)
    assert found.path == cache.folder / "vid4"
    assert sorted(path.name for path in found.path.iterdir()) == ["city", RECORD, "walk"]
    assert found.record.note == "city (2 frames), walk (2 frames)"
    (found.path / "city" / "0002.png").write_bytes(b"")
    assert "is damaged" in fetch(made(entry("vid4", site.url("/a/model.zip"), kind="scenes")), cache)[1][0]


def test_torchvisions_vgg19_becomes_a_file_of_ours_that_means_the_same(
    tmp_path: Path, site: Site, cache: Cache
) -> None:
    import torchvision

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in torchvision.models.vgg19().features.state_dict().items()}
    torch.manual_seed(1)
    state = {f"features.{name}": torch.randn(shape) * 0.01 for name, shape in shapes.items()}
    torch.save(state, tmp_path / "vgg19-x.pth")
    site.files["/a/vgg19-x.pth"] = (tmp_path / "vgg19-x.pth").read_bytes()
    text = entry("vgg19", site.url("/a/vgg19-x.pth"), kind="vgg").replace("model.zip\n", "vgg19-x.pth\n", 1)
    found, _ = fetch(made(text), cache)
    assert found.path.name == "vgg19.safetensors"
    ours, theirs = read_vgg(str(found.path), seed=1), read_vgg(str(tmp_path / "vgg19-x.pth"), seed=1)
    assert ours.preprocessing == theirs.preprocessing == "torchvision"
    assert all(torch.equal(ours.state[name], tensor) for name, tensor in theirs.state.items())

    site.files["/a/vgg19-x.pth"] = b"\x80\x04\x95not a state dict"
    shutil.rmtree(found.folder)
    with pytest.raises(NotFetched, match="not a state dict of plain tensors"):
        fetch(made(text), cache)


def test_lpips_trunk_is_kept_as_it_is(tmp_path: Path, site: Site, cache: Cache) -> None:
    site.files["/a/alex.pth"] = write_trunk(tmp_path / "alex.pth").read_bytes()
    text = entry("lpips-alex", site.url("/a/alex.pth"), kind="lpips").replace("model.zip\n", "alex.pth\n", 1)
    assert fetch(made(text), cache)[0].path.read_bytes() == site.files["/a/alex.pth"]


def test_an_archive_of_another_kind(site: Site, cache: Cache) -> None:
    site.files["/a/model.tar.gz"] = tarred({"TecoGAN.index": b"x"})
    text = entry("tecogan", site.url("/a/model.tar.gz")).replace("model.zip\n", "model.tar.gz\n", 1)
    with pytest.raises(NotFetched, match=r"TecoGAN.*(damaged|table|TensorFlow)"):
        fetch(made(text), cache)
    assert sorted(path.name for path in cache.folder.iterdir()) == ["by-hand", "downloads"]


FETCHING = """
import sys
from pathlib import Path
from tecogan_dist.base.web import Retrying
from tecogan_dist.published.cache import Cache
from tecogan_dist.published.catalogue import parse
from tecogan_dist.published.fetching import obtain
(entry,) = parse(sys.argv[1], source="x").values()
print(obtain(entry, Cache(Path(sys.argv[2])), retrying=Retrying(attempts=3, first_pause=0.02)).path)
"""


def started(text: str, cache: Cache) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", FETCHING, text, str(cache.folder)]
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_processes_one_fetches_and_the_other_waits(site: Site, cache: Cache) -> None:
    site.bytes_per_second = len(MODEL) / 4  # long enough for both to be there
    text = entry("tecogan", site.url("/a/model.zip"))
    both = [started(text, cache) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert {out for out, _ in results} == {f"{cache.folder}/tecogan/tecogan.safetensors\n"}
    assert len(site.log) == 1
    assert any("waiting for another process (pid" in error for _, error in results)
    assert sorted(path.name for path in cache.folder.iterdir()) == ["downloads", "tecogan"]


def test_after_kill_9_the_next_one_goes_on_where_it_stopped(site: Site, cache: Cache) -> None:
    site.bytes_per_second = len(MODEL) / 4
    text = entry("tecogan", site.url("/a/model.zip"))
    first = started(text, cache)
    until = time.monotonic() + 60
    while not any(path.stat().st_size > 1000 for path in (cache.folder / "downloads").glob("*") if not path.suffix):
        assert time.monotonic() < until
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    site.bytes_per_second = None
    found, _ = fetch(made(text), cache)
    assert read_weights_file(found.path).model.blocks == 2
    assert site.log[-1].first_byte > 0
    assert sorted(path.name for path in cache.folder.iterdir()) == ["downloads", "tecogan"]


@pytest.mark.parametrize("kilobytes", [200, 300, 420])
def test_a_disk_that_is_full_when_it_is_unpacked_keeps_what_was_fetched(
    tmp_path: Path, site: Site, kilobytes: int
) -> None:
    """Before the unpacking, in it, and in the conversion; the next command asks for nothing."""
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        cache = Cache(disk / "cache")
        both = weights(site, "/a/model.zip", "/b/model.zip")
        with pytest.raises(NoSpace, match=r"make room and run it again.* what was fetched is kept\.$"):
            fetch(both, cache)
        assert [request.path for request in site.log] == ["/a/model.zip"]
        assert sorted(path.name for path in cache.folder.iterdir()) == ["downloads"]
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True, timeout=30)
        assert read_weights_file(fetch(both, cache)[0].path).model.blocks == 2
    assert len(site.log) == 1


def test_a_reason_names_no_file_that_is_gone(site: Site, cache: Cache) -> None:
    site.files["/a/model.zip"] = b"<html>this domain is for sale</html>"
    with pytest.raises(NotFetched, match=r"/a/model\.zip: what it sends is damaged or not an archive") as raised:
        fetch(weights(site), cache)
    assert "downloads" not in str(raised.value)
    with pytest.raises(NotFetched) as raised:
        fetch(weights(site, more="  bytes: 10\n"), cache)
    assert f"({site.url('/a/model.zip')} has 0.0 GB: " in str(raised.value)  # its address once


def test_a_cache_that_cannot_be_written_is_read_all_the_same(
    site: Site, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = fetch(weights(site), cache)
    cache.folder.chmod(0o500)
    try:
        assert fetch(weights(site), cache)[0].path == found.path
        if os.geteuid() == 0:  # who may write everywhere: as a disk that is mounted for reading answers
            monkeypatch.setattr(cache_module.os, "access", lambda *_words: False)
        other = dataclasses.replace(weights(site), name="frvsr")
        with pytest.raises(UserError, match=r"the cache .* cannot be written: .*\$TECOGAN_CACHE"):
            fetch(other, cache)
    finally:
        cache.folder.chmod(0o700)


def test_a_cache_that_everybody_may_write_to_is_not_trusted(site: Site, cache: Cache) -> None:
    fetch(weights(site), cache)
    cache.folder.chmod(0o777)
    with pytest.raises(UserError, match="everybody may write to the cache"):
        fetch(weights(site), cache)


@pytest.mark.parametrize("place", ["/dev/null/cache", "/proc/cache"])
def test_a_cache_that_cannot_be_made_is_a_sentence(site: Site, place: str) -> None:
    with pytest.raises(UserError, match=r"\$TECOGAN_CACHE"):
        fetch(weights(site), Cache(Path(place)))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    for name, value, expected in (
        ("TECOGAN_CACHE", "/a/b", "/a/b"),
        ("TECOGAN_CACHE", "c", str(tmp_path / "c")),
        ("XDG_CACHE_HOME", "/x", "/x/tecogan"),
        ("XDG_CACHE_HOME", "x", "/home/somebody/.cache/tecogan"),
        ("XDG_CACHE_HOME", "", "/home/somebody/.cache/tecogan"),
    ):
        monkeypatch.delenv("TECOGAN_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv(name, value)
        assert str(Cache.of_environment().folder) == expected
    monkeypatch.setenv("TECOGAN_CACHE", "s3://bucket/cache")
    with pytest.raises(UserError, match="a cache is a local folder"):
        Cache.of_environment()

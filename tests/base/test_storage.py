from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tecogan_dist.base import object_stores, storage, waiting
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tests.support.s3_server import BUCKET, S3Server
from tests.support.small_disk import small_disk

SECONDS_TO_FAIL = 40.0
"""A few on an idle machine, 15 for a server that accepts and never answers."""


@pytest.fixture(params=["local", "s3", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server, gs_address: str) -> Location:
    """An empty folder of each kind."""
    uris = {"local": str(tmp_path / "place"), "s3": server.uri(tmp_path.name), "gs": gs_address.format(tmp_path.name)}
    return Location(uris[request.param])


def names(place: Location) -> list[str]:
    return sorted(entry.base_name for entry in place.entries())


def test_files_come_back_as_they_were_put(place: Location, tmp_path: Path) -> None:
    assert not place.exists()
    assert names(place) == []
    (place / "folder/small").write_bytes(b"one")
    (place / "folder/small").write_bytes(b"two")
    assert (place / "folder/small").read_bytes() == b"two"
    (place / "beside").write_bytes(b"")
    assert place.names() == ["beside", "folder"]
    assert (place / "nothing").names() == []
    (place / "beside").delete()

    data = bytes(range(256)) * (25 * 2**12)  # 25 MiB: several parts of an upload
    (tmp_path / "source").write_bytes(data)
    large = place / "folder" / "large"
    large.put(tmp_path / "source")
    assert (large.name, large.size(), large.sha256()) == ("large", len(data), hashlib.sha256(data).hexdigest())
    large.fetch(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert names(place / "folder") == ["large", "small"]
    assert names(place) == ([] if place.uri.startswith("gs:") else ["folder"])
    assert place.exists()
    assert large.exists()
    large.delete()
    assert not large.exists()
    assert names(place / "folder") == ["small"]


def test_what_is_not_there_is_a_file_not_found_error(place: Location, tmp_path: Path) -> None:
    missing = place / "missing"
    for action in (missing.read_bytes, missing.sha256, missing.size, missing.delete):
        with pytest.raises(FileNotFoundError):
            action()
    with pytest.raises(FileNotFoundError):
        missing.fetch(tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_file_is_replaced_as_a_whole(place: Location) -> None:
    versions = [bytes([value]) * 300_000 for value in range(2)]
    file = place / "file"
    file.write_bytes(versions[0])
    ended = threading.Event()
    seen = set()

    def read() -> None:
        while not ended.is_set():
            seen.add(file.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for count in range(40):
        file.write_bytes(versions[count % 2])
    ended.set()
    reader.join()
    assert seen <= set(versions)
    assert names(place) == ["file"]


def test_addresses_keep_their_options_and_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Location("s3://bucket/store/?endpoint_override=127.0.0.1:9000&scheme=http") / "clips"
    assert str(child) == "s3://bucket/store/clips?endpoint_override=127.0.0.1:9000&scheme=http"
    assert (child.name, child.is_local, child.absolute()) == ("clips", False, child)
    monkeypatch.chdir(tmp_path)
    assert Location("a b/c?d").absolute().path == tmp_path / "a b" / "c?d"
    assert Location.of(Path("x")) == Location("x") == Location.of(Location("x"))


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("http://host/store", "is not a place for files"),
        ("s3:/bucket/store", "is not a place for files"),  # what pathlib makes of an address
        ("s3:///store", "is not a place for files"),
        ("s3://bucket/store?regoin=x", "unknown option 'regoin': use endpoint_override, region, scheme"),
        ("gs://bucket/store?region=x", "unknown option 'region': use endpoint_override, scheme"),
        ("s3:bucket/store", "is not a place for files"),
        ("file:///tmp/store", "give the path alone, without file:"),
        ("S3://bucket/store", "write s3:// in small letters"),
        ("s3://b/store", "'b' where the name of a bucket is wanted"),
        ("s3://buck et/store", "'buck et' where the name of a bucket is wanted"),
        ("s3://bucket/../store", "has an empty name, '.', '..' or a control character"),
        ("s3://bucket//store", "has an empty name"),
        ("s3://bucket/a\nb", "or a control character"),
        ("s3://bucket/" + "x" * 2000, "is too long: a name on an object store may have 1024 bytes"),
        ("s3://bucket/x?endpoint_override=", "an endpoint_override that is not an address: write it as HOST:PORT"),
        ("s3://bucket/x?endpoint_override=host:99999", "an endpoint_override that is not an address"),
        ("s3://bucket/x?scheme=ftp", "has scheme='ftp': write http or https"),
        ("s3://bucket/x?region=a&region=b", "has an option twice"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(uri: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Location(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/store",
        "s3://bucket/store?endpoint_override=key:secret@host",
        "s3://bucket/store?token=secret",
        "https://host/store?token=secret",
        "ftp://key:secret@host/store",
    ],
)
def test_credentials_of_an_address_are_not_repeated(uri: str) -> None:
    with pytest.raises(UserError) as caught:
        Location(uri)
    assert "secret" not in str(caught.value)


def test_home_folders_are_those_of_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Location.of("~/run") == Location(f"{tmp_path}/run")
    with pytest.raises(UserError, match="a user who is not known here"):
        Location.of("~no-such-user/run")
    (tmp_path / "~film").write_bytes(b"x")
    assert Location.of("~film").read_bytes() == b"x"


def test_reading_has_a_limit(tmp_path: Path) -> None:
    file = Location.of(tmp_path / "file")
    file.write_bytes(b"12345")
    assert file.read_bytes(limit=5) == b"12345"
    with pytest.raises(UserError, match="has more than the 4 bytes that such a file may have"):
        file.read_bytes(limit=4)


def test_a_server_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """One byte after the other, so that no library below takes it for silent; and no thread is left behind."""
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(waiting, "SAY_SECONDS", 0.2)
    monkeypatch.setattr(object_stores, "ATTEMPTS", 2)
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not ended.wait(0.1):
                connection.sendall(b"<")

    def accept(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        address = f"endpoint_override=127.0.0.1:{listening.getsockname()[1]}&scheme=http"
        check_failure(Location(f"s3://trickling-bucket/store?{address}").entries, "read: its server is too slow")
        ended.set()
    assert "waiting for s3://trickling-bucket/store" in capfd.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name == "within"]


def check_failure(action: Callable[[], object], sentence: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=sentence) as caught:
        action()
    assert time.monotonic() - began < SECONDS_TO_FAIL
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_missing_bucket_is_one_sentence(tmp_path: Path, scheme: str, gs_address: str) -> None:
    query = gs_address.partition("?")[2] if scheme == "gs" else ""
    place = Location(f"{scheme}://no-such-bucket/store?{query}")
    (tmp_path / "source").write_bytes(b"data")
    check_failure(place.exists, "cannot be read: there is no bucket no-such-bucket, make it or check its name")
    check_failure(lambda: (place / "file").write_bytes(b"data"), "cannot be written: there is no bucket no-such-bucket")
    check_failure(lambda: (place / "file").put(tmp_path / "source"), "written: there is no bucket no-such-bucket")


@pytest.mark.usefixtures("server")
def test_no_server_is_one_sentence_after_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = Location(f"s3://{BUCKET}/store?endpoint_override=127.0.0.1:{port}&scheme=http")
    (tmp_path / "source").write_bytes(b"data")
    check_failure(place.exists, "cannot be read: its server does not answer")
    check_failure(lambda: place.fetch(tmp_path / "target"), "cannot be read: its server does not answer")
    check_failure(lambda: place.put(tmp_path / "source"), "cannot be written: its server does not answer")
    assert list(tmp_path.iterdir()) == [tmp_path / "source"]


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_silent_server_is_one_sentence_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        place = Location(f"s3://{BUCKET}/store?endpoint_override=127.0.0.1:{port}&scheme=http")
        check_failure(place.entries, "cannot be read: its server does not answer")


def test_refused_access_is_one_sentence(server: S3Server, tmp_path: Path) -> None:
    place = Location.of(server.uri("forbidden"))
    (tmp_path / "source").write_bytes(b"data")
    (place / "file").write_bytes(b"data")
    server.require_credentials(True)
    try:
        check_failure((place / "file").read_bytes, "cannot be read: access is refused, check the credentials")
        check_failure(lambda: (place / "file").put(tmp_path / "source"), "cannot be written: access is refused")
        check_failure(place.entries, "cannot be read: access is refused")
    finally:
        server.require_credentials(False)
    assert (place / "file").read_bytes() == b"data"


def test_an_interrupted_upload_leaves_nothing(server: S3Server) -> None:
    """Arrow would complete it with the bytes so far. Reading this file fails, as a broken disk does."""
    file = Location.of(server.uri("interrupted")) / "file"
    with pytest.raises(UserError, match="cannot be written"):
        file.put(Path("/proc/self/mem"))
    assert not file.exists()


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(server: S3Server, tmp_path: Path) -> None:
    remote = Location.of(server.uri("large"))
    remote.write_bytes(bytes(400_000))
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        file = Location.of(disk / "file")
        file.write_bytes(b"before")
        check_failure(
            lambda: file.write_bytes(bytes(400_000)), r"disk/file cannot be written \(No space left on device"
        )
        check_failure(lambda: remote.fetch(file.path), r"disk/file cannot be written \(No space left on device")
        assert file.read_bytes() == b"before"
        assert list(disk.iterdir()) == [file.path]


def test_a_file_from_another_disk_is_put_as_a_whole_too(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        (disk / "source").write_bytes(b"data")
        Location.of(tmp_path / "folder" / "file").put(disk / "source")
        assert (tmp_path / "folder" / "file").read_bytes() == b"data"
        assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]
        (tmp_path / "large").write_bytes(bytes(400_000))
        check_failure(lambda: Location.of(disk / "file").put(tmp_path / "large"), "No space left on device")
        assert list(disk.iterdir()) == [disk / "source"]


def test_an_endpoint_that_is_no_address_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    check_failure(Location("s3://bucket/store").entries, r"AWS_ENDPOINT_URL is 'localhost:9000': write it as http://")


def test_a_folder_that_may_not_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    check_failure(Location.of(tmp_path / "file").entries, r"file cannot be read \(Not a directory\)")
    check_failure(lambda: (Location.of(tmp_path / "file") / "x").write_bytes(b"x"), r"cannot be written \(File exists")
    check_failure(Location.of(tmp_path).read_bytes, "is a folder where an ordinary file is wanted")

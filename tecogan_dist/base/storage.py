"""Files at a local path, on s3:// or on gs://, behind one small class.

A file appears under its name when it is complete and never before: locally by renaming, on an object store because a
PUT is like that. Credentials come from the environment only (AWS_ACCESS_KEY_ID and its kin, ~/.aws, the machine's role;
GOOGLE_APPLICATION_CREDENTIALS), and so does the endpoint of an S3 server that is not Amazon's: AWS_ENDPOINT_URL.
Every wait for a server has an end, and nothing but a regular file is ever read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs
from pyarrow.fs import FileInfo, FileSystem, FileType

from tecogan_dist.base import object_stores
from tecogan_dist.base.atomic import replacing, reported_local, sync
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import open_regular
from tecogan_dist.base.waiting import TooSlowError, within

CHUNK_BYTES = 8 * 2**20
READ_BYTES = 2**30
"""What is read into memory at once has so many bytes at most, unless the caller says otherwise."""
ANSWER_SECONDS = 120.0
"""For which a server may think about one request; to carry bytes it gets more."""
SLOWEST = 100e3
"""Bytes per second of a connection that is still worth waiting for."""
T = TypeVar("T")


class UnreachableError(UserError):
    """No answer: worth another try later."""


@dataclasses.dataclass(frozen=True)
class Location:
    """A file or a folder. To read or delete what is not there raises ``FileNotFoundError``, for the caller to word.

    Everything else that fails outside this process (no bucket, credentials, permission, network or space) is a
    :class:`UserError`. ``uri`` is a local path, ``s3://BUCKET/NAME`` or ``gs://BUCKET/NAME``; where the environment
    does not say it, ``?endpoint_override=HOST:PORT&scheme=http&region=NAME`` may follow.
    """

    uri: str

    def __post_init__(self) -> None:
        object_stores.parse(self.uri)

    @classmethod
    def of(cls, place: str | Path | Location) -> Location:
        """A place as a user names it. ``~`` and ``~NAME`` stand for home folders, as in a shell.

        Raises :class:`UserError` for what cannot be meant.
        """
        if isinstance(place, Location):
            return place
        name = str(place)
        if name.startswith("~"):
            name = _at_home(name)
        return cls(name)

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> Location:
        if self.is_local:
            return Location(str(self.path / name))
        address, mark, query = self.uri.partition("?")
        return Location(f"{address.rstrip('/')}/{name}{mark}{query}")

    @property
    def name(self) -> str:
        return object_stores.parse(self.uri).name.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The folder that it is in."""
        if self.is_local:
            return Location(str(self.path.parent))
        address, mark, query = self.uri.partition("?")
        return Location(f"{address.rstrip('/').rpartition('/')[0]}{mark}{query}")

    @property
    def is_local(self) -> bool:
        return not object_stores.parse(self.uri).scheme

    @property
    def is_bucket(self) -> bool:
        """Whether it is a whole bucket of an object store."""
        parts = object_stores.parse(self.uri)
        return bool(parts.scheme) and parts.name == parts.bucket

    @property
    def path(self) -> Path:
        """Of a local file or folder. Raises :class:`UserError` for a remote one."""
        if not self.is_local:
            raise UserError(f"{self} is not on this machine: give a local path.")
        return Path(self.uri)

    def absolute(self) -> Location:
        """The same place for a process with another working directory."""
        if not self.is_local:
            return self
        try:
            return Location(str(self.path.resolve()))
        except RuntimeError as error:  # Python 3.11 and 3.12: a circle
            raise UserError(
                f"{self} cannot be found: its symbolic links lead in a circle, mend them or give another path."
            ) from error
        except OSError as error:
            raise UserError(f"{self} cannot be found ({os.strerror(error.errno or 0)}): give its full path.") from error

    def exists(self) -> bool:
        """Whether a file, or a folder (on an object store one that holds something), is there."""
        if self.is_local:
            return self._status() is not None
        with self._reported("read"):
            files, name = self.filesystem()
            if self._answer(lambda: files.get_file_info(name)).type != FileType.NotFound:
                return True
            bucket = object_stores.parse(self.uri).bucket
            if bucket and self._answer(lambda: files.get_file_info(bucket)).type == FileType.NotFound:
                raise UserError(f"{self} cannot be read: there is no bucket {bucket}, make it or check its name.")
        return False

    def is_file(self) -> bool:
        """Whether a file is there."""
        if self.is_local:
            status = self._status()
            return status is not None and stat.S_ISREG(status.st_mode)
        with self._reported("read"):
            files, name = self.filesystem()
            return bool(self._answer(lambda: files.get_file_info(name)).type == FileType.File)

    def size(self) -> int:
        """Bytes of the file."""
        if self.is_local:
            status = self._status()
            if status is None or not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(self.uri)
            return status.st_size
        with self._reported("read"):
            files, name = self.filesystem()
            info = self._answer(lambda: files.get_file_info(name))
        if info.type != FileType.File:
            raise FileNotFoundError(self.uri)
        return int(info.size)

    def entries(self) -> list[FileInfo]:
        """What is directly in this folder, each with ``base_name``, ``size``, ``mtime``; nothing if it is not there.

        Arrow does not list the folders in a folder of gs://.
        """
        with self._reported("read"):
            files, name = self.filesystem()
            selector = pyarrow.fs.FileSelector(name, allow_not_found=True)
            return list(self._answer(lambda: files.get_file_info(selector)))

    def names(self) -> list[str]:
        """Names of the files and folders directly in this folder, sorted; nothing if it is not there."""
        if self.is_local:
            with self._reported("read"), contextlib.suppress(FileNotFoundError):
                return sorted(os.listdir(self.path))
            return []
        with self._reported("read"):
            files, name = self.filesystem()
            # Arrow does not list the folders in a folder of gs://, but the files below them.
            selector = pyarrow.fs.FileSelector(name, allow_not_found=True, recursive=files.type_name == "gcs")
            listed = self._answer(lambda: files.get_file_info(selector))
            below = (entry.path.removeprefix(name).lstrip("/") for entry in listed)
            return sorted({path.partition("/")[0] for path in below})

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes, piece by piece."""
        with self._reported("read"):
            if self.is_local:
                with open_regular(self.path) as file:
                    while chunk := file.read(CHUNK_BYTES):
                        yield chunk
                return
            files, name = self.filesystem()
            stream = self._answer(lambda: files.open_input_stream(name))
            try:
                while chunk := self._answer(lambda: stream.read(CHUNK_BYTES), size=CHUNK_BYTES):
                    yield chunk
            finally:
                self._answer(stream.close)

    def read_bytes(self, limit: int | None = None) -> bytes:
        """All of the file. Raises :class:`UserError` if it has more than ``limit`` bytes (default: ``READ_BYTES``)."""
        limit = READ_BYTES if limit is None else limit
        pieces, size = [], 0
        for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise UserError(f"{self} has more than the {limit} bytes that such a file may have: give another one.")
            pieces.append(chunk)
        return b"".join(pieces)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def fetch(self, target: Path) -> None:
        """Copy the file to the local path ``target``, whose folder exists."""
        with reported_local(target), replacing(target) as partial, open(partial, "wb") as file:
            for chunk in self.chunks():
                file.write(chunk)

    def write_bytes(self, data: bytes) -> None:
        """Make or replace the file; missing folders are made."""
        if self.is_local:
            make_folder(self.path.parent)
            with reported_local(self.path), replacing(self.path) as partial:
                partial.write_bytes(data)
            return
        with self._reported("written"):
            files, name = self.filesystem()

            def write() -> None:
                with files.open_output_stream(name) as stream:
                    stream.write(data)

            self._answer(write, size=len(data))

    def put(self, source: Path) -> None:
        """Make or replace the file with the local file ``source``, which is moved if it goes to the same disk.

        Missing folders are made. A PUT that is interrupted by an exception is taken back.
        """
        if self.is_local:
            make_folder(self.path.parent)
            with reported_local(self.path):
                if source.stat().st_dev == self.path.parent.stat().st_dev:
                    sync(source)
                    os.replace(source, self.path)
                else:
                    with replacing(self.path) as partial:
                        shutil.copyfile(source, partial)
            return
        with open(source, "rb") as file, self._reported("written"):
            files, name = self.filesystem()
            stream = self._answer(lambda: files.open_output_stream(name))
            size = 0
            try:
                while chunk := file.read(CHUNK_BYTES):
                    size += len(chunk)
                    self._answer(functools.partial(stream.write, chunk), size=size)
            except BaseException:
                # Arrow completes an upload when its stream goes away; there is no way to abandon it.
                self._answer(stream.close, size=size)
                self._answer(lambda: files.delete_file(name))
                raise
            self._answer(stream.close, size=size)  # Arrow may have kept all of it until now

    def delete(self) -> None:
        """Remove a file; a link to one is removed itself."""
        with self._reported("removed"):
            if self.is_local:
                os.unlink(self.path)
            else:
                files, name = self.filesystem()
                self._answer(lambda: files.delete_file(name))

    def delete_folder(self) -> None:
        """Remove an empty folder; one that still holds something, or is not there, stays as it is.

        An object store keeps the name of a folder whose files were deleted one by one, until this is called.
        """
        if self.is_local:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
            return
        if self.names():
            return
        with self._reported("removed"), contextlib.suppress(FileNotFoundError):
            files, name = self.filesystem()
            if self._answer(lambda: files.get_file_info(name)).type == FileType.Directory:
                self._answer(lambda: files.delete_dir(name))

    def filesystem(self) -> tuple[FileSystem, str]:
        """Arrow's file system for this place, and its path there."""
        parts = object_stores.parse(self.uri)
        if not parts.scheme:
            return _local(), parts.name
        return object_stores.filesystem(parts, seconds=ANSWER_SECONDS), parts.name

    def _status(self) -> os.stat_result | None:
        """Of what is at this local path; None if nothing is."""
        with self._reported("read"):
            try:
                return os.stat(self.path)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _answer(self, action: Callable[[], T], *, size: int = 0) -> T:
        """What a request for ``size`` bytes returns, if its server answers in time."""
        if self.is_local:
            return action()
        server = object_stores.server_of(object_stores.parse(self.uri))
        seconds = ANSWER_SECONDS + size / SLOWEST
        return within(seconds, action, what=f"{self} to answer", server=server)

    @contextlib.contextmanager
    def _reported(self, deed: str) -> Iterator[None]:
        """Outside failures as one sentence. ``deed``: what could not be done, a participle."""
        if self.is_local:
            try:
                with reported_local(self.path, deed):
                    yield
            except UnicodeError as error:
                raise UserError(f"{self.uri!r} is not proper text: give it another name.") from error
            return
        try:
            yield
        except TooSlowError as error:
            raise UnreachableError(
                f"{self} cannot be {deed}: its server is too slow ({error}), check the network and the address."
            ) from error
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, FileNotFoundError) and deed != "written":
                raise
            reason, is_unreachable = object_stores.reason_of(error, object_stores.parse(self.uri).bucket)
            kind = UnreachableError if is_unreachable else UserError
            raise kind(f"{self} cannot be {deed}: {reason}.") from error


def make_folder(folder: Path) -> None:
    """Make a local folder and those above it, as far as they are missing. Raises :class:`UserError`."""
    try:
        with reported_local(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # below /proc, or a link to nowhere
        raise UserError(f"{folder} cannot be made there: give a folder on a disk.") from error


def _at_home(name: str) -> str:
    if os.path.lexists(name):
        return name  # a file here that is called so
    expanded = os.path.expanduser(name)
    if expanded.startswith("~"):
        raise UserError(f"{name} names the home folder of a user who is not known here: give the full path.")
    return expanded


@functools.cache
def _local() -> FileSystem:
    return pyarrow.fs.LocalFileSystem()

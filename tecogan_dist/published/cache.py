"""The cache: one folder an entry, complete or absent, with a record of where each file came from.

``$TECOGAN_CACHE``, else ``tecogan`` in ``$XDG_CACHE_HOME``, else ``~/.cache/tecogan``. It is made with mode 700. What
is in it is believed only as far as its record's checksums go; a damaged entry counts as absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field, StrictInt, StrictStr

from tecogan_dist.base.atomic import PARTIAL_SUFFIX, remove, replacing, reported_local, sync_folder, write_text
from tecogan_dist.base.console import printable
from tecogan_dist.base.documents import dump_json, read_json, validated
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import open_regular
from tecogan_dist.base.lock_files import LocksUnknownError, TakenError, held_file
from tecogan_dist.base.storage import Location
from tecogan_dist.published.catalogue import Entry, Kind

VARIABLE = "TECOGAN_CACHE"
RECORD = "record.json"
RECORD_BYTES = 8 * 2**20
BY_HAND, DOWNLOADS = "by-hand", "downloads"
"""Folders of files that somebody has put there, and of those that are under way."""
PRIVATE = 0o700
WAIT_SECONDS, SAY_SECONDS = 0.3, 2.0
CHUNK_BYTES = 2**20
_PART = r"[A-Za-z0-9][\w.-]{0,99}"
_PATH = re.compile(rf"{_PART}(/{_PART})?", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size and checksum of a file."""

    bytes: Annotated[StrictInt, Field(ge=0)]
    sha256: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Where an entry came from, and what it consists of."""

    format: Literal["tecogan published"] = "tecogan published"
    version: Literal[1] = 1
    name: StrictStr
    kind: Kind
    address: Annotated[StrictStr, Field(max_length=10_000)]
    """The address that the file was fetched from, or the path of the file that was put there by hand."""
    download: FileRecord
    """The file as it was fetched."""
    fetched: Annotated[StrictStr, Field(max_length=40)]
    """When, in UTC."""
    note: Annotated[StrictStr, Field(max_length=2000)] = ""
    """What became of it."""
    files: Annotated[dict[str, FileRecord], Field(min_length=1, max_length=100_000)]
    """What is in the folder, by path."""


_ADAPTER = pydantic.TypeAdapter(Record)


class Damaged(UserError):
    """The cache has the entry, but not as it was written."""


@dataclasses.dataclass(frozen=True)
class Cached:
    """An entry that is in the cache, verified."""

    folder: Path
    record: Record

    @property
    def path(self) -> Path:
        """What a name stands for: the one file, or the folder of the scenes."""
        if self.record.kind == "scenes":
            return self.folder
        (only,) = self.record.files
        return self.folder / only

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.record.files.values())


class Cache:
    """The cache in one folder, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_environment(cls) -> Cache:
        """Where the environment says. Raises :class:`UserError` for a place that cannot be one."""
        given = os.environ.get(VARIABLE, "")
        if given.strip():
            place = Location.of(given)
            if not place.is_local:
                raise UserError(
                    f"${VARIABLE} is {printable(given, limit=100)}, and a cache is a local folder: name one."
                )
            return cls(place.absolute().path)
        base = os.environ.get("XDG_CACHE_HOME", "")
        # Relative paths are invalid there, and ignored: the XDG base directory specification, 0.8.
        parent = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~")) / ".cache"
        if not parent.is_absolute():
            raise UserError(f"there is no home folder to keep published weights in: name a folder in ${VARIABLE}.")
        return cls(parent / "tecogan")

    def entry_folder(self, name: str) -> Path:
        return self.folder / name

    def partial_download(self, address: str) -> Path:
        """Where the file of an address grows."""
        return self.folder / DOWNLOADS / hashlib.sha256(address.encode()).hexdigest()[:24]

    def by_hand(self, entry: Entry) -> Path:
        """Where somebody may put an entry's file."""
        return self.folder / BY_HAND / entry.file

    def record(self, entry: Entry) -> Record | None:
        """The entry's record; None where there is no entry. Raises :class:`Damaged`."""
        file = self.entry_folder(entry.name) / RECORD
        if not os.path.lexists(self.folder):
            return None
        self._check_trusted()
        if not os.path.lexists(file):
            return None
        try:
            record = validated(_ADAPTER, read_json(file, limit=RECORD_BYTES), source=file, known="")
        except UserError as error:
            raise Damaged(f"{file} is not what was written ({str(error).rstrip('.')}).") from error
        if record.name != entry.name or record.kind != entry.kind:
            raise Damaged(f"{file} is of {printable(record.name, limit=60)}, not of {entry.name}.")
        if not all(_PATH.fullmatch(path) for path in record.files):
            raise Damaged(f"{file} names a file that cannot be there.")
        if entry.kind != "scenes" and len(record.files) != 1:
            raise Damaged(f"{file} names more than one file.")
        return record

    def look(self, entry: Entry) -> Cached | None:
        """The entry, if it is there and its files are what was written. Raises :class:`Damaged` if they are not.

        Of scenes, which are many files whose readers check them, only sizes are compared.
        """
        record = self.record(entry)
        if record is None:
            return None
        folder = self.entry_folder(entry.name)
        for path, told in record.files.items():
            _verify(folder / path, told, whole=entry.kind != "scenes")
        return Cached(folder, record)

    @contextlib.contextmanager
    def writing(self, entry: Entry) -> Iterator[None]:
        """The right to write this entry, held by one process at a time; another one is waited for.

        Raises :class:`UserError` where nothing can be written.
        """
        self._make()
        lock = self.folder / f".{entry.name}.lock"
        began, said = time.monotonic(), False
        while True:
            with contextlib.ExitStack() as stack:
                try:
                    is_held = stack.enter_context(held_file(lock, temporary=True))
                except TakenError as error:
                    if not said and time.monotonic() - began > SAY_SECONDS:
                        print(f"waiting for another process ({error}), which fetches {entry.name}", file=sys.stderr)
                        said = True
                    time.sleep(WAIT_SECONDS)
                    continue
                except LocksUnknownError as error:
                    raise UserError(
                        f"the file system of the cache {self.folder} knows no locks ({error}): name another folder in "
                        f"${VARIABLE}."
                    ) from error
                if not is_held:
                    raise self._not_writable()
                yield
                return

    @contextlib.contextmanager
    def replacing(self, entry: Entry) -> Iterator[Path]:
        """A new folder, which becomes the entry's at the end of the block, with :meth:`keep` called in it."""
        folder = self.entry_folder(entry.name)
        # A fixed name: what a killed process leaves is found and removed. The lock is held.
        with replacing(folder, partial=folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")) as partial:
            with reported_local(partial):
                partial.mkdir(mode=PRIVATE)
            yield partial
            for path in sorted(partial.rglob("*")):
                if path.is_dir():
                    sync_folder(path)
            sync_folder(partial)
            remove(folder)
        sync_folder(self.folder)

    def keep(self, folder: Path, entry: Entry, *, address: str, download: FileRecord, note: str) -> None:
        """Write the record of what is in ``folder``, a new entry."""
        files = {
            str(path.relative_to(folder)): file_record(path) for path in sorted(folder.rglob("*")) if path.is_file()
        }
        record = Record(
            name=entry.name,
            kind=entry.kind,
            address=address,
            download=download,
            fetched=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            note=note,
            files=files,
        )
        write_text(folder / RECORD, dump_json(_ADAPTER.dump_python(record, mode="json"), indent=1) + "\n")

    def make_downloads(self) -> None:
        """Make the folder of downloads under way. The right to write is held."""
        self._make_private(self.folder / DOWNLOADS)

    def make_by_hand(self) -> None:
        """Make the folder of what is put there by hand, for whoever is told to. The right to write is held."""
        self._make_private(self.folder / BY_HAND)

    def _make(self) -> None:
        self._make_private(self.folder)
        self._check_trusted()
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise self._not_writable()

    def _make_private(self, folder: Path) -> None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=PRIVATE)
            if not folder.is_dir():
                raise UserError(f"{folder} is not a folder, where published files are kept: name one in ${VARIABLE}.")
        except OSError as error:
            raise UserError(
                f"the folder {folder} for published files cannot be made ({os.strerror(error.errno or 0)}): name "
                f"another in ${VARIABLE}."
            ) from error

    def _check_trusted(self) -> None:
        """Raise :class:`UserError` for a cache that anybody may write to."""
        try:
            status = os.stat(self.folder)
        except OSError as error:
            raise UserError(
                f"the cache {self.folder} cannot be read ({os.strerror(error.errno or 0)}): name another folder in "
                f"${VARIABLE}."
            ) from error
        if status.st_mode & stat.S_IWOTH:
            raise UserError(
                f"everybody may write to the cache {self.folder}, so that nothing in it can be trusted: take that "
                f"right away (chmod o-w), or name another folder in ${VARIABLE}."
            )

    def _not_writable(self) -> UserError:
        return UserError(
            f"the cache {self.folder} cannot be written: check its permissions, or name another folder in ${VARIABLE}."
        )


def file_record(path: Path) -> FileRecord:
    """Size and checksum of a local file."""
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def difference(found: FileRecord, told: Mapping[str, int | str | None]) -> str | None:
    """How a file differs from what is known of it (``bytes``, ``sha256``), part of a sentence; None if it does not."""
    size, sha256 = told.get("bytes"), told.get("sha256")
    if size is not None and found.bytes != size:
        return f"{found.bytes} bytes, not {size}"
    if sha256 is not None and found.sha256 != sha256:
        return f"the SHA-256 {found.sha256[:16]}..., not {str(sha256)[:16]}..."
    return None


def _verify(path: Path, told: FileRecord, *, whole: bool) -> None:
    """Raise :class:`Damaged` unless the file is as its record says."""
    try:
        if whole:
            wrong = difference(file_record(path), dataclasses.asdict(told))
        else:
            status = os.lstat(path)
            is_right = stat.S_ISREG(status.st_mode) and status.st_size == told.bytes
            wrong = None if is_right else "another size"
    except (OSError, UserError) as error:
        raise Damaged(f"{path} is gone or cannot be read.") from error
    if wrong is not None:
        raise Damaged(f"{path} has {wrong}.")

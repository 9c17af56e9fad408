"""Files at a local path, on s3:// or on gs://, behind one small class.

A file appears under its name when it is complete and never before: locally by renaming, on an object store because a
PUT is like that. Credentials come from the environment only (AWS_ACCESS_KEY_ID and its kin, ~/.aws, the machine's role;
GOOGLE_APPLICATION_CREDENTIALS), and so does the endpoint of an S3 server that is not Amazon's: AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs
from pyarrow.fs import FileInfo, FileSystem, FileType

from tecogan_dist.base.atomic import replacing, reported_local, sync
from tecogan_dist.base.errors import UserError

CHUNK_BYTES = 8 * 2**20
ATTEMPTS = 4
"""Of an S3 request, with the SDK's growing pauses between them: a server that is down is reported after seconds."""
CONNECT_SECONDS = 5.0
GCS_RETRY = datetime.timedelta(seconds=8)
OPTIONS = {"": (), "s3": ("endpoint_override", "region", "scheme"), "gs": ("endpoint_override", "scheme")}
# What the AWS and Google SDKs say, in messages without numbers.
NO_BUCKET = ("NO_SUCH_BUCKET", "NoSuchBucket", "Bucket not found", "bucket does not exist")
REFUSED = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID", "EXPIRED_TOKEN"),
    *("MISSING_AUTHENTICATION_TOKEN", "UNRECOGNIZED_CLIENT", "HTTP status 401", "HTTP status 403", "PERMISSION_DENIED"),
    *("UNAUTHENTICATED", "credentials"),
)
UNREACHABLE = ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "UNAVAILABLE", "DEADLINE_EXCEEDED")


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
        _parse(self.uri)

    @classmethod
    def of(cls, place: str | Path | Location) -> Location:
        return place if isinstance(place, Location) else cls(str(place))

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> Location:
        if self.is_local:
            return Location(str(self.path / name))
        address, mark, query = self.uri.partition("?")
        return Location(f"{address.rstrip('/')}/{name}{mark}{query}")

    @property
    def name(self) -> str:
        return _parse(self.uri).name.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The folder that it is in."""
        if self.is_local:
            return Location(str(self.path.parent))
        address, mark, query = self.uri.partition("?")
        return Location(f"{address.rstrip('/').rpartition('/')[0]}{mark}{query}")

    @property
    def is_local(self) -> bool:
        return not _parse(self.uri).scheme

    @property
    def path(self) -> Path:
        """Of a local file or folder."""
        assert self.is_local, f"{self} is not local"
        return Path(self.uri)

    def absolute(self) -> Location:
        """The same place for a process with another working directory."""
        return Location(str(self.path.resolve())) if self.is_local else self

    def exists(self) -> bool:
        """Whether a file, or a folder (on an object store one that holds something), is there."""
        with self._reported("read"):
            files, name = self.filesystem()
            if files.get_file_info(name).type != FileType.NotFound:
                return True
            bucket = _parse(self.uri).bucket
            if bucket and files.get_file_info(bucket).type == FileType.NotFound:
                raise UserError(f"{self} cannot be read: there is no bucket {bucket}, make it or check its name.")
        return False

    def is_file(self) -> bool:
        """Whether a file is there."""
        with self._reported("read"):
            files, name = self.filesystem()
            return bool(files.get_file_info(name).type == FileType.File)

    def size(self) -> int:
        """Bytes of the file."""
        with self._reported("read"):
            files, name = self.filesystem()
            info = files.get_file_info(name)
        if info.type != FileType.File:
            raise FileNotFoundError(self.uri)
        return int(info.size)

    def entries(self) -> list[FileInfo]:
        """What is directly in this folder, each with ``base_name``, ``size``, ``mtime``; nothing if it is not there.

        Arrow does not list the folders in a folder of gs://.
        """
        with self._reported("read"):
            files, name = self.filesystem()
            return list(files.get_file_info(pyarrow.fs.FileSelector(name, allow_not_found=True)))

    def names(self) -> list[str]:
        """Names of the files and folders directly in this folder, sorted; nothing if it is not there."""
        with self._reported("read"):
            files, name = self.filesystem()
            # Arrow does not list the folders in a folder of gs://, but the files below them.
            selector = pyarrow.fs.FileSelector(name, allow_not_found=True, recursive=files.type_name == "gcs")
            below = (entry.path.removeprefix(name).lstrip("/") for entry in files.get_file_info(selector))
            return sorted({path.partition("/")[0] for path in below})

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes, piece by piece."""
        with self._reported("read"):
            files, name = self.filesystem()
            with files.open_input_stream(name) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk

    def read_bytes(self) -> bytes:
        return b"".join(self.chunks())

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
            with reported_local(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as partial, reported_local(self.path):
                partial.write_bytes(data)
            return
        with self._reported("written"):
            files, name = self.filesystem()
            with files.open_output_stream(name) as stream:
                stream.write(data)

    def put(self, source: Path) -> None:
        """Make or replace the file with the local file ``source``, which is moved if it goes to the same disk.

        Missing folders are made. A PUT that is interrupted by an exception is taken back.
        """
        if self.is_local:
            with reported_local(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if source.stat().st_dev == self.path.parent.stat().st_dev:
                    sync(source)
                    os.replace(source, self.path)
                else:
                    with replacing(self.path) as partial:
                        shutil.copyfile(source, partial)
            return
        with open(source, "rb") as file, self._reported("written"):
            files, name = self.filesystem()
            stream = files.open_output_stream(name)
            try:
                while chunk := file.read(CHUNK_BYTES):
                    stream.write(chunk)
            except BaseException:
                # Arrow completes an upload when its stream goes away; there is no way to abandon it.
                stream.close()
                files.delete_file(name)
                raise
            stream.close()

    def delete(self) -> None:
        """Remove a file."""
        with self._reported("removed"):
            files, name = self.filesystem()
            files.delete_file(name)

    def filesystem(self) -> tuple[FileSystem, str]:
        """Arrow's file system for this place, and its path there."""
        parts = _parse(self.uri)
        if not parts.scheme:
            return _local(), parts.name
        options = dict(parts.options)
        if parts.scheme == "gs":
            return _gcs(options.get("endpoint_override"), options.get("scheme")), parts.name
        address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        endpoint = urlsplit(address)
        if address and not endpoint.netloc:
            raise UserError(f"AWS_ENDPOINT_URL is {address!r}: write it as http://HOST:PORT or https://HOST.")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return _s3(
            parts.bucket,
            options.get("endpoint_override") or endpoint.netloc or None,
            options.get("scheme") or endpoint.scheme or None,
            options.get("region") or region,
        ), parts.name

    @contextlib.contextmanager
    def _reported(self, deed: str) -> Iterator[None]:
        """Outside failures as one sentence. ``deed``: what could not be done, a participle."""
        if self.is_local:
            with reported_local(self.path, deed):
                yield
            return
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            is_missing = isinstance(error, FileNotFoundError)
            if is_missing and deed != "written":
                raise
            text = " ".join(str(error).split())
            if is_missing or any(word in text for word in NO_BUCKET):
                reason = f"there is no bucket {_parse(self.uri).bucket}, make it or check its name"
            elif any(word in text for word in REFUSED):
                reason = "access is refused, check the credentials in the environment and what they permit"
            elif any(word in text for word in UNREACHABLE):
                reason = "its server does not answer, check the network and the address"
                raise UnreachableError(f"{self} cannot be {deed}: {reason}.") from error
            else:
                reason = text
            raise UserError(f"{self} cannot be {deed}: {reason}.") from error


class _Parts(NamedTuple):
    scheme: str
    """Empty for a local path."""
    bucket: str
    name: str
    """The whole path: it begins with the bucket's name where there is one."""
    options: tuple[tuple[str, str], ...]


@functools.lru_cache(maxsize=4096)
def _parse(uri: str) -> _Parts:
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", uri)
    if match is None:
        return _Parts("", "", uri, ())
    address, _, query = uri.partition("?")
    scheme, _, name = address.partition("://")
    bucket, name = name.partition("/")[0], name.rstrip("/")
    if scheme not in ("s3", "gs") or not bucket:
        raise UserError(f"{uri} is not a place for files: give a local folder, s3://BUCKET/NAME or gs://BUCKET/NAME.")
    if "@" in bucket:
        raise UserError(f"{scheme}:// addresses carry no credentials here: put them into the environment.")
    options = tuple(parse_qsl(query, keep_blank_values=True))
    unknown = [key for key, _ in options if key not in OPTIONS[scheme]]
    if unknown:
        raise UserError(f"{uri} has an unknown option {unknown[0]!r}: use {', '.join(OPTIONS[scheme])}.")
    return _Parts(scheme, bucket, name, options)


@functools.cache
def _local() -> FileSystem:
    return pyarrow.fs.LocalFileSystem()


@functools.lru_cache(maxsize=16)
def _s3(bucket: str, endpoint: str | None, scheme: str | None, region: str | None) -> FileSystem:
    # Another server has no regions to speak of; Amazon answers only at a bucket's own.
    region = region or ("us-east-1" if endpoint else pyarrow.fs.resolve_s3_region(bucket))
    return pyarrow.fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint,
        scheme=scheme,
        connect_timeout=CONNECT_SECONDS,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        allow_delayed_open=True,  # a file of up to 5 MB is a single PUT
    )


@functools.lru_cache(maxsize=16)
def _gcs(endpoint: str | None, scheme: str | None) -> FileSystem:
    # An endpoint of one's own is an emulator, which knows no credentials.
    return pyarrow.fs.GcsFileSystem(
        anonymous=endpoint is not None, endpoint_override=endpoint, scheme=scheme, retry_time_limit=GCS_RETRY
    )

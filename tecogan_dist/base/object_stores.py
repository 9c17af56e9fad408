"""s3:// and gs://: what an address may look like, Arrow's file system for it, and what its failures mean."""

from __future__ import annotations

import datetime
import functools
import os
import re
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pyarrow.fs
from pyarrow.fs import FileSystem

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_name
from tecogan_dist.base.waiting import Server, within

ATTEMPTS = 4
"""Of an S3 request, with the SDK's growing pauses between them: a server that is down is reported after seconds."""
CONNECT_SECONDS = 5.0
GCS_RETRY = datetime.timedelta(seconds=8)
KEY_BYTES = 1024
"""Of a name on an object store."""
OPTIONS = {"": (), "s3": ("endpoint_override", "region", "scheme"), "gs": ("endpoint_override", "scheme")}
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]")
OTHER_SCHEMES = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/|(s3|s3a|s3n|gs|gcs|file|https?|ftps?|hdfs):", re.IGNORECASE)
WRITE = "give a local folder, s3://BUCKET/NAME or gs://BUCKET/NAME"
# What the AWS and Google SDKs say, in messages without numbers.
NO_BUCKET = ("NO_SUCH_BUCKET", "NoSuchBucket", "Bucket not found", "bucket does not exist")
REFUSED = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID", "EXPIRED_TOKEN"),
    *("MISSING_AUTHENTICATION_TOKEN", "UNRECOGNIZED_CLIENT", "HTTP status 401", "HTTP status 403", "PERMISSION_DENIED"),
    *("UNAUTHENTICATED", "credentials"),
)
UNREACHABLE = ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "UNAVAILABLE", "DEADLINE_EXCEEDED")


class Parts(NamedTuple):
    """An address, taken apart."""

    scheme: str
    """Empty for a local path."""
    bucket: str
    name: str
    """The whole path: it begins with the bucket's name where there is one."""
    options: tuple[tuple[str, str], ...]


@functools.lru_cache(maxsize=4096)
def parse(uri: str) -> Parts:
    """Raises :class:`UserError` for what cannot be meant. Never shows what may be a password."""
    if OTHER_SCHEMES.match(uri) is None:
        check_name(uri)
        return Parts("", "", uri, ())
    address, _, query = uri.partition("?")
    scheme, mark, name = address.partition("://")
    shown = address if "@" not in address else f"{scheme}://..."
    shown = shown if len(shown) <= 200 else f"{shown[:150]}..."
    if scheme == "file":
        raise UserError(f"{shown} is not a place for files as they are named here: give the path alone, without file:.")
    if scheme.lower() in ("s3", "gs") and scheme not in ("s3", "gs"):
        raise UserError(f"{shown} is not a place for files: write {scheme.lower()}:// in small letters.")
    bucket, name = name.partition("/")[0], name.rstrip("/")
    if scheme not in ("s3", "gs") or not mark or not bucket:
        raise UserError(f"{shown} is not a place for files: {WRITE}.")
    if "@" in bucket:
        raise UserError(f"{scheme}:// addresses carry no credentials here: put them into the environment.")
    if not BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UserError(f"{shown} has {bucket[:80]!r} where the name of a bucket is wanted: {WRITE}.")
    _check_key(name, shown)
    return Parts(scheme, bucket, name, _options(scheme, query, shown))


def _check_key(name: str, shown: str) -> None:
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise UserError(f"{shown!r} is not proper text: give another name.") from error
    if length > KEY_BYTES:
        raise UserError(f"{shown} is too long: a name on an object store may have {KEY_BYTES} bytes.")
    if any(part in ("", ".", "..") for part in name.split("/")) or re.search(r"[\x00-\x1f\x7f]", name):
        raise UserError(f"{shown!r} has an empty name, '.', '..' or a control character in it: give a plain name.")


def _options(scheme: str, query: str, shown: str) -> tuple[tuple[str, str], ...]:
    options = tuple(parse_qsl(query, keep_blank_values=True))
    names = [key for key, _ in options]
    unknown = [key for key in names if key not in OPTIONS[scheme]]
    if unknown:
        raise UserError(f"{shown} has an unknown option {unknown[0][:80]!r}: use {', '.join(OPTIONS[scheme])}.")
    if len(set(names)) < len(names):
        raise UserError(f"{shown} has an option twice: give each of {', '.join(OPTIONS[scheme])} once.")
    found = dict(options)
    if "endpoint_override" in found and _server(found["endpoint_override"]) is None:
        raise UserError(f"{shown} has an endpoint_override that is not an address: write it as HOST:PORT.")
    if found.get("scheme", "https") not in ("http", "https"):
        raise UserError(f"{shown} has scheme={found['scheme'][:40]!r}: write http or https.")
    if not re.fullmatch(r"[a-zA-Z0-9-]{1,64}", found.get("region", "x")):
        raise UserError(f"{shown} has region={found['region'][:80]!r}: write it like us-east-1.")
    return options


def _server(address: str, *, scheme: str | None = None) -> Server | None:
    """Host and port of HOST or HOST:PORT; None for what is not an address."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9]([a-zA-Z0-9._-]{0,251}[a-zA-Z0-9])?)(?::(\d{1,5}))?", address)
    if match is None:
        return None
    port = int(match[3]) if match[3] else (80 if scheme == "http" else 443)
    return (match[1].strip("[]"), port) if 0 < port < 65536 else None


def server_of(parts: Parts) -> Server | None:
    """The server that is asked, where the address or the environment names it."""
    endpoint, scheme = _endpoint(parts)
    return None if endpoint is None else _server(endpoint, scheme=scheme)


def filesystem(parts: Parts, *, seconds: float) -> FileSystem:
    """Arrow's file system. To ask Amazon for a bucket's region takes ``seconds`` at most."""
    endpoint, scheme = _endpoint(parts)
    if parts.scheme == "gs":
        return _gcs(endpoint, scheme)
    region = dict(parts.options).get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return _s3(parts.bucket, endpoint, scheme, region, seconds)


def _endpoint(parts: Parts) -> tuple[str | None, str | None]:
    """HOST:PORT and http or https, where they are said. Raises :class:`UserError` for an environment that is wrong."""
    options = dict(parts.options)
    if parts.scheme == "gs":
        return options.get("endpoint_override"), options.get("scheme")
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    try:
        endpoint = urlsplit(address)
    except ValueError:
        endpoint = urlsplit("")
    is_right = endpoint.scheme in ("http", "https") and _server(endpoint.netloc) and endpoint.path in ("", "/")
    if address and not is_right:
        shown = repr(address[:200]) if "@" not in address else "not an address without credentials"
        raise UserError(f"AWS_ENDPOINT_URL is {shown}: write it as http://HOST:PORT or https://HOST.")
    return (
        options.get("endpoint_override") or endpoint.netloc or None,
        options.get("scheme") or endpoint.scheme or None,
    )


def reason_of(error: Exception, bucket: str) -> tuple[str, bool]:
    """Why a request failed, in words, and whether that is for want of an answer."""
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError) or any(word in text for word in NO_BUCKET):
        return f"there is no bucket {bucket}, make it or check its name", False
    if any(word in text for word in REFUSED):
        return "access is refused, check the credentials in the environment and what they permit", False
    if any(word in text for word in UNREACHABLE):
        return "its server does not answer, check the network and the address", True
    return text[:500], False


@functools.lru_cache(maxsize=16)
def _s3(bucket: str, endpoint: str | None, scheme: str | None, region: str | None, seconds: float) -> FileSystem:
    # Another server has no regions to speak of; Amazon answers only at a bucket's own.
    if region is None and endpoint is None:
        region = within(
            seconds, lambda: pyarrow.fs.resolve_s3_region(bucket), what=f"Amazon to say where bucket {bucket} is"
        )
    return pyarrow.fs.S3FileSystem(
        region=region or "us-east-1",
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

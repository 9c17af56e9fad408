"""What W&B's client has already recorded of a run on the disk: how far it came, so that no step is there twice.

Its files (``wandb/offline-run-TIME-ID/run-ID.wandb``) are LevelDB's log format: a header of 7 bytes, then blocks of 32
KiB with records, which may be cut into several, each with a header of its own. A killed process leaves half a record.
"""

from __future__ import annotations

import contextlib
import json
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location

FOLDER = "wandb"
FILE_HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
LONGEST = 2**26
"""Bytes of a record; one that claims more is not the client's."""
LATE_STEP = "validation/step"
"""The axis of what is measured beside training."""
SETTLED_SECONDS, SETTLING_SECONDS = 3.0, 20.0
"""The client of an attempt that was killed writes what it has yet: its file is read when it has stayed as it is so
long, and after so long anyway."""


@dataclass(frozen=True)
class Recorded:
    """The last steps of which there are rows; 0: none."""

    step: int = 0
    validated: int = 0
    """Of those that have an axis of their own (:data:`LATE_STEP`)."""


def recorded(place: Location, identity: str) -> Recorded:
    """What all files of the W&B run ``identity`` below ``place`` hold together, as far as they can be read."""
    step = validated = 0
    for file in files_of(place, identity):
        try:
            found = _read(file.chunks())
        except (UserError, OSError):
            continue
        step, validated = max(step, found.step), max(validated, found.validated)
    return Recorded(step, validated)


def files_of(place: Location, identity: str) -> list[Location]:
    """The client's files of the run, those of attempts that were online too."""
    folder = place / FOLDER
    names = [name for name in folder.names() if name.endswith(f"-{identity}") and "run-" in name]
    return [folder / name / f"run-{identity}.wandb" for name in names]


def wait_until_settled(place: Location, identity: str) -> None:
    """Until no local file of the run has changed for a while."""
    deadline = time.monotonic() + SETTLING_SECONDS
    while place.is_local and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            changes = [file.path.stat().st_mtime for file in files_of(place, identity)]
            if all(abs(time.time() - change) > SETTLED_SECONDS for change in changes):
                return
        time.sleep(0.2)


def _read(chunks: Iterable[bytes]) -> Recorded:
    from wandb.proto import wandb_internal_pb2

    record_type: Any = vars(wandb_internal_pb2)["Record"]  # made when it is imported
    step = validated = 0
    for data in _records(chunks):
        try:
            record = record_type.FromString(data)
            if not record.HasField("history"):
                continue
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if name == "_step":
                    step = max(step, int(json.loads(item.value_json)))
                elif name == LATE_STEP:
                    validated = max(validated, int(json.loads(item.value_json)))
        except (ValueError, TypeError, AttributeError, OverflowError):
            continue  # a damaged record: protobuf's own error is a ValueError
        except Exception as error:
            if type(error).__name__ != "DecodeError":
                raise
    return Recorded(step, validated)


def _records(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The whole records, up to the first that is not. Memory is that of a block and a record."""
    pending = b""
    for number, block in enumerate(_blocks(chunks)):
        position = FILE_HEADER if number == 0 else 0
        while position + RECORD_HEADER <= len(block):
            checksum, length, kind = struct.unpack("<IHB", block[position : position + RECORD_HEADER])
            position += RECORD_HEADER
            data = block[position : position + length]
            position += length
            if kind not in (FULL, FIRST, MIDDLE, LAST) or len(data) < length or not _is_whole(checksum, kind, data):
                return
            pending = data if kind in (FULL, FIRST) else pending + data
            if len(pending) > LONGEST:
                return
            if kind in (FULL, LAST):
                yield pending


def _is_whole(checksum: int, kind: int, data: bytes) -> bool:
    """Whether the sum over kind and content is right: wandb's is CRC-32 (IEEE), without LevelDB's mask."""
    return zlib.crc32(data, zlib.crc32(bytes([kind]))) == checksum


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        rest += chunk
        while len(rest) >= BLOCK:
            yield rest[:BLOCK]
            rest = rest[BLOCK:]
    if rest:
        yield rest

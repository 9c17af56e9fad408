"""A file of TensorBoard's events, each in it as a whole or not at all.

TensorBoard's own writer has a thread, which a full disk ends for good, and computes checksums byte by byte in Python.
The format: a length and its checksum, then the event and its checksum (TFRecord, in TensorBoard's record_writer.py).
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
import uuid
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event

from tecogan_dist.base.atomic import append
from tecogan_dist.weights.tensorflow.table import masked_crc32c

PREFIX = "events.out.tfevents."
_SECOND = re.compile(re.escape(PREFIX) + r"([0-9]{10})[.]")


class EventFile:
    """A new file in ``folder``, with a name that TensorBoard looks for, and reads after those that are there: it goes
    by their names, and these by the second."""

    def __init__(self, folder: Path) -> None:
        found = (_SECOND.match(path.name) for path in folder.glob(f"{PREFIX}*"))
        second = max([int(time.time()), *(int(match[1]) + 1 for match in found if match)])
        self._path = folder / f"{PREFIX}{second:010d}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        self._begun = False

    def add(self, event: Event) -> None:
        """Append an event. Raises ``OSError`` if there is no room for it."""
        event.wall_time = time.time()
        if not self._begun:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append(self._path, _framed(Event(wall_time=event.wall_time, file_version="brain.Event:2")))
            self._begun = True
        append(self._path, _framed(event))


def _framed(event: Event) -> bytes:
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(memoryview(data)))

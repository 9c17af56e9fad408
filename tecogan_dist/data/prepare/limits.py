"""What a download of ``prepare`` may take of time, memory and disk, and which of its options allow more."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tecogan_dist.base import transfers
from tecogan_dist.base.transfers import GIGABYTE, NoSpace

__all__ = ["GIGABYTE", "Limits", "NoSpace", "Watch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits(transfers.Limits):
    """What a download may take."""

    archive_bytes: int = 50 * GIGABYTE
    """Of all that is unpacked from an archive."""


class Watch(transfers.Watch):
    """A watch whose sentences name the options of ``prepare``."""

    IF_TOO_LONG: ClassVar[str] = "allow more with --download-timeout, or run it again, it continues where it stopped"
    IF_TOO_LARGE: ClassVar[str] = "allow more with --max-download-gigabytes, or leave it out"

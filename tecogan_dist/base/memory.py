"""How much memory this process may hope for, so that a size that a file or a setting asks for can be judged first."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the container that this is, in the second and the first version of control groups."""

_USED = {
    _LIMITS[0]: Path("/sys/fs/cgroup/memory.current"),
    _LIMITS[1]: Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
}
"""What a container uses, files that it has read included, which it could give up: an upper bound."""


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container if that has fewer."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in _LIMITS:
        try:
            text = file.read_text().strip()
        except OSError:
            continue  # the other version, or a machine without them
        if text.isdecimal():  # "max" where there is no limit
            memory = min(memory, int(text))
    return memory


def available_memory() -> int:
    """Bytes that this process may still take: what the machine has free, or its container up to its limit."""
    memory = psutil.virtual_memory().available
    for limit, used in _USED.items():
        try:
            allowed, taken = limit.read_text().strip(), int(used.read_text())
        except OSError:
            continue  # as above
        if allowed.isdecimal():
            memory = min(memory, int(allowed) - taken)
    return max(0, memory)


def in_words(size: float) -> str:
    """Bytes for people, in powers of 1000: 36 TB, 1.5 GB, 12 KB."""
    for unit in ("bytes", "KB", "MB", "GB", "TB", "PB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 9.95 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.0f} EB" if size < 1e6 else f"{size:.1e} EB"

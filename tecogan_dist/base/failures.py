"""Failures of the system that a user can mend, though no :class:`UserError` was made of them: one sentence each."""

from __future__ import annotations

import errno
import os

ADVICE = {
    errno.ENOSPC: "there is no space left: free some, or give another place",
    errno.EDQUOT: "your quota is used up: free some space, or give another place",
    errno.EFBIG: "a file would be larger than it may be: see 'ulimit -f', or give another place",
    errno.EROFS: "it is on storage that cannot be written: give another place",
    errno.EACCES: "permission is denied: give another place, or change its permissions",
    errno.EPERM: "the system does not permit it: give another place, or change its permissions",
    errno.ENAMETOOLONG: "the name is too long: give a shorter one",
    errno.ELOOP: "symbolic links lead in a circle: mend them, or give another path",
    errno.ENOENT: "there is no such file or folder: check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: check the path",
    errno.EISDIR: "it is a folder, not a file: check the path",
    errno.EEXIST: "it exists: give another path",
    errno.EIO: "the storage failed: check the disk",
    errno.ENOMEM: "there is not enough memory: close other programs, or ask for less",
    errno.EAGAIN: "the system allows no more processes or threads: see 'ulimit -u', or ask for fewer workers",
}
"""By the system's number of an error."""


def sentence(error: BaseException) -> str:
    """The sentence about ``error``, or nothing if it is not a failure of the system but a defect of ours."""
    if isinstance(error, MemoryError) or _is_torch_memory(error):
        return f"there is not enough memory{_told(error)}: ask for smaller sizes or fewer at a time, or free some."
    if isinstance(error, RecursionError):
        return "something that was read is nested too deeply: make it flatter."
    if isinstance(error, UnicodeEncodeError):
        shown = error.object[error.start : error.end]
        return (
            f"the character {shown!a} cannot be written in the encoding {error.encoding} that the system uses "
            "here: rename what has it, or use a UTF-8 locale (LC_ALL=C.UTF-8)."
        )
    return _of_system(error) if isinstance(error, OSError) else _in_words(error)


def _of_system(error: OSError) -> str:
    name = "" if error.filename is None else os.fsdecode(error.filename) if not _is_number(error.filename) else ""
    subject = f"{name}: " if name else ""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many open files{_limit()}: raise ulimit -n."
    if error.errno in ADVICE:
        if not name and error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            return _without_number(error)
        return f"{subject}{ADVICE[error.errno]}."
    if error.errno is not None and name:
        return f"{subject}{os.strerror(error.errno).lower()}: check it, or give another path."
    if isinstance(error, (ConnectionError, TimeoutError)):
        return f"a connection failed ({error}): check the network and the address, and try again."
    return _without_number(error)


def _in_words(error: BaseException) -> str:
    """Of libraries that only quote the system, as when their own files cannot be loaded."""
    text = str(error)
    if not isinstance(error, (ImportError, RuntimeError)):
        return ""
    if os.strerror(errno.ENOMEM) in text or "failed to map segment" in text:
        return "there is not enough memory to load this program: free some, or see 'ulimit -v'."
    if os.strerror(errno.EMFILE) in text:
        return f"too many open files{_limit()}: raise ulimit -n."
    if os.strerror(errno.ENOSPC) in text:
        return f"{ADVICE[errno.ENOSPC]}."
    if "can't start new thread" in text:
        return f"{ADVICE[errno.EAGAIN]}."
    return ""


def _without_number(error: OSError) -> str:
    """Of Python's own module for temporary files, which tells only in words that there is no place for them."""
    if "temporary directory" in str(error):
        return "there is no folder for temporary files that can be written: let TMPDIR name one."
    return ""


def _is_torch_memory(error: BaseException) -> bool:
    """Whether torch had no memory: on a GPU that is a class of its own, on a CPU only a text."""
    text = str(error)
    allocator = "DefaultCPUAllocator" in text or "can't allocate memory" in text
    return type(error).__name__ == "OutOfMemoryError" or (isinstance(error, RuntimeError) and allocator)


def _told(error: BaseException) -> str:
    """What numpy or torch say of the size, in brackets."""
    line = next(iter(str(error).splitlines()), "").strip()
    return f" ({line.rstrip('.')})" if line else ""


def _limit() -> str:
    try:
        import resource
    except ImportError:
        return ""
    return f" ({resource.getrlimit(resource.RLIMIT_NOFILE)[0]} are allowed)"


def _is_number(name: object) -> bool:
    return isinstance(name, int)

"""How fast every machine reads and writes the storage, and whether it is one storage for all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from typing import Literal, TypedDict

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.diagnosis.findings import Finding, not_checked
from tecogan_dist.diagnosis.judging import judge_rates
from tecogan_dist.diagnosis.machines import Machines

SUBJECT = "storage"
MEGABYTES = 32
"""Written by each machine: more than a checkpoint of the published networks (20 MB and its moments)."""

KINDS: tuple[Literal["write", "read"], ...] = ("write", "read")


class StorageSpeed(TypedDict):
    """Bytes a second."""

    write: float
    read: float


def examine_storage(machines: Machines, storage: Location, folder: Location) -> list[Finding]:
    """``folder`` is below ``storage``, of a name that nobody else uses; the caller removes it."""
    files = {machine: str(number) for number, machine in enumerate(machines.answering)}
    answers = machines.ask_each({machine: (measure_storage, storage, folder, file) for machine, file in files.items()})
    findings, speeds = [], dict[str, StorageSpeed]()
    for machine, answer in answers.items():
        if answer.problem is None:
            speeds[machine.name] = answer.value
        else:
            # The place that was given, and not the file that was to be written there.
            problem = answer.problem.replace(str(folder / files[machine]), str(storage))
            findings.append(_failed(machine.name, problem))
    if not speeds:
        return findings
    written = {machine.name: file for machine, file in files.items() if machine.name in speeds}
    if len(written) > 1:
        findings += _is_it_one(machines, folder, written)
    elif len(machines.all) == 1:
        findings.append(not_checked(SUBJECT, "whether it is shared: there is one machine"))
    writing, reading = ({name: speed[kind] for name, speed in speeds.items()} for kind in KINDS)
    names = {name: (name,) for name in speeds}
    for what, rates in (("writes", writing), ("reads", reading)):
        findings += judge_rates(rates, subject=SUBJECT, what=what, show=_megabytes, machines=names)
    return findings


def _is_it_one(machines: Machines, folder: Location, files: dict[str, str]) -> list[Finding]:
    """Whether the machines see each other's files."""
    findings = []
    for machine, answer in machines.ask(seen, folder).items():
        if answer.problem is not None:
            findings.append(_failed(machine.name, answer.problem))
            continue
        unseen = [name for name, file in files.items() if file not in answer.value]
        if unseen:
            findings.append(
                Finding(
                    status="fail",
                    subject=SUBJECT,
                    machines=(machine.name,),
                    text=f"does not see the files of {unseen[0]}"
                    + (f" and {len(unseen) - 1} more" if unseen[1:] else ""),
                    advice="mount the same storage at this path on every machine, or use s3:// or gs://",
                )
            )
    if not findings:
        findings.append(Finding(status="ok", subject=SUBJECT, text=f"one for all {len(files)} machines"))
    return findings


def measure_storage(storage: Location, folder: Location, name: str) -> StorageSpeed:
    """Write a file, read it back and compare. Raises :class:`UserError`, also for bytes that come back changed.

    A local storage has to be there: to make it would hide that it is not mounted.
    """
    if storage.is_local and not storage.path.is_dir():
        raise UserError(f"there is no folder {storage}")
    data, file = random.randbytes(MEGABYTES * 10**6), folder / name
    started = time.perf_counter()
    file.write_bytes(data)
    written = time.perf_counter()
    if file.is_local:
        # From the disk and not from memory, where the system heeds that.
        with open(file.path, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    asked = time.perf_counter()
    digest = file.sha256()
    read = time.perf_counter()
    if digest != hashlib.sha256(data).hexdigest():
        raise UserError(f"{file} does not give back the bytes that were written")
    return {"write": len(data) / (written - started), "read": len(data) / (read - asked)}


def seen(folder: Location) -> list[str]:
    """Names of the files there."""
    return folder.names()


def remove_folder(folder: Location) -> None:
    """Remove the folder and all that is in it, if it is there. Raises :class:`UserError` and ``OSError``."""
    if folder.exists():
        files, name = folder.filesystem()
        # On gs:// there may be files in it and no object of its own, which Arrow misses after it has removed them.
        with contextlib.suppress(FileNotFoundError):
            files.delete_dir(name)


def _failed(machine: str, problem: str) -> Finding:
    return Finding(
        status="fail",
        subject=SUBJECT,
        machines=(machine,),
        text=problem.partition(": check")[0],
        advice="let every machine read and write there: mount, permissions, space, credentials in the environment",
    )


def _megabytes(rate: float) -> str:
    return f"{rate / 1e6:.0f} MB/s"

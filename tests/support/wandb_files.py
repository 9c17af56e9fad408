"""Reading the record that the W&B client leaves of an offline run."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

FILE_HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbRun:
    """What an offline run's ``.wandb`` file holds."""

    project: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One for each step."""
    environment: Any = None
    """The record of the process: its command, machine ..."""
    run: Any = None
    """The record of the run itself: name, tags, notes ..."""
    summary: dict[str, Any] = field(default_factory=dict)
    stats: list[dict[str, float]] = field(default_factory=list)
    """System metrics."""
    alerts: list[Any] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None
    """None of a run that was not ended."""


def read_wandb(file: Path) -> WandbRun:
    """Of LevelDB's log format: blocks of 32 KiB with records, which may be cut into several, each with a header."""
    run = WandbRun()
    record_type: Any = vars(wandb_internal_pb2)["Record"]  # made when it is imported
    for data in _records(file.read_bytes()):
        record = record_type.FromString(data)
        if record.HasField("history"):
            items = ((list(item.nested_key) or [item.key], item.value_json) for item in record.history.item)
            run.rows.append(_nested(items))
        if record.HasField("run"):
            run.project, run.group = record.run.project, record.run.run_group
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            run.run = record.run
        if record.HasField("summary"):
            run.summary |= {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.summary.update
            }
        if record.HasField("environment") and record.environment.program:
            run.environment = record.environment
        if record.HasField("stats"):
            run.stats.append({item.key: json.loads(item.value_json) for item in record.stats.item})
        if record.HasField("exit"):
            run.exit_code = record.exit.exit_code
        if record.HasField("alert"):
            run.alerts.append(record.alert)
        if record.HasField("artifact"):
            run.artifacts.append(record.artifact)
        elif record.HasField("request") and record.request.HasField("log_artifact"):
            run.artifacts.append(record.request.log_artifact.artifact)
    return run


def _records(content: bytes) -> Iterator[bytes]:
    position, pending = FILE_HEADER, b""
    while position + RECORD_HEADER <= len(content):
        left = BLOCK - position % BLOCK
        if left < RECORD_HEADER:
            position += left  # the rest of a block is padding
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + RECORD_HEADER])
        position += RECORD_HEADER
        pending = (
            content[position : position + length]
            if kind in (FULL, FIRST)
            else pending + content[position : position + length]
        )
        position += length
        if kind in (FULL, LAST):
            yield pending


def _nested(items: Iterable[tuple[Sequence[str], str]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for keys, value in items:
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = json.loads(value)
    return tree

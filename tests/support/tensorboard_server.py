"""The real TensorBoard, on loopback, asked by HTTP as its page asks it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 90
"""Seconds that a busy machine may take to start it."""


@dataclass(frozen=True)
class TensorBoard:
    """A server. ``address`` has no slash at its end."""

    address: str

    def get(self, path: str, **query: str) -> bytes:
        address = f"{self.address}/data/{path}"
        if query:
            address += f"?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            return bytes(answer.read())

    def json(self, path: str, **query: str) -> Any:
        return json.loads(self.get(path, **query))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.address}/data/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def scalars(self, run: str, tag: str) -> dict[int, float]:
        """Values by step; fails if a step is there twice."""
        points = self.json("plugin/scalars/scalars", run=run, tag=tag)
        assert len({step for _, step, _ in points}) == len(points)
        return {step: value for _, step, value in points}

    def pictures(self, run: str, tag: str) -> dict[int, bytes]:
        """Files by step."""
        found = self.json("plugin/images/images", run=run, tag=tag, sample="0")
        return {one["step"]: self.get("plugin/images/individualImage?" + one["query"]) for one in found}


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[TensorBoard]:
    """``tensorboard --logdir FOLDER``, with all that is there read."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = ""
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        for line in process.stderr:
            said += line
            if match := re.search(r"at (http://127\.0\.0\.1:\d+)/", line):
                break
        else:
            raise AssertionError(f"TensorBoard did not start: {said}")
        timer.cancel()
        rest = threading.Thread(target=process.stderr.read, daemon=True)
        rest.start()
        server = TensorBoard(match[1])
        _wait_until_read(server, folder)
        yield server
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            with contextlib.suppress(ValueError):
                rest.join(timeout=5)
            process.stderr.close()


def _wait_until_read(server: TensorBoard, folder: Path) -> None:
    expected = {str(file.parent.relative_to(folder)) for file in folder.rglob("events.out.tfevents.*")}
    end, before = time.monotonic() + PATIENCE, None
    while time.monotonic() < end:
        now = server.json("plugin/images/tags"), server.json("plugin/scalars/tags")
        if set(now[1]) == expected and now == before:
            return
        before = now
        time.sleep(0.5)
    raise AssertionError(f"TensorBoard knows {server.json('runs')}, not {expected}")

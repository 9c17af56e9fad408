"""Two machines as far as the network goes: namespaces of this one with a link between them, where that is allowed."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

INTERFACE = "link0"
"""Name of the link's end on each machine."""


@dataclass(frozen=True)
class Machine:
    name: str
    address: str

    def on(self, words: list[str]) -> list[str]:
        """The command, to be run on this machine."""
        return ["ip", "netns", "exec", self.name, *words]

    def unplug(self) -> None:
        """Cut the link."""
        _ip("-n", self.name, "link", "set", INTERFACE, "down")


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Skips the test where namespaces cannot be made. Their processes have to be ended before this is left."""
    machines = tuple(Machine(f"tecogan-{os.getpid()}-{i}", f"10.231.7.{i}") for i in (1, 2))
    with contextlib.ExitStack() as stack:
        try:
            for machine in machines:
                _ip("netns", "add", machine.name)
                stack.callback(_ip, "netns", "delete", machine.name)
            first, second = machines
            peer = ["type", "veth", "peer", "name", INTERFACE, "netns", second.name]
            _ip("link", "add", INTERFACE, "netns", first.name, *peer)
            for machine in machines:
                _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", INTERFACE)
                for interface in ("lo", INTERFACE):
                    _ip("-n", machine.name, "link", "set", interface, "up")
        except FileNotFoundError:
            pytest.skip("needs the ip command")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"needs network namespaces: {error.stderr.strip()}")
        yield first, second


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)

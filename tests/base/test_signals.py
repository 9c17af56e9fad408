"""A signal that comes while processes are started is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tecogan_dist.base.signals import interrupted_afterwards

FORKING = """
import logging, os, signal, subprocess, sys
from tecogan_dist.base.signals import interrupted_afterwards

os.register_at_fork(after_in_parent=lambda: signal.raise_signal(getattr(signal, sys.argv[1])))
signal.signal(signal.SIGTERM, signal.default_int_handler)
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interrupted_afterwards():
        subprocess.run(["true"], preexec_fn=int, check=True)
        print("started")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_of_a_fork_is_not_lost(name: str) -> None:
    ran = subprocess.run([sys.executable, "-c", FORKING, name], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "started\ninterrupted\n", "")


def test_a_second_signal_interrupts_at_once() -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    passed = []

    def asked_twice() -> None:
        with interrupted_afterwards():
            for number in (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)
                passed.append(number)

    try:
        with pytest.raises(KeyboardInterrupt):
            asked_twice()
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert passed == [1]

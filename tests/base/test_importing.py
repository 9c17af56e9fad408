"""Modules that are imported aside: there when they are asked for, and what is wrong with one is said then."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tecogan_dist.base.importing import import_aside


def test_what_is_imported_aside_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "import threading, time", "BY = threading.current_thread().name", "time.sleep(0.5)", "VALUE = 5"
    (tmp_path / "slow_module_of_a_test.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    thread = import_aside("slow_module_of_a_test")
    deadline = time.monotonic() + 30
    while "slow_module_of_a_test" not in sys.modules and time.monotonic() < deadline:
        time.sleep(0.01)
    from slow_module_of_a_test import BY, VALUE

    assert (thread.name, 5) == (BY, VALUE)
    del sys.modules["slow_module_of_a_test"]


def test_what_cannot_be_imported_is_said_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_module_of_a_test.py").write_text("raise OSError('no such library')\n")
    (tmp_path / "another_module_of_a_test.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    import_aside("broken_module_of_a_test", "another_module_of_a_test").join()
    assert sys.modules.pop("another_module_of_a_test", None) is not None
    assert capfd.readouterr() == ("", "")
    with pytest.raises(OSError, match="no such library"):
        import broken_module_of_a_test  # noqa: F401  # only imported

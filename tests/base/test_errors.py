"""How a command ends: its status, the one sentence, and what a terminal or a closed pipe makes of it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tecogan_dist.base.console import printable
from tecogan_dist.base.environment import check_ray_folder
from tecogan_dist.base.errors import TRACE_VARIABLE, UserError, run_command
from tecogan_dist.base.spelling import meant, nearest


def end(main: Callable[[list[str] | None], None]) -> int | None:
    """The status of a command; None if it came to its end."""
    status: Any = None
    try:
        run_command(main, [])
    except SystemExit as ended:
        status = ended.code
    return status


def raising(error: BaseException) -> Callable[[list[str] | None], None]:
    def main(_argv: list[str] | None) -> None:
        raise error

    return main


def of_system(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("a thing is wrong: mend it."), 2, r"error: a thing is wrong: mend it\."),
        (UserError("a\nb \x1b[31mred\u202e\udcff"), 2, r"error: a\\nb \\x1b\[31mred\\u202e\\udcff"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("3 scenes are kept"), 130, "interrupted: 3 scenes are kept"),
        (MemoryError(), 2, "error: there is not enough memory: .*"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "error: there is not enough memory .*"),
        (ImportError("x.so: failed to map segment from shared object"), 2, "error: there is not enough memory .*"),
        (RecursionError(), 2, "error: .* nested too deeply: .*"),
        (of_system(errno.ENOSPC, "/a/b"), 2, "error: /a/b: there is no space left: .*"),
        (of_system(errno.EACCES, "/a/b"), 2, "error: /a/b: permission is denied: .*"),
        (of_system(errno.EMFILE), 2, r"error: too many open files \(\d+ are allowed\): raise ulimit -n\."),
        (UnicodeEncodeError("ascii", "aß", 1, 2, "no"), 2, r"error: the character '\\xdf' cannot be written .*"),
        (TimeoutError("late"), 2, "error: a connection failed .*"),
        (SystemExit(0), 0, ""),
        (SystemExit(1), 1, ""),
        (SystemExit("words\x07"), 2, r"error: words\\x07"),
    ],
)
def test_an_ending_is_a_status_and_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(raising(error)) == status
    assert re.fullmatch(line + "\n" if line else "", capsys.readouterr().err)


def test_success_is_silent_and_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(lambda _argv: print("done")) is None
    assert capsys.readouterr() == ("done\n", "")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_defect_leaves_a_file_for_its_owner_alone(
    temporary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "https://me:secret1@films.org/a.zip?token=secret2&name=a"
    monkeypatch.setattr(sys, "argv", ["tecogan", "prepare", address])
    assert end(raising(KeyError(f"no {address}"))) == 70
    shown = capsys.readouterr().err
    (file,) = temporary.iterdir()
    assert re.fullmatch(r"internal error: KeyError: .*; please report it with the file \S+, .*\n", shown)
    assert str(file) in shown
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    for needed in ("Traceback", "test_errors.py", "command: tecogan prepare", "Python 3", "torch 2", "ray 2", "films"):
        assert needed in text
    assert "secret" not in text + shown


def test_a_defect_whose_file_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    assert end(raising(ZeroDivisionError("by nothing"))) == 70
    assert str(tmp_path) in capsys.readouterr().err  # the present folder
    monkeypatch.chdir("/proc")
    assert end(raising(ZeroDivisionError("by nothing"))) == 70
    assert re.fullmatch(r"internal error: .* no file about it could be written: .*\n", capsys.readouterr().err)


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("error", [UserError("a."), KeyError("b"), MemoryError(), KeyboardInterrupt("kept")])
def test_traces_are_shown_on_request(
    error: BaseException, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACE_VARIABLE, "1")
    end(raising(error))
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):\n")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("meanwhile", [None, ImportError("numpy says so instead"), SystemExit(15)])
def test_signals_interrupt_whatever_a_library_makes_of_them(
    kind: signal.Signals, meanwhile: BaseException | None, capsys: pytest.CaptureFixture[str]
) -> None:
    inherited = signal.signal(kind, signal.default_int_handler)  # the suite may run where Ctrl-C is ignored
    before = signal.getsignal(kind)

    def main(_argv: list[str] | None) -> None:
        with contextlib.suppress(KeyboardInterrupt) if meanwhile else contextlib.nullcontext():
            os.kill(os.getpid(), kind)
        if meanwhile:
            raise meanwhile

    try:
        assert end(main) == 130
        assert capsys.readouterr().err == "interrupted\n"
        assert signal.getsignal(kind) is before
    finally:
        signal.signal(kind, inherited)


TECOGAN = [sys.executable, "-c", "from tecogan_dist.cli import main; main()"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("1000", None)),
        ({"GOMP_SPINCOUNT": "7"}, ("7", None)),
        ({"OMP_WAIT_POLICY": "active"}, (None, "active")),
    ],
)
def test_threads_that_wait_leave_the_cpu_to_others_unless_the_user_says_how_they_wait(
    given: dict[str, str], expected: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    run_command(lambda _: None, [])
    assert (os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY")) == expected


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_output_is_one_sentence_and_a_closed_pipe_is_quiet(unbuffered: str) -> None:
    """The help of tecogan itself, which imports nothing that takes long."""
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": "ascii"}
    with open("/dev/full", "w") as full:
        run = subprocess.run([*TECOGAN, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert (run.returncode, run.stderr) == (2, "error: there is no space left where the output goes: send it "
                                               "elsewhere, or free some.\n")  # fmt: skip
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run([*TECOGAN, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, env=env)
    os.close(writer)
    assert (run.returncode, run.stderr) == (141, "")


@given(st.text(st.characters(), max_size=400), st.integers(10, 300))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_is_printable(text: str, limit: int) -> None:
    shown = printable(text, limit=limit)
    assert len(shown) <= limit
    assert "\n" not in shown
    assert not re.search("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    shown.encode("utf-8")
    assert printable(shown, limit=limit) == shown


def test_names_of_all_scripts_stay_and_long_ones_lose_their_middle() -> None:
    for name in ("früh.mp4", "映画 4.mkv", "می‌خواهم", "a\\b", "👩‍👧"):
        assert printable(name) == name
    assert printable("a" * 500 + "z" * 500, limit=30) == "a" * 17 + " ... " + "z" * 8
    assert len(printable("\x1b" * 10**7)) <= 300


@pytest.mark.parametrize(
    ("word", "names", "name"),
    [
        ("--ouput", ["--seed", "--output"], "--output"),
        ("--zzzz", ["--batch-size", "--seed"], None),
        ("--override", ["--overwrite"], "--overwrite"),
        ("batchSize", ["batch_size"], "batch_size"),
        ("x" * 10**6, ["--output"], None),
        ("", ["--output"], None),
    ],
)
def test_a_suggestion_is_made_only_where_one_is_near(word: str, names: list[str], name: str | None) -> None:
    assert nearest(word, names) == name
    assert meant(word, names) == (f": did you mean {name}?" if name else ":")


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("relative/to", "needs an absolute path"),
        ("", "needs an absolute path"),
        ("/tmp/" + "x" * 40, "too long for Ray's sockets, 39 bytes at most"),
        ("/proc/self", "nothing can be written"),
        ("/dev/null", "is not a folder"),
    ],
)
@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_that_ray_cannot_use(
    variable: str, folder: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, folder)
    with pytest.raises(UserError, match=f"^{variable} is '.*{re.escape(sentence)}"):
        check_ray_folder()


def test_folders_that_ray_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("/tmp", "/tmp/" + "x" * 34):
        monkeypatch.setenv("RAY_TMPDIR", folder)
        check_ray_folder()
    usual: dict[str, Any] = {"raising": False}
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(variable, **usual)
    check_ray_folder()

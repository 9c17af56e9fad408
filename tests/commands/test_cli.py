"""``tecogan`` itself: its help, and how commands are found and end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.cli import COMMANDS, main
from tecogan_dist.commands.parser import (
    CommandParser,
    input_path,
    judged_elsewhere,
    number,
    output_path,
    output_place,
    whole_number,
)


def run(*words: str) -> int:
    """The exit status."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_the_help_begins_with_examples_and_lists_all_commands(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    text = capsys.readouterr().out
    assert re.match(r"examples:\n  tecogan \w+ .*\n  tecogan \w+ .*\n\nusage: tecogan COMMAND", text)
    for name, purpose in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(purpose)}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_begins_its_help_with_two_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert re.match(
        rf"examples:\n  tecogan {name} .*\n(  tecogan {name} .*\n)+\nusage: tecogan {name} ", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["upscael", "a", "b"],
            "error: there is no command 'upscael': did you mean upscale? 'tecogan --help' lists all.",
        ),
        (["--hlep"], "error: there is no option --hlep: did you mean --help? 'tecogan --help' lists all."),
        (
            ["convert"],
            "error: the following arguments are required: SOURCE, OUTPUT: 'tecogan convert --help' says what it takes.",
        ),
    ],
)
def test_mistakes_are_one_line_and_status_2(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert capsys.readouterr().err == line + "\n"


def test_a_command_gets_the_words_after_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", "nothing", "w.pth") == 2
    assert capsys.readouterr().err.startswith("error: the output w.pth must have a name that ends in .safetensors")


@pytest.mark.parametrize("words", [["--version"], *([name, "--version"] for name in COMMANDS)])
def test_the_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 0
    assert re.fullmatch(r"tecogan \d+\.\d+\.\d+\n", capsys.readouterr().out)


NEEDED = {
    "prepare": ["a.mp4", "--output", "store"],
    "train": ["--config", "frvsr", "--data", "store", "--output", "run"],
    "tune": ["--space", "s", "--config", "frvsr", "--data", "store", "--output", "run"],
    "upscale": ["a.mp4", "b.mp4", "--weights", "w.safetensors"],
    "evaluate": ["--results", "a.mp4", "--targets", "b.mp4", "--output", "scores"],
    "report": ["runs/frvsr", "--output", "page.html"],
    "export": ["a.onnx", "--weights", "w.safetensors"],
    "fetch": ["tecogan"],
    "convert": ["a", "b.safetensors"],
    "dashboard": ["--project", "p"],
    "status": ["run"],
    "list": ["runs"],
    "submit": ["--", "doctor"],
    "doctor": [],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("word", ["--over", "--verb", "--zzzz", "--qqqqqqqqqqqqqqqqqqqqqqqqqqqq\x1b[31m", "--hel"])
def test_no_command_accepts_an_abbreviation_or_suggests_what_is_far(
    name: str, word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(name, word, *NEEDED[name]) == 2
    shown = capsys.readouterr().err
    assert re.fullmatch(r"error: there is no (option|setting) --\S+: .*--help' lists all\.\n", shown)
    assert "\x1b" not in shown
    if "z" in word or "q" in word:
        assert "did you mean" not in shown


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in COMMANDS
        if name not in ("convert", "dashboard", "export", "fetch", "list", "status", "submit", "upscale")
    ],
)
def test_a_slip_in_output_is_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name != "doctor":
        assert run(name, "--ouput", "x") == 2
        assert "did you mean --output?" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "submit"])
def test_a_value_of_nothing_is_refused_by_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = NEEDED[name] or ["--storage", "x"]
    for number_of_value in [i for i, word in enumerate(words) if not word.startswith("--")]:
        for empty in ("", "  "):
            changed = [empty if i == number_of_value else word for i, word in enumerate(words)]
            assert run(name, *changed) == 2
            before = words[number_of_value - 1] if number_of_value else ""
            named = before if before.startswith("--") else "[A-Z]+"
            assert re.match(rf"error: {named}: is empty", capsys.readouterr().err)


def parsed(kind: object, text: str) -> object:
    parser = CommandParser("x", description="x", examples=["x"])
    parser.add_argument("--value", type=kind)
    return parser.parse_args(["--value", text]).value


@pytest.mark.parametrize("text", ["1_000", " 5", "5 ", "1e3", "5.0", "five", "٣", "0x10", "nan", "inf", "9" * 5000])
def test_what_only_looks_like_a_whole_number(text: str) -> None:
    with pytest.raises(UserError, match="--value: invalid whole number value"):
        parsed(whole_number(0), text)


@pytest.mark.parametrize(("text", "end"), [("-5", "at least 0"), (str(2**63), "at most"), ("-" + "9" * 30, "at least")])
def test_whole_numbers_beyond_their_limits(text: str, end: str) -> None:
    with pytest.raises(UserError, match=f"--value: must be {end}"):
        parsed(whole_number(0), text)
    assert parsed(whole_number(0), str(2**63 - 1)) == 2**63 - 1
    with pytest.raises(UserError, match="must be at most 51, not 99"):
        parsed(whole_number(0, 51), "99")


@pytest.mark.parametrize("text", ["nan", "inf", "Infinity", "1_0.5", "1e999", "1,5", "", " 1", "0x1p3", "1e"])
def test_what_only_looks_like_a_number(text: str) -> None:
    with pytest.raises(UserError, match=r"--value: (invalid number value|is empty)"):
        parsed(number(), text)
    assert parsed(number(0.0, 10.0), "1e-3") == 0.001
    with pytest.raises(UserError, match="must be at most 10"):
        parsed(number(0.0, 10.0), "10.5")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with what no output can be in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "system").symlink_to("/proc")
    (tmp_path / "dangling").symlink_to("/proc/self/x")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        *(".", "/", "..", "./", "//", "../..", "a/..", "here", "/proc/x", "/sys/x.mp4", "system/a", "dangling/b"),
        *("x" * 300, "a/" * 3000, "loop", "loop/a", "file/a", "/dev/null", "/dev/x", "a\0b", "\udc00\ud800"),
    ],
)
def test_what_no_output_can_be(folder: Path, text: str) -> None:
    before = sorted(folder.iterdir())
    for kind in (output_path, output_place):
        with pytest.raises(UserError, match=r"^--value: ") as raised:
            parsed(kind, text)
        assert len(str(raised.value)) < 400
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("text", ["file", "new", "a/b/c.mp4", "..x", "ümlaut ü", "x" * 255, "/dev/shm/x"])
@pytest.mark.usefixtures("folder")
def test_what_an_output_can_be(text: str) -> None:
    assert parsed(output_path, text) == Path(text)
    assert parsed(output_place, text) == text


@pytest.mark.usefixtures("folder")
def test_places_on_another_machine_are_judged_by_their_text_alone() -> None:
    assert parsed(output_place, "s3://films/run") == "s3://films/run"
    with pytest.raises(UserError, match="--value: must be a local path, not 's3://films/run'"):
        parsed(output_path, "s3://films/run")
    with judged_elsewhere():
        assert parsed(output_place, "/dev/x") == "/dev/x"
        with pytest.raises(UserError, match="of its own"):
            parsed(output_place, "/")


@pytest.mark.parametrize("text", ["", "x" * 300, "loop", "a\0b", "http://x/y"])
@pytest.mark.usefixtures("folder")
def test_what_no_input_can_be(text: str) -> None:
    with pytest.raises(UserError, match=r"^--value: "):
        parsed(input_path, text)


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (["-c", "from tecogan_dist.cli import main; main()", "train"], signal.SIGINT),
        (["-m", "tecogan_dist.train"], signal.SIGTERM),
    ],
)
def test_an_interruption_while_modules_are_imported(entry: list[str], kind: signal.Signals) -> None:
    words = [sys.executable, *entry, "--config", "frvsr", "--data", "nothing", "--output", "x"]
    # What a shell runs in the background ignores Ctrl-C, and so does what that starts.
    before = signal.signal(kind, signal.SIG_DFL)
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(kind, before)
    time.sleep(0.5)
    process.send_signal(kind)
    assert process.communicate(timeout=60) == ("", "interrupted\n")
    assert process.returncode == 130

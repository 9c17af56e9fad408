"""``tecogan`` itself: its help, and how commands are found and end."""

from __future__ import annotations

import re

import pytest

from tecogan_dist.cli import COMMANDS, main


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
        rf"examples:\n  tecogan {name} .*\n  tecogan {name} .*\n\nusage: tecogan {name} ", capsys.readouterr().out
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

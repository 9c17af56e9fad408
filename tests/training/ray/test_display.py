"""What people see of a run: a panel on a terminal, plain lines in a log."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
from collections.abc import Sequence

import pytest
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from tecogan_dist.base.chatter import VERBOSE_VARIABLE
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tecogan_dist.runs.advice import DISCRIMINATOR_WINS
from tecogan_dist.runs.patterns import Pattern
from tecogan_dist.training.ray import display as display_module
from tecogan_dist.training.ray.board import Line, Lost, Measured, Progress, Saved
from tecogan_dist.training.ray.display import Display
from tecogan_dist.training.ray.panel import Progressing, clock, panel, plain_line, rate_text
from tests.support.terminal import terminal

CONFIG = override(Config(), ["--steps", "10000"])
METRICS = {
    "loss/content": 0.0123456,
    "loss/warp": 0.02,
    "loss/perceptual": 0.1,
    "loss/pingpong": 0.003,
    "loss/adversarial": 0.5,
    "loss/total": 0.6,
    "loss/discriminator": 1.2,
    "raw/content": 99.0,
    "discriminator/balance": 0.25,
    "discriminator/real": 0.8,
    "discriminator/fake": 0.3,
    "discriminator/updates": 1100.0,
    "discriminator/skips": 100.0,
    "discriminator/accuracy": 0.75,
    "time/step": 0.5,
    "time/data_wait": 0.05,
    "throughput/samples_per_second": 16.0,
    "throughput/tflops": 12.5,
    "throughput/mfu": 0.31,
    "memory/gpu_peak": 10.25,
    "memory/gpu_reserved": 12.0,
    "memory/alloc_retries": 0.0,
    "memory/host": 3.5,
}
WINS = Pattern(kind=DISCRIMINATOR_WINS, first=100, last=900, seen="The balance stands above the threshold.")


def known(**changes: object) -> Progressing:
    whole = Progressing(
        CONFIG,
        step=2500,
        metrics=METRICS,
        scores={1000: {"psnr": 25.0, "tof": 0.2}, 2000: {"psnr": 24.5, "tof": 0.1}},
        checkpoint=(2000, -1e6),
        patterns=[WINS],
    )
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def words(lines: Sequence[object]) -> str:
    return re.sub(r"\s+", " ", " ".join(map(str, lines)))


def test_a_panel_tells_all_that_matters() -> None:
    lines = [line.plain for line in panel(known(), width=100)]
    text = "\n".join(lines)
    assert lines[0].startswith("step 2500/10000 ━")
    assert lines[0].endswith(" 25%  left 1:02:30")
    assert "losses   content 0.01235  warp 0.02  perceptual 0.1  pingpong 0.003" in text
    assert "D        learns: balance 0.250 of 0.4  real 0.80  fake 0.30  right 75%  1100 updates  100 skips" in text
    assert "speed    2 steps/s  16 samples/s  12.5 TFLOP/s  MFU 31%  data wait 10%" in text
    assert "memory   GPU 10.2 GiB  reserved 12 GiB  host 3.5 GiB" in text
    assert "scenes   step 2000  PSNR 24.5 (best 25, step 1000)  tOF 0.1 (best)" in text
    assert "saved    step 2000  " in text
    assert f"pattern discriminator wins: {WINS.advice}" in words(lines)
    assert "raw" not in text
    assert "99" not in text


@pytest.mark.parametrize("width", [20, 40, 41, 60, 80, 200])
def test_it_fits_any_width_and_leaves_nothing_out(width: int) -> None:
    lines = panel(known(), width=width)
    assert max(line.cell_len for line in lines) <= width
    if width >= 40:
        text = words(lines)
        for part in ("step 2500/10000", "25%", "left 1:02:30", "discriminator 1.2", "100 skips", "data wait 10%"):
            assert part in text, part
        assert "tOF 0.1 (best)" in text
        assert ("━" in text) == (width > 44)


def test_what_is_not_known_is_not_shown() -> None:
    empty = Progressing(CONFIG)
    assert [line.plain for line in panel(empty, width=80)] == [f"step 0/10000 {'╌' * 40} 0%"]
    bare = Progressing(CONFIG, step=20, metrics={"time/step": float("nan"), "loss/content": float("nan")})
    assert "losses   content nan" in [line.plain for line in panel(bare, width=80)]
    assert plain_line(bare) == "step 20/10000  no step measured  content nan"


def test_a_discriminator_that_is_ahead_is_marked() -> None:
    ahead = known(metrics=METRICS | {"discriminator/balance": 0.41})
    line = next(line for line in panel(ahead, width=100) if line.plain.startswith("D "))
    assert "waits: balance 0.410 of 0.4" in line.plain
    assert line.style == "yellow"


@pytest.mark.parametrize(("rate", "text"), [(None, "no step measured"), (12.34, "12.3 steps/s"), (0.4, "2.5 s/step")])
def test_rates(rate: float | None, text: str) -> None:
    assert rate_text(rate) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3600, "1:00:00"), (360000, "4 days 4 h")])
def test_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_log_has_short_lines(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(CONFIG)
    display.show([Line("training starts"), Progress(20, METRICS), Saved(20), Measured(20, {"psnr": 30.0})])
    display.show([])
    display.show([Progress(40, {"time/step": 2.0, "loss/content": 0.5}), Line("evil\x1b[2J\nname")])
    display.close()
    assert capsys.readouterr().out.splitlines() == [
        "training starts",
        "step 20/10000  2 steps/s  left 1:23:10  content 0.01235  warp 0.02  perceptual 0.1  pingpong 0.003  "
        "adversarial 0.5  discriminator 1.2  wait 10%",
        "step 40/10000  2 s/step  left 5:32:00  content 0.5",
        "evil\\x1b[2J\\nname",
    ]
    assert display.rate == "2 s/step"


def test_a_pattern_is_told_once_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display_module, "SECONDS_BETWEEN_PATTERNS", 0.0)
    monkeypatch.setattr(display_module, "patterns", lambda lines, **_: [WINS] if len(lines) > 1 else [])
    display = Display(CONFIG)
    for step in (20, 40, 60):
        display.show([Progress(step, METRICS)])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("step")] == [f"warning: discriminator wins: {WINS.advice}"]


def test_a_defect_in_what_looks_on_ends_no_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def patterns(*_: object, **__: object) -> list[Pattern]:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(display_module, "SECONDS_BETWEEN_PATTERNS", 0.0)
    monkeypatch.setattr(display_module, "patterns", patterns)
    display = Display(CONFIG)
    display.show([Progress(20, METRICS), Progress(40, METRICS)])
    text = capsys.readouterr().out
    assert text.count("warning: known patterns cannot be looked for (ZeroDivisionError: division by zero)") == 1


def test_what_a_dead_worker_printed_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def last_words(pid: int, ip: str) -> list[str]:
        asked.append((pid, ip))
        return ["Fatal: \x1b[31mout of luck", "Segmentation fault"] if pid == 12 else []

    Display(CONFIG, last_words=last_words).show([Lost(12, "10.0.0.7"), Lost(13, "10.0.0.8")])
    assert asked == [(12, "10.0.0.7"), (13, "10.0.0.8")]
    assert capsys.readouterr().out.splitlines() == [
        "what process 12 on 10.0.0.7 wrote last:",
        "    Fatal: \\x1b[31mout of luck",
        "    Segmentation fault",
    ]


def test_with_verbose_there_is_no_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERBOSE_VARIABLE, "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    display = Display(CONFIG, console=console)
    display.show([Progress(20, METRICS)])
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().startswith("step 20/10000  2 steps/s")
    assert "\x1b" not in console.file.getvalue()


def test_a_panel_that_a_narrower_terminal_has_broken_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, legacy_windows=False)
    display = Display(CONFIG, console=console)
    display.show([Progress(20, METRICS)])
    drawn = panel(Progressing(CONFIG, step=20, metrics=METRICS), width=99)
    broken = sum(-(-line.cell_len // 50) - 1 for line in drawn)
    assert broken > 2
    ups: list[int] = []
    control = console.control

    def counted(*controls: Control) -> None:
        ups.extend(sum(code[0] == ControlType.CURSOR_UP for code in one.segment.control or ()) for one in controls)
        control(*controls)

    monkeypatch.setattr(console, "control", counted)
    console.width = 50
    display.show([Saved(20)])
    assert ups[2] == broken  # after rich has shown the cursor, and erased what it believes to be its lines
    display.close()


SHOWS = """
import sys, time
from tecogan_dist.commands.signals import stopping_by_signal
from tecogan_dist.training.ray.board import Line, Progress, Saved
from tecogan_dist.training.ray.display import Display
from tests.training.ray.test_display import CONFIG, METRICS
display = Display(CONFIG)
asked = []
try:
    with stopping_by_signal(lambda: asked.append(1), what="the run ends after this step"):
        display.show([Line("it begins")])
        for step in range(1, 10000):
            display.show([Progress(step, METRICS)] + ([Line(f"event {step}"), Saved(step)] if step % 5 == 0 else []))
            time.sleep(0.05)
            if asked and sys.argv[1] == "orderly":
                break
except KeyboardInterrupt:
    display.close()
    print("stopped at once")
finally:
    display.close()
print("the end", flush=True)
"""


@pytest.mark.parametrize("how", ["orderly", "at once"])
@pytest.mark.parametrize("columns", [40, 100])
def test_ctrl_c_leaves_a_sane_terminal(how: str, columns: int) -> None:
    with terminal([sys.executable, "-c", SHOWS, how], columns=columns, lines=30) as one:
        one.wait_for("event 10")
        one.wait_for("losses")
        one.press(b"\x03")
        one.wait_for("asked to stop")
        if how == "at once":
            one.press(b"\x03")
        assert one.finish() == 0
        lines = one.shown()
    assert one.after == one.before
    assert not one.cursor_is_hidden
    text = " ".join(lines)
    assert lines[0] == "it begins"
    if how == "orderly":
        assert lines[1:3] == ["event 5", "event 10"]
    else:  # it may come while the panel is drawn
        assert lines.index("event 5") < lines.index("event 10")
    assert lines[-1] == "the end"
    assert ("stopped at once" in lines) == (how == "at once")
    assert "losses" not in text  # the panel is gone
    last = next(number for number, line in enumerate(lines) if line.startswith("step "))
    assert re.search(r"step \d+/10000 +2 steps/s", " ".join(lines[last : last + 2]))


def test_a_terminal_that_changes_its_size_shows_one_panel() -> None:
    with terminal([sys.executable, "-c", SHOWS, "orderly"], columns=110, lines=30) as one:
        one.wait_for("losses")
        for number, columns in enumerate((60, 40, 120), 1):
            one.wait_for(f"event {30 * number}")
            one.resize(columns, 30)
            one.wait_for(f"event {30 * number + 15}")
            shown = one.shown()
            assert sum(line.startswith("step ") for line in shown) == 1, shown
            assert any(line.startswith("saved ") for line in shown), shown
        one.press(b"\x03")
        assert one.finish() == 0
        assert one.shown()[-1] == "the end"

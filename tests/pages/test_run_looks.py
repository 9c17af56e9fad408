"""The page of a run in Chromium: every width, day and night, and sliders that are really moved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tecogan_dist.base.storage import Location
from tecogan_dist.pages.charts import SERIES, Figure, text
from tecogan_dist.pages.run import render_runs
from tecogan_dist.pages.run_records import read_runs
from tests.pages.test_charts import made
from tests.support.browser import WIDTHS, Browser, Tab, needs_chromium
from tests.support.recorded_runs import add_previews, config_of, record

pytestmark = needs_chromium
FEW = "raw/(perceptual_|feature_match_)|average/(perceptual_|feature_match_)|memory/host|throughput/[fm]"
"""Records that are left out, whose figures are as others are."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = [
        record(folder / "yesterday", lines=80, seed=1, restarts=(600,), without=FEW),
        record(
            folder / "a_name_that_is_long_and_has_no_place_where_it_could_be_broken_in_a_table", lines=60, without=FEW
        ),
    ]
    for number, run in enumerate(made):
        add_previews(run, [400, 800, 1200], seed=number)
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


def written(path: Path, folders: list[Path]) -> Path:
    runs = read_runs([Location.of(folder) for folder in folders])
    path.write_text(render_runs(runs, [None] * len(runs)), "utf-8")
    return path


def faults(tab: Tab) -> list[str]:
    return [*tab.messages, *tab.requests[1:], *tab.failed, *tab.overflow()]


@pytest.mark.slow
def test_it_fits_every_window_and_has_no_fault(browser: Browser, tmp_path: Path, folders: list[Path]) -> None:
    looks = {1: [(width, dark) for dark in (False, True) for width in WIDTHS], 2: [(400, False), (1400, True)]}
    for count, windows in looks.items():
        with browser.tab(width=400) as tab:
            tab.open(written(tmp_path / f"page{count}.html", folders[:count]))
            tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            for width, dark in windows:
                tab.colours(dark=dark)
                tab.resize(width, 900)
                tab.show_all()
                assert faults(tab) == [], (count, width, dark)
                # All of it was looked at, however high it is.
                height = tab.evaluate("document.documentElement.scrollHeight")
                assert tab.evaluate("innerHeight") == height
                tab.wait_for("document.querySelector('.drawing:not([data-drawn])') === null")
                assert width > 400 or height > 16_384
                # The page's own colours have come to the figures.
                ink = tab.evaluate("document.querySelector('.drawing')._fullLayout.font.color")
                assert ink == ("#98a2b3" if dark else "#5c6675")


def test_the_sliders_move_what_they_say(browser: Browser, tmp_path: Path, folders: list[Path]) -> None:
    page = written(tmp_path / "page.html", folders)
    with browser.tab(width=1000) as tab:
        tab.open(page)

        def move(query: str, value: str) -> None:
            tab.evaluate(f"""(() => {{
              const control = document.querySelector({query!r});
              control.value = {value!r};
              control.dispatchEvent(new Event("input", {{bubbles: true}}));
            }})()""")

        def says(query: str) -> str:
            return str(tab.evaluate(f"document.querySelector({query!r}).textContent"))

        def is_shown(side: str, layer: str, step: int | None) -> bool:
            """Whether a side shows this strip, large and small."""
            at = "" if step is None else f"[data-step='{step}']"
            kept = f"""document.querySelector(".store [data-kind=strip][data-layer='{layer}']{at}").src"""
            return bool(
                tab.evaluate(f"""document.querySelector(".stage img.{side}").src === {kept}
                  && document.querySelector(".all img.{side}").src === {kept}""")
            )

        # Two runs after their last steps, side by side.
        assert is_shown("left", "run-0", 1200)
        assert is_shown("right", "run-1", 1200)
        move("[data-of=step]", "0")
        assert says("output.step") == "400"
        assert is_shown("left", "run-0", 400)
        assert is_shown("right", "run-1", 400)
        assert says(".stage b.left") == "yesterday, step 400"
        profile = ".profiles .left img"
        kept = ".store [data-kind=profile][data-layer=run-0][data-step='400']"
        assert tab.evaluate(f'document.querySelector("{profile}").src === document.querySelector("{kept}").src')
        move("select.right", "still-HR")
        assert is_shown("right", "still-HR", None)
        assert says(".stage b.right") == "HR"
        assert tab.evaluate("document.querySelector('.profiles .right').hidden")

        # The wipe: by the mouse, as people do.
        box = tab.evaluate(
            "(() => { const b = document.querySelector('.stage').getBoundingClientRect();"
            " return [b.left + scrollX, b.top + scrollY, b.width, b.height]; })()"
        )
        tab.resize(1000, 4000)
        x, y = box[0] + 0.25 * box[2], box[1] + 0.5 * box[3]
        for kind in ("mousePressed", "mouseReleased"):
            tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        clip = tab.evaluate("getComputedStyle(document.querySelector('.layer.over')).clipPath")
        share = re.search(r"calc\((?:100% - )?([\d.]+)%|inset\(0px ([\d.]+)%", clip)
        assert share is not None, clip
        assert 15 < float(tab.evaluate("document.querySelector('.wiper').value")) < 35

        # Frames: the strip behind the window moves by one frame's width, and plays.
        def left() -> float:
            return float(tab.evaluate("parseFloat(getComputedStyle(document.querySelector('.stage img.left')).left)"))

        width = float(tab.evaluate("document.querySelector('.stage').clientWidth"))
        assert left() == 0
        first = int(says("output.frame"))
        move("[data-of=frame]", "3")
        assert left() == pytest.approx(-3 * width, abs=1)
        assert int(says("output.frame")) == first + 3
        tab.evaluate("document.querySelector('.viewer button').click()")
        tab.wait_for("document.querySelector('[data-of=frame]').value !== '3'")
        tab.evaluate("document.querySelector('.viewer button').click()")
        assert says(".viewer button") == "play"
        assert faults(tab) == []


def test_a_single_run_is_wiped_against_bicubic_and_against_itself(
    browser: Browser, tmp_path: Path, folders: list[Path]
) -> None:
    with browser.tab(width=800) as tab:
        tab.open(written(tmp_path / "page.html", folders[:1]))
        sides = "[...document.querySelectorAll('.viewer select')].map(one => one.selectedOptions[0].textContent)"
        assert tab.evaluate(sides) == ["bicubic", "this run"]
        choices = tab.evaluate("[...document.querySelector('select.left').options].map(one => one.textContent)")
        assert choices[:5] == ["LR", "bicubic", "HR", "this run", "this run, step 400"]
        tab.evaluate("""(() => { const one = document.querySelector("select.left");
          one.value = "run-0@400"; one.dispatchEvent(new Event("input", {bubbles: true})); })()""")
        assert tab.evaluate("document.querySelector('.stage b.left').textContent") == "yesterday, step 400"
        assert tab.evaluate("document.querySelector('.stage b.right').textContent") == "yesterday, step 1,200"


def test_a_name_that_reads_like_a_place_of_a_template_is_shown_as_it_is(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "lr%{x}_%{y:.2f}<b>&amp;"
    name = text(words)
    curve = {"type": "scatter", "x": [1, 2], "y": [5, 7], "name": name, "hovertemplate": f"{name}=%{{y}}"}
    figure = Figure.of([curve | {"line": {"color": SERIES[0]}}], {"showlegend": True}, title=words)
    page = tmp_path / "page.html"
    main = '{% from "charts.html" import figure %}{{ figure(it) }}'
    page.write_text(made(monkeypatch, main, {"it": figure}, charts=True))
    with browser.tab(width=1000) as tab:
        tab.open(page)
        tab.show_all()
        assert tab.evaluate("document.querySelector('.legend').textContent") == words
        x, y = tab.evaluate("""(() => {
          const plot = document.querySelector(".drawing"), box = plot.getBoundingClientRect();
          const {xaxis, yaxis} = plot._fullLayout;
          return [box.left + xaxis._offset + xaxis.l2p(1), box.top + yaxis._offset + yaxis._length / 2];
        })()""")
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        tab.wait_for("document.querySelector('.hoverlayer').textContent")
        assert f"{words}=5" in tab.evaluate("document.querySelector('.hoverlayer').textContent")
        assert faults(tab) == []


def test_a_run_without_records_and_one_of_frvsr(browser: Browser, tmp_path: Path) -> None:
    begun = record(tmp_path / "begun", lines=0, state="running")
    plain = record(tmp_path / "plain", lines=30, config=config_of("frvsr"), state="failed")
    for number, folders in enumerate(([begun], [begun, plain])):
        with browser.tab(width=400) as tab:
            tab.open(written(tmp_path / f"page{number}.html", folders))
            tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            tab.show_all()
            assert faults(tab) == []

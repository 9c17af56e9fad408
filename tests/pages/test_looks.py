"""Pages as Chromium shows them, from a telephone's width to a desk's, by day and by night."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tecogan_dist.metrics.protocol import STANDARD
from tecogan_dist.pages.charts import Figure
from tecogan_dist.pages.evaluation import render_report
from tecogan_dist.pages.sweep import render_sweep
from tecogan_dist.pages.upscaled import write_upscaled
from tecogan_dist.tuning.study import study_of
from tests.pages.test_charts import made
from tests.pages.test_upscaled import upscaling_of
from tests.support.browser import Browser, look, needs_chromium
from tests.support.evaluations import clip, evaluate
from tests.support.sweep_pages import asha

pytestmark = needs_chromium


def evaluation_page(folder: Path) -> Path:
    """Frame 3 is as its target."""
    results, targets = clip(1)
    results[3] = targets[3]
    page = folder / "report.html"
    page.write_text(render_report(*evaluate(folder, {"calendar": (results, targets)}, protocol=STANDARD), worst=1))
    return page


def sweep_page(folder: Path) -> Path:
    results = asha()
    page = folder / "sweep.html"
    page.write_text(render_sweep(results, study_of(results), [], title="a sweep", command="tecogan train"))
    return page


def upscaled_page(folder: Path) -> Path:
    page = folder / "upscaled.html"
    write_upscaled(page, upscaling_of(folder, degrade="BD", result=30), [0, 3])
    return page


@pytest.mark.slow
@pytest.mark.parametrize("make", [evaluation_page, sweep_page, upscaled_page])
def test_a_page_fits_every_window_and_has_no_fault(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    views = list(look(make(tmp_path), open_folded=True))
    assert [(view.width, view.dark) for view in views] == [(w, d) for d in (False, True) for w in (400, 800, 1400)]
    for view in views:
        assert view.faults() == []
        with Image.open(view.screenshot) as image:
            assert image.width == view.width
            corner = np.asarray(image.convert("RGB"))[2, 2]
        assert corner.mean() < 60 if view.dark else corner.mean() > 200


def test_a_curve_tells_its_values_and_follows_the_colours_of_the_system(tmp_path: Path) -> None:
    with Browser() as browser, browser.tab(width=1000) as tab:
        tab.open(evaluation_page(tmp_path))
        tab.show_all()

        def says(frame: int) -> str:
            """The words beside the pointer above a frame of the first curve."""
            place = f"""(() => {{
              const plot = document.querySelector(".drawing"), box = plot.getBoundingClientRect();
              const {{xaxis, yaxis}} = plot._fullLayout;
              return [box.left + xaxis._offset + xaxis.l2p({frame}), box.top + yaxis._offset + yaxis._length / 2];
            }})()"""
            x, y = tab.evaluate(place)
            tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
            tab.wait_for("document.querySelector('.drawing .hoverlayer').textContent.includes('frame')")
            words = tab.evaluate("document.querySelector('.drawing .hoverlayer').textContent")
            tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
            tab.wait_for("!document.querySelector('.drawing .hoverlayer').textContent")
            return str(words)

        ink = "document.querySelector('.drawing')._fullLayout.font.color"
        line = "document.querySelector('.drawing')._fullData[0].line.color"
        shown = tab.evaluate("document.querySelector('.drawing').data[0].y")
        assert f"frame 5: {shown[5]:.2f} dB" in says(5)
        assert "frame 3: ∞ dB" in says(3)
        day = tab.evaluate(f"[{ink}, {line}]")
        tab.colours(dark=True)
        tab.wait_for(f"{ink} !== '{day[0]}'")
        assert tab.evaluate(line) != day[1]
        assert [tab.messages, tab.requests[1:], tab.failed] == [[], [], []]


def test_a_legend_stays_above_its_curves_and_leaves_them_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = [{"type": "scatter", "x": [0, 1], "y": [0, n], "name": f"curve with a long name {n}"} for n in range(8)]
    folded = "<details><summary>more</summary>{{ figure(it) }}</details>"
    main = '{% from "charts.html" import figure %}{{ figure(it) }}' + folded
    page = tmp_path / "legend.html"
    page.write_text(made(monkeypatch, main, {"it": Figure.of(curves, title="eight")}, charts=True))
    place = """(() => {
      const boxes = [".drawing", ".legend .bg", ".nsewdrag"].map(name => document.querySelector(name));
      return boxes.map(one => one.getBoundingClientRect()).map(box => [box.top, box.bottom]);
    })()"""
    with Browser() as browser, browser.tab(width=400) as tab:
        tab.open(page)
        for width in (400, 1400, 400):
            tab.resize(width, 900)
            tab.show_all()
            drawing, legend, plot = tab.evaluate(place)
            assert drawing[0] <= legend[0] < legend[1] <= plot[0]
            assert plot[0] - legend[1] < 10
            assert plot[1] - plot[0] > 150
            assert (drawing[1] - drawing[0] == 300) == (width == 1400)
        # What is folded waits.
        assert tab.evaluate("document.querySelector('details .drawing').dataset.drawn === undefined")
        tab.evaluate("document.querySelector('details').open = true")
        tab.wait_for("document.querySelectorAll('[data-drawn]').length === 2")
        assert tab.messages == []


def test_a_finger_on_a_curve_scrolls_the_page(tmp_path: Path) -> None:
    with Browser() as browser, browser.tab(width=400) as tab:
        tab.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
        tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
        tab.open(evaluation_page(tmp_path))
        tab.evaluate("document.querySelector('.drawing').scrollIntoView({block: 'center'})")
        tab.wait_for("document.querySelector('.drawing').dataset.drawn")
        before = tab.evaluate("scrollY")
        tab.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": 200, "y": 400}])
        for y in range(390, 200, -10):
            tab.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": 200, "y": y}])
        tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        tab.wait_for(f"scrollY > {before} + 100")
        assert tab.messages == []


def test_the_browser_notes_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(
        "<!DOCTYPE html><meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\"><p style='width: 2000px'>wide</p>"
        "<script>console.error('hidden'); nothing.there()</script><img src='http://127.0.0.1:9/x.png'>"
    )
    (view,) = [view for view in look(page, widths=[400]) if not view.dark]
    assert any("hidden" in message for message in view.messages)
    assert any("nothing is not defined" in message for message in view.messages)
    assert any("Content Security Policy" in message for message in view.messages)
    assert view.requests == ["http://127.0.0.1:9/x.png"]
    assert view.failed == ["csp"]
    assert view.overflow == ["P. 2008"]

"""Figures of a page, drawn by plotly.js, which the page holds once.

A page of figures is made of three things:

- :class:`Figure` in Python: ``Figure.of(traces, layout, title=..., caption=...)`` of plain Plotly traces and a plain
  layout, as https://plotly.com/javascript/reference/ has them. What does not differ from figure to figure (font,
  margins, grid, legend above, hover) is ``TEMPLATE`` and need not be given.
- the macro in the template: ``{% from "charts.html" import figure %}`` and then ``{{ figure(it) }}``. Several beside
  each other where there is room stand in ``<div class="plots columns">``, below each other in ``<div class="plots">``.
- :func:`tecogan_dist.pages.templates.render` with ``charts=True``, which brings plotly.js, ``DRAW`` and the style.

Colours are given by their roles (``SERIES[0]``, ``INK``, ``SOFT``, ``GOOD``, ``BAD``, ``GOOD_BAND`` ...), wherever
Plotly takes one by a key that ends in ``color`` (or in ``colorscale``, ``colorway``). They are variables of the page's
style, by day and by night; a page that is open changes with the system. A figure whose colours were chosen for white is
``on_white`` and stays so at night.

A figure is drawn when it comes near the window, so a hundred of them open at once; its ``.drawing`` has then the width
that it was drawn for as ``data-drawn``. It follows the window's width. Where there is no mouse, a finger scrolls the
page rather than zooms. A legend of many rows makes a figure higher.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))
"""Colours of curves, in the order in which they are taken; none is that of good or bad."""
INK, SOFT, GRID = "var(--ink)", "var(--soft)", "var(--grid)"
GOOD, BAD, WARN = "var(--good)", "var(--bad)", "var(--warn)"
GOOD_BAND, BAD_BAND, SOFT_BAND = "var(--good-band)", "var(--bad-band)", "var(--soft-band)"
"""See-through, for what lies behind curves."""
SERIES_BANDS = tuple(f"var(--series-{number}-band)" for number in range(1, 9))
"""See-through, each for what belongs to the colour of ``SERIES`` in its place."""
FONT = 'system-ui, "Segoe UI", Roboto, sans-serif'
HEIGHT = 300
DIGITS = 6
"""Significant digits of a number in a figure: more than a screen shows, and a third of what a float has."""

_AXIS = {
    "automargin": True,
    "gridcolor": GRID,
    "linecolor": GRID,
    "zerolinecolor": GRID,
    "zeroline": False,
    "tickcolor": GRID,
    "title": {"standoff": 8, "font": {"size": 12}},
    "exponentformat": "power",
}
TEMPLATE: dict[str, Any] = {
    "layout": {
        "font": {"family": FONT, "size": 12, "color": SOFT},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "colorway": list(SERIES),
        "margin": {"l": 12, "r": 14, "t": 10, "b": 12},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hovermode": "x unified",
        "hoverlabel": {
            "align": "left",
            "bgcolor": "var(--card)",
            "bordercolor": "var(--line)",
            "font": {"color": INK, "family": FONT, "size": 12},
        },
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom", "maxheight": 2000},
        "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": SOFT, "activecolor": INK},
        "annotationdefaults": {"font": {"color": INK}, "arrowcolor": INK},
        "shapedefaults": {"line": {"color": SOFT, "width": 1}},
    }
}
"""Plotly's word for what holds unless a figure says otherwise."""

DRAW = """
"use strict";
{  // no name of this script is in the way of another's
const template = TEMPLATE_JSON;
const canHover = matchMedia("(hover: hover)").matches;
const config = {displaylogo: false, showSendToCloud: false,
                displayModeBar: canHover ? "hover" : false, modeBarButtonsToRemove: ["select2d", "lasso2d"]};
const drawn = new Set();
// The page's colours, wherever a figure names one of them.
const coloured = (value, style, key) => {
  if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(one => coloured(one, style, key));
  if (value !== null && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, coloured(one, style, name)]));
  const role = typeof value === "string" && /color(scale|way)?$/.test(key) && /^var[(](--[a-z0-9-]+)[)]$/.exec(value);
  return role ? style.getPropertyValue(role[1]).trim() : value;
};
// A figure's changes wait for each other; each notes the width that it has drawn for.
const changes = new WeakMap();
const change = (drawing, work) => {
  changes.set(drawing, (changes.get(drawing) ?? Promise.resolve()).then(async () => {
    const width = drawing.clientWidth;
    if (!width) return;
    delete drawing.dataset.drawn;
    await work();
    // A legend of many rows makes a figure higher rather than its curves flat.
    for (let turn = 0; turn < 3; turn += 1) {
      const rows = drawing.querySelector(".legend .bg")?.getBoundingClientRect().height ?? 0;
      const usual = Number(drawing.dataset.height ??= parseFloat(drawing.style.height));
      drawing.style.height = Math.round(usual + Math.max(0, rows - 48)) + "px";
      const svg = drawing.querySelector(".main-svg");
      const off = [svg.clientWidth - drawing.clientWidth, svg.clientHeight - drawing.clientHeight];
      if (Math.max(...off.map(Math.abs)) <= 1) break;
      await resize(drawing);
    }
    drawing.dataset.drawn = width;
    widths.observe(drawing);
  }));
};
const draw = holder => {
  const drawing = holder.querySelector(".drawing");
  drawn.add(holder);
  change(drawing, () => {
    const figure = JSON.parse(holder.querySelector("script").textContent), style = getComputedStyle(holder);
    // What was zoomed stays so when the colours change, and a finger is for scrolling.
    const layout = {template, uirevision: "kept", ...figure.layout, ...(canHover ? {} : {dragmode: false})};
    return Plotly.react(drawing, coloured(figure.data, style, ""), coloured(layout, style, ""), config);
  });
};
// Without the second, a legend stays where its rows of before have put it.
const resize = async drawing => {
  await Plotly.Plots.resize(drawing);
  await Plotly.redraw(drawing);
};
const timers = new WeakMap();
const widths = new ResizeObserver(entries => entries.forEach(({target}) => {
  clearTimeout(timers.get(target));
  if (Number(target.dataset.drawn) !== target.clientWidth)
    timers.set(target, setTimeout(() => change(target, () => resize(target)), 100));
}));
const holders = document.querySelectorAll(".plot");
// What is folded is not seen, and has no width to be drawn in.
const near = new IntersectionObserver(entries => entries.forEach(entry => {
  if (!entry.isIntersecting) return;
  near.unobserve(entry.target);
  draw(entry.target);
}), {rootMargin: "400px"});
holders.forEach(holder => near.observe(holder));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  drawn.forEach(one => one.classList.contains("white") || draw(one)));
addEventListener("beforeprint", () =>
  holders.forEach(one => drawn.has(one) || one.closest("details:not([open])") || draw(one)));
}
""".replace("TEMPLATE_JSON", json.dumps(TEMPLATE))
"""Draws the figures of a page by plotly.js."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its caption. Sizes in CSS pixels; the width is the page's."""

    title: str
    """What it shows, in a few words: the beginning of its caption, and what a screen reader says."""
    caption: str = ""
    """How to read it, and where its numbers are."""
    content: str
    """Plotly's JSON, without characters that could end a script."""
    height: int = HEIGHT
    min_width: int = 0
    """Narrower windows scroll it."""
    on_white: bool = False
    """Its colours were chosen for white: it is so by night, too."""
    titled: bool = True
    """Whether its caption is seen; otherwise only a screen reader has it, as where the text around says the same."""

    @classmethod
    def of(
        cls,
        traces: Sequence[Mapping[str, Any]],
        layout: Mapping[str, Any] | None = None,
        *,
        title: str,
        caption: str = "",
        height: int = HEIGHT,
        min_width: int = 0,
        digits: int = DIGITS,
    ) -> Figure:
        """A figure of plain traces, whose numbers may be arrays of numpy, and a plain layout.

        Numbers get ``digits`` significant digits; what is not finite is a gap. Titles of axes and all else that holds
        text may hold any: only Plotly's own few tags (``<b>``, ``<br>``, ``<a href=...>``) are more than text to it, so
        text from outside goes through :func:`text`, in templates (``hovertemplate``), too.
        """
        content = _rounded({"data": list(traces), "layout": dict(layout or {})}, digits)
        return cls(title=title, caption=caption, content=_in_script(content), height=height, min_width=min_width)

    @property
    def markup(self) -> Markup:
        """``content`` as a template holds it."""
        return Markup(self.content)


def text(words: object) -> str:
    """Words from outside, as a text of a figure: as they are, whatever they hold, also in a template of what a pointer
    shows, whose places are ``%{...}``."""
    found = str(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return found.replace("%{", "&#37;{")


def chart_scripts() -> tuple[str, str]:
    """What a page of figures runs: plotly.js, of 4.8 MB, and ``DRAW``."""
    return get_plotlyjs(), DRAW


def _in_script(content: Any) -> str:
    written = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple, range)):
        return [_rounded(item, digits) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value

"""The curves of an evaluation: every value at its frame, the infinite ones, the worst, and films of hours."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from tecogan_dist.pages.charts import Figure
from tecogan_dist.pages.curves import DENSE, GROUPS, MOST, curve

Traces = dict[str, dict[str, Any]]


def parts(figure: Figure) -> tuple[Traces, dict[str, Any]]:
    """Traces by their names and the layout, which Plotly's own checks have passed."""
    content = json.loads(figure.content)
    go.Figure(content)
    return {trace["name"]: trace for trace in content["data"]}, content["layout"]


def frames_of(trace: dict[str, Any]) -> list[int]:
    return list(trace["x"]) if "x" in trace else [trace["x0"] + i * trace["dx"] for i in range(len(trace["y"]))]


def test_a_curve_is_its_values_at_their_frames() -> None:
    figure = curve("psnr", range(2, 6), [31.0, 29.5, math.inf, 30.0], title="PSNR", worst=[3, 4], blamed="tOF")
    traces, layout = parts(figure)
    assert frames_of(traces["values"]) == [2, 3, 4, 5]
    assert traces["values"]["y"] == [31.0, 29.5, None, 30.0]
    assert traces["values"]["hovertemplate"] == "frame %{x}: %{y:.2f} dB<extra></extra>"
    assert (traces["alone"]["x"], traces["alone"]["y"]) == ([5], [30.0])  # behind the gap, where no line shows it
    assert (traces["infinite"]["x"], traces["infinite"]["hovertemplate"]) == ([4], "frame %{x}: ∞ dB<extra></extra>")
    assert (traces["worst"]["x"], traces["worst"]["y"], traces["worst"]["text"]) == ([3], [29.5], ["1"])
    assert layout["shapes"] == []  # of an infinite average
    assert figure.caption == "average ∞ · rings: the worst frames by tOF · marks at the top: ∞"
    low, high = layout["yaxis"]["range"]
    assert low < 29.5 < 31 < high
    # Wherever the curve is moved to, the marks stay at the upper edge.
    assert traces["infinite"]["yaxis"] == "y2"
    assert layout["yaxis2"]["fixedrange"]
    assert layout["yaxis2"]["range"][0] < traces["infinite"]["y"][0] < layout["yaxis2"]["range"][1]


def test_frames_that_do_not_follow_each_other_keep_their_numbers() -> None:
    traces, _ = parts(curve("ssim", [3, 4, 9], [0.5, 0.25, 0.75], title="SSIM"))
    assert frames_of(traces["values"]) == [3, 4, 9]


@pytest.mark.parametrize("values", [[0.25], [0.25, 0.25], [0.0, 0.0, 0.0]])
def test_equal_values_and_a_single_one_have_a_range(values: list[float]) -> None:
    traces, layout = parts(curve("tof", range(3, 3 + len(values)), values, title="tOF"))
    low, high = layout["yaxis"]["range"]
    assert high - low > 5e-4  # several steps of the last decimal that is shown
    assert low == 0 if values[0] == 0 else low == pytest.approx(2 * 0.25 - high, abs=1e-5)
    assert layout["shapes"][0]["y0"] == layout["shapes"][0]["y1"] == values[0]
    first, last = layout["xaxis"]["range"]
    assert first < 3 <= 2 + len(values) < last
    assert layout["xaxis"]["dtick"] == 1
    assert ("alone" in traces) == (len(values) == 1)


def test_what_is_infinite_throughout_has_an_axis_without_numbers() -> None:
    traces, layout = parts(curve("psnr", range(3), [math.inf] * 3, title="PSNR", worst=[0], blamed="PSNR"))
    assert traces["infinite"]["x"] == [0, 1, 2]
    assert traces["values"]["y"] == [None] * 3
    assert "worst" not in traces
    assert layout["yaxis"]["showticklabels"] is False


def test_of_many_frames_a_line_shows_the_means() -> None:
    values = np.random.default_rng(2).normal(30, 1, 2 * DENSE)
    values[:40] = math.inf  # two parts and a half
    traces, _ = parts(curve("psnr", range(100, 100 + len(values)), values.tolist(), title="PSNR"))
    groups = [group[np.isfinite(group)] for group in np.array_split(values, GROUPS)]
    assert traces["means"]["y"] == pytest.approx([group.mean() for group in groups if len(group)], rel=1e-5)
    assert len(traces["means"]["x"]) == GROUPS - 2
    assert traces["means"]["x"][-1] == pytest.approx(100 + len(values) - (len(groups[-1]) + 1) / 2)
    assert "means of 16 frames" in curve("psnr", range(len(values)), values.tolist(), title="PSNR").caption
    few, _ = parts(curve("psnr", range(DENSE), values[:DENSE].tolist(), title="PSNR"))
    assert "means" not in few


def test_a_film_of_hours_keeps_every_peak_and_stays_small() -> None:
    count = 172_800  # two hours
    values = np.random.default_rng(3).normal(30, 1, count)
    values[[7, 8, 9]] = math.inf
    worst = [12, 13, 14]
    figure = curve("psnr", range(count), values.tolist(), title="PSNR", worst=worst)
    traces, _ = parts(figure)
    assert len(figure.content) < 500_000
    shown = dict(zip(frames_of(traces["values"]), traces["values"]["y"], strict=True))
    assert len(shown) <= MOST + 10
    assert all(value == pytest.approx(values[n], abs=1e-3) for n, value in shown.items() if value is not None)
    # Of each part the extremes: what a curve through all of them covers.
    for part in np.array_split(np.arange(count), MOST // 2)[1:]:
        inside = [shown[frame] for frame in part.tolist() if frame in shown]
        assert max(abs(min(inside) - values[part].min()), abs(max(inside) - values[part].max())) < 1e-3
    assert traces["infinite"]["x"] == [7]
    assert traces["worst"]["x"] == worst
    assert "of every 17 frames the least and the greatest" in figure.caption

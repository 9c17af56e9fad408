"""Pages of runs, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tecogan_dist.base.storage import Location
from tecogan_dist.pages.run import render_runs
from tecogan_dist.pages.run_evaluation import find_evaluation
from tecogan_dist.pages.run_records import read_runs
from tests.support.pages import Page


class RunPage(Page):
    """With its headings, and its figures by their titles."""

    @property
    def headings(self) -> list[str]:
        return [attributes["id"] for attributes in self.named("h2")]

    @property
    def by_title(self) -> dict[str, dict[str, Any]]:
        titles = [attributes["aria-label"] for attributes in self.named("div") if attributes.get("class") == "drawing"]
        assert len(titles) == len(self.figures)
        return dict(zip(titles, self.figures, strict=True))


def page_of(*folders: Path) -> RunPage:
    runs = read_runs([Location.of(folder) for folder in folders])
    return RunPage(render_runs(runs, [find_evaluation(one.place) for one in runs]))


def points(trace: dict[str, Any]) -> dict[int, float]:
    return dict(zip(trace["x"], trace["y"], strict=True))

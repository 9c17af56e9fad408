"""Figures and pages: plain JSON that ends no script, and a policy that lets run what is there and nothing else."""

from __future__ import annotations

import html
import json
import math
import re
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from tecogan_dist.base.invariants import present
from tecogan_dist.pages import charts, templates
from tecogan_dist.pages.charts import DRAW, SERIES, TEMPLATE, Figure, text
from tecogan_dist.pages.templates import environment, render
from tests.support.pages import Page, policy_of

EVIL = "</script><b onmouseover=alert(1)>\"'&{{ 7*7 }}<!--\udcff\u2028"


def content(figure: Figure) -> Any:
    return json.loads(figure.content)


def test_numbers_are_short_and_gaps_are_null() -> None:
    trace = {"x": np.arange(3), "y": np.array([1 / 3, math.nan, 1e-9 / 7]), "z": [math.inf, 123456789, True, None]}
    figure = Figure.of([trace], {"xaxis": {"range": (0, 2.00000001)}}, title="", digits=4)
    assert content(figure)["data"] == [
        {"x": [0, 1, 2], "y": [0.3333, None, 1.429e-10], "z": [None, 123456789, True, None]}
    ]
    assert content(figure)["layout"] == {"xaxis": {"range": [0, 2.0]}}
    assert len(Figure.of([{"y": np.linspace(0, 1, 10_000)}], title="").content) < 100_000


def test_whatever_text_holds_it_stays_text() -> None:
    figure = Figure.of([{"name": EVIL}], {"title": {"text": text(EVIL)}}, title=EVIL, caption=EVIL)
    assert not re.search("[<>&]", figure.content)
    assert content(figure)["data"][0]["name"] == EVIL
    assert "<" not in content(figure)["layout"]["title"]["text"]
    page = Page(shown(figure))
    assert not [tag for tag, attributes in page.tags if tag == "b" and attributes]
    assert page.text.count(EVIL) == 2
    assert page.named("div")[-1]["aria-label"] == EVIL


@given(st.text(st.sampled_from("%{}xy:.2f &<>#37;")))
def test_a_text_has_no_place_that_a_template_fills(words: str) -> None:
    shown = text(words)
    assert not re.search(r"%{[^\s%{}:]*([:|][^}]*)?}", shown)  # plotly.js, TEMPLATE_STRING_REGEX
    assert not re.search("[<>]", shown)
    assert html.unescape(shown) == words


def shown(figure: Figure) -> str:
    return environment().from_string('{% from "charts.html" import figure %}{{ figure(it) }}').render(it=figure)


def test_the_looks_of_all_figures_are_what_plotly_knows() -> None:
    go.Figure(layout={"template": TEMPLATE})
    # Every colour that a figure may name is one of the page's, by day and by night.
    page = environment().get_template("page.html").render(charts=True, policy="", scripts="")
    roles = [
        getattr(charts, name) for name in dir(charts) if name.isupper() and str(getattr(charts, name))[:4] == "var("
    ]
    assert len(roles) >= 8
    named = {*roles, *SERIES, *charts.SERIES_BANDS, *re.findall(r"var\([^)]*\)", json.dumps(TEMPLATE))}
    for role in named:
        assert len(re.findall(rf"{re.escape(role[4:-1])}: (#|rgba\()", page)) == 2


@pytest.mark.parametrize(
    ("options", "images", "runs"),
    [
        ({"charts": True, "scripts": ["let a = 1;"]}, "data: blob:", [get_plotlyjs(), DRAW, "let a = 1;"]),
        ({"scripts": ["let b = '&<';", "let c;"]}, "data:", ["let b = '&<';", "let c;"]),
    ],
)
def test_the_policy_lets_run_what_is_there(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], images: str, runs: list[str]
) -> None:
    page = Page(made(monkeypatch, "{{ name }}", {"name": EVIL}, **options))
    assert page.executed() == runs
    assert page.policy == policy_of(runs, images=images)
    assert "\\udcff" in page.text  # as no UTF-8 file can hold it
    assert "<b onmouseover" in page.text


def test_a_page_without_scripts_runs_none_and_one_with_videos_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(made(monkeypatch, "{{ one | twice }}", {"one": 1}, filters={"twice": lambda one: 2 * one}))
    assert page.policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "2" in page.words
    assert not page.named("noscript")
    assert "media-src data:;" in Page(made(monkeypatch, "", {}, videos=True)).policy
    with pytest.raises(jinja2.UndefinedError, match="name"):
        made(monkeypatch, "{{ name }}", {})


def made(monkeypatch: pytest.MonkeyPatch, main: str, values: dict[str, Any], **options: Any) -> str:
    """A page of a template that is not among the package's."""
    env = environment()
    template = f'{{% extends "page.html" %}}{{% block main %}}{main}{{% endblock %}}'
    env.loader = jinja2.ChoiceLoader([present(env.loader, "pages have one"), jinja2.DictLoader({"new.html": template})])
    with monkeypatch.context() as patch:
        patch.setattr(templates, "environment", lambda: env)
        return render("new.html", values, **options)

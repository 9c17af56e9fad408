"""How a page is made of its template: one file that loads nothing, and runs only the scripts that it was made with.

A template begins with ``{% extends "page.html" %}``, which has the head, the policy, the style that all pages share and
the scripts at the end, and fills the blocks ``title``, ``style`` (more of it) and ``main``. Every value is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from tecogan_dist.pages.charts import chart_scripts


def environment() -> jinja2.Environment:
    """Jinja's, with the templates of this folder: all values escaped, a name that is not there an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tecogan_dist", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(
    template: str,
    values: Mapping[str, Any],
    *,
    charts: bool = False,
    scripts: Sequence[str] = (),
    videos: bool = False,
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """The page of a template, to be written as UTF-8.

    ``charts``: it has figures of :mod:`tecogan_dist.pages.charts`, and is 4.8 MB larger. ``scripts`` are JavaScript of
    the page's own, run after the figures' and each as a script of its own. ``videos``: it holds videos as data URIs.
    The page's policy (``Content-Security-Policy``) lets it run these scripts, known by their checksums, show pictures
    that are in it, and nothing else.
    """
    made = environment()
    made.filters.update(filters or {})
    run = [*(chart_scripts() if charts else ()), *scripts]
    page = made.get_template(template).render(
        {**values, "charts": charts, "policy": _policy(run, charts=charts, videos=videos), "scripts": _elements(run)}
    )
    # A name may hold bytes that are not UTF-8, as lone surrogates.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _policy(scripts: Sequence[str], *, charts: bool, videos: bool) -> Markup:
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    parts = [
        "default-src 'none'",
        f"img-src data:{' blob:' if charts else ''}",  # of a blob plotly.js makes the picture that it saves
        *(["media-src data:"] if videos else []),
        "style-src 'unsafe-inline'",
        *([f"script-src {hashes}"] if scripts else []),
    ]
    return Markup("; ".join(parts))


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _elements(scripts: Sequence[str]) -> Markup:
    return Markup("\n".join(f"<script>{script}</script>" for script in scripts))

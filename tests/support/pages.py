"""Reading the HTML that is made to be looked at."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
from PIL import Image

from tecogan_dist.metrics.protocol import Images

VOID = {"meta", "img", "br", "link", "input"}
EXECUTED = ("", "text/javascript", "module")


class Page(HTMLParser):
    """A page's tags with their attributes in order, its text, its scripts, and the figures that are among these.

    Its open tags must close in turn. Neither scripts nor styles count as text.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))
        if tag not in VOID:
            self.open.append(tag)
        elif tag == "br":
            self.text += "\n"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(text) for kind, text in self.scripts if kind == "application/json"]

    def traces(self, name: str) -> list[dict[str, Any]]:
        return [trace for figure in self.figures for trace in figure["data"] if trace.get("name") == name]

    def executed(self) -> list[str]:
        return [text for kind, text in self.scripts if kind in EXECUTED]

    @property
    def policy(self) -> str:
        (policy,) = [a["content"] for a in self.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
        return policy

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def policy_of(scripts: Sequence[str], *, images: str = "data:") -> str:
    """What the policy of a page has to be that runs these and no others, and shows pictures of these kinds."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    run = " ".join(f"'sha256-{one}'" for one in hashes)
    return f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; script-src {run}"


def pixels(uri: str) -> Images:
    kind, data = uri.split(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert kind == f"data:image/{str(image.format).lower()}"
        return np.asarray(image.convert("RGB"))

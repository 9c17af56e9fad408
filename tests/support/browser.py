"""Pages as headless Chromium shows them: screenshots, what the console says, what is asked of the network.

``look`` is for a page of ours (a file), at several widths, by day and by night::

    for view in look(tmp_path / "page.html"):
        assert view.faults() == []

For more, as with a server's page, open a tab and talk to it::

    with Browser() as browser, browser.tab(width=1400) as tab:
        tab.open("http://127.0.0.1:6006")
        tab.wait_for("document.querySelectorAll('svg').length > 3")
        assert tab.evaluate("document.title") == "TensorBoard"
        tab.screenshot(tmp_path / "board.png")

Tests that use it are marked ``needs_chromium``, and skip where there is none. It is spoken to by the DevTools protocol
(https://chromedevtools.github.io/devtools-protocol/) over a pair of pipes, so no port is open.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
WIDTHS = 400, 800, 1400
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
    # It would ask its makers' servers for this and that.
    *("--no-first-run", "--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-default-apps", "--disable-extensions", "--hide-scrollbars", "--mute-audio"),
)
PATIENCE = 60
"""Seconds that a busy machine may take for anything."""
TURNS = 8
"""In which the window has to have the page's height."""
DRAWN = """
Array.from(document.querySelectorAll(".plot .drawing")).filter(one => one.checkVisibility()).every(
  one => Number(one.dataset.drawn) === one.clientWidth
         && Math.abs(one.querySelector(".main-svg").clientWidth - one.clientWidth) <= 1)
"""
"""That all figures of :mod:`tecogan_dist.pages.charts` that can be seen are there, as wide as their places."""


@dataclass
class Tab:
    """A page, as one tab of the browser has it."""

    browser: Browser
    session: str
    width: int
    messages: list[str] = field(default_factory=list)
    """What the console was told, the page's policy among those who tell it, and errors that nobody caught."""
    requests: list[str] = field(default_factory=list)
    """Addresses that were asked for, but for those that hold their own content."""
    failed: list[str] = field(default_factory=list)
    loaded: bool = False

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, session=self.session, **params)

    def open(self, place: Path | str) -> None:
        """Go to a file, or to an address, and wait until it is loaded."""
        address = place.resolve().as_uri() if isinstance(place, Path) else place
        self.loaded = False
        answer = self.call("Page.navigate", url=address)
        assert "errorText" not in answer, f"{address}: {answer['errorText']}"
        self.browser.read_until(lambda: self.loaded, f"{address} to be loaded")

    def evaluate(self, script: str) -> Any:
        """The value of JavaScript, which has to be plain; of a promise what it comes to."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until JavaScript is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} did not come; the console: {self.messages}"
            time.sleep(0.05)

    def resize(self, width: int, height: int) -> None:
        """Of the window, in CSS pixels."""
        self.width = width
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def colours(self, *, dark: bool) -> None:
        """What the system prefers, which a page may follow."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def show_all(self) -> None:
        """Make the window as high as the page, so that all that is drawn when seen is drawn, and can be photographed.

        What is drawn may make the page higher, so that it takes a few turns.
        """
        height = 0
        for _ in range(TURNS):
            wanted = self.evaluate("document.documentElement.scrollHeight")
            if wanted == height:
                self.wait_for(DRAWN)  # a last change of width may be on its way
                return
            height = wanted
            self.resize(self.width, height)
            self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            self.wait_for(DRAWN)
        raise AssertionError(f"the page grows with its window: it is {height} pixels high by now")

    def screenshot(self, path: Path) -> Path:
        """The window as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def overflow(self) -> list[str]:
        """What makes the whole page scroll to the side: the elements that stand out of the window; [] of a good one."""
        return list(
            self.evaluate("""(() => {
              const root = document.documentElement;
              if (root.scrollWidth <= root.clientWidth) return [];
              return [...document.querySelectorAll("body *")].filter(
                one => one.getBoundingClientRect().right > root.clientWidth + 1).map(
                one => one.tagName + "." + one.className + " " + Math.round(one.getBoundingClientRect().right));
            })()""")
        )

    def take(self, method: str, params: dict[str, Any]) -> None:
        """Note what the browser reports of this tab."""
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.consoleAPICalled":
            words = " ".join(str(one.get("value", one.get("description", ""))) for one in params["args"])
            self.messages.append(f"{params['type']}: {words}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.messages.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif method == "Log.entryAdded":
            self.messages.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(params["request"]["url"])
        elif method == "Network.loadingFailed":
            self.failed.append(params.get("blockedReason") or params["errorText"])


class Browser:
    """A headless Chromium, with a profile of its own that is gone with it."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._profile = tempfile.TemporaryDirectory(prefix="chromium_", ignore_cleanup_errors=True)
        self._tabs: dict[str, Tab] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._rest = b""
        self._number = 0
        # Its pipes are 3, to read from, and 4.
        shell = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh"]
        self._process = subprocess.Popen(
            [*shell, CHROMIUM, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError):  # its helpers are in its group, which nobody else is in
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._profile.cleanup()

    @contextlib.contextmanager
    def tab(self, *, width: int = 1400, height: int = 900, dark: bool = False) -> Iterator[Tab]:
        """An empty tab. Sizes of its window in CSS pixels."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session, width)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height)
        tab.colours(dark=dark)
        try:
            yield tab
        finally:
            self.call("Target.closeTarget", targetId=target)

    def call(self, method: str, *, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Fails with what the browser says, and where it is silent."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        self.read_until(lambda: number in self._answers, method)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def read_until(self, condition: Callable[[], bool], what: str) -> None:
        """Read what the browser sends until that is so. ``what`` it is waited for."""
        assert self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + PATIENCE
        while not condition():
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium was silent for {PATIENCE} s: no {what}"
            data = os.read(pipe, 1 << 20)
            assert data, f"Chromium has ended: no {what}"
            *messages, self._rest = (self._rest + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers[message["id"]] = message
                elif message.get("sessionId") in self._tabs:
                    self._tabs[message["sessionId"]].take(message["method"], message["params"])


@dataclass(frozen=True, kw_only=True)
class View:
    """A page at one width, by day or by night, with all its figures drawn."""

    width: int
    dark: bool
    screenshot: Path
    messages: list[str]
    requests: list[str]
    """But for the page itself."""
    failed: list[str]
    overflow: list[str]

    def faults(self) -> list[str]:
        """All that no page of ours may have."""
        return [*self.messages, *self.requests, *self.failed, *self.overflow]


def look(
    page: Path, *, widths: Sequence[int] = WIDTHS, screenshots: Path | None = None, open_folded: bool = False
) -> Iterator[View]:
    """A page of ours, opened once, at each width by day and then by night.

    Screenshots, named after page, width and light, go to ``screenshots``, or beside the page. ``open_folded``: what is
    folded is opened first.
    """
    with Browser() as browser, browser.tab(width=widths[0]) as tab:
        tab.open(page)
        del tab.requests[0]  # the page itself
        if open_folded:
            tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        for dark in (False, True):
            tab.colours(dark=dark)
            for width in widths:
                tab.resize(width, 900)
                tab.show_all()
                name = f"{page.stem}_{width}_{'dark' if dark else 'light'}.png"
                screenshot = tab.screenshot((screenshots or page.parent) / name)
                yield View(
                    width=width,
                    dark=dark,
                    screenshot=screenshot,
                    messages=list(tab.messages),
                    requests=list(tab.requests),
                    failed=list(tab.failed),
                    overflow=tab.overflow(),
                )

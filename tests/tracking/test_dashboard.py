"""``tecogan dashboard``: what the workspace shows, and the sentences where it cannot be saved."""

from __future__ import annotations

import json
import socket
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from tecogan_dist import cli
from tecogan_dist.base.errors import UserError
from tecogan_dist.commands import dashboard as command
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.names import METRICS
from tecogan_dist.runs.previews import PROFILE_NAME, VIDEO_NAME
from tecogan_dist.runs.quantities import QUANTITIES, described
from tecogan_dist.tracking import dashboard
from tecogan_dist.tracking.dashboard import VIEW, definition, save, workspace
from tecogan_dist.tracking.wandb_offline import LATE_STEP
from tecogan_dist.tuning.reading import shipped_spaces
from tests.support.wandb_server import ENTITY, KEY, WandbServer, wandb_server

SECTIONS = [
    *("losses", "discriminator", "temporal metrics", "previews", "image metrics", "optimisation", "throughput"),
    *("system", "sweeps"),
]


def panels(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of each panel the section's name, its kind and its settings."""
    for section in spec["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            yield section["name"], panel["viewType"], panel["config"]


def test_every_name_in_the_workspace_is_recorded() -> None:
    spec = definition("vsr", "team")
    assert [section["name"] for section in spec["section"]["panelBankConfig"]["sections"]] == SECTIONS
    settings = {name for name, _ in leaves(Config())}
    drawn, kinds = set(), dict[str, list[str]]()
    for section, kind, config in panels(spec):
        kinds.setdefault(section, []).append(kind)
        for name in config.get("metrics", []) if kind == "Run History Line Plot" else []:
            if not (section == "system" and name.startswith("system/")):  # W&B's own
                assert described(name) is not None
                drawn.add(name)
        if "metricRegex" in config:
            family = config["metricRegex"].removeprefix("^").removesuffix(".+$") + "*"
            assert family in {quantity.name for quantity in QUANTITIES}
            drawn.add(family)
        if kind == "Run History Line Plot":
            late = all(name.startswith("validation/official/") for name in config["metrics"]) and config["metrics"]
            assert config["xAxis"] == (LATE_STEP if late else "_step")
        for column in config.get("columns", []):
            where, _, name = column["accessor"].partition(":")
            if where == "config":
                assert name.replace(".value", "", 1) in settings
            else:
                assert where == "summary"
                assert name.removeprefix("best/") in METRICS
    assert drawn == {quantity.name for quantity in QUANTITIES}
    assert [config["mediaKeys"] for section, _, config in panels(spec) if section == "previews"] == [
        [VIDEO_NAME],
        [PROFILE_NAME],
    ]
    assert "Parallel Coordinates Plot" in kinds["sweeps"]


@pytest.mark.parametrize("space", shipped_spaces(), ids=lambda path: path.stem)
def test_a_space_gives_the_axes(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--project", "vsr", "--dry-run", "--space", str(space)])
    spec = json.loads(capsys.readouterr().out)
    (columns,) = [config["columns"] for _, kind, config in panels(spec) if kind == "Parallel Coordinates Plot"]
    names = [column["displayName"] for column in columns if column["accessor"].startswith("config:")]
    assert names
    assert set(names) <= {name for name, _ in leaves(Config())}


def test_a_dry_run_needs_no_network_and_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("WANDB_PROJECT", "from-the-variable")
    command.main(["--dry-run"])
    assert len(json.loads(capsys.readouterr().out)["section"]["panelBankConfig"]["sections"]) == len(SECTIONS)


class Views:
    """The saved views of one project, as W&B's server has them (the two queries of wandb-workspaces 0.4)."""

    def __init__(self) -> None:
        self.views: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.projects = {"vsr"}

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        if "mutation UpsertView2" in query:
            self.asked.append("upsert")
            identity = variables.get("id") or f"View:{len(self.views) + 1}"
            is_new = identity not in self.views
            self.views[identity] = dict(variables)
            return {
                "upsertView": {"view": {"id": identity, "name": variables["name"]}, "inserted": is_new},
            }
        if "query GetDefaultEntity" in query:
            return {"viewer": {"id": "v", "entity": ENTITY}}
        if "query View(" in query:
            self.asked.append("find")
            if variables["name"] not in self.projects:
                return {"project": None}
            nodes = [
                {"node": {"id": identity, "displayName": view["displayName"], "spec": view["spec"]}}
                for identity, view in self.views.items()
                if view["name"] == variables["viewName"] and view["type"] == variables["viewType"]
            ]
            return {"project": {"allViews": {"edges": nodes}}}
        return None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a key; and whoever asks a question gets none answered."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(machine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WandbServer, Views]]:  # noqa: ARG001
    views = Views()
    graphql = WandbServer.graphql

    def with_views(self: WandbServer, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        return views.answer(query, variables) or graphql(self, query, variables)

    monkeypatch.setattr(WandbServer, "graphql", with_views)
    with wandb_server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield running, views


def test_it_is_made_once_and_then_brought_up_to_date(
    server: tuple[WandbServer, Views], capsys: pytest.CaptureFixture[str]
) -> None:
    views = server[1]
    command.main(["--project", "vsr"])
    shown = capsys.readouterr()
    assert shown.out.startswith("made: http://127.0.0.1")
    address = urllib.parse.urlparse(shown.out.split()[1])
    assert address.path == f"/{ENTITY}/vsr"
    assert urllib.parse.parse_qs(address.query) == {"nw": [VIEW]}
    assert views.asked == ["find", "upsert"]
    ((identity, view),) = views.views.items()
    assert view["entityName"] == ENTITY
    assert view["displayName"] == "tecogan"

    # Somebody has added a section, changed one of ours, and renamed the view in the app.
    spec = json.loads(view["spec"])
    sections = spec["section"]["panelBankConfig"]["sections"]
    sections.insert(0, {**sections[1], "name": "mine"})
    sections[1]["panels"] = []
    views.views[identity] |= {"spec": json.dumps(spec), "displayName": "ours"}

    command.main(["--project", "vsr", "--entity", ENTITY])
    assert capsys.readouterr().out.startswith("brought up to date: http://127.0.0.1")
    assert list(views.views) == [identity]
    view = views.views[identity]
    assert view["displayName"] == "ours"
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [*SECTIONS, "mine"]
    assert [len(section["panels"]) for section in sections[:-1]] == [
        len(section.panels) for section in workspace("vsr", ENTITY).sections
    ]


def test_no_such_project(server: tuple[WandbServer, Views]) -> None:
    with pytest.raises(UserError, match=rf"^W&B has no project {ENTITY}/other that this key may see: check the name"):
        save("other", None)
    assert server[1].asked == ["find"]


def test_a_key_that_is_refused(server: tuple[WandbServer, Views]) -> None:
    server[0].refuses = True
    with pytest.raises(UserError, match=r"^W&B refuses the key \(.*\): set WANDB_API_KEY to one that may write"):
        save("vsr", "team")


def test_a_server_that_is_gone(server: tuple[WandbServer, Views], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "SECONDS", 3.0)
    server[0].die()
    with pytest.raises(UserError, match=r"^W&B does not answer \(.*\): check the network"):
        save("vsr", "team")


def test_no_answer_is_not_a_refusal() -> None:
    """What wandb 0.31 raises where nobody listens, or the network is closed."""
    silent = wandb.errors.AuthenticationError(
        "Failed to verify credentials with http://127.0.0.1:9: Failed to execute API request: the service is busy"
    )
    assert str(dashboard._sentence(silent)).startswith("the workspace cannot be saved (Failed to verify")
    denied = wandb.errors.CommError("permission denied (Error 403: Forbidden)")
    assert str(dashboard._sentence(denied)).startswith("W&B refuses the key (")


@pytest.mark.usefixtures("machine")
def test_without_a_key() -> None:
    with pytest.raises(UserError, match=r"^there is no key for W&B here: set WANDB_API_KEY, or run 'wandb login'"):
        save("vsr", None)


@pytest.mark.usefixtures("machine")
def test_a_key_that_can_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(UserError, match=r"^W&B cannot be used \(.*\): set WANDB_API_KEY"):
        save("vsr", None)


@pytest.mark.usefixtures("machine")
def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UserError, match=r"^a workspace is at W&B, and WANDB_MODE forbids to go there"):
        save("vsr", None)


@pytest.mark.parametrize("name", ["a/b", "a?nw=x", "a#b", "", "a" * 129, "a\nb", "a\x1b[31m"])
def test_names_that_none_has(name: str) -> None:
    with pytest.raises(UserError, match="is not a name of a W&B project") as caught:
        save(name, None)
    assert "\x1b" not in str(caught.value)
    with pytest.raises(UserError, match="is not a name of a W&B entity"):
        save("vsr", name)


@pytest.mark.parametrize("name", ["a/b", "a:b", "a%b", "a" * 129])
def test_what_the_client_refuses_is_refused_before_anything_is_printed(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(wandb.errors.UsageError, match="Invalid project name"):
        wandb.Settings(project=name)
    monkeypatch.setenv("WANDB_PROJECT", name)
    for words in (["--project", name], [], ["--project", "vsr", "--entity", name]):
        with pytest.raises(SystemExit) as end:
            cli.main(["dashboard", "--dry-run", *words])
        assert end.value.code == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "is not a name of a W&B" in shown.err
        assert shown.err.count("\n") == 1


def test_the_command_wants_a_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with pytest.raises(UserError, match=r"^--project is missing: name the W&B project, or set WANDB_PROJECT"):
        command.main([])

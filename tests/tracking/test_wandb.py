"""The W&B run of a run: the real client, offline and against a server on loopback, and what it recorded, read back."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image

from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import checkpoint_name
from tecogan_dist.runs.facts import Facts
from tecogan_dist.runs.previews import PreviewFiles
from tecogan_dist.runs.records import metrics_line
from tecogan_dist.tracking import wandb_alerts, wandb_client, wandb_offline, wandb_queue, wandb_records
from tecogan_dist.tracking.wandb_alerts import Alerts
from tecogan_dist.tracking.wandb_offline import recorded
from tecogan_dist.tracking.wandb_queue import WandbQueue
from tecogan_dist.tracking.wandb_records import WandbRecords, identity_of
from tecogan_dist.tracking.wandb_variables import WandbVariables
from tests.support.plain_runs import make_config
from tests.support.wandb_files import WandbRun, read_wandb
from tests.support.wandb_server import ENTITY, KEY, wandb_server

OFFICIAL = "validation/official"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of this machine, and nobody waits for an attempt that has ended in order."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(wandb_offline, "SETTLED_SECONDS", 0.0)


class Attempt:
    """What the tracker does with W&B, in the folder ``run``."""

    def __init__(
        self, folder: Path, *settings: str, first_step: int = 0, facts: Facts = Facts(), **variables: str
    ) -> None:
        self.said: list[str] = []
        self.folder = folder / "run"
        self.folder.mkdir(exist_ok=True)
        self.records = WandbRecords(
            self.folder,
            Location.of(self.folder),
            make_config(list(settings)),
            project="test",
            variables=WandbVariables.of({f"WANDB_{name}": value for name, value in variables.items()}),
            facts=facts,
            environment={"command": facts.command, "versions": {"torch": "2"}},
            first_step=first_step,
            say=self.said.append,
        )
        self.step = first_step

    def log(self, last: int) -> None:
        """Steps up to ``last``, each with its half as a value, to W&B and to ``metrics.jsonl``."""
        for step in range(self.step + 1, last + 1):
            with (self.folder / "metrics.jsonl").open("ab") as file:
                file.write(metrics_line(step, {"loss/content": step / 2}))
            self.records.scalars(step, {"loss/content": step / 2})
        self.step = last

    def finish(self, *, failed: bool = False) -> None:
        self.records.finish(failed=failed, reason="the disk is full" if failed else "")


def offline(folder: Path) -> list[WandbRun]:
    return [read_wandb(file) for file in sorted((folder / "run" / "wandb").glob("offline-run-*/*.wandb"))]


def steps(rows: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(row["_step"], row["loss/content"]) for row in rows if "loss/content" in row]


def halves(last: int) -> list[tuple[int, float]]:
    return [(step, step / 2) for step in range(1, last + 1)]


# Out of reach.


@pytest.mark.parametrize("is_there", [True, False])
def test_a_server_that_hangs_or_is_not_there_costs_a_warning_and_no_step(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_client, "START_SECONDS", 3)
    with wandb_server() as server:
        server.is_silent.set()
        if not is_there:
            server.die()
        begun = time.monotonic()
        attempt = Attempt(tmp_path, BASE_URL=server.url, API_KEY=KEY)
        attempt.log(50)
        assert time.monotonic() - begun < 2  # while the client waits for its 3 seconds
        attempt.finish()
    assert time.monotonic() - begun < 60
    (line,) = attempt.said
    assert line.startswith("warning: W&B: it does not answer (")
    command = f"wandb sync {tmp_path}/run/wandb/offline-run-*-{identity_of(Location.of(tmp_path / 'run'))}"
    assert line.endswith(f"the run goes on and is recorded offline; it is sent by '{command}'")
    (run,) = offline(tmp_path)
    assert steps(run.rows) == halves(50)


def test_a_server_that_hangs_and_dies_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_client, "FINISH_SECONDS", 3)
    with wandb_server() as server:
        attempt = Attempt(tmp_path, BASE_URL=server.url, API_KEY=KEY)
        attempt.log(3)
        _wait(lambda: bool(server.runs))
        server.is_silent.set()
        attempt.log(6)
        time.sleep(1)
        server.die()
        begun = time.monotonic()
        attempt.log(40)
        assert time.monotonic() - begun < 2
        attempt.finish()
        assert time.monotonic() - begun < 60
    identity = identity_of(Location.of(tmp_path / "run"))
    assert attempt.said[0] == f"W&B: this run is {server.url}/{ENTITY}/test/runs/{identity}"
    (warning,) = attempt.said[1:]
    assert warning.startswith("warning: W&B has not taken all records of the run (")
    (folder,) = (tmp_path / "run" / "wandb").glob("run-*")
    assert warning.endswith(f"'wandb sync {folder}' sends them")
    assert steps(read_wandb(next(folder.glob("*.wandb"))).rows) == halves(40)


@pytest.mark.parametrize("key", [KEY, "short", ""])
def test_a_key_that_is_refused_malformed_or_missing(key: str, tmp_path: Path) -> None:
    with wandb_server() as server:
        server.refuses = True
        attempt = Attempt(tmp_path, BASE_URL=server.url, API_KEY=key)
        attempt.log(3)
        attempt.finish()
    (line,) = attempt.said
    assert ("has no key here" if not key else "refuses the key") in line
    assert "the run goes on and is recorded offline" in line
    (run,) = offline(tmp_path)
    assert steps(run.rows) == halves(3)


def test_settings_that_the_client_refuses_cost_a_warning(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, MODE="offline", RUN_ID="with/slash")
    attempt.log(2)
    attempt.finish()
    (line,) = attempt.said
    assert line.startswith("warning: W&B's client cannot be used (")


def test_the_service_of_another_run_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is inherited by what a process with a run of its own starts."""
    wandb.teardown()
    monkeypatch.setenv("WANDB_SERVICE", f"3-1-unix-{tmp_path}/gone")
    attempt = Attempt(tmp_path, MODE="offline")
    attempt.log(2)
    attempt.finish()
    assert attempt.said == []
    assert steps(offline(tmp_path)[0].rows) == halves(2)


def test_a_client_that_takes_nothing_costs_a_line_and_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_queue, "QUEUE_LENGTH", 8)
    over = threading.Event()
    said: list[str] = []
    done: list[int] = []
    waiting = WandbQueue(over.wait, say=said.append)
    begun = time.monotonic()
    for number in range(100):
        waiting.put(functools.partial(done.append, number))
    assert not waiting.end(0.2)
    assert time.monotonic() - begun < 2
    assert waiting.left_out == 92
    assert len(said) == 1
    over.set()
    _wait(lambda: done == list(range(8)))


# What its users expect.


def test_variables_are_honoured(tmp_path: Path) -> None:
    with wandb_server() as server:
        attempt = Attempt(
            tmp_path,
            BASE_URL=server.url,
            API_KEY=KEY,
            ENTITY="a-team",
            NAME="first try",
            RUN_ID="r1",
            RUN_GROUP="flow",
            JOB_TYPE="pretraining",
            TAGS="small, cpu",
            NOTES="as published",
            DIR=str(tmp_path / "elsewhere"),
        )
        attempt.log(2)
        attempt.finish()
        sent = server.runs["r1"].upserts[0]
    assert attempt.said == [f"W&B: this run is {server.url}/{ENTITY}/test/runs/r1"]
    expected = {
        "entity": "a-team",
        "project": "test",
        "displayName": "first try",
        "groupName": "flow",
        "jobType": "pretraining",
        "tags": ["small", "cpu"],
        "notes": "as published",
    }
    assert {name: sent[name] for name in expected} == expected
    assert json.loads(sent["config"])["loss"]["value"]["warp"] == 1.0
    assert list((tmp_path / "elsewhere" / "wandb").glob("run-*-r1"))
    assert not (tmp_path / "run" / "wandb").exists()
    for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
        assert KEY.encode() not in file.read_bytes(), file


def test_project_and_mode() -> None:
    tracking = make_config([]).tracking
    assert WandbVariables.of({}).project(tracking) is None
    assert WandbVariables.of({"WANDB_PROJECT": "mine"}).project(tracking) == "mine"
    ours = make_config(["--tracking.wandb-project", "ours"]).tracking
    assert WandbVariables.of({"WANDB_PROJECT": "mine"}).project(ours) == "ours"
    assert WandbVariables.of({"WANDB_MODE": "disabled"}).project(ours) is None
    trial = WandbVariables.of({"WANDB_RUN_ID": "one", "WANDB_NAME": "n", "WANDB_ENTITY": "e"}).for_trial()
    assert trial.values == {"WANDB_ENTITY": "e"}
    assert KEY not in repr(WandbVariables.of({"WANDB_API_KEY": KEY}))


def test_config_summary_previews_and_alerts_are_recorded(tmp_path: Path) -> None:
    facts = Facts(command="tecogan train --config frvsr", git={"commit": "a" * 40, "is_dirty": True, "remote": None})
    attempt = Attempt(tmp_path, "--tracking.wandb-alerts", "true", facts=facts, MODE="offline")
    attempt.log(4)
    # Measured beside training: they come when it has gone on.
    attempt.records.scalars(2, {f"{OFFICIAL}/psnr": 20.0, f"{OFFICIAL}/tof": 3.0})
    attempt.records.preview(2, _preview_files(tmp_path))
    attempt.log(5)
    attempt.records.scalars(4, {f"{OFFICIAL}/psnr": 19.0, f"{OFFICIAL}/tof": 2.0})
    attempt.records.scalars(6, {"optim/bad_steps": 1.0})
    attempt.records.scalars(7, {"optim/bad_steps": 2.0})
    attempt.records.scalars(8, {"optim/bad_steps": 6.0})
    attempt.finish(failed=True)
    assert attempt.said == []
    (run,) = offline(tmp_path)
    assert run.config["environment"]["command"] == facts.command
    assert run.run.git.commit == "a" * 40
    assert (run.environment.program, list(run.environment.args)) == ("tecogan", ["train", "--config", "frvsr"])
    assert steps(run.rows) == halves(5)
    late = [row for row in run.rows if f"{OFFICIAL}/psnr" in row]
    assert [(row["validation/step"], row[f"{OFFICIAL}/psnr"]) for row in late] == [(2, 20.0), (4, 19.0)]
    assert late[0]["previews/video"]["_type"] == "video-file"
    assert late[0]["previews/profile"]["_type"] == "image-file"
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/files/media/videos/previews/*.mp4"))
    assert run.summary["best/step"] == 2
    assert (run.summary["best/psnr"], run.summary["last/psnr"], run.summary["last/tof"]) == (20.0, 19.0, 2.0)
    assert [alert.title for alert in run.alerts] == ["steps are left out", "the run has failed"]
    assert "4 steps" in run.alerts[0].text
    assert run.alerts[1].text == "the disk is full"


def test_a_run_that_is_diverging_is_worth_an_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_alerts, "LOOK_SECONDS", 0.0)
    healthy, diverging = Alerts(make_config([])), Alerts(make_config([]))
    found = []
    for record in range(60):
        noise = 1 + 0.02 * (record % 3)
        assert healthy.of(100 * record, {"raw/content": 0.1 * noise, "optim/bad_steps": record // 20}, {}) == []
        found += diverging.of(100 * record, {"raw/content": 0.1 * noise * 1.05**record}, {})
    assert {title for title, _ in found} == {"divergence"}
    assert "the content loss rose" in found[0][1]


def test_checkpoints_are_artifacts(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "--tracking.wandb-artifacts", "true", MODE="offline")
    attempt.log(2)
    for step in (2, 4):
        checkpoint = attempt.folder / checkpoint_name(step)
        checkpoint.mkdir()
        for name in ("weights.safetensors", "state.json"):
            (checkpoint / name).write_bytes(b"%d" % step)
        attempt.records.checkpoint(step)
    attempt.records.scalars(2, {f"{OFFICIAL}/psnr": 20.0})
    attempt.records.scalars(4, {f"{OFFICIAL}/psnr": 19.0})
    attempt.finish()
    assert attempt.said == []
    (run,) = offline(tmp_path)
    found = [(sorted(artifact.aliases), len(artifact.manifest.contents)) for artifact in run.artifacts]
    assert found == [
        (["latest", "step-2"], 2),
        (["latest", "step-4"], 2),
        (["best", "latest", "step-2"], 2),
        (["latest", "step-4"], 2),
    ]
    # The copies are W&B's own: the run may drop its checkpoints.
    kept = {entry.path: Path(entry.local_path) for entry in run.artifacts[0].manifest.contents}
    assert kept["weights.safetensors"].read_bytes() == b"2"
    assert attempt.folder not in kept["weights.safetensors"].parents
    assert run.artifacts[0].digest == run.artifacts[2].digest  # no new version, only an alias more


def test_checkpoints_on_an_object_store_are_references() -> None:
    from tecogan_dist.tracking.wandb_artifacts import artifact_of

    place = Location("s3://films/run") / checkpoint_name(20)
    artifact = artifact_of(place, identity="x", scores={"psnr": 20.0})  # no request is made: there is no such bucket
    (entry,) = artifact.manifest.entries.values()
    assert entry.ref == "s3://films/run/checkpoint_00000020"
    assert artifact.metadata == {"step": 20, "psnr": 20.0}


def test_system_metrics_of_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_records, "SAMPLING_SECONDS", 1.0)
    text = (
        '# TYPE ray_node_cpu_utilization gauge\nray_node_cpu_utilization{ip="10.0.0.1"} 42.5\n'
        '# TYPE ray_node_mem_used gauge\nray_node_mem_used{ip="10.0.0.1"} 1e9\n'
        '# TYPE ray_node_gpus_utilization gauge\nray_node_gpus_utilization{GpuIndex="0",ip="10.0.0.1"} 77\n'
        '# TYPE ray_tasks gauge\nray_tasks{State="RUNNING"} 5\n'
    )
    with _metrics_server(text) as first, _metrics_server(text.replace("42.5", "17")) as second:
        nodes = ({"name": "head", "metrics": first}, {"name": "worker", "metrics": second})
        attempt = Attempt(tmp_path, facts=Facts(nodes=nodes), MODE="offline")
        attempt.log(2)
        time.sleep(3)
        attempt.finish()
    (run,) = offline(tmp_path)
    sample = next(stats for stats in run.stats if any(name.startswith("openmetrics") for name in stats))
    found = {name: value for name, value in sample.items() if name.startswith("openmetrics")}
    assert found == {
        "openmetrics.head.ray_node_cpu_utilization.0": 42.5,
        "openmetrics.head.ray_node_mem_used.0": 1e9,
        "openmetrics.head.ray_node_gpus_utilization.0": 77,
        "openmetrics.worker.ray_node_cpu_utilization.0": 17,
        "openmetrics.worker.ray_node_mem_used.0": 1e9,
        "openmetrics.worker.ray_node_gpus_utilization.0": 77,
    }


# Attempts that follow each other.


def test_attempts_online_are_one_curve(tmp_path: Path) -> None:
    with wandb_server() as server:
        for first_step, last in ((0, 6), (4, 9)):
            attempt = Attempt(tmp_path, first_step=first_step, BASE_URL=server.url, API_KEY=KEY, RUN_ID="r1")
            if first_step:
                attempt.records.scalars(4, {f"{OFFICIAL}/psnr": 20.0})  # before there is a new row
                attempt.records.preview(4, _preview_files(tmp_path))
            attempt.log(last)
            attempt.finish()
        history = server.runs["r1"].history
    assert steps(history) == halves(9)
    assert [row["_step"] for row in history] == list(range(1, 10))
    assert [(row["validation/step"], row[f"{OFFICIAL}/psnr"]) for row in history if "validation/step" in row] == [
        (4, 20.0)
    ]


def test_what_was_recorded_offline_reaches_w_and_b_with_a_later_attempt(tmp_path: Path) -> None:
    with wandb_server() as server:
        server.refuses = True
        attempt = Attempt(tmp_path, BASE_URL=server.url, API_KEY=KEY, RUN_ID="r1")
        attempt.log(6)
        attempt.finish()
        server.refuses = False
        shutil.copy(tmp_path / "run" / "metrics.jsonl", tmp_path)
        attempt = Attempt(tmp_path, first_step=4, BASE_URL=server.url, API_KEY=KEY, RUN_ID="r1")
        attempt.log(9)
        attempt.finish()
        assert steps(server.runs["r1"].history) == halves(9)


def test_sync_sends_all_attempts_as_one_curve(tmp_path: Path) -> None:
    """By the command that the warning names."""
    for first_step, last in ((0, 6), (4, 9)):
        attempt = Attempt(tmp_path, first_step=first_step, MODE="offline", RUN_ID="r1")
        attempt.log(last)
        attempt.finish()
        time.sleep(1.1)  # the client names folders by the second
    assert len(offline(tmp_path)) == 2
    folders = sorted(map(str, (tmp_path / "run" / "wandb").glob("offline-run-*-r1")))
    with wandb_server() as server:
        environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        words = [str(Path(sys.executable).parent / "wandb"), "sync", *folders]
        done = subprocess.run(
            words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert steps(server.runs["r1"].history) == halves(9)


def test_half_a_record_is_left_out(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, MODE="offline", RUN_ID="r1")
    attempt.log(2000)  # more than a block of the file
    attempt.finish()
    place = Location.of(tmp_path / "run")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert recorded(place, "r1").step == 2000
    content = file.read_bytes()
    seen = []
    for share in (0.2, 0.5, 0.9):
        file.write_bytes(content[: int(share * len(content))])
        seen.append(recorded(place, "r1").step)
    assert 0 < seen[0] < seen[1] < seen[2] < 2000
    file.write_bytes(content[: len(content) // 2] + bytes(100) + content[len(content) // 2 :])
    assert recorded(place, "r1").step in (seen[1] - 1, seen[1], seen[1] + 1)
    file.write_bytes(b"\xff" * 1000)
    assert recorded(place, "r1").step == 0


def _wait(until: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _preview_files(folder: Path) -> PreviewFiles:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "profile.png")
    (folder / "video.mp4").write_bytes(b"not looked into by the client")
    return PreviewFiles(video=folder / "video.mp4", profile=folder / "profile.png", animation=b"")


class _metrics_server:
    """Serves ``text`` as Ray serves what it measures of a node."""

    def __init__(self, text: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}/metrics"

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

"""The W&B run of a run: the real client, offline and against a server on loopback, and what it recorded, read back."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import wandb

from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import checkpoint_name
from tecogan_dist.runs.facts import Facts
from tecogan_dist.tracking import wandb_alerts, wandb_client, wandb_queue, wandb_records
from tecogan_dist.tracking.wandb_alerts import Alerts
from tecogan_dist.tracking.wandb_queue import WandbQueue
from tecogan_dist.tracking.wandb_records import WandbRecords
from tecogan_dist.tracking.wandb_variables import WandbVariables
from tests.support.plain_runs import make_config
from tests.support.wandb_files import read_wandb
from tests.support.wandb_runs import Attempt, halves, offline, preview_files, steps, wait_for
from tests.support.wandb_server import ENTITY, KEY, wandb_server

OFFICIAL = "validation/official"
pytestmark = pytest.mark.usefixtures("wandb_home")


# Out of reach.


@pytest.mark.parametrize("is_there", [True, False])
def test_a_server_that_hangs_or_is_not_there_costs_a_warning_and_no_step(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_client, "START_SECONDS", 4)
    with wandb_server() as server:
        server.is_silent.set()
        if not is_there:
            server.die()
        begun = time.monotonic()
        attempt = Attempt(tmp_path, BASE_URL=server.url, API_KEY=KEY)
        attempt.log(50)
        assert time.monotonic() - begun < 4  # while the client waits for its 4 seconds
        attempt.finish()
    assert time.monotonic() - begun < 60
    (line,) = attempt.said
    assert line.startswith("warning: W&B: it does not answer (")
    command = f"wandb sync {tmp_path}/run/wandb/offline-run-*-{attempt.identity}"
    assert line.endswith(f"the run goes on and is recorded offline; it is sent by '{command}'")
    (run,) = offline(tmp_path)
    assert steps(run.rows) == halves(50)


def test_a_server_that_hangs_and_dies_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_client, "FINISH_SECONDS", 3)
    with wandb_server() as server:
        attempt = Attempt(tmp_path, BASE_URL=server.url, API_KEY=KEY)
        attempt.log(3)
        wait_for(lambda: bool(server.runs))
        server.is_silent.set()
        attempt.log(6)
        time.sleep(1)
        server.die()
        begun = time.monotonic()
        attempt.log(40)
        assert time.monotonic() - begun < 2
        attempt.finish()
        assert time.monotonic() - begun < 60
    assert attempt.said[0] == f"W&B: this run is {server.url}/{ENTITY}/test/runs/{attempt.identity}"
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


def test_a_client_that_takes_nothing_costs_a_line_and_nowait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_queue, "QUEUE_LENGTH", 8)
    over = threading.Event()
    said: list[str] = []
    done: list[int] = []
    waiting = WandbQueue(over.wait, say=said.append)
    begun = time.monotonic()
    for number in range(100):
        waiting.put(functools.partial(done.append, number))
    assert not waiting.end(lambda: done.append(-1), seconds=0.2)
    assert time.monotonic() - begun < 2
    assert waiting.left_out == 92
    assert len(said) == 1
    over.set()
    wait_for(lambda: done == [*range(8), -1])


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


def test_a_run_that_ends_late_leaves_the_next_one_of_its_process(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    attempts = []
    for folder in (first, second):
        folder.mkdir()
        attempts.append(Attempt(folder, MODE="offline"))
        attempts[-1].log(2)
        wait_for(lambda folder=folder: list((folder / "run" / "wandb").glob("offline-run-*/*.wandb")) != [])  # type: ignore[misc]
    attempts[0].finish()
    attempts[1].log(4)
    attempts[1].finish()
    assert steps(offline(first)[0].rows) == halves(2)
    assert steps(offline(second)[0].rows) == halves(4)
    assert attempts[0].said == attempts[1].said == []


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
    attempt.records.preview(2, preview_files(tmp_path))
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
    assert "5 steps" in run.alerts[0].text
    assert run.alerts[1].text == "the disk is full"


def test_a_preview_that_is_gone_costs_no_losses(tmp_path: Path) -> None:
    """The client copies files when they are logged, and older previews are dropped."""
    attempt = Attempt(tmp_path, "--steps", "9", MODE="offline")
    attempt.log(3)
    for step in (1, 2):  # of which the second one waits for a row
        folder = tmp_path / str(step)
        folder.mkdir()
        attempt.records.scalars(step, {f"{OFFICIAL}/psnr": 20.0 + step})
        attempt.records.preview(step, preview_files(folder))
    attempt.records._queue.put(lambda: (folder / "video.mp4").unlink())
    attempt.log(4)
    attempt.finish()
    (warning,) = attempt.said
    assert warning.startswith("warning: W&B lacks a record (")
    (run,) = offline(tmp_path)
    assert steps(run.rows) == halves(4)
    late = [(row["validation/step"], row[f"{OFFICIAL}/psnr"]) for row in run.rows if "validation/step" in row]
    assert late == [(1, 21.0), (2, 22.0)]
    assert run.exit_code == 0


def test_an_attempt_that_cannot_begin_says_so_and_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no metric")

    monkeypatch.setattr(WandbRecords, "_define", fail)
    attempt = Attempt(tmp_path, MODE="offline")
    attempt.log(2)
    attempt.finish()
    assert attempt.said == [
        "warning: this attempt is not recorded at W&B (RuntimeError: no metric); metrics.jsonl and TensorBoard have it"
    ]
    assert offline(tmp_path)[0].exit_code == 1


def test_held_out_scenes_may_be_measured_more_often_than_losses_are_recorded(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "--steps", "40", "--tracking.display_every", "20", MODE="offline")
    for step in range(5, 41, 5):
        if step % 20 == 0:
            attempt.records.scalars(step, {"loss/content": step / 2})
        attempt.records.scalars(step, {f"{OFFICIAL}/psnr": 20.0 + step})
    attempt.finish()
    (run,) = offline(tmp_path)
    assert steps(run.rows) == [(20, 10.0), (40, 20.0)]
    assert [(row["_step"], row["validation/step"]) for row in run.rows] == [(step, step) for step in range(5, 41, 5)]
    assert attempt.said == []


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

"""Whole sweeps on a real Ray Tune: scheduled, scored, repeated, killed, taken up again, exchanged by PBT."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest
import torch

from tecogan_dist.base.documents import parse_yaml
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.commands import tune
from tecogan_dist.config import load as settings
from tecogan_dist.data.stream.stream import training_stream
from tecogan_dist.data.stream.windows import window_config
from tecogan_dist.runs.checkpoints import WEIGHTS_FILE, file_digest
from tecogan_dist.runs.find import load_upscaler, read_weights
from tecogan_dist.runs.folder import RUN_FILE
from tecogan_dist.runs.records import SCORES_FILE, read_metrics
from tecogan_dist.training.begin import build_networks
from tecogan_dist.training.task import select_scenes
from tecogan_dist.tuning.segments import SegmentFolder
from tests.support.local_ray import small_ray
from tests.support.sweeps import EVERY, SPACE, STEPS, arguments, command, rows
from tests.support.training_runs import Command, write_store
from tests.support.wandb_files import read_wandb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPEATED = SPACE + "repeat: {top: 1, seeds: 2}\n"


@dataclass(frozen=True)
class Swept:
    output: Path
    said: str

    def trial(self, name: str) -> Path:
        return self.output / "trials" / name


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        with small_ray(cpus=4):
            yield


@pytest.fixture(scope="module")
def swept(machine: None, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:  # noqa: ARG001
    """Five trials under ASHA, the preset, and two repeats of it and of the best."""
    folder = tmp_path_factory.mktemp("sweep")
    words = arguments(folder, store=store, output=folder / "out", space=REPEATED)
    return Swept(folder / "out", run([*words, "--tracking.wandb-project", "sweeps"]))


def run(words: list[str]) -> str:
    """``tecogan tune`` in this process, on the module's Ray; what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        tune.main(words)
    return said.getvalue()


def test_what_comes_out(swept: Swept, store: Path) -> None:
    table = {(row["role"], row["number"], row["seed"]): row for row in rows(swept.output)}
    search = [table["search", str(number), "1"] for number in range(5)]
    states = [row["state"] for row in search]
    assert states[:2] == ["failed", "failed"]
    assert states[2] == "complete"  # nothing to compare it with but those
    assert "stopped" in states
    assert all("steps in a row were not finite" in row["reason"] for row in search[:2])
    for row in search:
        if row["state"] == "stopped":
            assert row["reason"] == f"stopped by asha after step {row['step']}"
    # By step, and then by tOF.
    ranked = sorted(search[2:], key=lambda row: (-int(row["step"]), float(row["tOF"])))
    assert [row["rank"] for row in ranked] == ["1", "2", "3"]
    assert [row["rank"] for row in search[:2]] == ["", ""]
    winner = ranked[0]
    assert {key[2] for key in table if key[0] == "repeat"} == {"2", "3"}
    assert len(table) == 5 + 1 + 4

    config = settings.load(str(swept.output / "best.yaml"))
    assert config.optimizer.learning_rate == float(winner["optimizer.learning_rate"])
    assert config.loss.pingpong == float(winner["loss.pingpong"])
    assert config.steps == 500_000  # the preset's, not a trial's
    load_upscaler(swept.output / "best.safetensors", "cpu")
    page = (swept.output / "sweep.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") > 6  # truth, bicubic, the preset and trials
    assert "over 2 seeds" in swept.said
    assert f"tecogan train --config {swept.output / 'best.yaml'} --data {store}" in swept.said


def test_optunas_file(swept: Swept) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(swept.output / "study.log"))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))
    names = {"failed": "FAIL", "complete": "COMPLETE", "stopped": "PRUNED"}
    states = [row["state"] for row in rows(swept.output) if row["role"] == "search"]
    assert [trial.state.name for trial in study.trials] == [names[state] for state in states]
    assert sorted(study.trials[2].intermediate_values) == [5, 10, 15, 20]


def test_trials_differ_by_their_settings_only(swept: Swept) -> None:
    """The same samples, the same weights at the beginning; and another seed's are others."""

    def beginning(name: str) -> tuple[str, str]:
        tree = parse_yaml((swept.trial(name) / RUN_FILE).read_bytes(), source=name)
        config, place = settings.from_tree(tree["config"], source=name), Location(tree["data"])
        scenes, _ = select_scenes(place, config)
        stream = training_stream(
            place,
            data=window_config(config),
            seed=config.seed,
            batch_size=config.batch_size,
            rank=0,
            world_size=1,
            first_step=0,
            steps=4,
            scenes=scenes,
        )
        upscaler, discriminator, _ = build_networks(config, initial_weights=config.initial_weights)
        assert discriminator is not None
        networks = [*upscaler.state_dict().values(), *discriminator.state_dict().values()]
        return digest(stream), digest(iter(networks))

    first = beginning("0002")
    assert beginning("0003") == beginning("preset") == first
    other = beginning("0002_seed2")
    assert other[0] != first[0]
    assert other[1] != first[1]


def digest(tensors: Iterator[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def test_wandb_has_a_group_with_a_run_a_trial_and_a_summary(swept: Swept) -> None:
    files = {name: [*swept.trial(name).glob("wandb/offline-run-*/*.wandb")] for name in ("0002", "0004", "preset")}
    runs = {name: read_wandb(file) for name, (file,) in files.items()}
    assert {(run.project, run.group) for run in runs.values()} == {("sweeps", swept.output.name)}
    assert {row["validation/step"] for row in runs["0002"].rows if "validation/official/tof" in row} == {5, 10, 15, 20}
    (summary,) = [read_wandb(file) for file in swept.output.glob("wandb/offline-run-*/*.wandb")]
    assert (summary.project, summary.group) == ("sweeps", swept.output.name)
    assert any("ranking" in row for row in summary.rows)


def test_the_same_command_again_trains_nothing_and_more_trials_are_added(
    swept: Swept, store: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(swept.output, tmp_path / "out")
    records = {name: (output / "trials" / name / "metrics.jsonl").stat().st_mtime_ns for name in ("0002", "0004")}
    # Two at a time: what is on record is told in another order than before.
    more = SPACE.replace("trials: 5", "trials: 6").replace("concurrent: 1", "concurrent: 2")
    words = arguments(tmp_path, store=store, output=output, space=more)
    run([*words, "--tracking.wandb-project", "sweeps"])
    for name, before in records.items():
        assert (output / "trials" / name / "metrics.jsonl").stat().st_mtime_ns == before, name
    then = [row for row in rows(swept.output) if row["role"] != "repeat"]
    now = rows(output)
    assert [without_rank(row) for row in now if row["number"] != "5"] == [without_rank(row) for row in then]
    (added,) = [row for row in now if row["number"] == "5"]
    assert added["state"] in ("complete", "stopped", "failed")


def without_rank(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name != "rank"}


@pytest.mark.usefixtures("machine")
def test_scores_that_are_not_numbers_and_trials_that_all_fail(swept: Swept, store: Path, tmp_path: Path) -> None:
    output = shutil.copytree(swept.output, tmp_path / "out")
    shutil.rmtree(output / "trials" / "0003")
    for name in ("0000", "0001", "0002", "0004"):
        scores = output / "trials" / name / SCORES_FILE
        scores.write_text(scores.read_text().replace('"tof": ', '"tof": null, "was": '))
    words = arguments(tmp_path, store=store, output=output, space=SPACE.replace("trials: 5", "trials: 3"))
    with pytest.raises(UserError, match=r"no trial came to a score: the reasons are above and in .*csv"):
        run([*words, "--tracking.wandb-project", "sweeps"])
    assert {row["state"] for row in rows(output)} == {"failed"}
    assert rows(output)[2]["reason"].startswith("its tof after step 5 is not a number")
    assert not [name for name in ("best.yaml", "best.safetensors", "sweep.html") if (output / name).exists()]


def test_a_sweep_that_is_killed_stopped_and_taken_up_again(swept: Swept, store: Path, tmp_path: Path) -> None:
    """Each time by the same command, on a Ray of its own; in the end it is the sweep that nothing happened to."""
    words = arguments(tmp_path, store=store, output=tmp_path / "out")

    with sweeping(words) as driver:
        driver.wait_for(r"^trial 0000 starts")
        with sweeping(words) as second:
            assert second.finish() == 2
            assert second.all(r"^error: another process \(.*\) is writing to .*: wait for its end"), second.end
        driver.wait_for(r"^trial 0002, step 10/20")
        driver.kill()

    with sweeping(words) as head:
        head.wait_for(r"^trial 0002, step 15/20")
        (server,) = [child for child in children(head) if child.name() == "gcs_server"]
        server.kill()
        assert head.finish() != 0

    with sweeping(words) as stopped:
        stopped.wait_for(r"^trial 0003, step 5/20")
        stopped.process.send_signal(signal.SIGINT)
        assert stopped.finish() == 130
        assert stopped.all("^stopped: the same command goes on"), stopped.end
        assert not stopped.all("Traceback"), stopped.end

    with sweeping(words) as last:
        assert last.finish() == 0, last.end
    assert rows(tmp_path / "out") == [row for row in rows(swept.output) if row["role"] != "repeat"]
    complete = [row["number"] for row in rows(swept.output) if row["role"] == "search" and row["state"] == "complete"]
    for name in (f"000{number}" for number in complete):
        ours, theirs = (read_metrics(output / "trials" / name) for output in (tmp_path / "out", swept.output))
        assert {step_and_kind(line) for line in ours} == {step_and_kind(line) for line in theirs}
        assert len(ours) == len(theirs)


def step_and_kind(line: dict[str, float]) -> tuple[float, bool]:
    return line["step"], "validation/official/tof" in line


@contextlib.contextmanager
def sweeping(words: list[str]) -> Iterator[Command]:
    """``tecogan tune`` as a process; it and what it has started are killed at the end."""
    process = Command(command(words), env={"WANDB_MODE": "offline"})
    try:
        yield process
    finally:
        started = children(process)
        process.kill()
        for child in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(started, timeout=30)


def children(process: Command) -> list[psutil.Process]:
    try:
        return psutil.Process(process.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


POPULATION = f"""
settings:
  loss.pingpong: {{uniform: [0.1, 1.0]}}
  loss.adversarial: {{loguniform: [0.001, 0.1]}}
score: {{metrics: {{tof: min}}}}
trials: 4
concurrent: 2
steps: {3 * EVERY}
measure_every: {EVERY}
scheduler: {{kind: pbt, quantile: 0.25}}
"""


@pytest.mark.usefixtures("machine")
def test_pbt_goes_on_from_the_best_ones_weights_and_without_those_that_die(store: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = arguments(tmp_path, store=store, output=output, space=POPULATION)
    with killing_the_process_of("0003", output=output):
        run(words)
    states = {row["number"]: row["state"] for row in rows(output) if row["role"] == "search"}
    assert states == {"0": "complete", "1": "complete", "2": "complete", "3": "failed"}

    exchanged = [
        segment
        for path in sorted((output / "trials").glob("*_part*.json"))
        if (segment := SegmentFolder.read(Location(str(path.with_suffix(""))))) and segment.origin
    ]
    assert exchanged, "no exchange happened"
    for segment in exchanged:
        origin = segment.origin
        assert origin is not None
        donor = Path(origin.checkpoint)
        assert origin.trial != segment.folder.name[:4]
        assert origin.weights == file_digest(donor / WEIGHTS_FILE)
        tree = parse_yaml((segment.folder / RUN_FILE).read_bytes(), source=segment.folder)
        assert tree["resume_from"] == str(donor)
        assert tree["config"]["loss"]["pingpong"] == segment.values["loss.pingpong"]
        assert min(line["step"] for line in read_metrics(segment.folder.path)) == origin.step + 1
        read_weights(donor)  # its checksum is right
    assert "donor" in (output / "sweep.html").read_text("utf-8")


@contextlib.contextmanager
def killing_the_process_of(trial: str, *, output: Path) -> Iterator[None]:
    """SIGKILL for the process that trains a trial, once it has begun to."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if not (output / "trials" / trial / "metrics.jsonl").exists():
                continue
            for process in psutil.Process(os.getpid()).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    # Tune gives each trial a working folder of its name.
                    if process.cmdline()[0].startswith("ray::Res") and Path(process.cwd()).name == trial:
                        process.kill()
                        return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.usefixtures("machine")
def test_trials_of_two_workers_are_stopped_without_blocking_the_next(store: Path, tmp_path: Path) -> None:
    space = SPACE.replace("[5.0e-5, 1.0e-4, 1.0e+30]", "[5.0e-5, 1.0e-4]").replace("trials: 5", "trials: 3")
    space += "trial: {workers: 2}\n"
    said = run(arguments(tmp_path, store=store, output=tmp_path / "out", space=space))
    states = [row["state"] for row in rows(tmp_path / "out")]
    assert "stopped" in states, said
    assert "failed" not in states, said
    assert json.loads((tmp_path / "out" / "trials" / "0000" / SCORES_FILE).read_text()).keys() >= {"20"}
    assert STEPS == 20

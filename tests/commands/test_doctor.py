"""``tecogan doctor``: this machine, and two nodes in one that are sound, sick in several ways, or silent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands import doctor
from tests.support.small_disk import small_disk
from tests.support.training_runs import Command, until
from tests.support.video_files import write_store

SECONDS_AHEAD = 60
SITE = f"""
import sys, time
if any("default_worker" in word for word in sys.orig_argv):
    true_time = time.time
    time.time = lambda: true_time() + {SECONDS_AHEAD}
"""
"""Imported by every Python process of the node: the clock of Ray's workers is a minute ahead."""
OTHER_VERSION = "Metadata-Version: 2.1\nName: deepspeed\nVersion: 9.9.9\n"


def test_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A store of one's own, a storage, and the JSON; nothing is left in the storage."""
    storage = tmp_path / "storage"
    storage.mkdir()
    config = tmp_path / "small.yaml"
    config.write_text("data: {sequence_length: 3, crop_size: 8}\nloss: {perceptual: 0}\n")
    store = write_store(tmp_path / "store", scenes=1)
    words = ["--storage", str(storage), "--data", str(store.path), "--config", str(config), "--json"]
    with contextlib.suppress(SystemExit):  # a full disk of this machine is none of ours
        doctor.main(words)
    shown = capsys.readouterr()
    tree = json.loads(shown.out)
    assert shown.err.startswith("measuring: versions, GPUs, memory, disks of this machine\n")
    texts = {finding["subject"]: finding["text"] for finding in tree["findings"] if finding["status"] == "ok"}
    assert re.fullmatch(r"reads \d+ MB/s", texts["storage"])
    assert re.fullmatch(r"CPU makes windows of 3 frames \(scene 2000\) at \d+/s", texts["decoding"])
    unchecked = {finding["subject"] for finding in tree["findings"] if finding["text"].startswith("not checked")}
    assert {"clock", "network", "gloo", "training"} <= unchecked
    assert list(storage.iterdir()) == []
    (machine,) = tree["machines"].values()
    assert machine["cpus"] == os.cpu_count()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--workers", "2"], "--workers is about --train: give both"),
        (["--config", "nosuch"], "no preset or file is named 'nosuch'"),
        (["--data", "nowhere"], "make one with 'tecogan prepare"),
        (["--address", "127.0.0.1:1"], r"no Ray cluster answers at 127\.0\.0\.1:1"),
        (["--storrage", "x"], "did you mean --storage"),
        (["--patience", "1"], "must be at least 5"),
    ],
)
def test_mistakes(words: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        doctor.main(words)


def test_a_storage_that_is_not_there_is_a_fault(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--storage", str(tmp_path / "nowhere")])
    assert ended.value.code == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"fail  storage +\S+: there is no folder \S+nowhere -> let every machine .*", first)
    assert re.search(r"^\d+ faults?, .*: mend the faults before you train here$", last)


# From here on: a cluster.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 150 * 2**20, "include_dashboard": False},
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()


def run_doctor(cluster: Cluster, *words: str, seconds: float = 400) -> tuple[int, list[str]]:
    """Its exit status, and what it printed."""
    line = [sys.executable, "-m", "tecogan_dist.doctor", "--address", cluster.address, *words]
    command = Command(line)
    try:
        return command.finish(seconds), command.lines
    finally:
        command.kill()


def the_line(lines: list[str], pattern: str) -> str:
    found = [line for line in lines if re.search(pattern, line)]
    assert len(found) == 1, "\n".join(lines)
    return found[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_sound_nodes_train_as_one(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2, object_store_memory=150 * 2**20)
    try:
        status, lines = run_doctor(cluster, "--storage", str(tmp_path), "--train")
    finally:
        cluster.remove_node(node)
    assert status == 0, "\n".join(lines)
    assert "measuring: 20 training steps on 2 workers, and the same on one" in lines
    verdicts = [line.split()[0] for line in lines if not line.startswith("measuring: ")][:-1]
    assert verdicts == sorted(verdicts, key=["warn", "note", "ok"].index)
    assert the_line(lines, "^ok +versions ").endswith(": the same on 2 machines")
    the_line(lines, r"^ok +storage +one for all 2 machines$")
    the_line(lines, r"^ok +network +each link carries \d+ MB/s to \d+ MB/s$")
    the_line(lines, r"^ok +gloo +all-reduce over 2 machines: \d+\.\d+ GB/s \(16 MiB\), \d+\.\d+ ms \(one number\)$")
    the_line(lines, r"^ok +clock +at most 0\.\d+ s apart")
    the_line(lines, r"^ok +training +20 steps on 2 workers and on one agree to \S+ \(.*\); \S+ samples/s together, ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_with_another_version_a_full_disk_and_a_wrong_clock_and_a_storage_that_is_read_only(
    cluster: Cluster, tmp_path: Path
) -> None:
    planted = tmp_path / "planted"
    (planted / "deepspeed-9.9.9.dist-info").mkdir(parents=True)
    (planted / "deepspeed-9.9.9.dist-info" / "METADATA").write_text(OTHER_VERSION)
    (planted / "sitecustomize.py").write_text(SITE)
    with small_disk(tmp_path / "full", 1024) as full, small_disk(tmp_path / "storage", 1024) as storage:
        with pytest.raises(OSError, match="No space left"):
            (full / "filler").write_bytes(bytes(2 * 2**20))
        subprocess.run(["mount", "-o", "remount,ro", str(storage)], check=True, timeout=30)
        sick = {"PYTHONPATH": str(planted), "TMPDIR": str(full)}
        node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, env_vars=sick)
        try:
            status, lines = run_doctor(cluster, "--storage", str(storage), "--train", "--json")
        finally:
            cluster.remove_node(node)
    assert status == 1, "\n".join(lines)
    tree = json.loads("\n".join(line for line in lines if not line.startswith("measuring: ")))
    assert tree["verdict"] == "fail"
    faults = {finding["subject"]: finding for finding in tree["findings"] if finding["status"] == "fail"}
    assert set(faults) == {"deepspeed", "disk", "clock", "storage"}, "\n".join(lines)
    assert len({tuple(faults[subject]["machines"]) for subject in ("deepspeed", "disk", "clock")}) == 1
    assert faults["deepspeed"]["text"].startswith("9.9.9 here, 0.")
    assert faults["disk"]["text"].startswith("0 MB free of 1 MB at ")
    assert abs(faults["clock"]["figures"]["seconds_ahead"] - SECONDS_AHEAD) < 5
    assert re.match(rf"{storage}\S* cannot be written \(Read-only file system\)", faults["storage"]["text"])
    assert len(faults["storage"]["machines"]) == 2
    assert all(finding["advice"] for finding in faults.values())
    notes = [finding["text"] for finding in tree["findings"] if finding["status"] == "note"]
    assert "not checked: the storage fails" in notes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_does_not_answer(cluster: Cluster) -> None:
    node: Any = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    raylet.suspend()
    try:
        status, lines = run_doctor(cluster)
    finally:
        raylet.resume()
        cluster.remove_node(node)
    assert status == 1, "\n".join(lines)
    line = the_line(lines, "^fail +answer ")
    silence = r"(no answer in 120 s|Ray takes it for dead, or its process died there \(.*\))"
    assert re.search(rf": {silence} -> look there whether it and its raylet run", line)
    the_line(lines, "^ok +versions ")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupt_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    words = ["--address", cluster.address, "--storage", str(tmp_path), "--train", "--workers", "1"]
    command = Command([sys.executable, "-m", "tecogan_dist.doctor", *words])
    try:
        command.wait_for("^measuring: 20 training steps on 1 worker")
        until(lambda: list(tmp_path.glob("tecogan_doctor_*/store/*")), "its clips")
        command.process.send_signal(signal.SIGTERM)
        assert command.finish() == 130, command.end
    finally:
        command.kill()
    assert command.lines[-1] == f"interrupted: {doctor.KEPT}"
    assert list(tmp_path.iterdir()) == []

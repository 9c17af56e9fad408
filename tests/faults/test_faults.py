"""Runs that lose workers, machines, their driver or their storage, and end as the run that nothing happened to.

Everything is real: processes that are killed or stopped, Ray nodes that vanish, a server and a disk that fail.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pyarrow.fs
import pytest
from ray.cluster_utils import Cluster

from tecogan_dist.runs.checkpoints import WEIGHTS_FILE
from tecogan_dist.runs.records import METRICS_FILE
from tests.support.comparing import assert_same_weights
from tests.support.namespaces import INTERFACE, two_machines
from tests.support.paths import REPOSITORY
from tests.support.s3_server import BUCKET, S3Server, s3_server
from tests.support.small_disk import small_disk
from tests.support.training_runs import (
    RAY,
    SAVE_EVERY,
    STEPS,
    TINY,
    Command,
    assert_near_run,
    assert_same_run,
    curve,
    processes,
    ray_head,
    ray_node,
    short_folder,
    training,
    until,
    workers_of,
    write_store,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BEGINS = r"^step (\d+) begins on "
ON_NODES = ("--cluster.resources_per_worker", "place", "1")
"""Workers on nodes with a place for one, of which the first node of the cluster has none."""

Train = Callable[..., AbstractContextManager[Command]]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[Cluster]:  # noqa: ARG001  # Ray's processes need its environment
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "object_store_memory": 150 * 2**20, "include_dashboard": False},
    )
    try:
        for _ in range(2):
            add_place(cluster)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def train(cluster: Cluster, store: Path, config: Path) -> Train:
    """Starts ``tecogan train`` with the tiny settings and an output on the cluster."""

    def start(output: Path | str, *arguments: str, **env: str) -> AbstractContextManager[Command]:
        return training(*arguments, config=config, data=store, output=output, address=cluster.address, env=env)

    return start


@pytest.fixture(scope="module")
def straight(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two workers that nothing happens to."""
    output = tmp_path_factory.mktemp("straight") / "run"
    with train(output) as run:
        assert run.finish() == 0, run.end
    assert [line["step"] for line in curve(output)] == list(range(1, STEPS + 1))
    return output


def add_place(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=1, resources={"place": 1}, object_store_memory=80 * 2**20)


def lose_place(cluster: Cluster) -> None:
    """All processes of a node are killed."""
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)


def test_killed_workers_are_replaced(cluster: Cluster, train: Train, straight: Path, tmp_path: Path) -> None:
    """SIGKILL: one of two; then both, while a checkpoint is being written."""
    output = tmp_path / "run"
    with train(output) as run:
        line = run.wait_for(r"^step 8/")
        workers_of(cluster)[0].kill()
        line = run.wait_for(
            r"^worker \d was lost: the process \(\d+ on \S+\) died; all start again .* \(1 of 3", after=line
        )
        line = run.wait_for(BEGINS, after=line)
        line = run.wait_for(r"^step 17/", after=line)
        workers = workers_of(cluster)
        until(lambda: frozen(workers, while_there_is=".staging*", under=output), "a checkpoint that is being written")
        for worker in workers:
            worker.kill()
        run.wait_for(r"^workers 0, 1 were lost: .* \(2 of 3 times", after=line)
        assert run.finish() == 0, run.end
    assert_same_run(output, straight)


def frozen(workers: list[psutil.Process], *, while_there_is: str, under: Path) -> bool:
    """Stop the workers if they are stopped while such a file is there."""
    if not list(under.glob(while_there_is)):
        return False
    for worker in workers:
        worker.suspend()
    if list(under.glob(while_there_is)):
        return True
    for worker in workers:
        worker.resume()
    return False


def test_killed_data_tasks_and_a_worker_that_hangs(
    cluster: Cluster, train: Train, straight: Path, tmp_path: Path
) -> None:
    output, killed = tmp_path / "run", list[psutil.Process]()

    def kill_one() -> bool:
        for process in processes(cluster, "ray::MapBatches(decode)"):
            process.suspend()  # so that it is still at it when it is killed
            if process.cmdline()[0].startswith("ray::MapBatches(decode)"):
                killed.append(process)
                process.kill()
            else:
                process.resume()
        return bool(killed) or bool(run.all(BEGINS))

    with train(output, "--cluster.step_timeout", "20") as run:
        run.wait_for("starts from")
        until(kill_one, "a data task")
        assert killed
        line = run.wait_for(r"^step 12/")
        assert len(run.all(BEGINS)) == 1  # Ray Data did the task again, training did not notice
        hung = workers_of(cluster)[0]
        hung.suspend()
        line = run.wait_for(r"^worker \d has not finished a step for 20 s \(cluster\.step_timeout\)", after=line)
        run.wait_for(BEGINS, after=line)
        assert run.finish() == 0, run.end
    assert not psutil.pid_exists(hung.pid)
    assert_same_run(output, straight)


def test_a_lost_node_is_replaced(cluster: Cluster, train: Train, straight: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with train(output, *ON_NODES, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="10") as run:
        line = run.wait_for(r"^step 8/")
        lose_place(cluster)
        line = run.wait_for(r"^worker \d was lost: ", after=line)
        line = run.wait_for("^the cluster has no room for all workers: waiting for machines", after=line)
        add_place(cluster)
        run.wait_for(BEGINS, after=line)
        assert run.finish() == 0, run.end
    assert_same_run(output, straight)


def test_fewer_workers_go_on_and_grow_again(cluster: Cluster, train: Train, straight: Path, tmp_path: Path) -> None:
    output, elastic = tmp_path / "run", (*ON_NODES, "--cluster.min_workers", "1", "--tracking.save_every", "1000")
    with train(output, *elastic, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="10") as run:
        line = run.wait_for(BEGINS + "2 workers,")
        line = run.wait_for(r"^step 8/", after=line)
        lose_place(cluster)
        line = run.wait_for(r"^worker \d was lost: ", after=line)
        line = run.wait_for(BEGINS + "1 worker,", after=line)
        line = run.wait_for(r"^step 17/", after=line)
        # Ray looks for machines a minute after a start: until then there should be steps left.
        (worker,) = workers_of(cluster)
        worker.suspend()
        add_place(cluster)
        line = run.wait_for("^the number of workers becomes 2; all start again from a checkpoint", after=line)
        worker.resume()
        line = run.wait_for(BEGINS + "2 workers,", after=line)
        assert run.finish() == 0, run.end
    # The checkpoint between was written because of the growth; steps that were done meanwhile are done again.
    grown = int(run.lines[line - 1].split()[1])
    assert grown > 17
    assert sorted(folder.name for folder in output.glob("checkpoint_*")) == [
        f"checkpoint_{step:08d}" for step in (grown - 1, STEPS)
    ]
    assert_near_run(output, straight)


def test_killed_driver_and_a_server_that_is_down(
    s3: S3Server, cluster: Cluster, train: Train, straight: Path, tmp_path: Path
) -> None:
    """The output is on S3. The same command goes on; checkpoints wait for the server, and so do replaced workers.

    At first it is given twice: one of both is refused, and what the killed one held is free at once.
    """
    with train(s3.uri("run")) as one, train(s3.uri("run")) as two:
        until(lambda: any(command.process.poll() is not None for command in (one, two)), "one that is refused")
        refused, run = (two, one) if one.process.poll() is None else (one, two)
        assert refused.finish() == 2, refused.end
        refused.wait_for(r"^error: another process \(pid \d+ on .*\) is writing to s3://.*/run\S*: wait for its end")
        run.wait_for(r"^step 8/")
        run.kill()
    until(lambda: not workers_of(cluster), "the end of the killed driver's workers")
    silent = "its server does not answer"
    with train(s3.uri("run")) as run:
        line = run.wait_for(r"^going on after step 5 \(s3://")
        line = run.wait_for(r"^step 12/", after=line)
        s3.stop()
        try:
            line = run.wait_for(
                rf"^warning: a checkpoint could not be written \(.*{silent}.* is tried again", after=line
            )
            workers_of(cluster)[0].kill()
            line = run.wait_for(rf"^worker \d failed \(.*{silent}.*; all start again", after=line)
        finally:
            s3.start()
        run.wait_for("^going on after step 10 ", after=line)
        assert run.finish() == 0, run.end
    kept = fetched(s3, "run", tmp_path / "run")
    assert kept == [f"checkpoint_{step:08d}" for step in range(STEPS - 2 * SAVE_EVERY, STEPS + 1, SAVE_EVERY)]
    assert_same_run(tmp_path / "run", straight)


def fetched(s3: S3Server, name: str, target: Path) -> list[str]:
    """Copy the records and the newest weights of a run from the server; the names of its checkpoints, torn ones too."""
    files = s3.files()
    listed = files.get_file_info(pyarrow.fs.FileSelector(f"{BUCKET}/{name}"))
    names = sorted(entry.base_name for entry in listed if entry.base_name.startswith("checkpoint_"))
    for path in (METRICS_FILE, f"{names[-1]}/{WEIGHTS_FILE}", f"{names[-1]}/state.json"):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        with files.open_input_stream(f"{BUCKET}/{name}/{path}") as stream:
            (target / path).write_bytes(stream.read())
    return names


def test_a_disk_that_is_full_for_a_while(train: Train, straight: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        output, filler = disk / "run", disk / "filler"
        with train(output) as run:
            line = run.wait_for(r"^step 8/")
            fill(filler)
            line = run.wait_for(
                r"^warning: a checkpoint could not be written \(.*No space left on device.* it is tried again for",
                after=line,
            )
            filler.unlink()
            assert run.finish() == 0, run.end
            assert len(run.all(BEGINS)) == 1
        expected = {line["step"]: line for line in curve(straight)}
        there = curve(output)
        assert all(line == expected[line["step"]] for line in there)  # some could not be written
        assert there[-1]["step"] == STEPS
        assert_same_weights(output, straight)
        assert not list(output.glob(".staging*"))
        names = sorted(folder.name for folder in output.glob("checkpoint_*"))
        assert names == [f"checkpoint_{step:08d}" for step in range(STEPS - 2 * SAVE_EVERY, STEPS + 1, SAVE_EVERY)]


def fill(filler: Path) -> None:
    """Take all space that is left on the disk."""
    with filler.open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while True:
                    file.write(os.urandom(size))
            except OSError:
                continue


def test_a_job_is_stopped_and_submitted_again(store: Path, config: Path, straight: Path, tmp_path: Path) -> None:
    """``ray job submit --working-dir .`` as README says, to a head with a dashboard."""
    repository, output = REPOSITORY, tmp_path / "run"
    training = [sys.executable, "-m", "tecogan_dist.train", "--config", str(config), "--data", str(store)]
    entry = ["--working-dir", str(repository), "--", *training, "--output", str(output)]
    with ray_head(cpus=4, RAY_JOB_STOP_WAIT_TIME_S="120") as head:
        first = head.job("submit", "--submission-id", "first", *entry)
        first.wait_for(r"^step 8/")
        stop = head.job("stop", "first")
        assert stop.finish() == 0, stop.end
        first.finish()
        logs = head.job("logs", "first")
        assert logs.finish() == 0, logs.end
        assert logs.all("^training starts from random weights")
        assert logs.all("^asked to stop: the run ends after this step, with a checkpoint")
        (stopped,) = logs.all(rf"^stopped after \d+ of {STEPS} steps: the same command goes on from .*checkpoint_")
        step = int(stopped.split()[2])
        assert step >= 8
        again = head.job("submit", "--submission-id", "again", *entry)
        assert again.finish() == 0, again.end
        assert again.all(rf"^going on after step {step} ")
        uploaded = next(head.session.glob("runtime_resources/working_dir_files/_ray_pkg_*/"))
        assert {"tecogan_dist", "pyproject.toml"} <= {path.name for path in uploaded.iterdir()}
        assert not {".git", ".venv", "tests"} & {path.name for path in uploaded.iterdir()}
        assert sum(path.stat().st_size for path in uploaded.rglob("*")) < 3 * 2**20
    assert_same_run(output, straight)


def test_a_link_between_two_machines_is_cut(store: Path, config: Path, straight: Path, tmp_path: Path) -> None:
    """Each machine is a network namespace with a Ray node and a worker; the one beside the driver goes on alone."""
    output, elastic = tmp_path / "run", (*ON_NODES, "--cluster.min_workers", "1")
    env = {
        "GLOO_SOCKET_IFNAME": INTERFACE,
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
        # A machine that is silent counts as lost after 6 seconds; Ray's own patience is about a minute.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }
    with two_machines() as (here, there), short_folder() as folder:
        address, start = f"{here.address}:6379", [RAY, "start", '--resources={"place": 1}']
        head = ["--head", "--port=6379", f"--temp-dir={folder}", "--include-dashboard=false", "--num-cpus=3"]
        begun = [*start, f"--node-ip-address={here.address}", *head]
        joined = [*start, f"--node-ip-address={there.address}", f"--address={address}", "--num-cpus=1"]
        with (
            ray_node(here.on(begun), env=env),
            ray_node(there.on(joined), env=env),
            training(*elastic, config=config, data=store, output=output, address=address, env=env, on=here.on) as run,
        ):
            line = run.wait_for(BEGINS + "2 workers,")
            line = run.wait_for(r"^step 8/", after=line)
            here.unplug()
            line = run.wait_for(rf"^worker \d was lost: the machine {there.address} is gone", after=line)
            run.wait_for(BEGINS + "1 worker,", after=line)
            assert run.finish() == 0, run.end
    assert_near_run(output, straight)

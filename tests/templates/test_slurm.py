"""The script for Slurm as it is: real ``ray symmetric-run``, real training; stand-ins for ``srun`` and ``scontrol``.

``ray symmetric-run`` ends with ``ray stop``, which ends every Ray process that it sees. So each run has process numbers
and a network of its own: inside, ``ray stop`` sees nothing of the rest of the machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tecogan_dist.runs.records import read_metrics
from tests.support.paths import REPOSITORY
from tests.support.training_runs import STEPS, TINY, Command, write_store

SCRIPT = REPOSITORY / "cluster" / "slurm.sbatch"
ADDRESS = "10.231.9.1"
STOPPED = 130
"""What training ends with when it was stopped before its last step."""
ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "--kill-child"]
"""What ends with this command takes all its processes along."""
PRIVATE = f"""
ip link set lo up && ip address add {ADDRESS}/32 dev lo || exit 99
"$@"
exit $?
"""
SRUN = """#!/bin/bash
echo "$@" > "$STAND_INS/srun"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = f"""#!/bin/bash
case $1 in
    show) [ "$2 $3" = "hostnames node[1-1]" ] && echo {ADDRESS} ;;
    *) echo "$@" >> "$STAND_INS/scontrol" ;;
esac
"""


def test_shellcheck() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([str(shellcheck), str(SCRIPT)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_options_for_slurm() -> None:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", SCRIPT.read_text("utf-8"), re.MULTILINE))
    assert {"exclusive", "requeue", "mem", "nodes", "gpus-per-node", "time", "open-mode", "output"} <= set(options)
    # To the batch script alone, with time for a checkpoint. Not TERM: scancel sends that.
    assert re.fullmatch(r"B:USR1@\d{3}", options["signal"])


@dataclass
class Job:
    """The script as Slurm would run it, with a home and stand-ins of its own."""

    folder: Path
    arguments: list[str]
    env: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self) -> Iterator[Command]:
        stand_ins = self.folder / "stand_ins"
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            path = stand_ins / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        env = {
            "PATH": f"{stand_ins / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "STAND_INS": str(stand_ins),
            "SLURM_JOB_ID": f"{os.getpid()}",
            "SLURM_JOB_NODELIST": "node[1-1]",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_ON_NODE": "4",
        }
        words = [*ALONE, "bash", "-c", PRIVATE, "bash", "bash", str(SCRIPT), *self.arguments]
        command = Command(words, env=env | self.env, cwd=REPOSITORY)
        try:
            yield command
        finally:
            command.kill()
            shutil.rmtree(f"/tmp/tecogan-{os.getpid()}", ignore_errors=True)

    def asked_of_slurm(self, name: str) -> str:
        path = self.folder / "stand_ins" / name
        return path.read_text() if path.exists() else ""


def batch_script(command: Command) -> psutil.Process:
    """The process that Slurm would signal."""
    found = [
        process
        for process in psutil.Process(command.process.pid).children(recursive=True)
        if process.cmdline()[:2] == ["bash", str(SCRIPT)]
    ]
    return min(found, key=lambda process: process.create_time())


@contextlib.contextmanager
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this machine that ``ray stop`` would end if it saw it."""
    process = subprocess.Popen(["bash", "-c", "exec -a ray/dashboard/dashboard.py sleep 600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    try:
        done = subprocess.run(
            [*ALONE, "bash", "-c", PRIVATE, "bash", "ps", "ax"], capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("needs the unshare command")
    if done.returncode != 0:
        pytest.skip(f"needs process and network namespaces: {done.stderr.strip()}")
    # Nobody else's processes are to be seen: `ray stop` would end them.
    assert len(done.stdout.splitlines()) <= 4, done.stdout


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm")
    write_store(folder / "store")
    (folder / "tiny.yaml").write_text(TINY)
    return folder


def training(inputs: Path, output: Path, *more: str) -> list[str]:
    words = ["--config", str(inputs / "tiny.yaml"), "--data", str(inputs / "store"), "--output", str(output)]
    return [*words, "--data.train-scenes", "2000", "2002", "--data.validation-scenes", "none", *more]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_is_stopped_queued_again_and_goes_on(inputs: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, training(inputs, tmp_path / "run", "--cluster.workers", "2"))
    with job.running() as first:
        first.wait_for(r"^step 8/")
        batch_script(first).send_signal(signal.SIGUSR1)
        first.wait_for("asked to stop: the run ends after this step, with a checkpoint")
        assert first.finish() == STOPPED, first.end
    assert first.all("back into the queue")
    assert job.asked_of_slurm("scontrol") == f"requeue {os.getpid()}\n"
    (stopped,) = first.all(r"^stopped after \d+ of")
    after = int(stopped.split()[2])
    assert 8 <= after < STEPS
    assert not [*tmp_path.glob(".tecogan/*")]  # the token is gone
    with job.running() as second:
        second.wait_for(rf"^going on after step {after} ")
        assert second.finish() == 0, second.end
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [*range(1, STEPS + 1)]
    assert job.asked_of_slurm("scontrol").count("requeue") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cancelled_job_leaves_a_checkpoint_and_stays_away(inputs: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, training(inputs, tmp_path / "run", "--cluster.workers", "1"))
    with bystander() as other, job.running() as run:
        run.wait_for(r"^step 2/")
        assert "ray symmetric-run" in job.asked_of_slurm("srun")
        (token,) = tmp_path.glob(".tecogan/*/token")
        assert token.stat().st_mode & 0o777 == 0o600
        secret = token.read_text()
        assert len(secret) == 64
        inside = psutil.Process(run.process.pid).children(recursive=True)
        assert len(inside) > 10
        assert not [process for process in inside if secret in " ".join(process.cmdline())]
        batch_script(run).send_signal(signal.SIGTERM)
        assert run.finish() == STOPPED, run.end
        assert run.all("Stopped all .* Ray processes")
        assert other.poll() is None
    assert run.all(r"^stopped after \d+ of")
    assert [*(tmp_path / "run").glob("checkpoint_*")]
    assert job.asked_of_slurm("scontrol") == ""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_fails_ends_the_job_with_its_status(inputs: Path, tmp_path: Path) -> None:
    wrong = [*training(inputs, tmp_path / "run"), "--cluster.workers", "1", "--batch-size", "two"]
    with Job(tmp_path, wrong).running() as run:
        status = run.finish()
    assert status == 2, run.end
    assert run.all("batch-size|batch_size")


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        ([], {}, "give training its options"),
        (["--config", "frvsr"], {}, "the job has no GPUs"),
        (["--config", "frvsr"], {"SLURM_JOB_ID": ""}, "this is for sbatch"),
        (["--config", "frvsr"], {"PATH": "/usr/bin:/bin"}, "no ray on the PATH"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], env: dict[str, str], says: str, tmp_path: Path) -> None:
    with Job(tmp_path, arguments, env).running() as run:
        assert run.finish(60) == 1
    assert run.all(says), run.end


def test_ray_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    """``ray symmetric-run`` itself ends with 0 then; here, a stand-in of it that does nothing but that."""
    job = Job(tmp_path, ["--config", "frvsr"], {"SLURM_JOB_NUM_NODES": "3", "SLURM_GPUS_ON_NODE": "4"})
    path = tmp_path / "stand_ins" / "bin" / "ray"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/bash\nexit 0\n")
    path.chmod(0o755)
    with job.running() as run:
        assert run.finish(60) == 1
    assert run.all("the run never began"), run.end
    asked = job.asked_of_slurm("srun")
    assert "--nodes=3 --ntasks=3 --ntasks-per-node=1 --cpus-per-task=4 " in asked
    assert f" ray symmetric-run --address {ADDRESS}:6379 --min-nodes 3 " in asked
    assert f"--config frvsr --cluster.workers 12 --cluster.address {ADDRESS}:6379" in asked

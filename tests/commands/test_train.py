"""``tecogan train`` and ``tecogan``: what they refuse, and two real Ray workers from a clip store to a checkpoint."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray
import torch

from tecogan_dist import cli
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import WriterLock
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.capacity import Demand, _check_machine
from tecogan_dist.commands import train
from tecogan_dist.config.load import load
from tecogan_dist.config.overrides import override
from tecogan_dist.runs.checkpoints import newest_checkpoint, read_state
from tecogan_dist.runs.find import read_weights
from tecogan_dist.runs.folder import RunFolder, write_run_file
from tecogan_dist.runs.records import read_metrics
from tecogan_dist.runs.status import read_status
from tecogan_dist.training.ray.display import clock
from tests.support.comparing import assert_same_weights
from tests.support.local_ray import small_ray
from tests.support.small_disk import small_disk
from tests.support.training_runs import write_store
from tests.support.wandb_files import read_wandb
from tests.support.wandb_server import KEY, wandb_server

STEPS, HALF = 20, 10
TINY = f"""
steps: {STEPS}
batch_size: 4
model: {{blocks: 1, channels: 8, flow_width: 4}}
discriminator: {{balance_threshold: 1.0e-4}}
loss: {{perceptual: 0}}
data: {{sequence_length: 3, crop_size: 16, validation_scenes: [2003, 2003]}}
tracking: {{display_every: 1, save_every: {HALF}}}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--initial_weights", "required"], "starts from FRVSR weights: give --initial-weights frvsr"),
        (["--data.train_scenes", "1", "9"], "no scene of the clip store is selected"),
        (["--data.crop_size", "64"], "smaller than the 264x264 crop"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--resume", "nowhere"], "nowhere holds nothing to resume from"),
        (["--data.cache-dir", "s3://some-bucket/cache"], "give a folder on each machine's own disk"),
        (["--data.cache-dir", "x" * 300], "is too long for a path"),
        (["--profile-memory"], "--profile of which steps: give both"),
        (["--profile", "21:22"], "the run ends with step 20: there is no step 21 to profile"),
        (["--config", "nosuch"], "no preset or file is named 'nosuch'"),
    ],
)
def test_what_the_user_can_put_right_is_said_before_ray_starts(
    store: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    monkeypatch.setattr(train, "connected_for", lambda *_, **__: pytest.fail("a Ray is started"))
    with pytest.raises(UserError, match=problem):
        train.main(["--config", tiny, "--data", str(store), "--output", str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--initial_weights", "nowhere.safetensors"], r"no weights are at .*nowhere"),
        (["--loss.perceptual", "0.2"], "the perceptual loss needs VGG19's weights"),
    ],
)
def test_weights_that_are_not_there_are_said_before_anything_is_written(
    store: Path, tiny: str, tmp_path: Path, arguments: list[str], problem: str
) -> None:
    """By torch, which is imported while Ray starts: it has ended again."""
    with pytest.raises(UserError, match=problem):
        train.main(["--config", tiny, "--data", str(store), "--output", str(tmp_path / "run"), *arguments])
    assert not ray.is_initialized()
    assert not (tmp_path / "run").exists()


def test_the_command_has_no_torch_before_it_starts_ray() -> None:
    """Its import takes a second, in which Ray can start."""
    code = (
        "import sys; from tecogan_dist.commands import train; train.parse(sys.argv[1:]); print('torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, "--config", "smoke_frvsr", "--data", "store", "--output", "run"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, "False\n"), ran.stderr


STRANGE_OUTPUTS = [
    *(
        "x" * 300,
        "/proc/run",
        "/proc/self/status",
        "/dev/null",
        "/",
        "loop",
        "loop/run",
        "file",
        "file/run",
        "full/run",
    ),
    *("fifo", "s3://some-bucket", "s3://b/x", "file:///tmp/run", "~no-such-user/run", "a\0b"),
]


@pytest.mark.parametrize("name", STRANGE_OUTPUTS)
def test_an_output_that_cannot_be_is_one_sentence_before_ray_starts(
    store: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "fifo")
    with contextlib.ExitStack() as stack:
        if name.startswith("full"):
            disk = stack.enter_context(small_disk(tmp_path / "full", kilobytes=64))
            with contextlib.suppress(OSError), open(disk / "fill", "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        there = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(UserError) as caught:
            train.main(["--config", tiny, "--data", str(store), "--output", name])
        assert sorted(path.name for path in tmp_path.iterdir()) == there
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("where", ["fifo", "file", "nothing", "s3:/x", "http://h/x", "x" * 300, "loop"])
def test_strange_places_to_resume_from(store: Path, tiny: str, tmp_path: Path, where: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    place = where if ":" in where else str(tmp_path / where)
    with pytest.raises(UserError):
        train.main(["--config", tiny, "--data", str(store), "--output", str(tmp_path / "run"), "--resume", place])
    assert not (tmp_path / "run").exists()


def test_a_second_training_and_damaged_records_are_refused_before_ray_starts(
    store: Path, tiny: str, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    command = ["--config", tiny, "--data", str(store), "--output", str(output)]
    folder = RunFolder(path=Location.of(output), checkpoint=None, resume_from=None)
    write_run_file(folder, config=train.parse(command)[1], data=Location.of(store))
    content = b'{"step": 1, "content": 0.5}\n{"step": 2, "con\n{"step": 3, "content": 0.5}\n'
    (output / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged in line 2 .*: mend or remove that line"):
        train.main(command)
    assert (output / "metrics.jsonl").read_bytes() == content
    with WriterLock(Location.of(output)):
        with pytest.raises(UserError, match=rf"another process \(pid {os.getpid()} on .*\) is writing to {output}"):
            train.main(command)
        (output / "run.yaml").unlink()
        (output / "metrics.jsonl").unlink()
        with pytest.raises(UserError, match="another process"):  # of a run that has just begun, too
            train.main(command)
    (output / "checkpoint_00000003").mkdir()
    (output / "checkpoint_00000003" / "state.json").write_text('{"state": {"step": NaN}}')
    write_run_file(folder, config=train.parse(command)[1], data=Location.of(store))
    with pytest.raises(UserError, match=r"checkpoint_00000003/state\.json is damaged"):
        train.main(command)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--confg", "frvsr"], "--config"),
        (["--config", "frvsr", "--resum", "never"], "--resume"),
        (["--config", "frvsr", "--data", "x", "--output", "y", "--loss.adversaril", "1"], "--loss.adversarial"),
    ],
)
def test_a_misspelled_option_is_answered_with_the_nearest(words: list[str], meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {meant}\\?"):
        train.main(words)


def test_missing_options_are_named() -> None:
    with pytest.raises(UserError, match="give --data and --output"):
        train.main(["--config", "smoke_frvsr"])


def test_store_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make one with 'tecogan prepare"):
        train.main(["--config", "smoke_frvsr", "--data", str(tmp_path / "x"), "--output", str(tmp_path / "run")])


def test_initial_weights_none_is_an_answer() -> None:
    arguments = ["--config", "tecogan", "--data", "store", "--output", "run", "--initial_weights"]
    assert train.parse([*arguments, "none"])[1].initial_weights is None
    assert train.parse([*arguments, "w.safetensors"])[1].initial_weights == str(Path("w.safetensors").resolve())


def test_help_shows_own_options_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        train.main(["--help"])
    assert ending.value.code == 0
    shown = capsys.readouterr().out
    assert "--resume auto|never|PATH" in shown
    assert "--loss.adversarial" in shown
    assert "The values below are the preset tecogan's: add --config" in shown
    assert "--data.train-scenes 2000 2250" in shown
    with pytest.raises(SystemExit):
        train.main(["--help", "--config", "frvsr"])
    shown = capsys.readouterr().out
    assert "The values below are those of --config frvsr." in shown
    assert "--loss.adversarial 0.0" in shown


def test_more_workers_than_this_machine_has_cpus() -> None:
    workers = (os.cpu_count() or 1) + 1
    config = override(load("smoke_frvsr"), ["--cluster.workers", str(workers), "--batch_size", str(workers)])
    with pytest.raises(UserError, match=f"use --cluster.workers {workers - 1}"):
        _check_machine(Demand(config))


def test_clock_shows_hours_only_if_there_are_any() -> None:
    assert [clock(seconds) for seconds in (0, 65, 3725)] == ["0:00", "1:05", "1:02:05"]


def test_commands_are_listed_and_found(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)
    with pytest.raises(SystemExit) as ending:
        cli.main(["fly"])
    assert ending.value.code == 2
    assert "there is no command 'fly'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ending:
        cli.main(["train", "--config", "smoke_frvsr"])
    assert ending.value.code == 2
    assert capsys.readouterr().err == ("error: give --data and --output: 'tecogan train --help' says what for.\n")


@dataclass(frozen=True)
class Run:
    """A finished run: its output folder, and what it printed."""

    output: Path
    lines: list[str]

    @property
    def steps(self) -> list[dict[str, float]]:
        """Its records of steps, without those of validation."""
        return [line for line in read_metrics(self.output) if "loss/content" in line]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with small_ray(cpus=8):
        yield


@pytest.fixture(scope="module")
def run(cluster: None, store: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:  # noqa: ARG001
    """Trains with so many workers; the same settings are trained once."""

    @functools.cache
    def trained(workers: int, *arguments: str) -> Run:
        output, shown = tmp_path_factory.mktemp("run") / "run", io.StringIO()
        with contextlib.redirect_stdout(shown):
            settings = ["--config", tiny, *arguments, "--cluster.workers", str(workers)]
            train.main([*settings, "--data", str(store), "--output", str(output)])
        return Run(output, shown.getvalue().splitlines())

    return trained


@pytest.mark.slow
def test_a_run_tells_what_it_does_and_leaves(run: Callable[..., Run]) -> None:
    two = run(2)
    assert two.lines[0] == "training starts from random weights"
    shown = re.compile(r"step 3/20  \S+ (steps/s|s/step)  left \d:\d\d  content .*  wait \d+%")
    assert any(map(shown.match, two.lines)), two.lines
    newest = newest_checkpoint(Location.of(two.output))
    assert newest is not None
    assert re.fullmatch(rf"trained to step 20 in .*: the checkpoint is {newest}", two.lines[-1])
    assert [line["step"] for line in two.steps] == list(range(1, STEPS + 1))
    state = read_state(newest).state
    assert state.step == state.discriminator_updates + state.discriminator_skips == STEPS
    assert min(state.discriminator_updates, state.discriminator_skips) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_trains_as_two(run: Callable[..., Run], workers: int) -> None:
    """Real workers of Ray Train and real data: samples, losses, decisions of the balance, weights.

    ``test_engines.py`` has every ZeRO stage, and the twin on plain optimisers.
    """
    two, other = run(2), run(workers)
    for line, expected in zip(other.steps, two.steps, strict=True):
        for name in ("raw/content", "raw/warp", "raw/pingpong"):
            assert line[name] == pytest.approx(expected[name], rel=1e-4), (line["step"], name)
        # The discriminator's batch norm and kinks magnify.
        for name in ("raw/adversarial", "raw/discriminator", "discriminator/balance"):
            assert line[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), (line["step"], name)
        assert line["discriminator/skips"] == expected["discriminator/skips"]
    found, weights = read_weights(other.output).upscaler, read_weights(two.output).upscaler
    begun = read_weights(two.output / f"checkpoint_{HALF:08d}").upscaler
    error, moved = (
        torch.cat([(a[name] - b[name]).flatten() for name in weights]).norm()
        for a, b in ((found, weights), (weights, begun))
    )
    assert error < 0.02 * moved


@pytest.mark.slow
@pytest.mark.timeout(600)  # four runs
@pytest.mark.usefixtures("cluster")
def test_runs_go_on(
    run: Callable[..., Run], store: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two, halves = run(2), tmp_path / "halves"
    for steps in (HALF, STEPS):  # of the same run
        settings = ["--config", tiny, "--cluster.workers", "2", "--steps", str(steps)]
        settings += ["--profile", "12:13"] if steps == STEPS else []
        train.main([*settings, "--data", str(store), "--output", str(halves)])
    assert_same_weights(halves, two.output)  # which a profile does not change
    for rank in range(2):
        trace = halves / "profiles" / f"steps_00000012-00000013_rank{rank}.json.gz"
        shown = {event["name"] for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
        assert {name for name in shown if name.startswith("step ")} == {"step 12", "step 13"}
        assert "aten::convolution_backward" in trace.with_name(f"steps_00000012-00000013_rank{rank}.txt").read_text()
    half = str(halves / f"checkpoint_{HALF:08d}")
    copied = run(2, "--resume", half)
    assert copied.lines[0].startswith(f"going on after step {HALF} ")
    assert_same_weights(copied.output, two.output)
    # One worker at another ZeRO stage finishes what two began.
    fewer = run(1, "--resume", half, "--cluster.zero_stage", "2")
    assert fewer.steps[-1]["raw/content"] == pytest.approx(two.steps[-1]["raw/content"], rel=1e-3)

    capsys.readouterr()
    command = ["--config", tiny, "--data", str(store), "--cluster.workers", "2", "--output", str(two.output)]
    train.main(command)
    assert re.fullmatch(r".* is trained: 20 steps are done, .*\n", capsys.readouterr().out)
    with pytest.raises(UserError, match=r"a run with loss\.warp 1\.0, not 3\.0"):
        train.main([*command, "--loss.warp", "3"])


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_is_too_small(store: Path, tiny: str, tmp_path: Path) -> None:
    command = ["--config", tiny, "--data", str(store), "--output", str(tmp_path / "x")]
    with pytest.raises(UserError, match=r"cannot hold 8 workers .*ask for fewer"):
        train.main([*command, "--cluster.workers", "8", "--batch_size", "8"])
    with pytest.raises(UserError, match=r"and 0 GPUs cannot hold .*--cluster\.device cpu"):
        train.main([*command, "--cluster.device", "cuda"])
    with pytest.raises(UserError, match="needs a GPU, and this run has none: profile it without"):
        train.main([*command, "--cluster.workers", "2", "--profile", "1:2", "--profile-memory"])
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_what_only_the_user_can_mend_ends_the_run_at_once(
    store: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in order: Ray ends all workers when one has failed, but the first one has to tell W&B, which is silent."""
    command = ["--config", tiny, "--data", str(store), "--output", str(tmp_path / "run")]
    with wandb_server() as server:
        server.is_silent.set()
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_PROJECT", "test")
        with pytest.raises(
            UserError, match=r"10 steps in a row were not finite, the last time the loss '\w+' became (inf|nan)"
        ):
            train.main([*command, "--cluster.workers", "2", "--model.output_init_scale", "1e25", "--steps", "20"])
    assert capsys.readouterr().out.count("begins") == 1  # no second attempt
    status = read_status(Location.of(tmp_path / "run"))
    assert status is not None
    assert status.state == "failed"
    assert "10 steps in a row were not finite" in (status.problem or "")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert read_wandb(file).exit_code == 1


@pytest.mark.slow
def test_interrupted_command_says_how_to_go_on(store: Path, tiny: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tecogan_dist.train", "--config", tiny, "--data", str(store), "--steps", "3000"]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},  # as users have it
        # A test runner in the background ignores Ctrl-C, and children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 5/"):
                break
        assert_nothing_needless(psutil.Process(process.pid).children(recursive=True))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "asked to stop: the run ends after this step, with a checkpoint" in out
    stopped = re.search(r"stopped after (\d+) of 3000 steps: the same command goes on from .*/(checkpoint_\d+)\n", out)
    assert stopped is not None
    assert int(stopped[1]) < 100
    assert (tmp_path / "run" / stopped[2] / "state.json").exists()
    assert err.startswith("interrupted")
    assert err.count("\n") == 1


def assert_nothing_needless(processes: list[psutil.Process]) -> None:
    """Of what takes the time of a start: Ray's autoscaler and dashboard, and torch where it is only passed on."""
    has_torch = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):  # one that has just ended
            maps = [place.path for place in process.memory_maps()]
            has_torch[" ".join(process.cmdline())] = any("libtorch" in path for path in maps)
    workers = [words for words in has_torch if words.startswith("ray::RayTrainWorker")]
    assert workers
    assert all(has_torch[words] for words in workers)
    (controller,) = (words for words in has_torch if words.startswith("ray::TrainController"))
    assert not has_torch[controller]
    for needless in ("autoscaler/_private/monitor.py", "dashboard/dashboard.py", "ray::SynchronizationActor"):
        assert not any(needless in words for words in has_torch)


@pytest.mark.slow
def test_error_is_one_sentence_and_status_2(store: Path, tiny: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tecogan_dist.train", "--config", tiny, "--data", str(store)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path), "--cluster.workers", "999", "--batch_size", "999"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: this machine has ")
    assert done.stderr.count("\n") == 1

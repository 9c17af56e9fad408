"""Segments made by real processes: bit for bit as in one, also when one is killed, and nothing is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import LrOrigin
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.upscaling import spread as spreading
from tecogan_dist.upscaling.processes import Processes
from tecogan_dist.upscaling.segment import SegmentResult
from tecogan_dist.upscaling.spread import Spread, Spreading
from tecogan_dist.upscaling.workers import Advanced
from tecogan_dist.upscaling.working import frozen, thawed
from tests.support.segments import film, in_one_process, moving_folder, small_model

MODEL = frozen(small_model())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_folder(tmp_path_factory.mktemp("source") / "source", height=24, width=40)


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return in_one_process(source, tmp_path_factory.mktemp("one") / "out", small_model())


def test_two_processes_one_of_which_is_killed(source: Path, expected: dict[str, str], tmp_path: Path) -> None:
    made = film(source, tmp_path / "out")
    results, notes, frames, killed = list[SegmentResult](), list[str](), 0, 0
    with Processes(MODEL, count=2, threads=1) as workers:
        pids = workers.pids
        assert len(set(pids)) == 2

        def advance(_: str, count: int) -> None:
            nonlocal frames
            frames += count

        def done(_: str, result: SegmentResult) -> None:
            nonlocal killed
            results.append(result)
            if not killed:  # another one's segment is on its way, or about to be
                killed = next(pid for pid in workers.pids if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
                os.kill(killed, signal.SIGKILL)

        spread = Spread[str](workers, advance=advance, note=notes.append, done=done)
        spread.add("a", made.groups)
        spread.run()
        assert killed not in workers.pids
        pids += workers.pids
    assert made.digests() == expected
    assert len(expected) == 20
    assert frames == 20
    assert sorted(result.number for result in results) == list(range(7))
    assert all("SIGKILL" in note and "made again" in note for note in notes)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_task_that_fails_and_a_work_folder_that_is_gone(source: Path, tmp_path: Path) -> None:
    damaged = moving_folder(tmp_path / "damaged")
    made = film(damaged, tmp_path / "out")
    (damaged / "frame_0001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="damaged changed while it was read"):
        Spreading(lambda _: Processes(MODEL, count=1, threads=1))(
            made.groups, done=lambda _: None, advance=lambda _: None, note=lambda _: None
        )
    gone = film(source, tmp_path / "gone")
    for path in (tmp_path / "gone.unfinished").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"plan\.json cannot be read .*leave the folder alone"):
        Spreading(lambda _: Processes(MODEL, count=1, threads=1))(
            gone.groups, done=lambda _: None, advance=lambda _: None, note=lambda _: None
        )


@pytest.mark.slow
def test_processes_that_die_at_once_are_given_up(source: Path, tmp_path: Path) -> None:
    made = film(source, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be kept alive: a process ended by itself with status 1"):
        Spreading(lambda _: Processes(b"no model", count=1, threads=1))(
            made.groups, done=lambda _: None, advance=lambda _: None, note=lambda _: None
        )


SCRIPT = """
import sys, time
from pathlib import Path
from tecogan_dist.upscaling.processes import Processes
from tests.upscaling.test_processes import MODEL
if __name__ == "__main__":
    with Processes(MODEL, count=2, threads=1) as workers:
        print(*workers.pids, flush=True)
        while True:
            workers.event(1.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_command_ends(tmp_path: Path, kind: signal.Signals) -> None:
    script = tmp_path / "command.py"
    script.write_text(textwrap.dedent(SCRIPT))
    root = Path(__file__).parents[2]
    command = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background ignores Ctrl-C, and children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert command.stdout is not None
    pids = [int(word) for word in command.stdout.readline().split()]
    assert len(pids) == 2
    command.send_signal(kind)
    _, errors = command.communicate(timeout=60)
    until = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert command.returncode != 0
    assert errors.count("Traceback") == (1 if kind == signal.SIGINT else 0)  # the command's own, of no worker


def test_events_are_small() -> None:
    """Frames do not travel."""
    assert {field for event in (Advanced,) for field in event.__dataclass_fields__} == {"worker", "frames"}
    assert not hasattr(spreading, "numpy")


@pytest.mark.parametrize("settings", [{}, {"scale": 2}, {"arithmetic": "pytorch_port", "blocks": 3}])
@pytest.mark.parametrize("degradation", ["BD", "BI"])
def test_a_model_arrives_at_a_worker_as_it_was(settings: dict[str, Any], degradation: LrOrigin) -> None:
    small: dict[str, Any] = {"blocks": 1, "channels": 8, "flow_width": 4}
    model = build_upscaler(ModelConfig(**small | settings), degradation=degradation)
    arrived = thawed(frozen(model), torch.device("cpu"))
    assert type(arrived) is type(model)
    assert (arrived.scale, arrived.centred, arrived.warm_up) == (model.scale, model.centred, model.warm_up)
    assert arrived.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in arrived.state_dict().items())

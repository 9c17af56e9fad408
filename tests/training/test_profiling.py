"""``--profile``: exactly the steps that were asked for, as a trace that viewers read, and what becomes of mistakes."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import TrainingState
from tecogan_dist.runs.records import read_metrics
from tecogan_dist.training import profiled_steps
from tecogan_dist.training.loop import train
from tecogan_dist.training.profiled_steps import Profile, check_device, check_profile, parse_steps
from tecogan_dist.training.profiling import Profiler
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.task import TrainingTask
from tests.support.plain_runs import make_config, noise
from tests.support.small_disk import small_disk

if TYPE_CHECKING:  # what it needs is not on a machine that is lent for its GPU
    from tests.support.s3_server import S3Server

CPU = torch.device("cpu")
TINY = ["--data.crop_size", "8", "--data.sequence_length", "2", "--loss.adversarial", "0"]
TINY += ["--loss.pingpong", "0", "--loss.feature_match", "0"]


def run(
    output: Path | Location, profile: Profile, *more: str, device: torch.device = CPU, **reporter: Any
) -> tuple[TrainingState, list[str]]:
    """A run in this process, and what it said."""
    place, said = Location.of(output), list[str]()
    task = TrainingTask(
        config=make_config([*TINY, *more]),
        data=place,
        training_scenes=(),
        validation_scenes=(),
        output=place,
        profile=profile,
    )
    state = train(task, device=device, reporter=PlainReporter(say=said.append, **reporter), stream=noise)
    return state, said


def events(trace: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gzip.decompress(trace))["traceEvents"]
    return found


def bars(trace: bytes) -> list[str]:
    """The steps in a trace."""
    names = (event["name"] for event in events(trace) if event.get("cat") == "user_annotation")
    return sorted({name for name in names if name.startswith("step ")})


def test_trace_and_table_have_the_wanted_steps_and_the_run_is_the_same(tmp_path: Path) -> None:
    state, said = run(tmp_path / "run", Profile(first=2, last=3))
    other, _ = run(tmp_path / "other", Profile(first=100, last=101))
    assert state == replace(other, balance_average=state.balance_average)
    folder = tmp_path / "run" / "profiles"
    name = "steps_00000002-00000003_rank0"
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.json.gz", f"{name}.txt"]
    assert not (tmp_path / "other" / "profiles").exists()

    trace = (folder / f"{name}.json.gz").read_bytes()
    assert bars(trace) == ["step 2", "step 3"]
    spans = {event["name"]: event for event in events(trace) if event["name"] in ("step 2", "step 3")}
    convolutions = [event for event in events(trace) if event["name"] == "aten::convolution"]
    for span in spans.values():  # the forward pass of both, and the bars do not overlap
        inside = [e for e in convolutions if span["ts"] <= e["ts"] and e["ts"] + e["dur"] <= span["ts"] + span["dur"]]
        assert len(inside) > 10
    assert spans["step 2"]["ts"] + spans["step 2"]["dur"] <= spans["step 3"]["ts"]
    assert any(event["name"] == "aten::convolution_backward" for event in events(trace))

    table = (folder / f"{name}.txt").read_text("utf-8")
    assert table.startswith(f"steps 2 to 3 of {tmp_path / 'run'}, rank 0, CPU, torch {torch.__version__}: ")
    assert "aten::convolution_backward" in table
    (line,) = [line for line in said if "profile of" in line]
    assert re.match(
        rf"profile of steps 2 to 3, written in \d+ s: {folder / name}\.txt lists the costliest operations; ", line
    )
    assert "ui.perfetto.dev" in line
    weights = [read_metrics(Location.of(tmp_path / one))[-1]["loss/content"] for one in ("run", "other")]
    assert weights[0] == weights[1]


def test_a_profile_of_the_same_steps_is_replaced_and_goes_to_s3(server: S3Server) -> None:
    output = Location(server.uri("profiled"))
    trace = output / "profiles" / "steps_00000001-00000001_rank0.json.gz"
    trace.write_bytes(b"another")
    run(output, Profile(first=1, last=1), "--steps", "2")
    assert bars(trace.read_bytes()) == ["step 1"]
    assert (output / "profiles").names() == [
        "steps_00000001-00000001_rank0.json.gz",
        "steps_00000001-00000001_rank0.txt",
    ]


def test_what_there_is_of_the_steps_is_kept_where_the_run_ends_before(tmp_path: Path) -> None:
    seen = iter([False, False, True, True, True])
    state, said = run(tmp_path / "run", Profile(first=2, last=20), asked_to_stop=lambda: next(seen))
    (trace,) = (tmp_path / "run" / "profiles").glob("*.json.gz")
    assert trace.name == f"steps_00000002-{state.step:08}_rank0.json.gz"
    assert 2 < state.step < 6
    assert bars(trace.read_bytes()) == [f"step {number}" for number in range(2, state.step + 1)]
    # It goes on after the first of the wanted steps: the others are recorded, as far as there are any.
    _, said = run(tmp_path / "run", Profile(first=2, last=20))
    assert (tmp_path / "run" / "profiles" / f"steps_{state.step + 1:08}-00000006_rank0.txt").exists()
    assert sum("profile of" in line for line in said) == 1


def test_a_run_that_ends_with_the_warm_up_leaves_nothing_and_the_next_can_be_profiled(tmp_path: Path) -> None:
    for last_step, steps in ((3, "2"), (2, "3")):
        output = tmp_path / steps
        run(output, Profile(first=last_step, last=last_step), "--steps", steps)
        assert (output / "profiles").exists() == (steps == "3")


def test_a_full_disk_costs_the_profile_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "small", 100) as disk:  # where the trace is made: Kineto does not say that it is full
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        state, said = run(tmp_path / "run", Profile(first=2, last=2))
    assert state.step == 6
    (line,) = [line for line in said if "profile" in line]
    assert line.startswith("warning: the profile of step 2 is not written (rank 0): the trace does not fit into")
    assert not (tmp_path / "run" / "profiles").exists()


def test_an_output_that_takes_no_profile_costs_the_profile_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profiles").write_text("a file in the way")
    state, said = run(tmp_path / "run", Profile(first=2, last=2))
    assert state.step == 6
    assert [line for line in said if "warning: the profile of step 2 is not written (rank 0): " in line]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("15:10", "steps 15 to 10 run backwards: give the first before the last, as 10:15"),
        ("0:3", "there is no step 0"),
        ("1:1000", f"1000 steps would be too large to look at: give at most {profiled_steps.MOST_STEPS}, as 1:6"),
        ("10-15", "'10-15' names no steps: give the first and the last, as 10:15"),
        ("ten", "names no steps"),
        ("-1:3", "names no steps"),
        ("", "names no steps"),
        ("1:2:3", "names no steps"),
        ("\u0661:2", "names no steps"),
        ("1" * 40, "names no steps"),
    ],
)
def test_what_names_no_steps_is_said(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parse_steps(text)


def test_steps_are_read_as_they_are_written() -> None:
    assert parse_steps("10:15") == (10, 15)
    assert parse_steps("7") == (7, 7)
    assert parse_steps(f"1:{profiled_steps.MOST_STEPS}") == (1, profiled_steps.MOST_STEPS)


def test_steps_that_the_run_does_not_do_are_refused() -> None:
    wanted = Profile(first=10, last=15)
    for done in (0, 9, 12, 14):
        check_profile(wanted, done=done, steps=20)
    check_profile(wanted, done=0, steps=12)
    with pytest.raises(UserError, match="goes on after step 15: profile steps from 16 on, as 17:22"):
        check_profile(wanted, done=15, steps=20)
    with pytest.raises(UserError, match="ends with step 9: there is no step 10"):
        check_profile(wanted, done=0, steps=9)
    with pytest.raises(UserError, match="all 20 steps of the run are done"):
        check_profile(wanted, done=20, steps=20)


def test_memory_needs_a_gpu() -> None:
    wanted = Profile(first=1, last=2, memory=True)
    check_device(wanted, is_gpu=True)
    with pytest.raises(UserError, match="needs a GPU, and this run has none: profile it without"):
        Profiler(wanted, Location("run"), device=CPU, rank=0, first_step=0, say=print)


@pytest.mark.gpu
def test_kernels_and_memory_of_a_gpu(tmp_path: Path) -> None:
    _, said = run(tmp_path / "run", Profile(first=2, last=3, memory=True), device=torch.device("cuda:0"))
    folder = tmp_path / "run" / "profiles"
    trace = (folder / "steps_00000002-00000003_rank0.json.gz").read_bytes()
    assert bars(trace) == ["step 2", "step 3"]
    kernels = [event for event in events(trace) if event.get("cat") == "kernel"]
    assert len(kernels) > 100
    snapshot = (folder / "steps_00000002-00000003_rank0_memory.pickle").read_bytes()
    assert b"device_traces" in snapshot  # not loaded: a pickle can execute code
    assert any("memory_viz" in line for line in said)
    assert "CUDA" in (folder / "steps_00000002-00000003_rank0.txt").read_text("utf-8")

"""What a run records, against its own weights, its settings and other ways to compute it."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tecogan_dist.models.build import build_upscaler
from tecogan_dist.ops.degrade import windows_to_frames
from tecogan_dist.runs.checkpoints import checkpoint_name
from tecogan_dist.runs.find import read_weights
from tecogan_dist.runs.quantities import CHECKPOINT_WAIT, VALIDATION_WAIT, described
from tecogan_dist.runs.records import read_metrics
from tecogan_dist.training.clock import Clock, Phases
from tecogan_dist.training.operations import PEAKS, Operations, peak_tflops
from tests.support.plain_runs import make_config, run

RECORDED_EVERY_STEP = ["--tracking.save_every", "1", "--tracking.keep_checkpoints", "99"]


def test_every_recorded_name_is_in_the_table_and_adds_up(tmp_path: Path) -> None:
    config = make_config(["--loss.fade_in_start", "0.25", "--loss.fade_in_increment", "0.1"])
    run(config, tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert [name for name in line if name != "step" and described(name) is None] == []
        fade_in = min(1.0, 0.25 + 0.1 * (line["step"] - 1))
        assert line["loss/pingpong"] == pytest.approx(config.loss.pingpong * line["raw/pingpong"])
        assert line["loss/adversarial"] == pytest.approx(fade_in * config.loss.adversarial * line["raw/adversarial"])
        parts = sum(line[f"loss/{name}"] for name in ("content", "pingpong", "adversarial", "feature_match"))
        assert line["loss/total"] == pytest.approx(parts, rel=1e-5)
        assert line["discriminator/updates"] + line["discriminator/skips"] == line["step"]
        assert 0 <= line["discriminator/accuracy"] <= 1
        assert line["throughput/samples_per_second"] == pytest.approx(config.batch_size / line["time/step"])
        assert line["throughput/frames_per_second"] == pytest.approx(3 * line["throughput/samples_per_second"])
        assert line["throughput/megapixels_per_second"] == pytest.approx(
            line["throughput/frames_per_second"] * 64 * 64 / 1e6
        )
        assert 0.05 < line["memory/host"] < 64
    # Parts are those of the steps before the recorded one: of the first there are none.
    assert "time/forward" not in lines[0]
    whole = sum(line["time/step"] for line in lines[:-1])
    parts = sum(line[f"time/{name}"] for line in lines[1:] for name in ("forward", "backward", "optimiser"))
    assert 0 < parts < whole


def test_means_are_of_the_steps_since_the_last_record(tmp_path: Path) -> None:
    run(make_config([]), tmp_path / "each")
    run(make_config(["--tracking.display_every", "4"]), tmp_path / "some")
    each, some = (read_metrics(tmp_path / name) for name in ("each", "some"))
    assert [line["step"] for line in some] == [4, 6]
    for name in ("loss/content", "raw/feature_match_2", "discriminator/real"):
        values = [line[name] for line in each]
        assert some[0][name] == pytest.approx(sum(values[:4]) / 4)
        assert some[1][name] == pytest.approx(sum(values[4:]) / 2)
    for name in ("average/content", "discriminator/balance", "grad_norm/flow", "weights/update_ratio"):
        assert [line[name] for line in some] == [each[3][name], each[5][name]]


def test_a_run_that_goes_on_within_an_interval_records_the_same_means(tmp_path: Path) -> None:
    every = ["--tracking.display_every", "4"]
    run(make_config(every), tmp_path / "whole")
    run(make_config([*every, "--tracking.save_every", "3"]), tmp_path / "halves", asked_to_stop=_after(3))
    assert [line["step"] for line in read_metrics(tmp_path / "halves")] == []
    run(make_config(every), tmp_path / "halves")
    whole, halves = (read_metrics(tmp_path / name)[0] for name in ("whole", "halves"))
    assert {name: value for name, value in halves.items() if name.startswith(("loss/", "raw/", "average/"))} == {
        name: value for name, value in whole.items() if name.startswith(("loss/", "raw/", "average/"))
    }


def _after(steps: int) -> object:
    """A question that is answered with yes so that the run ends after this step."""
    answers = iter([False] * (steps - 2) + [True])
    return lambda: next(answers, True)


def test_update_ratio_is_how_far_the_weights_went(tmp_path: Path) -> None:
    run(make_config(RECORDED_EVERY_STEP), tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    weights = [read_weights(tmp_path / "run" / checkpoint_name(step)).upscaler for step in range(1, 7)]
    for line, before, after in zip(lines[1:], weights[:-1], weights[1:], strict=True):
        change, size = (_length(tensors) for tensors in ([after[k] - before[k] for k in after], [*before.values()]))
        assert line["weights/update_ratio"] == pytest.approx(change / size, rel=1e-4)


def _length(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def test_operations_are_counted() -> None:
    """A convolution by its formula, forward and twice that backward; and nothing the second time."""
    operations = Operations()
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    kernel = torch.randn(5, 3, 3, 3, requires_grad=True)
    forward = operations.counting_forward()
    backward = operations.counting_backward(update_discriminator=True)
    assert forward is not None
    assert backward is not None
    with forward:
        result = F.conv2d(images, kernel, padding=1)
    with backward:
        result.sum().backward()
    once = 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)
    assert operations.of_step(update_discriminator=True) == 3 * once
    assert operations.of_step(update_discriminator=False) == once
    assert operations.counting_forward() is None
    assert operations.counting_backward(update_discriminator=True) is None


def test_recorded_tflops_are_those_of_torchs_counter(tmp_path: Path) -> None:
    """Of a run without a discriminator: its one forward and backward pass, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    off = ["--loss.adversarial", "0", "--loss.feature_match", "0", "--loss.pingpong", "0", "--steps", "3"]
    config = make_config([*off, "--accumulation", "2"])
    run(config, tmp_path / "run")
    upscaler = build_upscaler(config.model)
    lr_frames, _ = windows_to_frames(torch.zeros(1, 3, 72, 72, 3, dtype=torch.uint8))
    with FlopCounterMode(display=False) as counter:
        unrolled = upscaler(lr_frames)
        (unrolled.sr_frames.sum() + unrolled.lr_flow.sum()).backward()
    for line in read_metrics(tmp_path / "run"):
        counted = line["throughput/tflops"] * 1e12 * line["time/step"]
        # The blur that makes low resolution is counted too; it is no part of the network.
        assert counted == pytest.approx(2 * counter.get_total_flops(), rel=0.02)


def test_peaks_are_found_by_the_whole_word(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    for name, expected in (
        ("NVIDIA H100 80GB HBM3", PEAKS["H100"]["bf16"]),
        ("NVIDIA H100 PCIe", PEAKS["H100 PCIe"]["bf16"]),
        ("NVIDIA L40S", PEAKS["L40S"]["bf16"]),
        ("NVIDIA L4", PEAKS["L4"]["bf16"]),
        ("Tesla V100-SXM2-16GB", None),
        ("NVIDIA T400", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_tflops(device, precision="bf16") == expected, name
    assert peak_tflops(torch.device("cpu"), precision="fp32") is None


def test_phases_are_means_of_finished_steps() -> None:
    phases = Phases(torch.device("cpu"))
    assert phases.take() == {}
    for _ in range(2):
        phases.begin()
        phases.end("a")
        phases.end("b")
        phases.end("a")
        phases.finish()
    phases.begin()
    phases.end("a")
    taken = phases.take()
    assert taken.keys() == {"a", "b"}
    assert all(seconds >= 0 for seconds in taken.values())
    assert phases.take() == {}
    phases.finish()
    assert phases.take().keys() == {"a"}


def test_phases_of_many_steps_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records may be a hundred thousand steps apart."""
    now = 0.0

    def tick() -> float:
        nonlocal now
        now += 0.5
        return now

    monkeypatch.setattr("time.perf_counter", tick)
    phases = Phases(torch.device("cpu"))
    tracemalloc.start()
    try:
        for _ in range(5000):
            phases.begin()
            for name in ("a", "b", "a", "c"):
                phases.end(name)
            phases.finish()
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()
    assert phases.take() == {"a": 1.0, "b": 0.5, "c": 0.5}


def test_clock_shares_waits_among_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def slow() -> Iterator[Tensor]:
        nonlocal now
        for _ in range(3):
            now += 2.0
            yield torch.zeros(1)

    clock, first = Clock(), list[float]()
    for _ in clock.timed(slow(), on_first=first.append):
        now += 1.0
        clock.count_step()
    with clock.holding_up(CHECKPOINT_WAIT):
        now += 1.5
    with clock.holding_up(VALIDATION_WAIT):
        now += 3.0
    assert first == [2.0]
    assert clock.take_wait() == 4.0  # not the first batch, of which a line tells
    assert clock.take() == (3, {"time/step": 11.5 / 3, "time/checkpoint": 0.5, "time/validation": 1.0})

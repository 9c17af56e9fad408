"""Metrics against what the original's metrics.py wrote: each frame, each average."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tecogan_dist.metrics.names import COLUMN, METRICS
from tecogan_dist.metrics.perceptual import Lpips, find_trunk
from tecogan_dist.metrics.protocol import OFFICIAL
from tecogan_dist.metrics.sequence import measure
from tecogan_dist.metrics.summary import Evaluation, SequenceValues
from tests.parity.reference import load
from tests.support.lpips_files import write_trunk

TOLERANCE: dict[str, dict[str, Any]] = {
    "psnr": {"abs": 1e-4},
    "ssim": {"abs": 1e-6},
    "lpips": {"abs": 1e-6},
    "tof": {"rel": 1e-3},
    "tlp": {"abs": 1e-4},
}


@pytest.fixture(scope="module")
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    path = Path(request.config.getoption("--reference")) / "metrics.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.fixture(scope="module")
def sequences(
    request: pytest.FixtureRequest, recorded: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[SequenceValues]:
    frames = load(Path(request.config.getoption("--reference")), "metrics_frames.npz")
    weights = write_trunk(tmp_path_factory.mktemp("trunk") / "alexnet.pth", seed=recorded["seed"])
    lpips = Lpips(find_trunk("alex", weights))
    measured = []
    for number in range(sum(name.startswith("tar_") for name in frames)):
        results, targets = frames[f"res_{number}"], frames[f"tar_{number}"]
        values = measure(results, targets, lpips=lpips)
        height, width = targets.shape[1:3]
        measured.append(SequenceValues(f"{number}", "", "", height, width, OFFICIAL.frames(len(targets)), values))
    return measured


def _recorded(recorded: dict[str, Any], number: int, metric: str) -> list[float]:
    values: list[float] = recorded["per_frame"][f"{COLUMN[metric]}_{number:02}"]
    return values


@pytest.mark.parametrize("metric", METRICS)
def test_every_frame(recorded: dict[str, Any], sequences: list[SequenceValues], metric: str) -> None:
    for number, sequence in enumerate(sequences):
        ours, theirs = sequence.values[metric], _recorded(recorded, number, metric)
        # The vectors' second sequence has 7 frames, whose protocol ends at frame 4; its recorded lists go on to 5, as
        # if its target folder had held 8 when they were made. The frames of the protocol are compared.
        assert len(theirs) - len(ours) in (0, 1)
        assert ours == pytest.approx(theirs[: len(ours)], **TOLERANCE[metric])


def _agreeing(recorded: dict[str, Any], sequences: list[SequenceValues]) -> Iterator[tuple[int, SequenceValues]]:
    for number, sequence in enumerate(sequences):
        if len(sequence.values["psnr"]) == len(_recorded(recorded, number, "psnr")):
            yield number, sequence


@pytest.mark.parametrize("metric", METRICS)
def test_averages(recorded: dict[str, Any], sequences: list[SequenceValues], metric: str) -> None:
    agreeing = list(_agreeing(recorded, sequences))
    assert agreeing
    for number, sequence in agreeing:
        recorded_average = recorded["averages"][f"Avg_{COLUMN[metric]}"][number]
        assert sequence.average(metric) == pytest.approx(recorded_average, **TOLERANCE[metric])
    # Over all sequences our formulas on the recorded frames: sequences of all recorded frames.
    complete = [
        SequenceValues("", "", "", 0, 0, range(99), {metric: _recorded(recorded, number, metric)})
        for number in range(len(sequences))
    ]
    evaluation = Evaluation(OFFICIAL, [metric], complete)
    averages = recorded["averages"]
    assert evaluation.frame_average(metric) == pytest.approx(averages[f"FrameAvg_{COLUMN[metric]}"], rel=1e-6)
    assert evaluation.sequence_average(metric) == pytest.approx(averages[f"FolderAvg_{COLUMN[metric]}"], rel=1e-6)


def test_csv_layout(recorded: dict[str, Any]) -> None:
    per_frame = recorded["per_frame"]
    count = sum(name.startswith("PSNR_") for name in per_frame)
    complete = [
        SequenceValues("", "", "", 0, 0, range(99), {m: _recorded(recorded, number, m) for m in METRICS})
        for number in range(count)
    ]
    ours = Evaluation(OFFICIAL, METRICS, complete).to_csv().splitlines()
    theirs = recorded["csv"].strip().splitlines()
    assert len(ours) == len(theirs)
    for line, wanted in zip(ours, theirs, strict=True):
        cells, wanted_cells = line.split(","), wanted.split(",")
        assert len(cells) == len(wanted_cells)
        for cell, wanted_cell in zip(cells, wanted_cells, strict=True):
            try:
                assert float(cell) == pytest.approx(float(wanted_cell), rel=1e-6)
            except ValueError:
                assert cell == wanted_cell


def test_lpips_equals_its_package(
    request: pytest.FixtureRequest, recorded: dict[str, Any], sequences: list[SequenceValues], tmp_path: Path
) -> None:
    import lpips
    import torch

    frames = load(Path(request.config.getoption("--reference")), "metrics_frames.npz")
    state = torch.load(write_trunk(tmp_path / "alexnet.pth", seed=recorded["seed"]), weights_only=True)
    package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    package.net.load_state_dict({name: state[f"features.{name.split('.', 1)[1]}"] for name in package.net.state_dict()})
    images = [
        torch.from_numpy(np.ascontiguousarray(OFFICIAL.crop(frames[f"{kind}_0"][2]))).permute(2, 0, 1)[None] / 127.5 - 1
        for kind in ("res", "tar")
    ]
    with torch.no_grad():
        assert float(package(*images)) == pytest.approx(sequences[0].values["lpips"][0], abs=1e-7)

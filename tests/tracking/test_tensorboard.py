"""TensorBoard: what its real server says of a run and of a sweep's trials, by the HTTP API of its page."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tecogan_dist.base.storage import Location
from tecogan_dist.runs.quantities import QUANTITIES, described
from tecogan_dist.runs.records import read_metrics
from tecogan_dist.tracking.animations import encode_animation
from tecogan_dist.tracking.charts import SECTIONS, pattern
from tecogan_dist.tracking.previews import still_of
from tecogan_dist.tracking.tensorboard import TensorBoardRecords
from tecogan_dist.tracking.tracker import Tracker
from tests.support.plain_runs import make_config, run
from tests.support.tensorboard_server import TensorBoard, tensorboard

PLAIN, RESTARTED = "plain/tensorboard", "restarted/tensorboard"
TRIALS = {
    "sweep/trials/00000/tensorboard": {"optimizer.learning_rate": 1e-3, "optimizer.kind": "adam", "loss.warp": 2},
    "sweep/trials/00001/tensorboard": {"optimizer.learning_rate": 5e-5, "optimizer.kind": "adam_tf1", "loss.warp": 3},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, one that was interrupted after the fifth, and two trials of which the second has failed."""
    folder = tmp_path_factory.mktemp("runs")
    run(make_config(["--tracking.summary_every", "3"]), folder / "plain")

    for first_step, last, value in ((0, 5, 1.0), (3, 7, 2.0)):
        records = TensorBoardRecords(folder / RESTARTED, first_step=first_step)
        for step in range(first_step + 1, last + 1):
            records.scalars(step, {"loss/content": value, "loss/warp": value})

    frames = np.random.default_rng(1).integers(0, 256, (8, 64, 80, 3), dtype=np.uint8)
    still = still_of(list(frames), list(frames), scene=1, origin="BD", scale=4)
    for number, (name, searched) in enumerate(TRIALS.items()):
        output = Location.of((folder / name).parent)
        with (
            pytest.raises(OSError, match="lost") if number else contextlib.nullcontext(),
            Tracker(output, make_config([]), first_step=0, say=pytest.fail, searched=searched) as tracker,
        ):
            for step in (2, 4):
                tracker.scalars(step, {"validation/official/psnr": 20.0 + step + number, "loss/content": 0.5})
                tracker.look(step, still, frames // step, frames, {"psnr": [30.0] * 4})
                tracker.preview(step)
            tracker.preview(3)  # of which there is none
            if number:
                raise OSError("lost")
    return folder


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[TensorBoard]:
    with tensorboard(runs) as running:
        yield running


def test_scalars_are_those_of_the_records_under_the_same_names(server: TensorBoard, runs: Path) -> None:
    tags = set(server.json("plugin/scalars/tags")[PLAIN])
    lines = read_metrics(runs / "plain")
    assert tags == {name for line in lines for name in line if name != "step"}
    for tag in tags:
        recorded = {int(line["step"]): line[tag] for line in lines if tag in line}
        assert server.scalars(PLAIN, tag) == pytest.approx(recorded, rel=1e-6, nan_ok=True)


def test_a_restart_purges_what_was_lost(server: TensorBoard) -> None:
    expected = {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 2.0, 7: 2.0}
    assert server.scalars(RESTARTED, "loss/content") == expected
    assert server.scalars(RESTARTED, "loss/warp") == expected


def test_samples_of_the_original_move(server: TensorBoard) -> None:
    tags = server.json("plugin/images/tags")[PLAIN]
    assert {tag.rpartition("/")[2] for tag in tags} == {"lr", "hr", "generated", "warped_previous"}
    for tag in tags:
        pictures = server.pictures(PLAIN, tag)
        assert set(pictures) == {3, 6}
        side = 16 if tag.endswith("lr") else 64
        with Image.open(io.BytesIO(pictures[6])) as animation:
            assert animation.format == "GIF"
            assert animation.size == (2 * side, side)  # two windows side by side
            assert getattr(animation, "n_frames", 0) == (2 if tag.endswith("warped_previous") else 3)
            assert animation.info["duration"] == 330


def test_previews_of_held_out_scenes_move(server: TensorBoard) -> None:
    for name in TRIALS:
        assert set(server.json("plugin/images/tags")[name]) == {"previews/animation", "previews/profile"}
        animations = server.pictures(name, "previews/animation")
        assert set(animations) == {2, 4}
        with Image.open(io.BytesIO(animations[4])) as animation:
            assert getattr(animation, "n_frames", 0) == 8
            assert animation.size == (2 * 80, 64)  # generated, HR
        with Image.open(io.BytesIO(server.pictures(name, "previews/profile")[2])) as profile:
            assert profile.format == "PNG"


def test_custom_scalars_have_the_groups(server: TensorBoard) -> None:
    layout = server.json("plugin/custom_scalars/layout")
    assert [category["title"] for category in layout["category"]] == [section.title for section in SECTIONS]
    charts = {chart["title"]: chart["multiline"]["tag"] for one in layout["category"] for chart in one["chart"]}
    (losses,) = charts["losses, weighted"]
    found = server.json("plugin/custom_scalars/scalars", run=RESTARTED, tag=losses)
    assert set(found["tag_to_events"]) == {"loss/content", "loss/warp"}
    (psnr,) = charts["PSNR of held-out scenes"]
    name = next(iter(TRIALS))
    found = server.json("plugin/custom_scalars/scalars", run=name, tag=psnr)
    assert [point[1:] for point in found["tag_to_events"]["validation/official/psnr"]] == [[2, 22.0], [4, 24.0]]


def test_a_sweeps_trials_are_compared_by_what_it_searches(server: TensorBoard) -> None:
    experiment = server.post("plugin/hparams/experiment", {"experimentName": ""})
    assert {info["name"] for info in experiment["hparamInfos"]} == set(TRIALS["sweep/trials/00000/tensorboard"])
    # What is not measured would leave all trials out of the picture of parallel coordinates.
    assert [info["name"]["tag"] for info in experiment["metricInfos"]] == ["validation/official/psnr"]
    states = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    answer = server.post(
        "plugin/hparams/session_groups",
        {"experimentName": "", "allowedStatuses": states, "colParams": [], "startIndex": 0, "sliceSize": 10},
    )
    groups = {group["name"]: group for group in answer["sessionGroups"]}
    assert set(groups) == set(TRIALS)
    for number, (name, searched) in enumerate(TRIALS.items()):
        assert groups[name]["hparams"] == searched
        metrics = {value["name"]["tag"]: value["value"] for value in groups[name]["metricValues"]}
        assert metrics == {"validation/official/psnr": 24.0 + number}
        (session,) = groups[name]["sessions"]
        assert session["status"] == ("STATUS_UNKNOWN" if number else "STATUS_SUCCESS")  # a failed trial may go on


def test_every_quantity_has_a_chart_and_every_chart_has_quantities() -> None:
    names = {quantity.name for quantity in QUANTITIES}
    drawn = [name for section in SECTIONS for chart in section.charts for name in chart.names]
    assert sorted(drawn) == sorted(names)
    for name in drawn:
        example = name.replace("*", "warp")
        assert described(example) is not None
        assert re.match(pattern(name), example)
        assert not re.match(pattern(name), f"x{example}")
    assert not re.match(pattern("discriminator/real"), "discriminator/real_score")


def test_animation_shows_the_frames_at_three_a_second() -> None:
    frames = torch.zeros(5, 3, 3, 8, 8)
    frames[1, 2, 0] = 1.0  # the second window's third frame is red
    data, height, width = encode_animation(frames)
    assert (height, width) == (8, 32)
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 0) == 2  # Pillow joins the equal first two
        assert animation.info["duration"] == 2 * 330
        animation.seek(1)
        shown = animation.convert("RGB")
        assert shown.getpixel((12, 4)) == (255, 0, 0)
        assert shown.getpixel((4, 4)) == (0, 0, 0)
        assert 320 <= animation.info["duration"] <= 340

"""Whole jobs on image folders: cut into segments, broken off, damaged and gone on with, the result is one and the same.

tests/upscaling/test_survival.py does it with videos and real processes that are killed.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import present
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.images import quantize
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.upscaling.request import Request
from tecogan_dist.upscaling.segment import SegmentResult, SegmentTask
from tecogan_dist.upscaling.sequence import upscale_float, upscale_frames
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.video.open import open_video
from tests.support.upscaling import Killed, begun, folder_of, run, scene_frames, tiny_model, write_images

CPU = torch.device("cpu")
VERSION = torch.__version__
LENGTHS = (9, 1, 12, 4)


@pytest.fixture(scope="module")
def model() -> RecurrentUpscaler:
    return tiny_model()


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    """Four scenes, cut where they end, in segments of at most 5 frames."""
    source = write_images(tmp_path / "source", scene_frames(LENGTHS))
    return Request(
        source=SourceOptions(path=source), output=tmp_path / "out" / "large", cut="detected", segment_frames=5
    )


def read(path: Path) -> np.ndarray:
    return np.stack(list(open_video(path).frames()))


def expected(model: RecurrentUpscaler, frames: list[np.ndarray], lengths: tuple[int, ...]) -> np.ndarray:
    """Each scene for itself, without segments."""
    tensors = [torch.tensor(frame) for frame in frames]
    images, start = [], 0
    for length in lengths:
        images += list(upscale_frames(model, tensors[start : start + length], device=CPU))
        start += length
    return torch.stack(images).numpy()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_segments_leave_no_seam(model: RecurrentUpscaler, request_: Request, most: int) -> None:
    made = run(dataclasses.replace(request_, segment_frames=most), model)
    assert made == list(range(len(made)))
    assert len(made) == {1: 26, 2: 5 + 1 + 6 + 2, 5: 2 + 1 + 3 + 1, 100: 1}[most]
    assert np.array_equal(read(request_.output), expected(model, scene_frames(LENGTHS), LENGTHS))
    assert sorted(path.name for path in request_.output.parent.iterdir()) == ["large"]
    names = [path.name for path in sorted(request_.source.path.iterdir())]
    assert sorted(path.name for path in request_.output.iterdir()) == names


def test_without_cuts_all_is_one_scene(model: RecurrentUpscaler, request_: Request) -> None:
    run(dataclasses.replace(request_, cut="none"), model)
    assert np.array_equal(read(request_.output), expected(model, scene_frames(LENGTHS), (sum(LENGTHS),)))


def test_a_part_of_the_source(model: RecurrentUpscaler, request_: Request) -> None:
    run(dataclasses.replace(request_, start=7, frames=8, segment_frames=3), model)
    assert np.array_equal(read(request_.output), expected(model, scene_frames(LENGTHS)[7:15], (2, 1, 5)))
    names = tuple(f"shot_{2 * number + 1:03}" for number in range(7, 15))
    assert open_video(request_.output).names == names


@pytest.mark.parametrize("degrade", [None, "BD", "BI"])
def test_a_comparison_is_made_of_segments_too(
    model: RecurrentUpscaler, tmp_path: Path, degrade: Degradation | None
) -> None:
    pictures = scene_frames([7], height=37, width=41)
    source = write_images(tmp_path / "source", pictures)
    request = Request(
        source=SourceOptions(path=source),
        output=tmp_path / "out",
        comparison=tmp_path / "elsewhere" / "beside",
        degrade=degrade,
        segment_frames=3,
    )
    with pytest.raises(Killed):
        run(request, model, stop_after=1)
    assert run(request, model) == [1, 2]
    frames = [torch.tensor(frame) for frame in pictures]
    height, width = (37, 41) if degrade else (148, 164)
    result = torch.stack(list(upscale_frames(model, frames, device=CPU, degrade=degrade)))[:, :height, :width]
    assert np.array_equal(read(request.output), result.numpy())
    lr_frames = [frame.lr_frame for frame in upscale_float(model, frames, device=CPU, degrade=degrade)]
    bicubic = quantize(resize_bicubic(torch.stack(lr_frames), 4, centred=degrade == "BI")).permute(0, 2, 3, 1)
    shown = [bicubic[:, :height, :width], result, *([torch.stack(frames)] if degrade else [])]
    assert np.array_equal(read(tmp_path / "elsewhere" / "beside")[:, 24:], torch.cat(shown, dim=2).numpy())


@pytest.mark.parametrize("after", range(7))
def test_the_same_request_goes_on(
    model: RecurrentUpscaler, request_: Request, after: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        run(request_, model, stop_after=after)
    assert not request_.output.exists()
    job = begun(request_, model)
    lengths = [segment.frames for segment in job.segments]
    assert (job.frames, job.frames_done) == (26, sum(lengths[:after]))
    states = list(folder_of(request_).path.glob("state_*"))
    assert len(states) == job.segments[after].continues  # no more than is needed
    assert run(request_, model) == list(range(after, 7))
    assert np.array_equal(read(request_.output), expected(model, scene_frames(LENGTHS), LENGTHS))
    assert capsys.readouterr().err.count("looking through") == 1


def test_a_damaged_segment_is_made_again_with_what_it_needs(
    model: RecurrentUpscaler, request_: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        run(request_, model, stop_after=6)
    # Segments of scenes: 0 1 | 2 | 3 4 5 | 6. What 5 begins with is gone, and so is what 4 begins with.
    image = next(iter((folder_of(request_).path / "segment_00005").iterdir()))
    image.write_bytes(image.read_bytes()[:-20])
    assert run(request_, model) == [3, 4, 5, 6]
    assert "segment 5 of " in capsys.readouterr().err
    assert np.array_equal(read(request_.output), expected(model, scene_frames(LENGTHS), LENGTHS))


def test_a_damaged_state_is_made_again(model: RecurrentUpscaler, request_: Request) -> None:
    with pytest.raises(Killed):
        run(request_, model, stop_after=5)
    state = folder_of(request_).state(5)
    data = bytearray(state.read_bytes())
    data[-5] ^= 4
    state.write_bytes(data)
    assert run(request_, model) == [3, 4, 5, 6]
    assert np.array_equal(read(request_.output), expected(model, scene_frames(LENGTHS), LENGTHS))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"degrade": "BD"}, "--degrade was not given, not 'BD'"),
        ({"start": 1}, "--start-frame was 0, not 1"),
        ({"cut": "none"}, "--cut was 'detected', not 'none'"),
        ({"segment_frames": 6}, "--segment-frames was 5, not 6"),
        ({"precision": "bf16", "frames": 3}, "--frames was not given, not 3, --precision was 'fp32', not 'bf16'"),
        ({"comparison": Path("beside")}, "--side-by-side was not given, not given"),
        ({"weights": 1}, "the weights were others"),
        ({"input": 1}, "the input was another one, or has changed since"),
    ],
)
def test_work_of_another_request_is_not_mixed_in(
    model: RecurrentUpscaler, request_: Request, changes: dict, sentence: str
) -> None:
    with pytest.raises(Killed):
        run(request_, model, stop_after=2)
    before = files(request_.output.parent)
    other = dataclasses.replace(request_, **{k: v for k, v in changes.items() if k not in ("weights", "input")})
    if "input" in changes:
        os.utime(request_.source.path / "shot_005.png", (1, 1))
    with pytest.raises(UserError, match=f"holds unfinished work of another request \\({sentence}\\): .*--restart"):
        run(other, tiny_model(1) if "weights" in changes else model)
    assert files(request_.output.parent) == before


def test_the_segments_length_need_not_be_given_again(model: RecurrentUpscaler, request_: Request) -> None:
    with pytest.raises(Killed):
        run(request_, model, stop_after=2)
    assert run(dataclasses.replace(request_, segment_frames=None), model) == [2, 3, 4, 5, 6]


def test_other_versions_of_what_computes_are_said(
    model: RecurrentUpscaler, request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(Killed):
        run(request_, model, stop_after=2)
    monkeypatch.setattr(torch, "__version__", "99.0")
    run(request_, model)
    said = " ".join(capsys.readouterr())
    assert f"begun with other tools (torch was {VERSION}, and is 99.0): what is finished is kept" in said


def test_restart_begins_anew(model: RecurrentUpscaler, request_: Request) -> None:
    with pytest.raises(Killed):
        run(request_, model, stop_after=2)
    assert run(dataclasses.replace(request_, segment_frames=13, cut="none"), model, restart=True) == [0, 1]
    assert sorted(path.name for path in request_.output.parent.iterdir()) == ["large"]


def test_moved_input_and_weights_are_the_same(model: RecurrentUpscaler, request_: Request, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(request_, model, stop_after=2)
    request_.source.path.rename(tmp_path / "elsewhere")
    assert run(dataclasses.replace(request_, source=SourceOptions(path=tmp_path / "elsewhere")), tiny_model()) == [
        *range(2, 7)
    ]


def test_a_source_that_changes_is_noticed(model: RecurrentUpscaler, request_: Request) -> None:
    def change(task: SegmentTask) -> None:
        if task.segment.number == 2:
            shutil.copy(request_.source.path / "shot_001.png", request_.source.path / "shot_051.png")

    with pytest.raises(UserError, match="source changed while it was read"):
        run(request_, model, at_segment=change)
    assert not request_.output.exists()
    with pytest.raises(UserError, match="the input was another one, or has changed"):
        run(request_, model)


def test_a_source_that_loses_frames_is_noticed(model: RecurrentUpscaler, request_: Request) -> None:
    def change(task: SegmentTask) -> None:
        if task.segment.number == 2:
            (request_.source.path / "shot_051.png").unlink()

    with pytest.raises(UserError, match="changed while it was read"):
        run(request_, model, at_segment=change)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_an_error(request_: Request, value: float) -> None:
    """Made into an image, a NaN would be black."""
    damaged = tiny_model()
    with torch.no_grad():
        damaged.generator.output.weight[0, 0, 0, 0] = value
    with pytest.raises(UserError, match="frame 0 came out of the network as values that are no numbers: its weights"):
        run(request_, damaged)
    assert [path.name for path in request_.output.parent.iterdir()] == ["large.unfinished"]


def test_a_network_that_makes_all_frames_black_is_an_error(request_: Request) -> None:
    damaged = tiny_model()
    with torch.no_grad():
        present(damaged.generator.output.bias, "it has one").fill_(-100)
    with pytest.raises(UserError, match="frame 0 came out of the network as one colour"):
        run(request_, damaged)


def test_frames_that_cannot_be_read_are_found_before_any_work(model: RecurrentUpscaler, request_: Request) -> None:
    image = request_.source.path / "shot_049.png"
    data = bytearray(image.read_bytes())
    data[-30] ^= 1
    image.write_bytes(data)
    with pytest.raises(UserError, match=r"shot_049\.png cannot be read as an image"):
        run(request_, model)
    assert not request_.output.parent.exists()


def test_a_result_without_all_frames_is_not_put_in_place(model: RecurrentUpscaler, request_: Request) -> None:
    def lose(task: SegmentTask) -> None:
        if task.segment.number == 6:
            next(iter((folder_of(request_).path / "segment_00001").iterdir())).unlink()

    with pytest.raises(UserError, match="has 25 frames and should have 26: it is not put in place"):
        run(request_, model, at_segment=lose)
    assert not request_.output.exists()
    assert run(request_, model) == [0, 1]


def test_one_frame(model: RecurrentUpscaler, tmp_path: Path) -> None:
    source = write_images(tmp_path / "source", scene_frames([1]))
    request = Request(source=SourceOptions(path=source), output=tmp_path / "large", cut="detected")
    assert run(request, model) == [0]
    assert np.array_equal(read(request.output), expected(model, scene_frames([1]), (1,)))


def test_a_segment_of_another_machine_counts_before_its_record_is_seen(
    request_: Request, model: RecurrentUpscaler
) -> None:
    job = begun(request_, model)
    task = job.todo[0][0]
    frames = task.segment.frames
    job.done(SegmentResult(number=task.segment.number, frames=frames, seconds=1.0, tile=None, size=1000))
    assert job.frames_done == frames

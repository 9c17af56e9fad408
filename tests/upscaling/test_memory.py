"""Where memory runs out, smaller tiles are taken, said, and kept for the rest of the work, also by a later command."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling import segment as segments
from tecogan_dist.upscaling.request import Request
from tecogan_dist.upscaling.segment import Kept, SegmentTask, upscale_segment
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.video.open import open_video
from tests.support.upscaling import begun, folder_of, run, scene_frames, tiny_model, write_images

WIDTH = 200


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    """One scene in three segments."""
    source = write_images(tmp_path / "source", scene_frames([6], width=WIDTH))
    return Request(source=SourceOptions(path=source), output=tmp_path / "large", segment_frames=2)


@pytest.fixture
def model() -> RecurrentUpscaler:
    return tiny_model()


@pytest.fixture
def small_gpu(model: RecurrentUpscaler) -> Iterator[list[int]]:
    """Widths of what did not fit, as it is more than 100 low-resolution pixels wide."""
    refused: list[int] = []

    def needs_memory(_: object, inputs: tuple[Tensor]) -> None:
        if inputs[0].shape[-1] > 100:
            refused.append(inputs[0].shape[-1])
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    hook = model.generator.input.register_forward_pre_hook(needs_memory)
    yield refused
    hook.remove()


def read(path: Path) -> np.ndarray:
    return np.stack(list(open_video(path).frames())).astype(int)


def made(task: SegmentTask, model: RecurrentUpscaler, kept: Kept | None = None, **told: Any) -> int | None:
    return upscale_segment(task, model, kept=kept, **told).tile


def test_a_worker_and_a_later_command_keep_the_tiles_that_fitted(
    request_: Request, model: RecurrentUpscaler, small_gpu: list[int]
) -> None:
    [group] = begun(request_, model).todo
    kept, notes = Kept(), list[str]()
    assert [made(task, model, kept, note=notes.append) for task in group[:2]] == [96, 96]
    assert small_gpu == [WIDTH]  # once, not in each segment
    assert len(notes) == 1
    assert "whole frames do not fit into memory: going on with tiles of 96" in notes[0]
    [[last]] = begun(request_, model).todo
    assert last == group[2]
    assert made(last, model, note=notes.append) == 96
    assert small_gpu == [WIDTH]
    assert notes[1:] == ["memory has run out before: the network runs in tiles of 96 pixels"]
    assert run(request_, model) == []
    small_gpu.clear()
    whole = dataclasses.replace(request_, output=request_.output.with_name("whole"))
    run(whole, tiny_model())
    assert np.abs(read(request_.output) - read(whole.output)).max() <= 1


def test_a_new_beginning_forgets_them(request_: Request, model: RecurrentUpscaler, small_gpu: list[int]) -> None:
    [group] = begun(request_, model).todo
    made(group[0], model)
    assert folder_of(request_).tile() == 96
    run(request_, tiny_model(), restart=True)
    assert small_gpu == [WIDTH]
    again = begun(request_, model)
    assert folder_of(request_).tile() is None
    assert made(again.todo[0][0], model) == 96
    assert small_gpu == [WIDTH, WIDTH]


def test_memory_that_runs_out_beside_the_network(
    request_: Request, model: RecurrentUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a result that becomes an image: the segment is made again, with the state that it began with."""
    [group] = begun(request_, model).todo
    made(group[0], model)
    calls = 0

    def to_image(*positional: Any, **named: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*positional, **named)

    real = segments.to_image
    monkeypatch.setattr(segments, "to_image", to_image)
    advanced, notes = list[int](), list[str]()
    assert made(group[1], model, advance=lambda: advanced.append(1), note=notes.append) == 96
    assert len(advanced) == group[1].segment.frames
    assert len(notes) == 1
    run(request_, model)
    whole = dataclasses.replace(request_, output=request_.output.with_name("whole"))
    run(whole, model)
    assert np.abs(read(request_.output) - read(whole.output)).max() <= 1


def test_memory_for_no_tile_at_all_is_a_sentence_with_its_reason(request_: Request, model: RecurrentUpscaler) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("could not create a primitive")

    hook = model.generator.input.register_forward_pre_hook(fails)
    with pytest.raises(UserError, match=r"not enough .*, even in tiles of 64 \(could not create a primitive\)"):
        run(request_, model)
    hook.remove()

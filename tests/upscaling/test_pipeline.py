"""Upscaling from a source to writers, without a command: what is written, shown beside it and reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.images import quantize
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.upscaling.panels import panels
from tecogan_dist.upscaling.pipeline import upscale_video
from tecogan_dist.upscaling.recurrence import upscale_float, upscale_frames
from tecogan_dist.video.open import open_video
from tecogan_dist.video.source import FrameSource
from tecogan_dist.video.writer import FrameWriter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> RecurrentUpscaler:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return build_upscaler(ModelConfig(blocks=1, channels=8, flow_width=4, output_init_scale=0.1)).eval()


@pytest.fixture
def source(tmp_path: Path) -> FrameSource:
    """7 images of 41x37, named by hand."""
    generator = np.random.default_rng(0)
    with FrameWriter(tmp_path / "source") as writer:
        for number in range(7):
            writer.write(generator.integers(0, 256, (37, 41, 3), dtype=np.uint8), name=f"shot_{2 * number}")
    return open_video(tmp_path / "source")


def read(path: Path) -> np.ndarray:
    return np.stack(list(open_video(path).frames()))


@pytest.mark.parametrize("degrade", [None, "BD", "BI"])
def test_a_range_of_frames_with_a_comparison(
    model: RecurrentUpscaler, source: FrameSource, tmp_path: Path, degrade: Degradation | None
) -> None:
    allowed, told = torch.backends.cudnn.allow_tf32, 0

    def advance() -> None:
        nonlocal told
        told += 1

    with FrameWriter(tmp_path / "out") as output, FrameWriter(tmp_path / "beside") as comparison:
        upscale_video(
            model,
            source,
            output,
            device=CPU,
            start=1,
            stop=6,
            degrade=degrade,
            comparison=comparison,
            advance=advance,
        )
    assert told == 5
    assert torch.backends.cudnn.allow_tf32 == allowed
    assert open_video(tmp_path / "out").names == tuple(f"shot_{number}" for number in (2, 4, 6, 8, 10))
    frames = [torch.tensor(frame) for frame in source.frames(1, 6)]
    height, width = (37, 41) if degrade else (148, 164)
    expected = torch.stack(list(upscale_frames(model, frames, device=CPU, degrade=degrade)))[:, :height, :width]
    assert np.array_equal(read(tmp_path / "out"), expected.numpy())
    lr_frames = [frame.lr_frame for frame in upscale_float(model, frames, device=CPU, degrade=degrade)]
    bicubic = quantize(resize_bicubic(torch.stack(lr_frames), 4, centred=degrade == "BI")).permute(0, 2, 3, 1)
    shown = [bicubic[:, :height, :width], expected, *([torch.stack(frames)] if degrade else [])]
    assert np.array_equal(read(tmp_path / "beside")[:, 24:], torch.cat(shown, dim=2).numpy())


def test_a_failure_leaves_neither_output(model: RecurrentUpscaler, source: FrameSource, tmp_path: Path) -> None:
    (tmp_path / "source" / "shot_8.png").write_bytes(b"")

    def run() -> None:
        with FrameWriter(tmp_path / "out") as output, FrameWriter(tmp_path / "beside.mp4") as comparison:
            upscale_video(model, source, output, device=CPU, comparison=comparison)

    with pytest.raises(UserError, match=r"shot_8\.png cannot be read"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_panels_are_labelled() -> None:
    grey = np.full((200, 300, 3), 128, np.uint8)
    strip = panels({"bicubic": grey, "model": grey})[:-200]
    for panel in np.split(strip, 2, axis=1):
        rows, columns = np.nonzero(panel[..., 0] > 200)
        assert rows.max() - rows.min() >= 7  # letters of a legible height ...
        assert abs(columns.mean() - 150) < 10  # ... in the middle of the strip
    assert not np.array_equal(strip[:, :300], strip[:, 300:])

"""The streaming upscaler against the original's inference: float frames, written images, warm-up, sizes, HR input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tecogan_dist.config.degradations import Degradation
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.ops.images import quantize
from tecogan_dist.upscaling.sequence import upscale_float
from tests.parity.reference import close, fill_by_rule, load, pixels

TOLERANCE = 5e-4


def test_sequences(request: pytest.FixtureRequest) -> None:
    vectors = load(request.config.getoption("--reference"), "inference.npz")
    cases = [key.split(":")[0] for key in vectors if key.endswith(":in_u8")]
    assert cases
    for case in cases:
        model = build_upscaler(ModelConfig(blocks=int(vectors[f"{case}:num_resblock"])))
        fill_by_rule(model, int(vectors["seed"]))
        model = model.to(memory_format=torch.channels_last).eval()
        frames = [torch.from_numpy(frame) for frame in vectors[f"{case}:in_u8"]]
        expected_lr = vectors[f"{case}:lr_inputs"]
        degrade: Degradation | None = "BD" if len(expected_lr) else None
        upscaled = list(upscale_float(model, frames, device=torch.device("cpu"), degrade=degrade))
        assert len(upscaled) == len(vectors[f"{case}:names"]) == len(frames)
        if degrade:
            close(np.stack([pixels(u.lr_frame) for u in upscaled]), expected_lr, absolute=2e-6, what=f"{case} LR")
        sr_frames = np.stack([pixels(u.sr_frame) for u in upscaled])
        close(sr_frames[:, ::8, ::8], vectors[f"{case}:hr_subsample8"], absolute=TOLERANCE, what=case)
        close(sr_frames[vectors[f"{case}:keep"]], vectors[f"{case}:hr_frames"], absolute=TOLERANCE, what=case)
        for frame, (total, absolute_sum, length) in zip(sr_frames, vectors[f"{case}:hr_checks"], strict=True):
            values = frame.astype(np.float64)
            assert values.sum() == pytest.approx(total, abs=TOLERANCE * values.size / 10)
            assert np.abs(values).sum() == pytest.approx(absolute_sum, rel=1e-4)
            assert np.linalg.norm(values) == pytest.approx(length, rel=1e-4)
        image = quantize(torch.from_numpy(sr_frames[-1])).numpy()
        assert np.abs(image.astype(int) - vectors[f"{case}:png_out_u8_last"].astype(int)).max() <= 1, case

"""The scores of held-out scenes."""

from __future__ import annotations

from tecogan_dist.runs.records import best_step


def test_best_step() -> None:
    scores = {1: {"psnr": 20.0, "tof": 0.5}, 2: {"psnr": 22.0, "tof": 0.7}, 3: {"psnr": 22.0, "tof": 0.6}, 4: {}}
    assert best_step(scores, "psnr") == 2
    assert best_step(scores, "tof") == 1
    assert best_step(scores, "lpips") is None
    assert best_step({}, "psnr") is None

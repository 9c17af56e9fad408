"""Comparing runs by their weights."""

from __future__ import annotations

from pathlib import Path

import torch

from tecogan_dist.runs.find import read_weights


def assert_same_weights(one: Path, other: Path) -> None:
    """Two runs with discriminators are at the same step, with the same weights bit for bit."""
    a, b = read_weights(one), read_weights(other)
    assert a.step == b.step
    assert a.discriminator is not None
    assert b.discriminator is not None
    assert all(torch.equal(a.upscaler[name], b.upscaler[name]) for name in b.upscaler)
    assert all(torch.equal(a.discriminator[name], b.discriminator[name]) for name in b.discriminator)

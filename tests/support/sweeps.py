"""Small sweeps for tests: a space, its command, and what is in its folder afterwards."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

TINY = """
batch_size: 2
model: {blocks: 1, channels: 8, flow_width: 4}
loss: {perceptual: 0}
data: {sequence_length: 3, crop_size: 16, validation_scenes: [2003, 2003]}
tracking: {display_every: 1}
"""
STEPS, EVERY = 20, 5
SPACE = f"""
settings:
  loss.pingpong: {{uniform: [0.1, 1.0]}}
  optimizer.learning_rate: {{choice: [5.0e-5, 1.0e-4, 1.0e+30]}}   # the last diverges: trials 0 and 1 of seed 1 have it
score: {{metrics: {{tof: min}}}}
trials: 5
concurrent: 1
steps: {STEPS}
measure_every: {EVERY}
scheduler: {{kind: asha, reduction: 2}}
"""


def arguments(folder: Path, *, store: Path, output: Path, space: str = SPACE, config: str = TINY) -> list[str]:
    """Of ``tecogan tune``; the space's and the config's files are made in ``folder``."""
    files = {"space.yaml": space, "tiny.yaml": config}
    for name, text in files.items():
        (folder / name).write_text(text)
    words = ["--space", folder / "space.yaml", "--config", folder / "tiny.yaml", "--data", store, "--output", output]
    return [str(word) for word in words]


def command(words: list[str]) -> list[str]:
    """As a process of its own."""
    return [sys.executable, "-m", "tecogan_dist.tune", *words]


def rows(output: Path) -> list[dict[str, str]]:
    """``trials.csv``, without what a repeated sweep has otherwise: seconds, and the folder's name."""
    with open(output / "trials.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [{name: value for name, value in line.items() if name not in ("seconds", "folder")} for line in lines]

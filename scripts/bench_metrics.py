"""The official protocol in its plain sequential form against ours: in one process, then by Ray tasks.

Plain is the protocol as one writes it down after the original's metrics.py: for each frame a luma conversion for PSNR
and another for SSIM, and the lpips package's forward pass on three pairs. Each way uses one thread a process, reads the
same PNG folders and must give the same values. Times of the Ray tasks begin when their processes have loaded the
network.

    python scripts/bench_metrics.py [--frames 48] [--height 576] [--width 720] [--repeats 3] [--workers 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import numpy as np
import ray
import torch
import torchvision
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor

from tecogan_dist.cluster.connect import connected
from tecogan_dist.metrics import temporal
from tecogan_dist.metrics.measuring import Settings, in_this_process, measure_sequences, open_sequences
from tecogan_dist.metrics.names import METRICS
from tecogan_dist.metrics.perceptual import Trunk
from tecogan_dist.metrics.protocol import OFFICIAL, Images
from tecogan_dist.metrics.ray_tasks import by_ray_tasks
from tecogan_dist.video.images import image_files, read_image

Values = dict[str, list[float]]


def write_sequences(folder: Path, *, frames: int, height: int, width: int) -> tuple[Path, Path]:
    """A texture that moves two pixels a frame, and the same blurred with noise: two folders of PNG images."""
    random = np.random.default_rng(0)
    wide = gaussian_filter(random.uniform(0, 255, (height, width + 2 * frames, 3)), (1.5, 1.5, 0))
    wide = np.clip(128 + 5 * (wide - wide.mean()), 0, 255)
    folders = folder / "results", folder / "targets"
    for path in folders:
        path.mkdir()
    for index in range(frames):
        target = wide[:, 2 * index : 2 * index + width]
        result = np.clip(gaussian_filter(target, (1, 1, 0)) + random.normal(0, 2, target.shape), 0, 255)
        for path, image in zip(folders, (result, target), strict=True):
            Image.fromarray(image.astype(np.uint8)).save(path / f"frame_{index:04}.png", compress_level=1)
    return folders


def plain(results: Path, targets: Path, trunk: Trunk) -> Values:
    """The protocol, frame after frame."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    names = package.net.state_dict()
    package.net.load_state_dict({name: trunk.state[f"features.{name.split('.', 1)[1]}"] for name in names})
    pairs = list(zip(image_files(results), image_files(targets), strict=True))
    values: Values = {metric: [] for metric in METRICS}
    previous: tuple[Images, Images, Tensor, Tensor] | None = None
    for paths in pairs[2:-2]:
        result, target = map(read_image, paths)
        grey, target_grey = temporal.grey(result), temporal.grey(target)
        result_crop, target_crop = OFFICIAL.crop(result), OFFICIAL.crop(target)
        image, target_image = (
            torch.from_numpy(np.array(part)).permute(2, 0, 1)[None].float() / 127.5 - 1
            for part in (result_crop, target_crop)
        )
        values["psnr"].append(plain_psnr(result_crop, target_crop))
        y_result, y_target = to_ycbcr(result_crop)[..., 0], to_ycbcr(target_crop)[..., 0]
        span = y_result.max() - y_result.min()
        values["ssim"].append(float(structural_similarity(y_target, y_result, data_range=span)))
        with torch.no_grad():
            values["lpips"].append(float(package(target_image, image)))
            if previous is not None:
                flow = OFFICIAL.crop(temporal.optical_flow(previous[0], grey))
                target_flow = OFFICIAL.crop(temporal.optical_flow(previous[1], target_grey))
                values["tof"].append(float(np.sqrt(((target_flow - flow) ** 2).sum(axis=-1)).mean()))
                change = float(package(previous[2], image)), float(package(previous[3], target_image))
                values["tlp"].append(100 * abs(change[0] - change[1]))
        previous = grey, target_grey, image, target_image
    return values


def to_ycbcr(image: Images) -> np.ndarray:
    """All three channels of studio-range BT.601."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    return image.astype(np.float64) @ matrix.T + np.array([16, 128, 128])


def plain_psnr(result: Images, target: Images) -> float:
    difference = to_ycbcr(result)[..., 0] - to_ycbcr(target)[..., 0]
    return float(20 * np.log10(255 / np.sqrt(np.mean(difference**2))))


def ours(results: Path, targets: Path, settings: Settings, workers: int, *, use_ray: bool) -> Values:
    """What ``evaluate`` runs between opening its inputs and writing its files."""
    sequences = open_sequences([str(results)], [str(targets)], OFFICIAL)
    measure_chunks = by_ray_tasks(settings, workers=workers) if use_ray else in_this_process(settings)
    (values,) = measure_sequences(sequences, measure_chunks, processes=workers, metrics=METRICS)
    return values.values


def largest_difference(first: Values, second: Values) -> float:
    return max(float(np.abs(np.array(first[metric]) - second[metric]).max()) for metric in METRICS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"frames": 48, "height": 576, "width": 720, "repeats": 3, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    temporal.use_threads(1)
    torch.manual_seed(0)
    state = {name: value for name, value in torchvision.models.alexnet().state_dict().items() if "features" in name}
    trunk = Trunk("alex", state, Path("random"))
    settings = Settings(OFFICIAL, METRICS, trunk)
    with tempfile.TemporaryDirectory() as folder, connected(None, cpus=options.workers):
        paths = write_sequences(Path(folder), frames=options.frames, height=options.height, width=options.width)
        workers = options.workers
        ways: dict[str, Callable[[], Values]] = {
            "plain": lambda: plain(*paths, trunk),
            "ours": lambda: ours(*paths, settings, 1, use_ray=False),
            f"ours x{workers}": lambda: ours(*paths, settings, workers, use_ray=True),
        }
        values: dict[str, Values] = {}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        ours(*paths, settings, workers, use_ray=True)  # starts the processes
        for _ in range(options.repeats):
            for way, run in ways.items():
                started = time.perf_counter()
                values[way] = run()
                seconds[way].append(time.perf_counter() - started)
    print(f"{options.frames} frames of {options.width}x{options.height}, {os.cpu_count()} cores, ray {ray.__version__}")
    for way, times in seconds.items():
        print(f"{way:10}{statistics.median(times):8.2f} s (of {options.repeats}: {min(times):.2f} to {max(times):.2f})")
    one, two = list(ways)[1:]
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    print(f"one process: {medians['plain'] / medians[one]:.2f} times faster than plain,", end=" ")
    print(f"{workers} processes: {medians[one] / medians[two]:.2f} times faster than one")
    print(f"largest difference: plain to ours {largest_difference(values['plain'], values[one]):.1e},", end=" ")
    print(f"one process to {workers}: {largest_difference(values[one], values[two]):.1e}")


if __name__ == "__main__":
    main()

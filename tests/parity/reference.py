"""Reading reference vectors of the original TensorFlow code: files, the weight rule, layouts.

A folder's own README (shared/reference) says what each key holds. Nothing about sizes, seeds, block counts or sequence
lengths is known here: all are read from the files.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tecogan_dist.config.schema import Config, DiscriminatorConfig, LossConfig, ModelConfig, OptimizerConfig
from tecogan_dist.weights.tensorflow.names import from_tensorflow_layout, tensorflow_name, to_tensorflow_layout

FLOW_OUTPUT = "fnet/autoencode_unit/output_stage/conv2/Conv/weights"
GENERATOR_OUTPUT = "generator/generator_unit/output_stage/conv/Conv/weights"
DAMPING = {FLOW_OUTPUT: 6.0, GENERATOR_OUTPUT: 0.15}


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    """All arrays of one file of the folder; skips the test when the folder has no such file."""
    path = folder / name
    if not path.is_file():
        pytest.skip(f"{folder} has no {name}")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def rule(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The reference's weight of this TensorFlow name and shape, by its documented rule."""
    kind = name.rsplit("/", 1)[-1]
    if kind == "moving_mean":
        return np.zeros(shape, np.float32)
    if kind == "moving_variance":
        return np.ones(shape, np.float32)
    values = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode())).standard_normal(shape).astype(np.float32)
    if kind in ("biases", "bias"):
        return values * np.float32(0.01)
    if kind == "beta":
        return values * np.float32(0.1)
    fan_in, fan_out = int(np.prod(shape[:-1])), int(np.prod(shape[:-2])) * shape[-1]
    if name.startswith("vgg_19/"):
        return values * np.float32(np.sqrt(2 / fan_in))
    return values * np.float32(np.sqrt(2 / (fan_in + fan_out)) * DAMPING.get(name, 1.0))


def fill_by_rule(module: nn.Module, seed: int, *, prefix: str = "") -> None:
    """Give a network of ours the reference's weights.

    ``prefix`` makes its state's names those that :func:`tensorflow_name` knows.
    """
    state = {}
    for name, tensor in module.state_dict().items():
        shape = to_tensorflow_layout(prefix + name, tensor).shape
        state[name] = from_tensorflow_layout(prefix + name, rule(tensorflow_name(prefix + name), shape, seed))
    module.load_state_dict(state)


def images(array: np.ndarray) -> Tensor:
    """(..., H, W, C) to (..., C, H, W)."""
    return torch.from_numpy(np.moveaxis(np.ascontiguousarray(array), -1, -3).copy())


def pixels(tensor: Tensor) -> np.ndarray:
    """(..., C, H, W) to (..., H, W, C)."""
    return np.moveaxis(tensor.detach().numpy(), -3, -1)


def close(actual: Any, expected: Any, *, absolute: float = 0.0, relative: float = 0.0, what: str = "") -> None:
    """Assert |actual - expected| <= absolute + relative * |expected| everywhere, and show the worst place."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    excess = np.abs(actual - expected) - (absolute + relative * np.abs(expected))
    if excess.size == 0:
        return
    worst = np.unravel_index(np.argmax(np.nan_to_num(excess, nan=np.inf)), excess.shape)
    assert excess[worst] <= 0, f"{what}: {actual[worst]} at {worst}, expected {expected[worst]}"


def relative_distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """L2 distance over the L2 norm of what is expected."""
    return float(np.linalg.norm(actual - expected)) / max(float(np.linalg.norm(expected)), 1e-30)


@dataclass(frozen=True)
class TrainingTrace:
    """One recorded training run: its settings, its batches and what the original made of them."""

    name: str
    config: Config
    seed: int
    windows: np.ndarray
    """(step, N, T, H, W, 3) uint8, with the blur's margin."""
    batches: dict[str, np.ndarray]
    trace: dict[str, np.ndarray]

    @property
    def steps(self) -> int:
        return len(self.windows)

    def raw(self, name: str) -> np.ndarray:
        """The loss that the original calls ``name``, one value a step."""
        return self.trace["raw"][:, list(self.batches["update_list_name"]).index(name)]

    def split_samples(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Sampled values by variable name."""
        ends = np.cumsum(self.batches["sample_count"])
        return dict(zip(self.batches["trainable"].tolist(), np.split(samples, ends[:-1]), strict=True))


def sampled(array: np.ndarray) -> np.ndarray:
    """The values of a variable that the reference keeps: up to 64, evenly spread over the raveled array."""
    flat = array.ravel()
    return flat[np.unique(np.linspace(0, flat.size - 1, min(flat.size, 64)).astype(np.int64))]


def load_trace(folder: Path, variant: str) -> TrainingTrace:
    """``variant`` is like ``main_clean``. The batches are those whose graph has the same settings."""
    trace = load(folder, f"train_{variant}.npz")
    flags = json.loads(str(trace["flags"]))
    flags["learning_rate_of_first_step"] = float(trace["lr_before"][0])
    for path in sorted(folder.glob("train_*_batches.npz")):
        batches = load(folder, path.name)
        recorded = {key.removeprefix("flag_"): batches[key].item() for key in batches if key.startswith("flag_")}
        with_gan = "t_adversarial_loss" in batches["update_list_name"]
        if all(flags[key] == value for key, value in recorded.items()) and with_gan == (flags["ratio"] > 0):
            seed = int(batches["seed"])
            return TrainingTrace(variant, config_of(flags), seed, batches["hr_u8"], batches, trace)
    pytest.fail(f"{folder} has no batches with the settings of {variant}: {flags}")


def config_of(flags: dict[str, Any]) -> Config:
    """Our settings for the original's flags."""
    with_gan = flags["ratio"] > 0
    return Config(
        batch_size=flags["batch_size"],
        model=ModelConfig(blocks=flags["num_resblock"]),
        discriminator=DiscriminatorConfig(
            temporal_crop=flags["crop_dt"],
            balance_threshold=flags["Dbalance"],
        ),
        loss=LossConfig(
            warp=flags["warp_scaling"],
            perceptual=max(flags["vgg_scaling"], 0.0),
            adversarial=max(flags["ratio"], 0.0),
            pingpong=flags["pp_scaling"] if flags["pingpang"] else 0.0,
            feature_match=0.02 if with_gan and flags["D_LAYERLOSS"] else 0.0,
            fade_in_start=flags["Dt_ratio_0"],
            fade_in_increment=flags["Dt_ratio_add"],
            fade_in_maximum=flags["Dt_ratio_max"],
        ),
        optimizer=OptimizerConfig(
            kind="adam_tf1",
            learning_rate=flags["learning_rate"],
            beta1=flags["beta"],
            epsilon=flags["adameps"],
            decay_rate=flags["decay_rate"],
            decay_steps=flags["decay_step"],
            decay_staircase=flags["stair"],
        ),
        data=replace(Config().data, sequence_length=flags["RNN_N"], crop_size=flags["crop_size"]),
    )

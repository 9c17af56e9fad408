"""Runs that were never trained: their folders with records such as training writes, quickly and as large as wanted."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import load
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.protocol import OFFICIAL
from tecogan_dist.runs.folder import RunFolder, write_run_file
from tecogan_dist.runs.previews import FOLDER
from tecogan_dist.runs.records import METRICS_FILE, SCORES_FILE, metrics_line, scores_text
from tecogan_dist.runs.status import RESTARTS_FILE, STATUS_FILE, BestValue, Restart, SavedCheckpoint, Status, Validation
from tecogan_dist.tracking.previews import Previews, still_of

BEGAN = datetime.datetime(2026, 11, 20, 8, tzinfo=datetime.UTC)


def config_of(preset: str = "tecogan", *overrides: str) -> Config:
    return override(load(preset), ["--initial-weights", "none", *overrides])


def record(
    output: Path,
    *,
    config: Config | None = None,
    lines: int = 400,
    every: int = 20,
    validations: int = 8,
    seed: int = 0,
    better: float = 0.0,
    restarts: tuple[int, ...] = (),
    state: str | None = "running",
    changes: Mapping[int, Mapping[str, float]] | None = None,
    without: str = "",
) -> Path:
    """A run of ``lines`` records, one each ``every`` steps; ``better`` decibels than usual.

    ``changes``: values that the record with this number (from 0) has instead; ``without``: a pattern of names that no
    record has.
    """
    config = config_of() if config is None else config
    random = np.random.default_rng(seed)
    place = Location.of(output)
    folder = RunFolder(path=place, checkpoint=None, resume_from=None)
    write_run_file(folder, config=config, data=Location("s3://films/store"))
    at = {round((number + 1) * lines / validations) - 1 for number in range(validations)} if lines else set()
    content: list[bytes] = []
    scores: dict[int, dict[str, float]] = {}
    averages: dict[str, float] = {}
    for number in range(lines):
        step = (number + 1) * every
        values = _values(number, lines, random, step=step, is_gan=config.loss.adversarial > 0)
        values |= dict((changes or {}).get(number, {}))
        for name in [name for name in values if name.startswith("raw/")]:
            before = averages.get(name, 0.0)
            if math.isfinite(values[name]):
                averages[name] = before + (1 - 0.99**every) * (values[name] - before)
            values[f"average/{name.removeprefix('raw/')}"] = averages.get(name, 0.0)
        if without:
            values = {name: value for name, value in values.items() if not re.match(without, name)}
        content.append(metrics_line(step, values))
        if number in at:
            scores[step] = _scores((number + 1) / lines, random, better)
            named = {f"validation/official/{name}": value for name, value in scores[step].items()}
            content.append(metrics_line(step, named))
    (output / METRICS_FILE).write_bytes(b"".join(content))
    if scores:
        (output / SCORES_FILE).write_bytes(scores_text(scores))
    attempts = [Restart(step=at, time=BEGAN, workers=8, gpus=8, host="node1") for at in (0, *restarts)]
    (output / RESTARTS_FILE).write_bytes(b"".join(one.to_line() for one in attempts))
    if state is not None:
        (output / STATUS_FILE).write_bytes(_status(state, config, lines * every, scores).to_json())
    return output


def _values(number: int, lines: int, random: np.random.Generator, *, step: int, is_gan: bool) -> dict[str, float]:
    share, noise = number / max(1, lines), lambda width: float(math.exp(random.normal(0, width)))
    falls = 0.35 + 0.65 * math.exp(-5 * share)
    raw = {"content": 2e-3 * falls * noise(0.15), "warp": 8e-3 * falls * noise(0.2)}
    weights = {"content": 1.0, "warp": 1.0}
    parts = {"forward": 0.21, "backward": 0.34, "all_reduce": 0.05, "optimiser": 0.03, "data_wait": 0.02}
    values: dict[str, Any] = {}
    if is_gan:
        raw |= {
            **{f"perceptual_conv{name}": 0.3 * falls * noise(0.05) for name in ("2_2", "3_4", "4_4", "5_4")},
            "perceptual": 1.2 * falls * noise(0.05),
            "pingpong": 4e-3 * falls * noise(0.2),
            "adversarial": 0.9 * noise(0.2),
            **{f"feature_match_{i}": 0.1 * falls * noise(0.1) for i in range(4)},
            "feature_match": 0.4 * falls * noise(0.1),
            "discriminator": 1.2 * noise(0.15),
            "real_score": min(0.98, 0.6 + 0.1 * share + random.normal(0, 0.03)),
            "fake_score": max(0.02, 0.4 - 0.1 * share + random.normal(0, 0.03)),
            "balance": 0.35 + random.normal(0, 0.15),
        }
        weights |= {"perceptual": 0.2, "pingpong": 0.5, "adversarial": 0.01, "feature_match": 0.02}
        lead = 0.33 + 0.1 * math.sin(9 * share) + random.normal(0, 0.01)
        values |= {
            "discriminator/balance": lead,
            "discriminator/real": raw["real_score"],
            "discriminator/fake": raw["fake_score"],
            "discriminator/updates": float(round(0.8 * step)),
            "discriminator/skips": float(step - round(0.8 * step)),
            "discriminator/accuracy": 0.75 + random.normal(0, 0.02),
            "grad_norm/discriminator": 2.0 * noise(0.3),
            "loss/discriminator": raw["discriminator"],
        }
    values |= {f"loss/{name}": weight * raw[name] for name, weight in weights.items()}
    raw["total"] = values["loss/total"] = sum(weight * raw[name] for name, weight in weights.items() if name != "warp")
    values |= {f"raw/{name}": value for name, value in raw.items()}
    times = {name: seconds * noise(0.04) for name, seconds in parts.items()}
    times["checkpoint"] = 0.4 if number % 50 == 49 else 0.0
    seconds = sum(times.values()) + 0.01
    values |= {f"time/{name}": value for name, value in times.items()} | {"time/step": seconds}
    return values | {
        "grad_norm/flow": 0.05 * noise(0.4),
        "grad_norm/generator": 0.4 * noise(0.3),
        "weights/update_ratio": 2e-4 * falls,
        "optim/learning_rate": 5e-5,
        "optim/bad_steps": 0.0,
        "throughput/samples_per_second": 32 / seconds,
        "throughput/frames_per_second": 320 / seconds,
        "throughput/megapixels_per_second": 320 * 128 * 128 / 1e6 / seconds,
        "throughput/tflops": 31.0 * noise(0.02),
        "throughput/mfu": 0.31 * noise(0.02),
        "memory/gpu_peak": 41.5,
        "memory/gpu_reserved": 47.25,
        "memory/alloc_retries": 0.0,
        "memory/host": 6.5 + share,
        **({f"validation/loss/{name}": 1.1 * raw[name] for name in weights} if number % 5 == 0 else {}),
    }


def _scores(share: float, random: np.random.Generator, better: float) -> dict[str, float]:
    return {
        "psnr": 25.7 - 2.5 * math.exp(-4 * share) + random.normal(0, 0.05) + better,
        "ssim": 0.78 - 0.1 * math.exp(-4 * share),
        "lpips": 0.16 + 0.12 * math.exp(-5 * share) + random.normal(0, 0.002),
        "tof": 0.19 + 0.06 * math.exp(-5 * share) + random.normal(0, 0.002),
        "tlp": 0.7 + 0.5 * math.exp(-5 * share),
    }


def _status(state: Any, config: Config, step: int, scores: Mapping[int, Mapping[str, float]]) -> Status:
    now = datetime.datetime.now(datetime.UTC)
    best = {name: max(scores, key=lambda step: scores[step][name]) for name in ("psnr", "ssim")} if scores else {}
    validation = Validation(
        step=max(scores, default=0),
        values=dict(scores[max(scores)]) if scores else {},
        best={name: BestValue(step=at, value=scores[at][name]) for name, at in best.items()},
        metric=config.tracking.best,
    )
    return Status(
        state=state,
        step=step,
        steps=config.steps,
        rate=1.52,
        time=now,
        step_time=now,
        first_step=0,
        began=BEGAN,
        process="",
        host="node1",
        pid=4711,
        workers=8,
        gpus=8,
        device="NVIDIA H100 80GB HBM3",
        checkpoint=SavedCheckpoint(step=step, time=now) if step else None,
        validation=validation if scores else None,
        warning=None,
        problem="the GPU fell off the bus" if state == "failed" else None,
        version="0.1.0",
    )


def add_previews(output: Path, steps: Sequence[int], *, seed: int = 0, side: int = 96, scene: int = 2251) -> None:
    """Previews as training's own writer leaves them, of a scene that becomes sharper with every step."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (side // 8, side // 4, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((2 * side, side), Image.Resampling.BICUBIC)).copy()
    wide[:: side // 8] = 30
    targets = [np.ascontiguousarray(wide[:, frame : frame + side]) for frame in range(12)]
    still = still_of(targets, targets, scene=scene, origin="BD", scale=4)
    writer = Previews(output / FOLDER, Location.of(output), first_step=10**9, say=_fail)
    noise = np.random.default_rng(seed)
    for number, step in enumerate(steps):
        width = 3.0 * (1 - (number + 1) / len(steps)) + 0.3
        blurred = [Image.fromarray(frame).filter(ImageFilter.GaussianBlur(width)) for frame in targets]
        smooth = np.stack([np.asarray(frame) for frame in blurred]).astype(np.int16)
        results = (smooth + noise.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
        values = {"tof": noise.uniform(0.1, 0.5, len(OFFICIAL.frames(len(targets))) - 1).tolist()}
        writer.keep(step, still, results, np.stack(targets), values)


def _fail(line: str) -> None:
    raise AssertionError(line)

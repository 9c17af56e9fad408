"""How fast each machine makes training windows out of a clip, as the training stream does, on one CPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import TypedDict

import numpy as np

from tecogan_dist.base.storage import Location
from tecogan_dist.data.clips import Scene
from tecogan_dist.data.stream.decoding import decode_windows
from tecogan_dist.data.stream.windows import WindowConfig, needed_frames, sample_at
from tecogan_dist.data.writing import write_clip
from tecogan_dist.diagnosis.findings import Finding
from tecogan_dist.diagnosis.judging import judge_rates
from tecogan_dist.diagnosis.machines import Machines

SUBJECT = "decoding"
SECONDS = 2.0
HEIGHT, WIDTH, FRAMES = 360, 640, 40
"""Of the clip that is made where none is given."""


class DecodingSpeed(TypedDict):
    windows: float
    """A second, on one CPU."""
    frames: float
    """A second that were decoded for them."""


def examine_decoding(
    machines: Machines, data: WindowConfig, *, store: Location | None, scene: Scene | None
) -> list[Finding]:
    """``store`` and ``scene``: a real clip; None: one that each machine makes."""
    if store is not None and scene is not None:
        answers, clip = machines.ask(measure_decoding, store, scene, data), f"scene {scene.number}"
    else:
        answers, clip = machines.ask(measure_made_clip, data), "a made clip; --data STORE takes a real one"
    findings, rates = [], dict[str, float]()
    for machine, answer in answers.items():
        if answer.problem is None:
            rates[machine.name] = answer.value["windows"]
            continue
        advice = "let every machine reach the store, and give its temporary folder space"
        text = f"a clip cannot be decoded ({answer.problem.partition(': check')[0]})"
        findings.append(Finding(status="fail", subject=SUBJECT, machines=(machine.name,), text=text, advice=advice))
    if rates:
        what = f"CPU makes windows of {data.sequence_length} frames ({clip}) at"
        names = {name: (name,) for name in rates}
        findings += judge_rates(rates, subject=SUBJECT, what=what, show=_windows, machines=names)
    return findings


def measure_made_clip(data: WindowConfig) -> DecodingSpeed:
    """Of a clip that is made in the temporary folder. Raises :class:`UserError` if it cannot be."""
    with tempfile.TemporaryDirectory(prefix="tecogan_doctor_") as folder:
        place = Location(folder)
        scene = write_clip(
            place,
            0,
            made_frames(max(FRAMES, data.sequence_length)),
            rate=Fraction(24),
            source="made by tecogan doctor",
            source_start=0,
            downscale=1,
        )
        return measure_decoding(place, scene, data)


def measure_decoding(store: Location, scene: Scene, data: WindowConfig) -> DecodingSpeed:
    """Decode the scene for one decode's windows after the other. Raises :class:`UserError` for a damaged clip."""
    first = windows = frames = 0
    count = data.windows_per_decode
    started = 0.0
    while True:
        samples = [sample_at(index, seed=1, scenes=[scene], data=data) for index in range(first, first + count)]
        decode_windows(store, scene, samples, data)
        first += count
        if not started:
            started = time.perf_counter()  # a remote clip has been fetched
            continue
        windows += count
        frames += len(needed_frames(samples, data.sequence_length))
        seconds = time.perf_counter() - started
        if seconds > SECONDS:
            return {"windows": windows / seconds, "frames": frames / seconds}


def made_frames(count: int, *, height: int = HEIGHT, width: int = WIDTH, seed: int = 1) -> Iterator[np.ndarray]:
    """(height, width, 3) uint8 frames of coloured patches that move two pixels a frame, with some grain."""
    generator = np.random.default_rng(seed)
    patch, room = 16, 2 * count
    shape = (-(-height // patch), -(-(width + room) // patch), 3)
    picture = generator.integers(0, 256, shape, dtype=np.uint8).repeat(patch, axis=0).repeat(patch, axis=1)
    for index in range(count):
        frame = picture[:height, 2 * index : 2 * index + width].astype(np.int16)
        grain = generator.integers(-6, 7, frame.shape, dtype=np.int16)
        yield np.clip(frame + grain, 0, 255).astype(np.uint8)


def _windows(rate: float) -> str:
    return f"{rate:.0f}/s"

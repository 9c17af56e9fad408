"""What a job is asked for, and its input, opened; work that is begun is gone on with by the same request only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tecogan_dist.base.documents import quoted
from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling.recurrence import Precision
from tecogan_dist.upscaling.source import SourceOptions, content_of
from tecogan_dist.upscaling.targets import Target, beside_target, choose_target
from tecogan_dist.video.codecs import Wishes
from tecogan_dist.video.joining import check_clock
from tecogan_dist.video.reader import VideoFile
from tecogan_dist.video.source import FrameSource

INPUT, WEIGHTS = "the input", "the weights"
SAID = {INPUT: "the input was another one, or has changed since", WEIGHTS: "the weights were others"}


def weights_digest(model: nn.Module) -> str:
    """Of everything in a network that its outputs depend on, wherever its weights came from."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name in ("scale", "centred", "warm_up", "rounds"):
        digest.update(f"{name}={getattr(model, name, None)}\0".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words, what another request asked for; nothing if it was the same. Keys are options, or INPUT and WEIGHTS."""
    found = [
        SAID.get(name) or f"{name} was {_shown(there.get(name))}, not {_shown(value)}"
        for name, value in wanted.items()
        if there.get(name) != value
    ]
    return ", ".join(found)


def _shown(value: Any) -> str:
    return "not given" if value is None or value is False else "given" if value is True else quoted(value)


Cut = Literal["detected", "none"]
Tile = Literal["auto", "none"] | int


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be done. Whatever is in it changes the result, but for the names of the files."""

    source: SourceOptions
    output: Path
    comparison: Path | None = None
    start: int = 0
    frames: int | None = None
    """None: to the end."""
    cut: Cut = "none"
    segment_frames: int | None = None
    """None: :func:`tecogan_dist.upscaling.plan.default_length`."""
    degrade: Degradation | None = None
    precision: Precision = "fp32"
    tile: Tile = "auto"
    wishes: Wishes = field(default_factory=Wishes)
    """Of the video's encoding."""
    png16: bool = False
    threads: int | None = None
    """Of the network on a CPU; None: found by measuring (:mod:`tecogan_dist.upscaling.machine`)."""
    device: Literal["cpu", "cuda"] | None = None
    """Where segments are made; None: where the model is."""
    hardware: bool | None = None
    """Whether the GPU's encoder that is wished for works where segments are made; None: that is seen here."""

    def plain(self, model: RecurrentUpscaler) -> dict[str, Any]:
        """By the options' names, for the plan: two requests that are the same have the same result."""
        device = self.device or next(model.parameters()).device.type
        return {
            INPUT: content_of(self.source.path),
            WEIGHTS: weights_digest(model),
            "--start-frame": self.start,
            "--frames": self.frames,
            "--side-by-side": self.comparison is not None,
            "--cut": self.cut,
            "--degrade": self.degrade,
            "--precision": self.precision,
            "--tile": self.tile,
            "--device": device,
            **self.source.plain(),
            "--png16": self.png16,
            "the encoding": self.wishes.plain(),
        }


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A request's input, opened, and what its outputs are to be made of. No weights are needed so far."""

    source: FrameSource
    options: SourceOptions
    """How it was opened."""
    target: Target
    beside: Target | None
    notes: list[str]
    """What cannot be kept, or is not as it was asked, in sentences."""


def open_request(request: Request) -> Opened:
    """Raises :class:`UserError` for what cannot be read, or cannot be upscaled or written as it is asked for."""
    properties, notes = request.source.properties()
    hardware = request.hardware
    target, more = choose_target(request.output, properties, request.wishes, png16=request.png16, hardware=hardware)
    beside = None
    if request.comparison is not None:
        beside = beside_target(request.comparison, request.output, properties, request.wishes, hardware=hardware)
    options = replace(request.source, deep=target.deep)
    source = options.open()
    if source.count is not None and request.start >= source.count:
        raise UserError(f"{source.path} has {source.count} frames: --start-frame must be below that.")
    if isinstance(source, VideoFile):  # said before the work, not after it
        for suffix in {target.suffix, beside.suffix if beside else target.suffix}:
            check_clock(suffix, source.timeline())
    return Opened(source=source, options=options, target=target, beside=beside, notes=[*notes, *more])

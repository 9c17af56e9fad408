"""Which options of ``tecogan upscale`` go together."""

from __future__ import annotations

import argparse

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.inputs import is_many
from tecogan_dist.video.encoders import CONTAINERS

OF_VIDEOS = ("codec", "quality", "preset", "pix_fmt", "encoder_option")


def check_together(options: argparse.Namespace) -> None:
    """Raise :class:`UserError` for options that do not go together."""
    if options.exact and options.precision not in ("auto", "fp32"):
        raise UserError(f"--exact is fp32, and --precision is {options.precision}: give one of them.")
    many = is_many(options.inputs)
    of_one = {
        "--side-by-side": options.side_by_side,
        "--page": options.page,
        "--preview": options.preview,
        "--estimate": options.estimate,
    }
    for name, is_given in of_one.items():
        if many and is_given:
            raise UserError(f"{name} is of one input, and there are several: leave it out, or give one input.")
    if options.preview is not None:
        _check_preview(options)
    is_video = many or options.output.suffix.lower() in CONTAINERS
    given = [f"--{name.replace('_', '-')}" for name in OF_VIDEOS if getattr(options, name) not in (None, [])]
    beside = options.side_by_side
    if given and not is_video and not (beside and beside.suffix.lower() in CONTAINERS):
        raise UserError(f"{given[0]} is for videos, and {options.output} is a folder of images: leave one of them out.")
    if options.png16 and is_video:
        raise UserError(f"--png16 is for images, and {options.output} is a video: name a folder, or leave it out.")
    if options.input.is_dir() and not many:
        of_videos = {"--deinterlace": options.deinterlace, "--video-stream": options.video_stream is not None}
        for name, is_given in of_videos.items():
            if is_given:
                raise UserError(f"{name} is for videos, and {options.input} is a folder of images: leave it out.")
    keys = [key for key, _ in options.encoder_option]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--encoder-option gives {key} twice: give it once.")


def _check_preview(options: argparse.Namespace) -> None:
    others = {
        "--estimate": options.estimate,
        "--page": options.page,
        "--side-by-side": options.side_by_side,
        "--start-frame": options.start_frame,
        "--frames": options.frames,
        "--address": options.address,
    }
    for name, is_given in others.items():
        if is_given:
            raise UserError(f"--preview makes a video of its own, on this machine: leave {name} out.")

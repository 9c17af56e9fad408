"""A segment's frames through the network, in order, each with the memory of its scene's frames before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.check import Look, look
from tecogan_dist.upscaling.plan import Segment
from tecogan_dist.upscaling.recurrence import Recurrence, Upscaled
from tecogan_dist.upscaling.threads import read_ahead
from tecogan_dist.video.source import FrameSource

Frame = NDArray[np.uint8] | NDArray[np.uint16]


class Given(NamedTuple):
    """A frame of the source."""

    frame: Frame
    look: Look


def in_order(
    recurrence: Recurrence, source: FrameSource, segment: Segment, *, warm_up: int, name: object
) -> Iterator[tuple[Upscaled, Given]]:
    """The segment's frames, read ahead, and what became of them.

    A scene's first frame gets a memory too, as in the original: the frames 1 to ``warm_up`` of the scene are run before
    it, in reverse, and what they give is dropped. A shorter scene is warmed up with the frames it has.
    """
    ends = dict(segment.scenes)
    last, end = segment.scenes[-1] if segment.scenes else (segment.start, segment.start)
    stop = max(segment.stop, min(last + warm_up + 1, end))
    inputs = read_ahead(Given(frame, look(frame)) for frame in source.frames(segment.start, stop))
    head: deque[Given] = deque()  # read before their turn
    for position in range(segment.start, segment.stop):
        is_first = position in ends
        wanted = min(warm_up + 1, ends[position] - position) if is_first else 1
        while len(head) < wanted:
            given = next(inputs, None)
            if given is None:
                raise UserError(
                    f"{name} ends after {position + len(head)} frames, and had more before: start again, with "
                    "--restart, when nothing writes to it."
                )
            head.append(given)
        if is_first:
            recurrence.reset()
            for ahead in reversed(list(head)[1:wanted]):
                recurrence.step(_tensor(ahead.frame))
        given = head.popleft()
        yield recurrence.step(_tensor(given.frame)), given


def _tensor(frame: Frame) -> Tensor:
    return torch.tensor(frame)  # a copy: arrays of images are read-only

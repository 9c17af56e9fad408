"""A video or a folder of images through the network, from a source of frames to a writer of frames.

Decoding, the network and encoding run at the same time, each in a thread of its own with a short queue between them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.memory import in_words, machine_memory
from tecogan_dist.config.degradations import Degradation, is_centred
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.upscaling.panels import Images, panels
from tecogan_dist.upscaling.recurrence import Upscaled, to_host, to_image, upscale_float
from tecogan_dist.upscaling.threads import WriteBehind, read_ahead
from tecogan_dist.video.source import FrameSource
from tecogan_dist.video.writer import FrameWriter

Precision = Literal["fp32", "tf32", "bf16"]


def upscale_video(
    model: RecurrentUpscaler,
    source: FrameSource,
    output: FrameWriter,
    *,
    device: torch.device,
    start: int = 0,
    stop: int | None = None,
    degrade: Degradation | None = None,
    precision: Precision = "fp32",
    comparison: FrameWriter | None = None,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Upscale the frames ``start`` to ``stop`` (exclusive; None: to the end) of ``source`` into ``output``.

    ``model`` is on ``device``. Images keep the names of the source's. With ``degrade`` the source is of high
    resolution: the model sees its degradation, and what comes out is cut to the source's size. ``precision`` matters on
    CUDA: fp32 is the original's numbers, tf32 and bf16 are faster and coarser (:func:`upscale_float`).

    ``comparison`` gets panels of a bicubic enlargement, of the result and, with ``degrade``, of the source. Both
    writers have been entered, and what they have written appears when the caller leaves them. ``advance`` is called
    after each frame.

    Raises :class:`UserError` for a range without frames, for frames that are too small or too large for the memory
    here, and what reading and writing raise.
    """
    height, width = source.height, source.width
    check_memory(model, height, width, degrade=degrade, device=device, precision=precision)
    if degrade is None:
        height, width = model.scale * height, model.scale * width
    centred = model.centred if degrade is None else is_centred(degrade)
    names = source.names[start:stop] if source.names else itertools.repeat(None)
    truths: deque[Images] = deque()  # the inputs of the frames that are under way

    def frames() -> Iterator[Tensor]:
        for frame in read_ahead(source.frames(start, stop)):
            if comparison is not None and degrade is not None:
                truths.append(frame)
            yield torch.tensor(frame)  # a copy: arrays of images are read-only

    def to_images(upscaled: Upscaled) -> tuple[Tensor, ...]:
        result = to_image(upscaled.sr_frame)
        if comparison is None:
            return (result,)
        bicubic = resize_bicubic(upscaled.lr_frame.unsqueeze(0), model.scale, centred=centred)
        return result, to_image(bicubic[0])

    with contextlib.ExitStack() as stack:
        stack.enter_context(_tf32(allowed=precision == "tf32"))
        to_output = stack.enter_context(WriteBehind[tuple[Images, str | None]](lambda item: output.write(*item)))
        to_comparison: WriteBehind[dict[str, Images]] | None = None
        if comparison is not None:
            to_comparison = stack.enter_context(WriteBehind(lambda shown: comparison.write(panels(shown))))
        upscaled = upscale_float(
            model, frames(), device=device, degrade=degrade, precision="bf16" if precision == "bf16" else "fp32"
        )
        for images, name in zip(to_host(map(to_images, upscaled)), names, strict=False):
            result, *bicubic = [image.numpy()[:height, :width] for image in images]
            to_output.put((result, name))
            if to_comparison is not None:
                truth = {} if degrade is None else {"truth": truths.popleft()}
                to_comparison.put({"bicubic": bicubic[0], "model": result, **truth})
            advance()


def check_memory(
    model: RecurrentUpscaler,
    height: int,
    width: int,
    *,
    degrade: Degradation | None,
    device: torch.device,
    precision: Precision,
) -> None:
    """Raise :class:`UserError` if frames of this size certainly need more memory than there is.

    Whatever else is in memory, the generator's last features are there twice, before and after they are rectified.
    """
    enlargement = 1 if degrade else model.scale**2
    number_bytes = 2 if precision == "bf16" else 4
    needed = 2 * number_bytes * model.generator.output.weight.shape[1] * enlargement * height * width
    is_cuda = device.type == "cuda"
    there = torch.cuda.get_device_properties(device).total_memory if is_cuda else machine_memory()
    if needed > there:
        raise UserError(
            f"frames of {width}x{height} need more than {in_words(needed)} of memory to be upscaled, and "
            f"{'the GPU' if is_cuda else 'this machine'} has {in_words(there)}: give smaller frames."
        )


@contextlib.contextmanager
def _tf32(*, allowed: bool) -> Iterator[None]:
    """cuDNN's own default would not be fp32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before

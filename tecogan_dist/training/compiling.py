"""``cluster.compile``: the heavy parts of a training step through torch.compile, each for the shapes of the run alone.

These are the flow network, the recurrent step of one frame (compiled once, used for every frame of a window), the
discriminator and VGG19. Each is one graph, without a break; a module's own ``forward`` is replaced, so that weights,
their names, DeepSpeed's hooks and checkpoints stay as they are. What needs no gradient, such as the losses of held-out
windows, runs as it is without this, but for VGG19's targets.

torch compiles anew whatever differs from what it has seen: in size, memory order, whether it needs a gradient. That
takes a minute each time, so the parts here are given what is always the same in these, and all of them are compiled
before the first step.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config as functorch
from torch import Tensor, nn

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import make_folder
from tecogan_dist.config.schema import Config
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.vgg import Vgg19
from tecogan_dist.training.engines.pair import EnginePair, losses_in_order
from tecogan_dist.training.objective import ObjectiveResult
from tecogan_dist.training.recording import Probe

Frames = tuple[Tensor, Tensor]
"""Of low and of high resolution."""
Losses = Callable[[Tensor, Tensor], ObjectiveResult]
Counting = contextlib.AbstractContextManager[object]

BACKEND = "inductor"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
TORCHS_OWN = "torchinductor_"
"""What torch chooses begins with it, and is written to that variable: a name in /tmp that anybody could make first."""
NEEDED = {
    "cpu": "a C++ compiler (g++, or the one that CXX names)",
    "cuda": "triton, which comes with torch for CUDA, and a C compiler (gcc) with Python's headers",
}


def compiles(config: Config) -> bool:
    """Whether the run's networks are compiled. ``auto`` is off as long as that was not measured on a GPU."""
    return config.cluster.compile == "on"


class CompiledParts:
    """The parts of a run's networks that are compiled; they run as they are until they are rehearsed.

    Raises :class:`UserError` where this machine cannot compile.
    """

    def __init__(self, pair: EnginePair, vgg: Vgg19 | None, device: torch.device) -> None:
        check_compiler(device)
        self._pair = pair
        self.on = False
        self._graphs = 0
        upscaler = pair.upscaler_module
        if not isinstance(upscaler, RecurrentUpscaler):
            raise TypeError(f"{type(upscaler)} has no recurrent step to compile")
        step = _Part(self, upscaler._after)
        _replace(upscaler, "first_frame", _FirstFrame(step, upscaler.first_frame, scale=upscaler.scale))
        _replace(upscaler, "_after", step)
        _replace(upscaler.flow, "forward", _Part(self, upscaler.flow.forward))
        if pair.discriminator_module is not None:
            judge = pair.discriminator_module.forward
            _replace(pair.discriminator_module, "forward", _Part(self, judge, is_differentiated_twice=True))
        if vgg is not None:
            _replace(vgg, "forward", _Frames(self, vgg.forward))

    def rehearse(self, micro_batches: list[Frames], losses: Losses, probe: Probe) -> None:
        """Do all that a step with these micro-batches computes, and compile it, with no effect on weights or state.

        ``losses`` are of frames of low and high resolution, beside the engines. Operations are counted before anything
        is compiled: torch can do no more than one of both. All workers call it.
        """
        has_discriminator = self._pair.discriminator_module is not None
        kinds = (True, False) if has_discriminator else (False,)
        forward = probe.counting_forward()
        backward = {kind: probe.counting_backward(update_discriminator=kind) for kind in kinds}
        with _unchanged_buffers(self._pair.discriminator_module):
            for frames in micro_batches:
                self._count(frames, losses, forward, backward)
            self.on = True
            self._differentiate(losses(*micro_batches[0]), update_discriminator=has_discriminator, again=False)
        self._graphs = _graphs()

    def _count(self, frames: Frames, losses: Losses, forward: Counting, backward: dict[bool, Counting]) -> None:
        with forward:
            result = losses(*frames)
        for update_discriminator, counting in backward.items():
            with counting:
                self._differentiate(result, update_discriminator=update_discriminator, again=True)

    def _differentiate(self, result: ObjectiveResult, *, update_discriminator: bool, again: bool) -> None:
        """``again``: it is not the last time, what is needed for it stays."""
        modules = self._pair.upscaler_module, self._pair.discriminator_module
        weights = [weight for module in modules if module is not None for weight in module.parameters()]
        for loss in losses_in_order(result, update_discriminator):
            # Gradients that are asked for by name: no hook of an engine hears of them.
            torch.autograd.grad(loss, weights, retain_graph=again, allow_unused=True)

    def has_more(self) -> bool:
        """Whether torch has compiled anything since the last call or, at first, since the rehearsal."""
        before, self._graphs = self._graphs, _graphs()
        return self.on and self._graphs != before


@contextlib.contextmanager
def _unchanged_buffers(module: nn.Module | None) -> Iterator[None]:
    kept = [] if module is None else [(buffer, buffer.clone()) for buffer in module.buffers()]
    yield
    for buffer, before in kept:
        buffer.copy_(before)


def _graphs() -> int:
    """How many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


class _Part:
    """A function of tensors: compiled for passes with a gradient, as it is for others.

    ``is_differentiated_twice``: more than one gradient is taken of one pass, so that the first keeps what it reads.
    """

    def __init__(
        self, parts: CompiledParts, plain: Callable[..., Any], *, is_differentiated_twice: bool = False
    ) -> None:
        self._parts, self._plain = parts, plain
        self._compiled = _compiled(plain)
        self._keeps = is_differentiated_twice

    @property
    def is_compiled(self) -> bool:
        """Whether a call now goes through what is compiled."""
        return self._parts.on and torch.is_grad_enabled()

    def __call__(self, *tensors: Tensor, **keywords: bool) -> Any:
        if not self.is_compiled:
            return self._plain(*tensors, **keywords)
        keeping = functorch.patch(donated_buffer=False) if self._keeps else contextlib.nullcontext()
        with keeping:
            return self._compiled(*map(_packed, tensors), **keywords)


class _FirstFrame:
    """A sequence's first frame by the recurrent step's graph: after a black frame that does not move, its past is
    zeros. That it "needs" their gradients makes it the same graph."""

    def __init__(self, step: _Part, plain: Callable[[Tensor], Tensor], *, scale: int) -> None:
        self._step, self._plain, self._scale = step, plain, scale

    def __call__(self, lr_frame: Tensor) -> Tensor:
        if not self._step.is_compiled:
            return self._plain(lr_frame)
        n, c, h, w = lr_frame.shape
        size = h * self._scale, w * self._scale
        black = lr_frame.new_full((n, c, *size), -1.0).requires_grad_()
        still = lr_frame.new_zeros(n, 2, *size).requires_grad_()
        frame: Tensor = self._step(lr_frame, black, still)[1]
        return frame


class _Frames:
    """A network's features of frames, (N, ...) each, compiled for the N of the first call: fewer are filled up."""

    def __init__(self, parts: CompiledParts, plain: Callable[[Tensor], list[Tensor]]) -> None:
        self._parts, self._plain = parts, plain
        self._compiled = _compiled(plain)
        self._size = 0

    def __call__(self, frames: Tensor) -> list[Tensor]:
        count = len(frames)
        if not self._parts.on or 0 < self._size < count:
            return self._plain(frames)
        self._size = self._size or count
        if count < self._size:
            filling = frames[-1:].expand(self._size - count, *frames.shape[1:])
            frames = torch.cat([frames, filling])
        features: list[Tensor] = self._compiled(_packed(frames))
        return features if count == self._size else [layer[:count] for layer in features]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Globals of this package do not change, and a guard on the kernels that ops/resampling.py keeps would compile all
    # again when one is added.
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "guard_filter_fn": torch.compiler.skip_guard_on_globals_unsafe
    }
    return torch.compile(function, fullgraph=True, dynamic=False, backend=BACKEND, options=options)


def _packed(x: Tensor) -> Tensor:
    """The same numbers in rows of a known order: slices of a sequence have strides of their own."""
    if x.stride() == torch.empty(x.shape, device="meta").stride():
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _replace(module: nn.Module, method: str, function: Callable[..., Any]) -> None:
    """Have one module's method be another function. Its state dict does not know of it."""
    setattr(module, method, function)


def check_compiler(device: torch.device) -> None:
    """Compile something small. Raises :class:`UserError` where that fails, with what is needed."""
    keep_private_cache()
    torch.compiler.reset()  # what an earlier run in this process has compiled would count for torch's limit
    try:
        torch.compile(_probed, fullgraph=True, dynamic=False, backend=BACKEND)(torch.zeros(8, device=device))
    except Exception as error:  # torch's, triton's, a compiler's: of any kind
        raise UserError(
            f"cluster.compile on needs {NEEDED[device.type]} on every machine that trains, and compiling fails here "
            f"({_reason(error)}): install it, or set cluster.compile to off."
        ) from error


def _probed(x: Tensor) -> Tensor:
    return x * 2 + 1


def _reason(error: Exception) -> str:
    """The first line that says something; those above it end with a colon."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith(":")]
    return printable(lines[0] if lines else type(error).__name__, limit=200)


def keep_private_cache() -> Path:
    """Have torch keep what it compiles where nobody else can put anything: it is code that is loaded and run.

    That is ``$TORCHINDUCTOR_CACHE_DIR``, else a folder of the user's in the system's one for temporary files. The
    workers of a machine share it. Raises :class:`UserError` for a folder that others could have written.
    """
    given = Path(os.environ.get(CACHE, "").strip())
    folder = Path(tempfile.gettempdir()) / f"tecogan_compiled_{os.getuid()}"
    if given.name and not given.name.startswith(TORCHS_OWN):
        folder = given.absolute()
    make_folder(folder.parent)
    try:
        with reported_local(folder):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            status = os.lstat(folder)
    except FileNotFoundError as error:
        raise UserError(f"{folder} cannot be made: name a folder of your own in {CACHE}.") from error
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or writable:
        raise UserError(
            f"{folder} can be written by others, and what torch compiles would be loaded from there: name a folder of "
            f"your own in {CACHE}, or set cluster.compile to off."
        )
    os.environ[CACHE] = str(folder)
    return folder

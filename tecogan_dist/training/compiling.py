"""``cluster.compile on``: the heavy parts of a step through torch.compile, each for the shapes of the run alone.

These are the flow network, the recurrent step of one frame (compiled once, used for every frame of a window), the
discriminator and VGG19. Each is one graph, without a break; a module's own ``forward`` is replaced, so that weights,
their names, DeepSpeed's hooks and checkpoints stay as they are. What needs no gradient, such as the losses of held-out
windows, runs as it is without this, but for VGG19: all its passes go through its graph, as those of targets, which need
no gradient in a step either.

torch compiles anew whatever differs from what it has seen: in size, memory order, whether it needs a gradient. That
takes a minute each time, so the parts here are given what is always the same in these, and all of them are compiled
before the first step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch._functorch.config as functorch
from torch import Tensor, nn

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.vgg import Vgg19
from tecogan_dist.training.compiled_cache import keep_private_cache
from tecogan_dist.training.engines.pair import EnginePair
from tecogan_dist.training.recording import Probe
from tecogan_dist.training.rehearsal import Frames, Losses, differentiate, rehearse, unchanged_buffers

BACKEND = "inductor"
COMPILERS = ("torch._dynamo.", "torch._functorch.", "torch._inductor.", "triton.")
"""Modules whose errors say that something could not be compiled."""
NEEDED = {
    "cpu": "a C++ compiler (g++, or the one that CXX names)",
    "cuda": "triton, which comes with torch for CUDA, and a C compiler (gcc) with Python's headers",
}


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

    def rehearse(self, micro_batches: Iterable[Frames], losses: Losses, probe: Probe) -> None:
        """Do all that a step with these micro-batches computes, and compile it, with no effect on weights or state.

        ``losses`` are of frames of low and high resolution, beside the engines. Operations are counted before anything
        is compiled: torch can do no more than one of both. All workers call it. Raises :class:`UserError` where the
        networks cannot be compiled.
        """
        with unchanged_buffers(self._pair.discriminator_module):
            frames = rehearse(self._pair, micro_batches, losses, probe)
            self.on = True
            with _reported():
                differentiate(self._pair, losses(*frames), {})
        self._graphs = _graphs()

    def has_more(self) -> bool:
        """Whether torch has compiled anything since the last call or, at first, since the rehearsal."""
        before, self._graphs = self._graphs, _graphs()
        return self.on and self._graphs != before


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """A failure to compile as a :class:`UserError`; want of memory stays what it is."""
    try:
        yield
    except Exception as error:
        inner = getattr(error, "inner_exception", None)  # of what a backend raised
        if isinstance(inner, torch.OutOfMemoryError):
            raise inner from None
        if not any(f"{kind.__module__}.".startswith(COMPILERS) for kind in type(error).__mro__):
            raise
        raise UserError(
            f"the networks cannot be compiled here ({_reason(error)}): set cluster.compile to off."
        ) from error


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

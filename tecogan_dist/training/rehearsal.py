"""A step's passes before the first step, with no effect: operations are counted, and what is made once is made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from tecogan_dist.training.engines.pair import EnginePair
from tecogan_dist.training.objective import ObjectiveResult
from tecogan_dist.training.recording import Probe

Frames = tuple[Tensor, Tensor]
"""Of low and of high resolution."""
Losses = Callable[[Tensor, Tensor], ObjectiveResult]
Counting = contextlib.AbstractContextManager[object]


def rehearse(pair: EnginePair, micro_batches: Iterable[Frames], losses: Losses, probe: Probe) -> Frames:
    """Do all that a step with these micro-batches computes, but its update, and count its operations.

    ``losses`` are of frames of low and high resolution, beside the engines. All workers call it. Returns the last ones'
    frames.
    """
    kinds = (True, False) if pair.discriminator_module is not None else (False,)
    forward = probe.counting_forward()
    backward = {kind: probe.counting_backward(update_discriminator=kind) for kind in kinds}
    for frames in micro_batches:
        with forward:
            result = losses(*frames)
        differentiate(pair, result, backward)
        del result  # its frames would be there beside the next ones
    return frames


def differentiate(pair: EnginePair, result: ObjectiveResult, counting: Mapping[bool, Counting]) -> None:
    """Take each loss's gradient once, as a step does. ``counting`` goes around by kind of step: the generator's is the
    same in both."""
    modules = pair.upscaler_module, pair.discriminator_module
    weights = [weight for module in modules if module is not None for weight in module.parameters()]
    # Gradients that are asked for by name: no hook of an engine hears of them.
    if result.discriminator_loss is not None:
        with counting.get(True, contextlib.nullcontext()):
            torch.autograd.grad(result.discriminator_loss, weights, allow_unused=True)
    with contextlib.ExitStack() as stack:
        for of_kind in counting.values():
            stack.enter_context(of_kind)
        torch.autograd.grad(result.generator_loss, weights, allow_unused=True)


@contextlib.contextmanager
def unchanged_buffers(module: nn.Module | None) -> Iterator[None]:
    """Statistics of batches become, when it is left, what they were."""
    kept = [] if module is None else [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)

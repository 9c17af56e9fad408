"""``cluster.compile graph``: a step's forward and backward passes as CUDA graphs, each of which one call starts.

There are three: the forward passes, the discriminator's backward pass, which a step may leave out, and the upscaler's.
A replay works in the same memory every time: windows are copied in, and what is seen of the result is copied out. The
losses that come out have their graph's replay for a backward pass (:class:`_Replayed`), so that what happens to
gradients, from accumulation to the update, is as it is without graphs. Weights must stay where they are, and ZeRO 0
leaves them there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import present
from tecogan_dist.models.recurrent import Unrolled
from tecogan_dist.training.engines.pair import EnginePair
from tecogan_dist.training.objective import ObjectiveResult
from tecogan_dist.training.recording import Probe
from tecogan_dist.training.rehearsal import Frames, differentiate, rehearse, unchanged_buffers

WARM_UPS = 3
"""Passes before the capture, in which libraries choose their kernels and take their workspaces (torch's notes on CUDA
graphs do as many)."""
Work = Callable[[], list[Tensor]]


class Graph(Protocol):
    """Work that can be done again by one call."""

    def record(self, work: Work) -> list[Tensor]:
        """What ``work`` returns, filled by each replay. It may be filled by now, or not."""

    def replay(self) -> None:
        """Do the work again. Graphs are replayed in the order in which they were recorded; the second may be left
        out."""


class CudaGraphs:
    """Captured CUDA graphs that share their memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def new(self) -> Graph:
        """One more."""
        return _CudaGraph(self._pool)

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work as it is done in a capture: on another stream."""
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            work()
        current.wait_stream(side)


class _CudaGraph:
    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._graph = torch.cuda.CUDAGraph()

    def record(self, work: Work) -> list[Tensor]:
        # The outer block: a capture that fails leaves its own stream in force (torch 2.14, `graph.__exit__`). Other
        # threads may use CUDA meanwhile.
        current = torch.cuda.current_stream()
        with (
            torch.cuda.stream(current),
            torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            return work()

    def replay(self) -> None:
        self._graph.replay()


class Graphs(Protocol):
    """Makes graphs. :class:`CudaGraphs`, but for tests on a CPU."""

    def new(self) -> Graph:
        """One more, to be recorded and replayed after those that are there."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work before it is recorded."""


@dataclass(frozen=True)
class Passed:
    """A micro-batch's frames and what its forward passes made of them."""

    lr_frames: Tensor
    hr_frames: Tensor
    result: ObjectiveResult


class CapturedPasses:
    """The passes of micro-batches of one size; they are called once they have been captured."""

    def __init__(self, pair: EnginePair, *, graphs: Graphs | None = None) -> None:
        self._pair = pair
        self._graphs: Graphs = graphs or CudaGraphs()
        self._windows = self._fade_in = torch.empty(0)
        self._forward: Graph | None = None
        self._outputs: list[Tensor] = []
        self._names: list[str] = []
        self._result: ObjectiveResult | None = None
        self._discriminator: _Backward | None = None
        self._upscaler: _Backward | None = None

    @property
    def on(self) -> bool:
        """Whether they have been captured."""
        return self._upscaler is not None

    def capture(
        self,
        windows: Tensor,
        *,
        frames: Callable[[Tensor], Frames],
        losses: Callable[[Tensor, Tensor, float | Tensor], ObjectiveResult],
        micro_batches: int,
        probe: Probe,
    ) -> None:
        """Capture the passes for micro-batches such as ``windows``, with no effect on weights or state.

        ``frames`` are a micro-batch's, ``losses`` of frames and of a fade-in, beside the engines; neither is kept. The
        operations of a step of so many ``micro_batches`` are counted before, and the memory that it takes. All workers
        call it. Raises :class:`UserError` where they cannot be captured; want of memory stays what it is.
        """
        self._windows = windows.clone()
        self._fade_in = torch.ones((), device=windows.device)

        def warm_up() -> None:
            given = frames(self._windows)
            rehearse(self._pair, [given] * micro_batches, lambda lr, hr: losses(lr, hr, self._fade_in), probe)
            for _ in range(WARM_UPS - micro_batches):
                differentiate(self._pair, losses(*given, self._fade_in), {})

        def forward() -> list[Tensor]:
            given = frames(self._windows)
            self._result = losses(*given, self._fade_in)
            self._names = list(self._result.losses)
            return _outputs(*given, self._result)

        with unchanged_buffers(self._pair.discriminator_module):
            self._graphs.warm_up(warm_up)
            with _reported(), probe.remembering_memory():
                self._forward = self._graphs.new()
                self._outputs = self._forward.record(forward)
                if present(self._result, "it was recorded").discriminator_loss is not None:
                    self._discriminator = self._recorded(self._pair.discriminator_module, "discriminator_loss")
                self._upscaler = self._recorded(self._pair.upscaler_module, "generator_loss")
        self._result = None

    def __call__(self, windows: Tensor, fade_in: float) -> Passed:
        """The forward passes of a micro-batch, (N, T, H, W, 3) uint8. All that comes out is the caller's.

        The backward passes, at most one of each loss, come before the next call.
        """
        self._windows.copy_(windows)
        self._fade_in.fill_(fade_in)
        present(self._forward, "passes are captured first").replay()
        outputs = [tensor.clone() for tensor in self._outputs]
        lr_frames, hr_frames, numbers, sr_frames, lr_flow, hr_flow, warped, *return_flow = outputs
        *losses, generator_loss, discriminator_loss = numbers.unbind()
        upscaler, discriminator = present(self._upscaler, "passes are captured first"), self._discriminator
        result = ObjectiveResult(
            losses=dict(zip(self._names, losses, strict=True)),
            generator_loss=upscaler.as_loss(generator_loss),
            discriminator_loss=None if discriminator is None else discriminator.as_loss(discriminator_loss),
            unrolled=Unrolled(
                sr_frames=sr_frames,
                lr_flow=lr_flow,
                hr_flow=hr_flow,
                warped=warped,
                return_flow=return_flow[0] if return_flow else None,
            ),
        )
        return Passed(lr_frames, hr_frames, result)

    def _recorded(self, module: nn.Module | None, loss: str) -> _Backward:
        weights = list(present(module, "a loss has a network").parameters())
        graph = self._graphs.new()

        def differentiated() -> list[Tensor]:
            return list(torch.autograd.grad(getattr(self._result, loss), weights))

        return _Backward(graph, weights, graph.record(differentiated))


def _outputs(lr_frames: Tensor, hr_frames: Tensor, result: ObjectiveResult) -> list[Tensor]:
    """All that is seen of a pass, in the order in which :meth:`CapturedPasses.__call__` takes it apart."""
    nothing = torch.zeros_like(result.generator_loss)
    roots = [nothing if root is None else root for root in (result.generator_loss, result.discriminator_loss)]
    numbers, unrolled = torch.stack([*result.losses.values(), *roots]), result.unrolled
    seen = [lr_frames, hr_frames, numbers, unrolled.sr_frames, unrolled.lr_flow, unrolled.hr_flow, unrolled.warped]
    seen += [] if unrolled.return_flow is None else [unrolled.return_flow]
    return [tensor.detach() for tensor in seen]


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """What cannot be captured as a :class:`UserError`; want of memory and lost workers stay what they are."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.distributed.DistError):
        raise
    except RuntimeError as error:
        if isinstance(error.__context__, torch.OutOfMemoryError):  # which the end of a broken capture has hidden
            raise error.__context__ from None
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"a step cannot be captured as a CUDA graph here ({printable(lines[0], limit=200)}): set cluster.compile "
            "to off."
        ) from error


class _Backward:
    """A network's backward pass: a graph, and the gradients that it fills."""

    def __init__(self, graph: Graph, weights: Sequence[Tensor], gradients: list[Tensor]) -> None:
        self._graph, self._weights, self._gradients = graph, weights, gradients

    def as_loss(self, value: Tensor) -> Tensor:
        """A 0-dim tensor of this value whose backward pass is this one."""
        loss: Tensor = _Replayed.apply(value, self, *self._weights)
        return loss

    def gradients(self, scale: Tensor) -> Sequence[Tensor]:
        """Those of the weights, times ``scale``: new tensors."""
        self._graph.replay()
        return torch._foreach_mul(self._gradients, scale)


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, replayed: _Backward, *weights: Tensor) -> Tensor:
        del weights  # they are given so that they get gradients
        ctx.replayed = replayed
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.replayed.gradients(gradient)

"""The recurrent step as a captured CUDA graph: its two hundred kernels are started by one call.

A replay reads and writes the same memory every time, so the frame and the state are copied in and the result out: three
copies on the device, which cost less than one layer of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from tecogan_dist.base.invariants import present

WARM_UPS = 3
"""Steps before the capture, in which libraries choose their kernels and take their workspaces (torch's notes on CUDA
graphs do as many)."""


class FrameNetwork(Protocol):
    """What runs one frame (1, 3, h, w) at a time: a :class:`RecurrentUpscaler` or what equals it."""

    def first_frame(self, lr_frame: Tensor) -> Tensor:
        """:meth:`RecurrentUpscaler.first_frame`."""
        ...

    def next_frame(self, lr_frame: Tensor, previous_lr: Tensor, previous_sr: Tensor) -> Tensor:
        """:meth:`RecurrentUpscaler.next_frame`."""
        ...


class GraphedUpscaler:
    """A network on CUDA whose ``next_frame`` is captured at its first call, for frames of that size and format.

    What is in force then (TF32, autocast without its cache) is in force in all replays. The graph keeps the memory of
    the step's features, beside what ``first_frame`` takes. Where memory runs out in the capture, that is raised; where
    the step cannot be captured for another reason, ``note`` gets a sentence that says so, and it runs kernel by kernel.
    """

    def __init__(self, network: FrameNetwork, *, note: Callable[[str], None]) -> None:
        self._network = network
        self._note = note
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._output: Tensor | None = None
        self._is_refused = False

    def first_frame(self, lr_frame: Tensor) -> Tensor:
        """Kernel by kernel: a scene has one."""
        return self._network.first_frame(lr_frame)

    def next_frame(self, lr_frame: Tensor, previous_lr: Tensor, previous_sr: Tensor) -> Tensor:
        """The same in one call; the result is the caller's."""
        inputs = (lr_frame, previous_lr, previous_sr)
        if self._graph is None and not self._is_refused:
            self._capture(inputs)
        if self._graph is None:
            return self._network.next_frame(*inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return present(self._output, "a captured step has an output").clone()

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        try:
            self._inputs = tuple(given.clone() for given in inputs)
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._network.next_frame(*self._inputs)
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # The outer block: a capture that fails leaves its own stream in force (torch 2.14, `graph.__exit__`).
            # Other threads, which read and write frames, may use CUDA meanwhile.
            with torch.cuda.stream(current), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._output = self._network.next_frame(*self._inputs)
            self._graph = graph
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._is_refused, self._inputs, self._output = True, (), None
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self._note(f"the network runs without a CUDA graph, which is slower for small frames: {reason}")

"""Who does the work of ``tecogan upscale``: this process, processes of this machine, or actors of Ray."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from tecogan_dist.base.console import say
from tecogan_dist.commands.upscale_options import request_of
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.upscaling import machine
from tecogan_dist.upscaling.beginning import begin
from tecogan_dist.upscaling.devices import device_here
from tecogan_dist.upscaling.job import Here, Job, Runner
from tecogan_dist.upscaling.processes import Processes
from tecogan_dist.upscaling.request import Opened, Request
from tecogan_dist.upscaling.spread import Spreading
from tecogan_dist.upscaling.workers import Workers
from tecogan_dist.upscaling.working import frozen

if TYPE_CHECKING:
    from tecogan_dist.upscaling.ray_cluster import Cluster

MANY = 10**9
"""Groups of segments, and frames, of many films: enough for whatever workers there are."""


@dataclass(frozen=True)
class Workforce:
    """What there is to work with."""

    options: argparse.Namespace
    device: torch.device
    """Of the model in this process."""
    cluster: Cluster | None

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """Where the network runs."""
        if self.cluster is not None:
            return self.cluster.device
        return "cuda" if self.device.type == "cuda" else "cpu"

    def request(self, options: argparse.Namespace) -> Request:
        """Of a film's options."""
        gpu = self.cluster.gpu if self.cluster is not None else None
        request = request_of(options, self.device, capability=gpu.capability if gpu else None)
        hardware = None if self.cluster is None else gpu is not None and gpu.encodes
        return replace(request, device=self.kind, threads=options.threads, hardware=hardware)

    def begin(self, request: Request, model: RecurrentUpscaler, opened: Opened, *, threads: int | None = None) -> Job:
        """Of :mod:`tecogan_dist.upscaling.beginning`, for as many threads as these workers have, or ``threads``."""
        if self.cluster is not None and self.kind == "cpu":
            threads = self.cluster.cpus
        return begin(
            request,
            model,
            opened=opened,
            restart=self.options.restart,
            may_replace=self.options.overwrite,
            most_processes=self.options.workers,
            threads=threads,
            gpu_free=self.cluster.gpu.free if self.cluster is not None and self.cluster.gpu else None,
        )

    def runner(self, job: Job, model: RecurrentUpscaler) -> Runner:
        """Of one film's segments."""
        cluster, workers = self.cluster, self.options.workers
        if cluster is not None:
            return Spreading(lambda groups: cluster.actors(frozen(model), workers=workers, groups=groups))
        choice = self._choice(job, model)
        if choice.processes > 1:
            if job.frames_done:
                say(machine.in_sentence(choice))
            count, threads = choice.processes, choice.threads
            return Spreading(lambda groups: Processes(frozen(model), count=min(count, groups), threads=threads))
        return Here(model=model)

    def processes(self, job: Job, model: RecurrentUpscaler) -> int:
        """Of this machine, that will make a film's segments."""
        return self._choice(job, model).processes

    def _choice(self, job: Job, model: RecurrentUpscaler) -> machine.Choice:
        threads = job.rendering.threads
        if self.kind != "cpu" or threads is None or not job.todo:
            return machine.Choice(1, threads or 1, "")
        height, width = low_resolution(job.opened, job.request, model)
        return machine.choose(
            model,
            height=height,
            width=width,
            frames=job.frames - job.frames_done,
            groups=len(job.todo),
            threads=threads,
            most=self.options.workers,
            tile=job.rendering.tile,
        )

    def pool(
        self, request: Request, opened: Opened, model: RecurrentUpscaler
    ) -> tuple[AbstractContextManager[Workers | None], int | None]:
        """Of many films, of which ``opened`` is the first, and the threads to plan them with.

        The pool is None where this process alone does the work.
        """
        cluster, workers = self.cluster, self.options.workers
        if cluster is not None:
            return cluster.actors(frozen(model), workers=workers, groups=MANY), None
        if self.kind != "cpu":
            return nullcontext(), None
        height, width = low_resolution(opened, request, model)
        choice = machine.choose(
            model,
            height=height,
            width=width,
            frames=MANY,
            groups=MANY,
            threads=request.threads,
            most=workers,
            tile=request.tile if isinstance(request.tile, int) else None,
        )
        say(machine.in_sentence(choice))
        if choice.processes == 1:
            return nullcontext(), choice.threads
        return Processes(frozen(model), count=choice.processes, threads=choice.threads), choice.threads


@contextlib.contextmanager
def workforce(options: argparse.Namespace) -> Iterator[Workforce]:
    """By the options, by $RAY_ADDRESS, and by what this machine has. Raises :class:`UserError`."""
    if not _uses_ray(options):
        yield Workforce(options, _device(options), None)
        return
    from tecogan_dist.upscaling.ray_cluster import cluster  # takes a second, and most do without

    with cluster(
        options.address,
        workers=options.workers,
        device=options.device,
        threads=options.threads,
        precision=options.precision,
        codec=options.codec,
    ) as found:
        yield Workforce(options, torch.device("cpu"), found)


def _uses_ray(options: argparse.Namespace) -> bool:
    """On a cluster, inside a job of one, where it is asked for ("local"), and for several GPUs of this machine."""
    if options.address or os.environ.get("RAY_ADDRESS", "local") != "local":
        return True
    several = options.device != "cpu" and torch.cuda.is_available() and torch.cuda.device_count() > 1
    is_look = options.preview is not None or options.estimate  # for which one GPU is enough
    return several and options.workers != 1 and not is_look


def _device(options: argparse.Namespace) -> torch.device:
    device = device_here(options.device, precision=options.precision)
    if device.type == "cuda" and (options.workers or 1) > 1:
        say("one process works with the one GPU: --workers is for CPUs, several GPUs, and clusters")
    return device


def low_resolution(opened: Opened, request: Request, model: RecurrentUpscaler) -> tuple[int, int]:
    """Height and width of what the network sees."""
    shrunk = model.scale if request.degrade else 1
    return -(-opened.source.height // shrunk), -(-opened.source.width // shrunk)

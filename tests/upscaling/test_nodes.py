"""What workers' machines say of themselves, and what is planned by it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands import upscale_options
from tecogan_dist.commands.upscale_workers import Workforce
from tecogan_dist.upscaling import processes, visible, working
from tecogan_dist.upscaling.beginning import begin
from tecogan_dist.upscaling.nodes import Gpu, check_package, hardware_encoder, node_here, tools
from tecogan_dist.upscaling.processes import Processes
from tecogan_dist.upscaling.ray_cluster import Cluster
from tecogan_dist.upscaling.request import Request, open_request
from tecogan_dist.upscaling.segment import Kept, SegmentResult
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.upscaling.tiles import frame_bytes, tile_bytes
from tecogan_dist.upscaling.workers import Event, Failed, Lost
from tecogan_dist.upscaling.working import Order
from tests.support.segments import film, moving_folder
from tests.support.upscaling import tiny_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_this_machine() -> None:
    node = node_here(CPU)
    check_package(node)
    assert node.tools == tools(CPU)
    assert node.tools["torch"] == torch.__version__
    assert set(node.tools) == {"torch", "PyAV", "the CPU"}
    with pytest.raises(UserError, match=r"has tecogan_dist 0\.0, and this command is of .*: install the same version"):
        check_package(replace(node, package="0.0"))


def test_with_a_gpu_its_name_and_cudnn_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    assert tools(CUDA) == {**tools(CPU), "cuDNN": "91002", "the GPU": "NVIDIA H100"}


@pytest.mark.parametrize(
    ("codec", "expected"), [("hevc_nvenc", "hevc_nvenc"), ("h265", None), ("nonsense", None), (None, None)]
)
def test_which_encoders_are_a_gpus(codec: str | None, expected: str | None) -> None:
    assert hardware_encoder(codec) == expected


def words(*more: str) -> Any:
    return upscale_options.parse([*more, "--codec", "hevc_nvenc"])


@pytest.mark.parametrize(
    ("gpu", "precision", "encoder"),
    [
        (Gpu(capability=(9, 0), free=10**12, encodes=True), "tf32", "hevc_nvenc"),
        (Gpu(capability=(7, 5), free=10**12, encodes=False), "fp32", "libx265"),
        (None, "fp32", "libx265"),
    ],
)
def test_a_clusters_gpu_says_what_is_planned(tmp_path: Path, gpu: Gpu | None, precision: str, encoder: str) -> None:
    options = words(str(moving_folder(tmp_path / "source")), str(tmp_path / "out.mp4"))
    options.input = options.inputs[0] if isinstance(options.inputs, list) else options.input
    cluster = Cluster("cuda" if gpu else "cpu", 1, 1, gpu)
    request = Workforce(options, CPU, cluster).request(options)
    assert (request.precision, request.device) == (precision, cluster.device)
    opened = open_request(request)
    assert opened.target.encoding is not None
    assert opened.target.encoding.encoder == encoder
    said = [note for note in opened.notes if "does not work on the machines that do the work" in note]
    assert bool(said) == (encoder == "libx265")


def test_tiles_fit_into_the_memory_of_others(tmp_path: Path) -> None:
    model = tiny_model()
    source = moving_folder(tmp_path / "source", height=96, width=320)
    request = Request(source=SourceOptions(path=source), output=tmp_path / "out", device="cuda")
    opened = open_request(request)
    each = tile_bytes(model, device=CUDA, precision="fp32")
    tiles = []
    for share in (0.2, 1.5):
        free = int((frame_bytes(model, 96, 320) + share * each * 96 * 320) / 0.75)
        job = begin(request, model, opened=opened, restart=True, gpu_free=free)
        tiles.append(job.rendering.tile)
    assert tiles == [64, None]
    with pytest.raises(UserError, match="even tile by tile, and the GPU has"):
        begin(request, model, opened=opened, restart=True, gpu_free=1000)


def test_a_process_whose_gpu_failed_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order, told = Order.of(film(moving_folder(tmp_path / "source"), tmp_path / "out").tasks[0]), list[Event]()
    for text in ("CUDA error: uncorrectable ECC error encountered\nCompile with", "CUDA error: out of memory"):

        def fail(*_: Any, text: str = text, **__: Any) -> SegmentResult:
            raise torch.AcceleratorError(text)

        monkeypatch.setattr(working, "upscale_segment", fail)
        working.work(order, tiny_model(), kept=Kept(), worker=0, tell=told.append, threads=None)
    lost, failed = told
    assert isinstance(lost, Lost)
    assert "failed (CUDA error: uncorrectable ECC error encountered)" in lost.reason
    assert isinstance(failed, Failed)  # memory, for which another process would be of no use

    started = list[int]()
    pool = Processes(b"", count=1, threads=1)
    monkeypatch.setattr(pool, "_start", started.append)
    ends = SimpleNamespace(kill=lambda: None, join=lambda _: None)
    here, there = processes.SPAWN.Pipe()
    there.send(lost)
    pool._processes[0] = processes._Process(ends, here, time.monotonic())  # type: ignore[arg-type]
    pool._take(0)
    assert (started, list(pool._events)) == ([0], [lost])


def test_files_of_others_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visible, "LOOK_SECONDS", 0.02)
    late = tmp_path / "late"
    writer = threading.Timer(0.2, late.touch)
    writer.start()
    assert visible.wait_for_all([tmp_path, late])
    writer.join()
    begun = time.monotonic()
    assert not visible.wait_for(tmp_path / "never", seconds=0.1)
    assert not visible.wait_for(tmp_path / "no folder" / "never")  # at once
    assert time.monotonic() - begun < 5

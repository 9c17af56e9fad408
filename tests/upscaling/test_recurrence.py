"""The streaming upscaler: frame order, state, sizes, memory, devices. Its numbers are checked in tests/parity."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.cudnn import cudnn_flags
from tecogan_dist.ops.degrade import degrade_frames
from tecogan_dist.ops.images import quantize, to_unit
from tecogan_dist.upscaling import recurrence as recurrence_module
from tecogan_dist.upscaling.graph import GraphedUpscaler
from tecogan_dist.upscaling.images import to_host, to_image
from tecogan_dist.upscaling.recurrence import Precision, Recurrence, State, Upscaled, default_precision
from tecogan_dist.upscaling.sequence import upscale_float, upscale_frames

CPU = torch.device("cpu")
SMALL = ModelConfig(blocks=1, channels=8, flow_width=4, output_init_scale=0.5)


@pytest.fixture(scope="module")
def model() -> RecurrentUpscaler:
    """A small network with a flow of some pixels and an output that depends on the past."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build_upscaler(SMALL)
    return network.to(memory_format=torch.channels_last)


def clip(frames: int, *, height: int = 16, width: int = 24) -> Tensor:
    """(T, H, W, 3) uint8 noise."""
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=generator)


def unit(frame: Tensor) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W), 0..1."""
    return frame.permute(2, 0, 1).unsqueeze(0) / 255


@torch.no_grad()
def by_hand(model: RecurrentUpscaler, frames: list[Tensor]) -> list[Tensor]:
    """Outputs (3, 4 h, 4 w), 0..1, of LR frames (1, 3, h, w) run in the given order."""
    outputs = [model.first_frame(frames[0])]
    for previous, frame in itertools.pairwise(frames):
        outputs.append(model.next_frame(frame, previous, outputs[-1]))
    return [to_unit(output[0]) for output in outputs]


def sr_frames(upscaled: Iterator[Upscaled]) -> Tensor:
    return torch.stack([frame.sr_frame for frame in upscaled])


@pytest.mark.parametrize("count", [6, 9])
def test_five_frames_in_reverse_warm_up_the_first(model: RecurrentUpscaler, count: int) -> None:
    frames = clip(count)
    order = [5, 4, 3, 2, 1, *range(count)]
    expected = torch.stack(by_hand(model, [unit(frames[i]) for i in order])[5:])
    result = sr_frames(upscale_float(model, frames, device=CPU))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_short_sequence_loses_no_frame(model: RecurrentUpscaler, count: int) -> None:
    frames = clip(count)
    order = [*range(count - 1, 0, -1), *range(count)]
    expected = torch.stack(by_hand(model, [unit(frames[i]) for i in order])[-count:])
    result = sr_frames(upscale_float(model, frames, device=CPU))
    assert len(result) == count
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_without_warm_up_the_first_frame_has_no_past(model: RecurrentUpscaler) -> None:
    frames = clip(3)
    result = sr_frames(upscale_float(model, frames, device=CPU, warm_up=0))
    torch.testing.assert_close(result, torch.stack(by_hand(model, [unit(f) for f in frames])), atol=1e-5, rtol=0)
    warmed = sr_frames(upscale_float(model, frames, device=CPU))
    assert (warmed[0] - result[0]).abs().max() > 0.01


def test_images_are_the_floats_truncated(model: RecurrentUpscaler) -> None:
    frames = clip(4, height=13, width=19)
    floats = sr_frames(upscale_float(model, frames, device=CPU))
    images = list(upscale_frames(model, frames, device=CPU))
    assert images[0].shape == (52, 76, 3)
    assert floats.min() < 0  # something for the clipping to do
    assert torch.equal(torch.stack(images), quantize(floats).permute(0, 2, 3, 1))


def test_float_frames_equal_uint8_frames(model: RecurrentUpscaler) -> None:
    frames = clip(2)
    assert torch.equal(
        sr_frames(upscale_float(model, frames / 255, device=CPU)), sr_frames(upscale_float(model, frames, device=CPU))
    )


@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 70), (61, 33)])
def test_degraded_input(model: RecurrentUpscaler, height: int, width: int) -> None:
    frames = clip(2, height=height, width=width)
    upscaled = list(upscale_float(model, frames, device=CPU, degrade="BD"))
    lr_height, lr_width = -(-height // 4), -(-width // 4)
    for frame, source in zip(upscaled, frames, strict=True):
        assert frame.lr_frame.shape == (3, lr_height, lr_width)
        assert frame.sr_frame.shape == (3, 4 * lr_height, 4 * lr_width)
        torch.testing.assert_close(frame.lr_frame, degrade_frames(unit(source), "BD", 4)[0])
    from_lr = upscale_float(model, [frame.lr_frame.permute(1, 2, 0) for frame in upscaled], device=CPU)
    torch.testing.assert_close(sr_frames(iter(upscaled)), sr_frames(from_lr))


@pytest.mark.parametrize("degradation", ["BD", "BI"])
@pytest.mark.parametrize(("scale", "height", "width"), [(2, 31, 20), (2, 15, 16), (4, 61, 33)])
def test_degradations_at_both_scales(degradation: Degradation, scale: Literal[2, 4], height: int, width: int) -> None:
    torch.manual_seed(0)
    network = build_upscaler(replace(SMALL, output_init_scale=1.0, scale=scale), degradation=degradation)
    frames = clip(2, height=height, width=width)
    upscaled = list(upscale_float(network, frames, device=CPU, degrade=degradation))
    for frame, source in zip(upscaled, frames, strict=True):
        pixels = source.permute(2, 0, 1)[None]
        assert torch.equal(frame.lr_frame, degrade_frames(pixels, degradation, scale)[0])
        assert frame.sr_frame.shape == (3, -(-height // scale) * scale, -(-width // scale) * scale)
    small = [frame.lr_frame.permute(1, 2, 0) for frame in upscaled]
    torch.testing.assert_close(sr_frames(iter(upscaled)), sr_frames(upscale_float(network, small, device=CPU)))
    with pytest.raises(UserError, match="too small"):
        next(upscale_frames(network, clip(1, height=7 * scale, width=64), device=CPU, degrade=degradation))


def test_bf16_stays_close_to_fp32(model: RecurrentUpscaler) -> None:
    frames = clip(4, height=16, width=160)
    full = sr_frames(upscale_float(model, frames, device=CPU))
    half = sr_frames(upscale_float(model, frames, device=CPU, precision="bf16"))
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().mean() < 0.01


def test_frames_are_drawn_and_dropped_one_by_one(model: RecurrentUpscaler) -> None:
    """Whatever the length, no more than a handful of frames is alive: hours of video fit in memory."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most_alive = drawn = 0

    def frames() -> Iterator[Tensor]:
        nonlocal drawn, most_alive
        for _ in range(40):
            frame = clip(1)[0]
            alive.add(frame)
            most_alive = max(most_alive, len(alive))
            drawn += 1
            yield frame
            del frame

    images = upscale_frames(model, frames(), device=CPU)
    next(images)
    assert drawn <= 8  # the warm-up's frames and the one that is computed meanwhile
    assert sum(1 for _ in images) == 39
    assert drawn == 40
    assert most_alive <= 8


def test_the_callers_autograd_mode_is_left_alone(model: RecurrentUpscaler) -> None:
    for _ in upscale_frames(model, clip(2), device=CPU):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_to_host_keeps_order_and_count() -> None:
    batches = [(torch.tensor(i), torch.tensor(-i)) for i in range(5)]
    assert [(int(a), int(b)) for a, b in to_host(batches)] == [(i, -i) for i in range(5)]
    assert list(to_host([])) == []


def test_no_frame_is_refused(model: RecurrentUpscaler) -> None:
    with pytest.raises(UserError, match="no frame"):
        next(upscale_frames(model, [], device=CPU))


@pytest.mark.parametrize(("height", "width", "degrade"), [(7, 30, None), (30, 7, None), (28, 64, "BD"), (3, 3, "BD")])
def test_frames_below_8_low_resolution_pixels_are_refused(
    model: RecurrentUpscaler, height: int, width: int, degrade: Degradation | None
) -> None:
    with pytest.raises(UserError, match="too small"):
        next(upscale_frames(model, clip(1, height=height, width=width), device=CPU, degrade=degrade))


def test_the_smallest_frames(model: RecurrentUpscaler) -> None:
    assert next(upscale_frames(model, clip(2, height=8, width=8), device=CPU)).shape == (32, 32, 3)
    degraded = upscale_frames(model, clip(2, height=29, width=29), device=CPU, degrade="BD")
    assert next(degraded).shape == (32, 32, 3)


def test_mixed_sizes_are_refused(model: RecurrentUpscaler) -> None:
    frames = [clip(1)[0], clip(1, height=32)[0]]
    with pytest.raises(UserError, match="24x16 and of 24x32"):
        list(upscale_frames(model, frames, device=CPU, warm_up=0))


def upscaled_by(recurrence: Recurrence, frames: Tensor) -> Tensor:
    return torch.stack([recurrence.step(frame).sr_frame for frame in frames])


@pytest.mark.parametrize("settings", [{}, {"degradation": "BD"}, {"precision": "bf16"}, {"tile": 64}])
def test_a_restored_state_goes_on_bit_for_bit(model: RecurrentUpscaler, settings: dict[str, Any]) -> None:
    frames = clip(6, height=72, width=84)
    straight = Recurrence(model, size=(72, 84), device=CPU, **settings)
    assert straight.export_state() is None
    expected = upscaled_by(straight, frames)
    before = Recurrence(model, size=(72, 84), device=CPU, **settings)
    upscaled_by(before, frames[:3])
    state = before.export_state()
    assert state is not None
    assert state.lr_frame.dtype == state.sr_frame.dtype == torch.float32
    upscaled_by(before, frames[3:])  # a copy: what comes later does not change it
    state = State(*(torch.from_numpy(tensor.numpy().copy()) for tensor in state))  # as through a file
    after = Recurrence(model, size=(72, 84), device=CPU, **settings)
    after.restore(state)
    assert torch.equal(upscaled_by(after, frames[3:]), expected[3:])
    after.reset()
    assert torch.equal(upscaled_by(after, frames), expected)
    without_past = Recurrence(model, size=(72, 84), device=CPU, **settings).step(frames[3]).sr_frame
    assert not torch.equal(without_past, expected[3])


def test_a_state_of_another_size_is_refused(model: RecurrentUpscaler) -> None:
    recurrence = Recurrence(model, size=(16, 24), device=CPU)
    recurrence.step(clip(1)[0])
    state = recurrence.export_state()
    assert state is not None
    for size, degradation in (((24, 16), None), ((16, 32), None), ((64, 64), "BD")):
        other = Recurrence(model, size=size, device=CPU, degradation=cast(Degradation | None, degradation))
        with pytest.raises(UserError, match="another size"):
            other.restore(state)
    with pytest.raises(UserError, match="at least 64"):
        Recurrence(model, size=(16, 24), device=CPU, tile=63)


def test_frames_of_16_bits_are_those_of_8_and_what_lies_between(model: RecurrentUpscaler) -> None:
    shallow = clip(3)
    deep = (shallow.int() * 257).to(torch.uint16)
    recurrences = [Recurrence(model, size=(16, 24), device=CPU) for _ in range(2)]
    a, b = (upscaled_by(recurrence, frames) for recurrence, frames in zip(recurrences, (shallow, deep), strict=True))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_levels_of_images() -> None:
    values = torch.tensor([-0.1, 0.0, 0.5, 0.999, 1.0, 1.2]).view(1, 1, 6).expand(3, 1, 6)
    assert to_image(values)[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]
    assert to_image(values, rounds=True)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]
    assert to_image(values, deep=True)[0, :, 0].tolist() == [0, 0, 32767, 65469, 65535, 65535]
    assert to_image(values, deep=True, rounds=True)[0, :, 0].tolist() == [0, 0, 32768, 65469, 65535, 65535]
    assert to_image(values, deep=True).dtype == torch.uint16


def test_where_memory_runs_out_tiles_become_smaller_and_nothing_is_forgotten(model: RecurrentUpscaler) -> None:
    """With the error that torch's own allocator raises."""
    frames = clip(4, height=24, width=200)
    expected = upscaled_by(Recurrence(model, size=(24, 200), device=CPU), frames)
    notes: list[str] = []
    recurrence = Recurrence(model, size=(24, 200), device=CPU, note=notes.append)
    most = 1000

    def needs_memory(_: object, inputs: tuple[Tensor]) -> None:
        if inputs[0].shape[-1] > most:
            torch.empty(1 << 60)

    hook = model.generator.input.register_forward_pre_hook(needs_memory)
    try:
        results = [recurrence.step(frames[0]).sr_frame, recurrence.step(frames[1]).sr_frame]
        assert recurrence.tile is None
        most = 70
        results += [recurrence.step(frame).sr_frame for frame in frames[2:]]
        assert recurrence.tile == 64
        assert notes == [
            "whole frames do not fit into memory: going on with tiles of 96 (--tile 96 begins with them)",
            "tiles of 96 do not fit into memory: going on with tiles of 64 (--tile 64 begins with them)",
        ]
        torch.testing.assert_close(torch.stack(results), expected, atol=1e-4, rtol=0)
        most = 50
        state = recurrence.export_state()
        with pytest.raises(UserError, match="even in tiles of 64"):
            recurrence.step(frames[0])
        kept = recurrence.export_state()
        assert state is not None
        assert kept is not None
        assert torch.equal(kept.sr_frame, state.sr_frame)
    finally:
        hook.remove()


def test_another_error_is_no_lack_of_memory(model: RecurrentUpscaler) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("the sizes do not fit")

    hook = model.generator.input.register_forward_pre_hook(fails)
    try:
        with pytest.raises(RuntimeError, match="do not fit"):
            Recurrence(model, size=(16, 24), device=CPU).step(clip(1)[0])
    finally:
        hook.remove()


def cudnn_now() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark


@pytest.mark.parametrize("outside", [{"benchmark": True}, {"benchmark": True, "allow_tf32": False}])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_step_is_repeatable_in_its_precision_and_leaves_others_theirs(
    model: RecurrentUpscaler, precision: Precision, outside: dict[str, bool]
) -> None:
    seen: list[tuple[bool, ...]] = []
    fails = False

    def observe(*_: object) -> None:
        seen.append(cudnn_now())
        if fails:
            raise RuntimeError("the sizes do not fit")

    hook = model.generator.input.register_forward_pre_hook(observe)
    try:
        with cudnn_flags(**outside):
            before = cudnn_now()
            recurrence = Recurrence(model, size=(64, 64), device=CPU, precision=precision, degradation="BD")
            upscaled_by(recurrence, clip(2, height=64, width=64))
            assert cudnn_now() == before
            fails = True
            with pytest.raises(RuntimeError, match="do not fit"):
                recurrence.step(clip(1, height=64, width=64)[0])
            assert cudnn_now() == before
    finally:
        hook.remove()
    assert seen == [(True, precision == "tf32", True, False)] * 3


class FullGraph(GraphedUpscaler):
    """One that takes more memory than there is."""

    def _capture(self, *_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_graph_is_given_up_before_whole_frames_are(model: RecurrentUpscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, notes = clip(3, height=72, width=84), list[str]()
    expected = upscaled_by(Recurrence(model, size=(72, 84), device=CPU), frames)
    monkeypatch.setattr(recurrence_module, "GraphedUpscaler", FullGraph)
    recurrence = Recurrence(model, size=(72, 84), device=CPU, note=notes.append)
    recurrence._graph = True  # as on CUDA
    recurrence._network = recurrence._make_network()
    assert torch.equal(upscaled_by(recurrence, frames), expected)
    assert recurrence.tile is None
    assert len(notes) == 1
    assert "CUDA out of memory" in notes[0]
    assert notes[0].endswith("going on with whole frames, without it")
    recurrence.shrink("memory is full beside the network")
    assert recurrence.tile == 64
    assert notes[1].startswith("whole frames do not fit into memory")


class Streams:
    """In place of CUDA's: which one is in force. As in torch 2.14, a capture that fails at its end leaves its own."""

    def __init__(self) -> None:
        self.now: object = self

    def wait_stream(self, _: object) -> None:
        """They are all the same."""

    @contextlib.contextmanager
    def stream(self, other: object) -> Iterator[None]:
        before, self.now = self.now, other
        try:
            yield
        finally:
            self.now = before

    @contextlib.contextmanager
    def graph(self, *_: object, **__: object) -> Iterator[None]:
        self.now = "capture"
        yield
        raise RuntimeError("operation failed due to a previous error during capture")


def test_a_capture_that_fails_leaves_the_stream_as_it_was(
    model: RecurrentUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, notes = Streams(), list[str]()
    monkeypatch.setattr(torch.cuda, "Stream", lambda: streams)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams.now)
    monkeypatch.setattr(torch.cuda, "stream", streams.stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", streams.graph)
    inputs = [torch.rand(1, 3, side, side) for side in (16, 16, 64)]
    with torch.inference_mode():
        result = GraphedUpscaler(model, note=notes.append).next_frame(*inputs)
        assert torch.equal(result, model.next_frame(*inputs))
    assert streams.now is streams
    assert notes == [
        "the network runs without a CUDA graph, which is slower for small frames: operation failed due to a previous "
        "error during capture"
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a graph can be captured here")
def test_a_step_that_cannot_be_captured_runs_nonetheless_and_says_so(model: RecurrentUpscaler) -> None:
    frame, before, output = (torch.rand(1, 3, side, side) for side in (16, 16, 64))
    notes: list[str] = []
    graphed = GraphedUpscaler(model, note=notes.append)
    with torch.inference_mode():
        for _ in range(2):
            result = graphed.next_frame(frame, before, output)
            assert torch.equal(result, model.next_frame(frame, before, output))
    assert len(notes) == 1
    assert notes[0].startswith("the network runs without a CUDA graph")


def test_precision_without_a_gpu() -> None:
    assert default_precision(CPU) == ("fp32", "the network runs in fp32")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_captured_graph_equals_single_kernels(precision: Precision) -> None:
    """Over scenes and restored states: a replay that read old memory, or overwrote a result, would differ."""
    cuda = torch.device("cuda")
    torch.manual_seed(0)
    network = build_upscaler(SMALL).to(cuda).to(memory_format=torch.channels_last)
    frames, notes = clip(12, height=61, width=96), list[str]()
    results = []
    for graph in (True, False):
        recurrence = Recurrence(
            network, size=(61, 96), device=cuda, precision=precision, graph=graph, note=notes.append
        )
        outputs = [recurrence.step(frame).sr_frame for frame in frames[:6]]
        state = recurrence.export_state()
        assert state is not None
        recurrence.reset()
        outputs += [recurrence.step(frame).sr_frame for frame in frames]
        recurrence.restore(state)
        outputs += [recurrence.step(frame).sr_frame for frame in frames[6:]]
        results.append(torch.stack(outputs).cpu())
    assert notes == []
    assert torch.equal(results[0], results[1])  # where memory runs out, the one goes on for the other


@pytest.mark.gpu
def test_after_a_capture_that_fails_the_stream_is_as_before() -> None:
    cuda = torch.device("cuda")
    torch.manual_seed(0)
    network = build_upscaler(SMALL).to(cuda).to(memory_format=torch.channels_last)
    frames, notes = clip(4), list[str]()
    expected = upscaled_by(Recurrence(network, size=(16, 24), device=cuda, graph=False), frames)
    before = torch.cuda.current_stream()

    def waits(_: object, inputs: tuple[Tensor]) -> None:
        inputs[0].sum().item()  # waits for the GPU, which no capture allows

    hook = network.generator.input.register_forward_pre_hook(waits)
    try:
        result = upscaled_by(Recurrence(network, size=(16, 24), device=cuda, note=notes.append), frames)
    finally:
        hook.remove()
    assert torch.cuda.current_stream() == before
    assert len(notes) == 1
    assert notes[0].startswith("the network runs without a CUDA graph")
    assert torch.equal(result, expected)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("tf32", 1e-2), ("bf16", 5e-2)])
def test_precisions_on_cuda(precision: Precision, tolerance: float) -> None:
    """The tolerances are for a small random network whose memory magnifies what rounding does."""
    cuda = torch.device("cuda")
    torch.manual_seed(0)
    network = build_upscaler(SMALL)
    frames = clip(8, height=72, width=96)
    expected = upscaled_by(Recurrence(network, size=(72, 96), device=CPU), frames)
    network = network.to(cuda).to(memory_format=torch.channels_last)
    for tile in (None, 64):
        recurrence = Recurrence(network, size=(72, 96), device=cuda, precision=precision, tile=tile)
        result = upscaled_by(recurrence, frames).cpu()
        assert (result - expected).abs().mean() < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("degrade", [None, "BD"])
def test_cuda_equals_cpu(degrade: Degradation | None) -> None:
    """Many frames through the side streams: a frame read too early or overwritten would differ."""
    cuda = torch.device("cuda")
    torch.manual_seed(0)
    network = build_upscaler(SMALL)
    frames = clip(30, height=64, width=96)
    expected = torch.stack(list(upscale_frames(network, frames, device=CPU, degrade=degrade)))
    network = network.to(cuda).to(memory_format=torch.channels_last)
    result = torch.stack(list(upscale_frames(network, frames, device=cuda, degrade=degrade)))
    assert result.device == CPU
    assert (result.int() - expected.int()).abs().max() <= 1
    floats = upscale_float(network, frames.cuda(), device=cuda, degrade=degrade)
    on_device = torch.stack([to_image(frame.sr_frame) for frame in floats])
    assert torch.equal(on_device.cpu(), result)

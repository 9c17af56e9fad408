"""The network as a CPU runs it best against the network as it is trained: the same numbers but for rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models import inference
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.models.inference import for_inference
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops.resampling import warp

KINDS: list[dict[str, Any]] = [{}, {"scale": 2}, {"arithmetic": "pytorch_port"}]


def network(**settings: Any) -> RecurrentUpscaler:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return build_upscaler(ModelConfig(blocks=2, channels=16, flow_width=8, **settings)).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (13, 19), (40, 48), (31, 9)])
def test_the_same_numbers(kind: dict[str, Any], height: int, width: int, layout: torch.memory_format) -> None:
    model = network(**kind)
    quick = for_inference(model.to(memory_format=layout))
    frame, before = noise(1, 3, height, width), noise(1, 3, height, width, seed=1)
    output = noise(1, 3, model.scale * height, model.scale * width, seed=2) * 2 - 1
    first, following = model.first_frame(frame), model.next_frame(frame, before, output)
    frame, before, output = (x.contiguous(memory_format=layout) for x in (frame, before, output))
    torch.testing.assert_close(quick.first_frame(frame), first, atol=2e-5, rtol=0)
    torch.testing.assert_close(quick.next_frame(frame, before, output), following, atol=2e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("rows", [1, 6, 7, 20, 39, 1000])
def test_strips_of_any_height_meet(kind: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "STRIP_BYTES", 0)
    monkeypatch.setattr(inference, "FEWEST_ROWS", rows)
    model = network(**kind)
    frame = noise(1, 3, 40, 24)
    torch.testing.assert_close(for_inference(model).first_frame(frame), model.first_frame(frame), atol=2e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("reach", [0.3, 5.0, 500.0])
def test_the_past_is_sampled_with_the_very_numbers_of_warp(reach: float) -> None:
    frames, flow = noise(1, 3, 37, 21) * 2 - 1, (noise(1, 2, 37, 21, seed=1) - 0.5) * 2 * reach
    flow[..., 3, 4] = 0
    flow[..., 5, 6] = 2
    assert torch.equal(inference._sample(frames, flow), warp(frames, flow))
    layout = torch.channels_last
    assert torch.equal(inference._sample(frames.contiguous(memory_format=layout), flow), warp(frames, flow))


def test_a_flow_that_is_no_number_becomes_no_index() -> None:
    flow = torch.full((1, 2, 8, 8), torch.nan)
    assert inference._sample(noise(1, 3, 8, 8), flow).isnan().all()


def test_the_model_stays_as_it_was() -> None:
    """Training validates with it."""
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    modules = dict(model.named_modules())
    with torch.inference_mode():
        quick = for_inference(model)
        quick.first_frame(noise(1, 3, 16, 16))
    assert dict(model.named_modules()) == modules
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trained
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.warp is warp
    model.first_frame(noise(1, 3, 16, 16)).sum().backward()


@torch.inference_mode()
@pytest.mark.parametrize("half", [False, True])
def test_methods_that_the_model_alone_has_got_stay_with_it(half: bool) -> None:
    """As those of ``cluster.compile``, whose run validates with it."""
    model = network()
    frame = noise(1, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        expected = for_inference(model, half=half).first_frame(frame)

        def others(*_: Tensor) -> Tensor:
            raise AssertionError("not of the copy")

        for module, name in ((model, "_after"), (model, "first_frame"), (model.flow, "forward")):
            setattr(module, name, others)
        quick = for_inference(model, half=half)
        assert torch.equal(quick.first_frame(frame), expected)
        quick.next_frame(frame, frame, expected)
    assert model.first_frame is others
    assert model.flow.forward is others


@torch.inference_mode()
def test_bf16() -> None:
    model = network()
    frame = noise(1, 3, 24, 24)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model.first_frame(frame)
        cast_each_time, cast_once = (for_inference(model, half=half).first_frame(frame) for half in (False, True))
    for ours in (cast_each_time, cast_once):
        assert ours.dtype == torch.float32
        assert (ours - expected).abs().mean() < 0.01
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    once = for_inference(model, half=True)
    assert {weight.dtype for weight in once.parameters()} == {torch.bfloat16}

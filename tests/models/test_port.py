"""The arithmetic of TecoGAN-PyTorch as a model: one frame at a time and unrolled, by formulas written down again."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tecogan_dist.config.degradations import Degradation
from tecogan_dist.config.schema import Config, DataConfig, DiscriminatorConfig, LossConfig, ModelConfig
from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.inference import for_inference
from tecogan_dist.models.port import PortUpscaler
from tecogan_dist.models.probe import gives_pictures
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.sizes import parameter_count
from tecogan_dist.models.tiles import TiledUpscaler
from tecogan_dist.training.objective import Objective, ObjectiveResult

torch.set_num_threads(1)

FLOW_ONLY = LossConfig(perceptual=0.0, adversarial=0.0, feature_match=0.0, pingpong=0.0)
SMALL = ModelConfig(blocks=1, channels=8, flow_width=4, arithmetic="pytorch_port")


def port(degradation: Degradation = "BD", *, scale: Literal[4, 2] = 4, seed: int = 3) -> RecurrentUpscaler:
    torch.manual_seed(seed)
    return build_upscaler(dataclasses.replace(SMALL, scale=scale), degradation=degradation).eval()


def slope(height: int, width: int) -> Tensor:
    """(1, 3, height, width), 0..1, smooth."""
    rows, columns = torch.linspace(0, 3, height).view(-1, 1), torch.linspace(0, 2, width).view(1, -1)
    return torch.stack([rows.sin() * columns.cos(), (rows + columns).sin(), (rows * columns).cos()])[None] / 2 + 0.5


def test_a_setting_chooses_it_and_nothing_else_changes() -> None:
    assert isinstance(port(), PortUpscaler)
    original = build_upscaler(dataclasses.replace(SMALL, arithmetic="original"))
    assert not isinstance(original, PortUpscaler)
    assert (original.warm_up, original.rounds) == (5, False)
    assert (port().warm_up, port().rounds) == (0, True)
    state = port().state_dict()
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in original.state_dict().items()}
    assert parameter_count(SMALL) == sum(tensor.numel() for tensor in state.values())
    assert gives_pictures(state, SMALL)
    assert not gives_pictures({name: tensor * 1e30 for name, tensor in state.items()}, SMALL)


@torch.no_grad()
@pytest.mark.parametrize("degradation", ["BD", "BI"])
def test_equal_weights_give_other_pictures_in_the_original(degradation: Degradation) -> None:
    model = port(degradation)
    original = build_upscaler(dataclasses.replace(SMALL, arithmetic="original"), degradation=degradation).eval()
    original.load_state_dict(model.state_dict())
    frame = slope(16, 24)
    assert (model.first_frame(frame) - original.first_frame(frame)).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(16, 24), (8, 8), (15, 23), (9, 8)])
@pytest.mark.parametrize("degradation", ["BD", "BI"])
def test_zeros_for_the_previous_frame_are_no_previous_frame(height: int, width: int, degradation: Degradation) -> None:
    """So the port begins a sequence: with zeros, of 0..1, through the flow network and the warp."""
    model = port(degradation)
    frame = slope(height, width)
    nothing = -torch.ones(1, 3, 4 * height, 4 * width)
    torch.testing.assert_close(
        model.next_frame(frame, torch.zeros_like(frame), nothing), model.first_frame(frame), rtol=0, atol=0
    )


@torch.no_grad()
def test_transposed_convolutions_are_torchs_with_padding() -> None:
    layer = port().generator.up1
    x = torch.rand(1, 8, 5, 6)
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1, output_padding=1)
    torch.testing.assert_close(layer(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("scale", [4, 2])
def test_a_step_by_the_ports_formulas(scale: Literal[4, 2]) -> None:
    """Everything between the layers, written down once more as the port has it: 0..1, columns first, p + flow."""
    model = port("BI", scale=scale)
    with torch.no_grad():
        model.flow.output.conv2.weight.mul_(100)  # flow of some pixels
    h, w = 13, 21
    previous, current = slope(h, w), slope(h, w).flip(-1)
    previous_sr = F.interpolate(previous, scale_factor=scale)

    x = torch.cat([current, previous], dim=1)
    for level in model.flow.encoder:
        x = F.max_pool2d(F.leaky_relu(level(x), 0.2), 2)
    for level in model.flow.decoder:
        x = F.interpolate(F.leaky_relu(level(x), 0.2), scale_factor=2, mode="bilinear", align_corners=False)
    flow = F.pad(24 * torch.tanh(model.flow.output(x)), (0, w % 8, 0, h % 8), mode="reflect")
    flow = scale * F.interpolate(flow, scale_factor=scale, mode="bilinear", align_corners=False)
    height, width = scale * h, scale * w
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    places = torch.stack([columns + flow[0, 0] / ((width - 1) / 2), rows + flow[0, 1] / ((height - 1) / 2)], dim=-1)
    warped = F.grid_sample(previous_sr, places[None], padding_mode="border", align_corners=True)
    folded = warped.view(1, 3, h, scale, w, scale).permute(0, 3, 5, 1, 2, 4).reshape(1, -1, h, w)

    generator = model.generator
    x = F.relu(generator.input(torch.cat([current, folded], dim=1)))
    for block in generator.blocks:
        x = block(x)
    for up in (generator.up1, generator.up2):
        if up is not None:
            x = F.relu(F.conv_transpose2d(x, up.weight, up.bias, stride=2, padding=1, output_padding=1))
    expected = generator.output(x) + F.interpolate(current, scale_factor=scale, mode="bilinear", align_corners=False)
    found = model.next_frame(current, previous, previous_sr * 2 - 1)
    assert flow.abs().max() > 0.5
    torch.testing.assert_close((found + 1) / 2, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("degradation", ["BD", "BI"])
def test_unrolled_as_frame_by_frame(degradation: Degradation) -> None:
    model = port(degradation)
    frames = torch.stack([slope(16, 24).roll(shift, -1) for shift in range(4)], dim=1)
    unrolled = model(frames, with_return_flow=True)
    expected = [model.first_frame(frames[:, 0])]
    for i in range(1, 4):
        expected.append(model.next_frame(frames[:, i], frames[:, i - 1], expected[-1]))
    torch.testing.assert_close(unrolled.sr_frames, torch.stack(expected, dim=1), rtol=0, atol=1e-5)
    assert unrolled.return_flow is not None
    backwards = model(frames[:, :3].flip(1))
    torch.testing.assert_close(unrolled.return_flow[:, 0], backwards.hr_flow[:, 0], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("degradation", "scale"), [("BD", 4), ("BI", 2)])
def test_the_forms_for_upscaling_take_it(degradation: Degradation, scale: Literal[4, 2]) -> None:
    """In strips and by tiles, which know the layers and hooks of both arithmetics."""
    model = port(degradation, scale=scale)
    model.flow.output.conv2.weight.mul_(100)
    quick = for_inference(model)
    previous, current = slope(67, 90), slope(67, 90).roll(3, -1)
    first = model.first_frame(previous)
    expected = model.next_frame(current, previous, first)
    for form in (quick, TiledUpscaler(quick, 64)):
        torch.testing.assert_close(form.first_frame(previous), first, rtol=0, atol=1e-5)
        torch.testing.assert_close(form.next_frame(current, previous, first), expected, rtol=0, atol=1e-4)


def test_training_finds_the_movement_and_reaches_every_weight() -> None:
    """The losses take the flow for what it is: a picture that moves left by a low-resolution pixel each frame."""
    torch.manual_seed(0)
    picture = F.interpolate(torch.rand(1, 3, 20, 20), scale_factor=4, mode="bicubic").clamp(0, 1)
    high = torch.stack([picture[..., 8:72, 4 * i : 64 + 4 * i] for i in range(3)], dim=1)
    low = F.avg_pool2d(high.flatten(0, 1), 4).unflatten(0, (1, 3))
    model = port("BI").train()
    data = DataConfig(sequence_length=3, crop_size=16, degradation="BI")
    discriminator = build_discriminator(DiscriminatorConfig())

    def objective(loss: LossConfig) -> ObjectiveResult:
        judge = discriminator if loss.adversarial else None
        return Objective(Config(model=SMALL, loss=loss, data=data), vgg=None)(
            upscaler=model,
            discriminator=judge,
            discriminator_module=judge,
            lr_frames=low,
            hr_frames=high * 2 - 1,
            fade_in=1.0,
        )

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = objective(FLOW_ONLY)
    for _ in range(60):
        optimizer.zero_grad()
        objective(FLOW_ONLY).generator_loss.backward()
        optimizer.step()
    after = objective(FLOW_ONLY)
    assert after.losses["warp"] < 0.2 * before.losses["warp"]
    assert after.losses["content"] < before.losses["content"]
    rows, columns = after.unrolled.lr_flow.mean((0, 1, 3, 4))
    assert abs(rows) < 0.1
    assert abs(columns + 1) < 0.1

    optimizer.zero_grad()
    result = objective(LossConfig(perceptual=0.0))
    result.generator_loss.backward()
    assert set(result.losses) >= {"pingpong", "adversarial", "feature_match", "balance"}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name

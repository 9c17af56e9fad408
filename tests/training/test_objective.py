"""The objective where the original cannot judge: memory-saving forms, isolation of the networks, variants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tecogan_dist.config.degradations import Degradation
from tecogan_dist.config.schema import Config, DataConfig, DiscriminatorConfig, LossConfig, ModelConfig
from tecogan_dist.data.stream.windows import crop_side, window_config
from tecogan_dist.models.build import build_discriminator, build_upscaler
from tecogan_dist.models.discriminator import BatchNorm, Discriminator
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.models.vgg import Vgg19
from tecogan_dist.ops.degrade import windows_to_frames
from tecogan_dist.ops.images import to_unit
from tecogan_dist.ops.resampling import resize_bilinear
from tecogan_dist.training import losses
from tecogan_dist.training.objective import Judgement, Objective, ObjectiveResult, mirror, triplets
from tecogan_dist.weights.vgg import build_vgg, read_vgg

SMALL = Config(
    model=ModelConfig(blocks=1, channels=8, flow_width=4),
    loss=LossConfig(perceptual=0.0),
    data=DataConfig(sequence_length=4, crop_size=16),
)


def windows(config: Config, samples: int = 2) -> Tensor:
    side = crop_side(window_config(config))
    shape = (samples, config.data.sequence_length, side, side, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def frames_of(config: Config) -> tuple[Tensor, Tensor]:
    return windows_to_frames(windows(config), degradation=config.data.degradation, scale=config.model.scale)


def networks(config: Config) -> tuple[RecurrentUpscaler, Discriminator]:
    torch.manual_seed(3)
    upscaler = build_upscaler(config.model, degradation=config.data.degradation)
    return upscaler, build_discriminator(config.discriminator)


def evaluate(
    config: Config,
    upscaler: RecurrentUpscaler,
    discriminator: Discriminator | None,
    *,
    frames: tuple[Tensor, Tensor] | None = None,
    vgg: Vgg19 | None = None,
    fade_in: float = 1.0,
) -> ObjectiveResult:
    """The config's objective of its windows, or of ``frames`` (low resolution and high)."""
    lr_frames, hr_frames = frames or frames_of(config)
    return Objective(config, vgg=vgg)(
        upscaler=upscaler,
        discriminator=discriminator,
        discriminator_module=discriminator,
        lr_frames=lr_frames,
        hr_frames=hr_frames,
        fade_in=fade_in,
    )


def random_vgg() -> Vgg19:
    return build_vgg(read_vgg("random", seed=2))


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("mirrored", [False, True])
def test_perceptual_loss_in_chunks_equals_its_definition(chunk: int, mirrored: bool) -> None:
    vgg = random_vgg()
    generator = torch.Generator().manual_seed(4)
    hr_frames = torch.rand(2, 3, 3, 32, 32, generator=generator) * 2 - 1
    targets = mirror(hr_frames) if mirrored else hr_frames
    sr_frames = (targets + 0.3 * torch.randn(targets.shape, generator=generator)).requires_grad_()

    total, layers = losses.perceptual(sr_frames, hr_frames, vgg, chunk=chunk)
    (gradient,) = torch.autograd.grad(3 * total, sr_frames)

    ours, theirs = vgg(sr_frames.flatten(0, 1)), vgg(targets.flatten(0, 1))
    expected = torch.stack([1 - F.cosine_similarity(a, b).mean() for a, b in zip(ours, theirs, strict=True)])
    (expected_gradient,) = torch.autograd.grad(3 * expected.sum(), sr_frames)
    torch.testing.assert_close(layers, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(total, expected.sum(), atol=3e-6, rtol=0)
    # Another batch size is another convolution algorithm, whose rounding tips a few ReLUs over.
    assert (gradient - expected_gradient).norm() < 5e-3 * expected_gradient.norm()


def test_ping_pong_loss_by_hand() -> None:
    # there 1 2 3, back 5 9: |2 - 5| and |1 - 9|
    frames = torch.tensor([1.0, 2.0, 3.0, 5.0, 9.0]).view(1, 5, 1, 1, 1).expand(1, 5, 3, 2, 2)
    assert losses.ping_pong(frames).item() == pytest.approx((3 + 8) / 2)


def test_each_loss_trains_its_own_network_only() -> None:
    upscaler, discriminator = networks(SMALL)
    result = evaluate(SMALL, upscaler, discriminator)
    assert result.discriminator_loss is not None
    result.discriminator_loss.backward()
    assert all(p.grad is None for p in upscaler.parameters())
    for parameter in discriminator.parameters():
        assert parameter.requires_grad
        parameter.grad = None
    result.generator_loss.backward()
    assert all(p.grad is None for p in discriminator.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in upscaler.parameters())


def test_warp_loss_reaches_the_flow_network_only() -> None:
    upscaler, _ = networks(SMALL)
    config = replace(SMALL, loss=LossConfig(perceptual=0, adversarial=0, pingpong=0, feature_match=0, warp=0))
    without = evaluate(config, upscaler, None).generator_loss
    heavy = replace(config, loss=replace(config.loss, warp=7.0))
    with_warp = evaluate(heavy, upscaler, None).generator_loss
    difference = torch.autograd.grad(with_warp - without, list(upscaler.parameters()))
    names = [name for name, _ in upscaler.named_parameters()]
    for name, gradient in zip(names, difference, strict=True):
        # Two passes of the same content loss cancel to rounding; the flow network keeps 7 times the warp loss.
        assert (gradient.abs().max() > 1e-5) == name.startswith("flow"), name


def test_a_loss_that_is_off_is_not_computed() -> None:
    upscaler, _ = networks(SMALL)
    config = replace(SMALL, loss=LossConfig(perceptual=0, adversarial=0, pingpong=0, feature_match=0))
    result = evaluate(config, upscaler, None)
    assert set(result.losses) == {"content", "warp", "total"}
    assert result.unrolled.sr_frames.shape[1] == config.data.sequence_length
    assert result.losses["total"] == result.losses["content"]


def test_temporal_only_discriminator_trains() -> None:
    config = replace(SMALL, discriminator=DiscriminatorConfig(temporal_only=True, temporal_crop=0.75))
    upscaler, discriminator = networks(config)
    result = evaluate(config, upscaler, discriminator)
    assert result.discriminator_loss is not None
    (result.discriminator_loss + result.generator_loss).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in discriminator.parameters())


def test_temporal_only_discriminator_sees_warped_centres() -> None:
    """Constant flows, another for each frame: what is seen is shifted by them, by hand."""
    # 7 mirrored frames are 2 triplets a window; three quarters of 64 pixels are 48
    frames = torch.rand(2, 7, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    flow = torch.zeros(2, 2, 2, 2, 64, 64)
    flow[1, 1, 0] = torch.tensor([2.0, -3.0]).view(2, 1, 1)  # rows, columns; of the last triplet's first frame
    flow[1, 1, 1] = torch.tensor([-1.5, 0.5]).view(2, 1, 1)  # and of its last frame
    settings = DiscriminatorConfig(temporal_only=True, temporal_crop=0.75)
    seen = triplets(frames, flow, None, settings)
    assert seen.shape == (4, 9, 48, 48)
    first, middle, last = (seen[3, position::3] for position in range(3))  # colour by colour, frame by frame
    torch.testing.assert_close(first, frames[1, 3, :, 8 - 2 : 56 - 2, 8 + 3 : 56 + 3])
    torch.testing.assert_close(middle, frames[1, 4, :, 8:56, 8:56])
    # Half a pixel: the mean of the four around it, 1 and 2 rows below, and the column and the one before it.
    around = [frames[1, 5, :, 8 + y : 56 + y, 8 + x : 56 + x] for y in (1, 2) for x in (-1, 0)]
    torch.testing.assert_close(last, torch.stack(around).mean(0))
    # The other triplets have no flow.
    unmoved = frames[0, 0:3, :, 8:56, 8:56].transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(seen[0], unmoved)


def test_return_flow_brings_the_last_frame_of_a_triplet_onto_its_middle() -> None:
    upscaler, _ = networks(SMALL)
    frames = torch.rand(1, 7, 3, 16, 16)
    unrolled = upscaler(frames, with_return_flow=True)
    assert unrolled.return_flow is not None
    assert not unrolled.return_flow.requires_grad
    with torch.no_grad():
        backwards = upscaler(torch.stack([frames[:, 5], frames[:, 4]], dim=1))
    torch.testing.assert_close(unrolled.return_flow[:, 1], backwards.hr_flow[:, 0])


def test_statistics_move_once_for_each_of_real_and_fake_and_not_for_the_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upscaler, discriminator = networks(SMALL)
    norm = cast(BatchNorm, discriminator.get_submodule("blocks.0.norm"))
    seen: list[Tensor] = []
    original = norm.forward

    def watched(x: Tensor, update_statistics: bool) -> Tensor:
        assert update_statistics
        seen.append(x.detach().clone())
        return original(x, update_statistics)

    monkeypatch.setattr(norm, "forward", watched)
    evaluate(SMALL, upscaler, discriminator)
    assert len(seen) == 2
    mean, variance = torch.zeros(64), torch.ones(64)
    for x in seen:
        mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3))
        variance = 0.9 * variance + 0.1 * x.transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(norm.moving_mean, mean)
    torch.testing.assert_close(norm.moving_variance, variance)


@pytest.mark.parametrize("fade_in", [1.0, 0.3, 0.0])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, loss=replace(SMALL.loss, feature_match=0)),
        replace(SMALL, loss=replace(SMALL.loss, pingpong=0)),
        replace(SMALL, discriminator=DiscriminatorConfig(temporal_only=True, temporal_crop=0.75)),
    ],
    ids=["all", "no feature match", "one way", "temporal only"],
)
def test_one_pass_of_the_discriminator_gives_both_networks_the_gradients_of_a_pass_each(
    config: Config, fade_in: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the losses as they are written down: each with a pass of its own."""

    def with_a_pass_each(
        objective: Objective, judge: Any, module: Any, real: Tensor, fake: Tensor, **_: object
    ) -> Judgement:
        weights = objective.config.loss
        real_score, real_features = judge(real)
        own = losses.discrimination(real_score, judge(fake.detach())[0])
        module.requires_grad_(False)
        score, features = module(fake)
        module.requires_grad_(True)
        distances = losses.feature_distances([layer.detach() for layer in real_features], features)
        matched = torch.stack([d / norm for d, norm in zip(distances, weights.feature_match_norms, strict=True)]).sum()
        both = weights.adversarial * losses.adversarial(score) + weights.feature_match * matched
        return Judgement({}, fade_in * both, own)

    def gradients() -> list[Tensor]:
        upscaler, discriminator = networks(config)
        result = evaluate(config, upscaler, discriminator, fade_in=fade_in)
        assert result.discriminator_loss is not None
        result.discriminator_loss.backward()
        result.generator_loss.backward()
        found = [parameter.grad for network in (upscaler, discriminator) for parameter in network.parameters()]
        return [result.generator_loss.detach(), *(gradient for gradient in found if gradient is not None)]

    ours = gradients()
    monkeypatch.setattr(Objective, "_judgement", with_a_pass_each)
    expected = gradients()
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("degradation", ["BD", "BI"])
def test_a_step_at_every_scale_and_degradation(scale: Literal[2, 4], degradation: Degradation) -> None:
    config = replace(
        SMALL,
        model=replace(SMALL.model, scale=scale),
        data=replace(SMALL.data, degradation=degradation),
        loss=replace(SMALL.loss, perceptual=0.2),
    )
    upscaler, discriminator = networks(config)
    lr_frames, hr_frames = frames_of(config)
    assert lr_frames.shape == (2, 4, 3, 16, 16)
    assert hr_frames.shape == (2, 4, 3, 16 * scale, 16 * scale)
    result = evaluate(config, upscaler, discriminator, vgg=random_vgg())
    assert all(value.isfinite() for value in result.losses.values())
    assert result.unrolled.sr_frames.shape == (2, 7, 3, 16 * scale, 16 * scale)
    assert result.unrolled.hr_flow.shape == (2, 6, 2, 16 * scale, 16 * scale)
    assert result.discriminator_loss is not None
    (result.discriminator_loss + result.generator_loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in upscaler.parameters())


def test_scale_2_halves_the_ends_of_the_generator() -> None:
    four, two = RecurrentUpscaler(blocks=1).state_dict(), RecurrentUpscaler(blocks=1, scale=2).state_dict()
    assert set(four) - set(two) == {"generator.up2.weight", "generator.up2.bias"}
    different = {name for name in two if two[name].shape != four[name].shape}
    assert different == {"generator.input.weight"}
    assert two["generator.input.weight"].shape == (64, 3 + 12, 3, 3)


@pytest.mark.parametrize(("scale", "centred"), [(2, False), (4, False), (2, True), (4, True)])
def test_fixed_resamplings_follow_scale_and_alignment(scale: int, centred: bool) -> None:
    network = RecurrentUpscaler(blocks=1, channels=8, flow_width=4, output_init_scale=0, scale=scale, centred=centred)
    # Its output layer at zero, the generator is its skip: pixel i of a slope lies at scale * i, or over the middle.
    slope = torch.arange(16.0).expand(1, 3, 16, 16)
    sr_frame = to_unit(network.first_frame(slope))
    expected = (torch.arange(16.0 * scale) - (scale - 1) / 2 * centred) / scale
    inner = slice(4 * scale, -4 * scale)
    # Cubic convolution with a = -0.75 bends a slope by up to 3 / 64 of a pixel.
    torch.testing.assert_close(sr_frame[0, 0, 8, inner], expected[inner], atol=0.05, rtol=0)
    unrolled = network(torch.rand(1, 2, 3, 16, 16))
    enlarged = resize_bilinear(unrolled.lr_flow[0] * scale, scale, centred=centred)
    torch.testing.assert_close(unrolled.hr_flow[0], enlarged)


@pytest.mark.gpu
def test_step_on_a_gpu_equals_the_cpu() -> None:
    torch.backends.cudnn.allow_tf32 = False
    values = []
    for device in ("cpu", "cuda"):
        upscaler, discriminator = networks(SMALL)
        upscaler.to(device)
        discriminator.to(device)
        lr_frames, hr_frames = (frames.to(device) for frames in frames_of(SMALL))
        result = evaluate(SMALL, upscaler, discriminator, frames=(lr_frames, hr_frames))
        values.append({name: value.item() for name, value in result.losses.items()})
    assert values[1] == pytest.approx(values[0], rel=1e-4, abs=1e-5)


@pytest.mark.gpu
def test_the_objective_and_its_gradients_do_not_wait_for_the_gpu() -> None:
    upscaler, discriminator = networks(SMALL)
    upscaler.to("cuda")
    discriminator.to("cuda")
    frames = frames_of(SMALL)
    on_gpu = (frames[0].cuda(), frames[1].cuda())
    for mode in ("default", "error"):  # first what is made once: kernels, constants
        torch.cuda.set_sync_debug_mode(mode)
        try:
            result = evaluate(SMALL, upscaler, discriminator, frames=on_gpu)
            assert result.discriminator_loss is not None
            (result.generator_loss + result.discriminator_loss).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

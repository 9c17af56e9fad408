"""The settings of a run: one tree of frozen dataclasses, read from a preset or a YAML file, strict about every key.

Defaults are the published TecoGAN settings (``runGan.py 3`` of thunil/TecoGAN). A variant of a run is a YAML file in
``presets/``; a single setting is changed on the command line by its dotted name (``--loss.adversarial 0.005``).
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import pydantic

from tecogan_dist.config.degradations import LrOrigin
from tecogan_dist.config.scalars import (
    Count,
    Decay,
    Divisor,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Number,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Resources,
    Seconds,
    Switch,
    Text,
)

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
REQUIRED = "required"
RANDOM = "random"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The recurrent upscaler: flow network and generator."""

    __pydantic_config__ = STRICT

    scale: Literal[4, 2] = 4
    """Factor between low and high resolution. The published networks are for 4; for 2, our choice, the generator has
    one transposed convolution instead of two, and its skip, the flow and the recurrent input are enlarged by 2."""
    blocks: PositiveInt = 16
    """Residual blocks of the generator (16 in TecoGAN, 10 in FRVSR)."""
    channels: PositiveInt = 64
    """Feature channels of the generator."""
    flow_width: PositiveInt = 32
    """Channels of the flow network's first level; deeper levels are multiples of it."""
    output_init_scale: Number = 1.0
    """Factor on the initial weights of the generator's last convolution; small values start at the bicubic skip."""
    arithmetic: Literal["original", "pytorch_port"] = "original"
    """How the same layers are put together: as in the original, or as in TecoGAN-PyTorch, for weights that come from
    there (``tecogan convert``). Weights of one are of no use to the other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The spatio-temporal discriminator. It exists when ``loss.adversarial`` is positive."""

    __pydantic_config__ = STRICT

    temporal_only: Switch = False
    """True: it sees warped triplets only (9 channels) instead of warped, unwarped and low-resolution ones (27)."""
    temporal_crop: PositiveFraction = 0.75
    """Central part of a warped frame that is shown, as a fraction of its side; the rest moves out of sight."""
    balance_threshold: Number = 0.4
    """The discriminator is updated only while the running balance (real and fake log-scores) is below this."""
    learning_rate_scale: PositiveFloat = 1.0
    """Its learning rate as a multiple of the generator's (0.3 in the original when temporal_only)."""
    global_batch_norm: Switch = True
    """Batch-norm statistics over the global batch of all workers; False: over each worker's own windows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses; 0 turns a loss off together with what it needs. The content loss has weight 1."""

    __pydantic_config__ = STRICT

    warp: NonNegativeFloat = 1.0
    """Flow warping loss on the low-resolution frames; trains the flow network only."""
    perceptual: NonNegativeFloat = 0.2
    """VGG19 cosine distance."""
    adversarial: NonNegativeFloat = 0.01
    """Generator's adversarial loss; 0 means no discriminator at all."""
    pingpong: NonNegativeFloat = 0.5
    """Ping-pong loss; when positive, windows are played forth and back (2n - 1 frames)."""
    feature_match: NonNegativeFloat = 0.02
    """Distance of the discriminator's four feature layers between real and generated triplets."""
    feature_match_norms: tuple[Divisor, Divisor, Divisor, Divisor] = (12.0, 14.0, 24.0, 100.0)
    """Divisor of each layer's distance."""
    fade_in_start: Number = 1.0
    """Factor on adversarial and feature-match losses at step 0 ..."""
    fade_in_increment: Number = 0.0
    """... what it grows by each step ..."""
    fade_in_maximum: Number = 1.0
    """... and where it stops."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """Where the VGG19 of the perceptual loss comes from, and how it is run."""

    __pydantic_config__ = STRICT

    weights: Text | None = None
    """A torchvision VGG19 state dict (.pth, .safetensors), a file made by ``tecogan convert`` from the TF-slim
    checkpoint, or the word ``random`` (for smoke runs only)."""
    chunk: PositiveInt = 16
    """Targets whose features are compared at a time: fewer take less memory, more keep a fast GPU busier. On a CPU no
    more than fit 16 MB of VGG19's first level, 4 of 128x128."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam for generator, flow network and discriminator, each with its own moments."""

    __pydantic_config__ = STRICT

    kind: Literal["adam", "adam_tf1"] = "adam"
    """adam: torch.optim.Adam. adam_tf1: TensorFlow 1's form, whose epsilon is not bias-corrected."""
    learning_rate: PositiveFloat = 5e-5
    """Of flow network and generator, at step 0."""
    beta1: Decay = 0.9
    """Decay of the first moments."""
    beta2: Decay = 0.999
    """Decay of the second moments."""
    epsilon: Divisor = 1e-8
    """Added to the root of the second moments."""
    decay_rate: PositiveFraction = 1.0
    """Exponential decay: learning_rate * decay_rate ** (step / decay_steps); 1 is no decay."""
    decay_steps: PositiveInt = 500_000
    """Steps in which the learning rate falls by ``decay_rate``."""
    decay_staircase: Switch = True
    """Decay in steps of ``decay_steps`` instead of smoothly."""
    gradient_clipping: NonNegativeFloat = 0.0
    """The upscaler's gradients, and the discriminator's, are scaled down to this norm; 0: never, as in the original."""
    ema_decay: Decay = 0.0
    """Also keep an exponential moving average of the upscaler's weights with this decay (0.999); 0: none."""
    max_bad_steps: PositiveInt = 10
    """Steps in a row without an update, because a loss or gradient was not finite, after which the run stops."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a training sample is, and how the stream makes it."""

    __pydantic_config__ = STRICT

    sequence_length: PositiveInt = 10
    """Frames of a window."""
    crop_size: PositiveInt = 32
    """Side of the low-resolution crop; the high-resolution one is model.scale times that, cut with the margin that the
    degradation needs."""
    degradation: LrOrigin = "BD"
    """How low resolution is made. BD: Gaussian blur of sigma 1.5, then every 4th pixel (model.scale 2: every 2nd). BI:
    MATLAB's bicubic imresize, rounded to uint8. pairs: the scenes' own low-resolution clips. For the last two the
    networks' fixed resamplings follow the half-pixel alignment of MATLAB's."""
    flip: Switch = True
    """Mirror half of the windows left to right."""
    moving_first_frame: Fraction = 0.3
    """Probability that a window is its first frame moved along a random walk."""
    train_scenes: tuple[NonNegativeInt, NonNegativeInt] | None = None
    """First and last scene number used for training; none: all that are not for validation."""
    validation_scenes: tuple[NonNegativeInt, NonNegativeInt] | None = None
    """First and last scene number kept for validation; none: there is no validation."""
    windows_per_decode: Count = 8
    """Windows taken each time a scene is decoded: more is faster, fewer is more diverse."""
    scenes_in_mix: Count = 16
    """Scenes that consecutive samples rotate through."""
    cache_dir: Text | None = None
    """Local folder of a machine for the clips of a remote store and for decoded frames; none: below the system's
    temporary folder. It can be removed at any time between runs."""
    decoded_cache: Switch = False
    """Keep the decoded frames of scenes in cache_dir, about 100 times a clip's bytes, for when decoding is the
    bottleneck. Samples are the same."""
    cache_gigabytes: Annotated[PositiveFloat, pydantic.Field(le=1e9)] = 50.0
    """Size that cache_dir may grow to on each machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where a run happens and what it takes there."""

    __pydantic_config__ = STRICT

    address: Text | None = None
    """Ray address to connect to; none: the cluster this process runs in, or an embedded local Ray."""
    workers: Count = 1
    """Processes that train together, a GPU each where there are any."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda when the cluster has GPUs."""
    cpus_per_worker: Count = 1
    """CPUs reserved for a worker; its torch threads on a CPU run."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast of convolutions; weights, losses and optimiser stay in fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage of both engines: what is sharded over the workers, moments (1), gradients (2), weights (3).
    0, nothing, sends least: these networks fit into any GPU."""
    compile: Literal["off", "on", "graph", "auto"] = "auto"
    """graph: forward and backward passes as captured CUDA graphs, whose thousands of kernels are started by one call
    each (GPUs, ZeRO 0). on: flow network, recurrent step, discriminator and VGG19 through torch.compile before the
    first step, which takes minutes; it needs a C++ compiler, on CUDA triton and a C compiler. auto: graph on a GPU with
    ZeRO 0, unless several workers share a batch norm, else off."""
    activation_checkpointing: Switch = False
    """Compute each frame's activations again in the backward pass: long windows in little memory, a third slower."""
    overlap_communication: Switch = False
    """Reduce gradients beside the backward pass on NCCL. ZeRO 0 does so anyway, with the discriminator's, and is not
    changed by this."""
    bucket_megabytes: Annotated[PositiveInt, pydantic.Field(le=10_000)] = 200
    """Gradients that are reduced in one message (ZeRO 1 to 3)."""
    min_workers: Count | None = None
    """Go on with as few workers as this while machines are missing, and grow again; none: wait for all."""
    resources_per_worker: Resources = dataclasses.field(default_factory=dict)
    """Further Ray resources that each worker reserves, by name."""
    accelerator_type: Text | None = None
    """Ray's name of the GPU model that workers must have, e.g. A100."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray distributes the workers: PACK on few machines, SPREAD over many; STRICT_: not otherwise."""
    max_failures: NonNegativeInt = 3
    """How often lost workers are replaced before the run ends."""
    step_timeout: Seconds = 1800.0
    """Seconds without a finished step after which a worker counts as hung and is replaced."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """How a run reports. Metrics always go to ``metrics.jsonl`` and TensorBoard files in the output folder."""

    __pydantic_config__ = STRICT

    display_every: PositiveInt = 20
    """Steps between progress lines."""
    summary_every: PositiveInt = 100
    """Steps between summaries for TensorBoard and W&B: mean losses, losses of held-out windows, animated samples."""
    save_every: PositiveInt = 10_000
    """Steps between checkpoints."""
    keep_checkpoints: PositiveInt = 3
    """Newest checkpoints to keep."""
    validate_every: PositiveInt | None = None
    """Steps between validations, in which held-out scenes are upscaled and measured; none: at every checkpoint."""
    validation_scene_count: PositiveInt = 8
    """How many of the held-out scenes (data.validation_scenes) a validation measures, from the first on."""
    validation_frames: PositiveInt = 24
    """Frames of each that are measured, from the first on."""
    best: Literal["psnr", "ssim", "lpips", "tof", "tlp"] = "psnr"
    """Metric of the validations by which the best checkpoint is kept besides the newest."""
    wandb_project: Text | None = None
    """W&B project; none: WANDB_PROJECT's, and without that W&B is not used. WANDB_MODE=offline records for later."""
    wandb_group: Text | None = None
    """W&B's group of runs; none: none, or WANDB_RUN_GROUP's. A sweep's trials are a group of its folder's name."""
    wandb_artifacts: Switch = False
    """Checkpoints as artifacts at W&B, with the aliases latest and best; those on s3:// and gs:// by reference."""
    wandb_alerts: Switch = False
    """Have W&B send an alert when steps are left out as not finite, when the run fails, or when it is diverging."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run, stored with every checkpoint."""

    __pydantic_config__ = STRICT

    seed: NonNegativeInt = 1
    """Of initial weights and of the samples."""
    steps: Annotated[NonNegativeInt, pydantic.Field(le=10**12)] = 500_000
    """Steps after which the run ends."""
    batch_size: PositiveInt = 4
    """Windows of a step, over all workers."""
    accumulation: PositiveInt = 1
    """Micro-batches that a worker splits its windows of a step into, to save memory: they are computed one after the
    other and their gradients add up. The discriminator's batch norm is over a micro-batch."""
    initial_weights: Text | None = None
    """Weights to start anew from: a .safetensors file, a checkpoint or a run. The word ``required`` in a preset asks
    the user for one. Fewer residual blocks than the model has are accepted: the rest keep their initial values."""
    model: ModelConfig = ModelConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossConfig = LossConfig()
    perceptual: PerceptualConfig = PerceptualConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

"""The names under which a run records what it measures: in ``metrics.jsonl``, TensorBoard and W&B alike.

A name is ``<group>/<what>``. Some families depend on the settings (one name for each loss); :func:`described` tells of
any name what it is. The table in ``training/README.md`` says the same, and a test keeps both in step.
"""

from __future__ import annotations

from dataclasses import dataclass

from tecogan_dist.metrics.names import METRICS

STEP = "step"
LOSS, RAW, AVERAGE = "loss", "raw", "average"
BALANCE, REAL, FAKE, ACCURACY = (f"discriminator/{name}" for name in ("balance", "real", "fake", "accuracy"))
UPDATES, SKIPS = "discriminator/updates", "discriminator/skips"
UPDATE_RATIO = "weights/update_ratio"
LEARNING_RATE, BAD_STEPS = "optim/learning_rate", "optim/bad_steps"
STEP_TIME, DATA_WAIT = "time/step", "time/data_wait"
CHECKPOINT_WAIT, VALIDATION_WAIT = "time/checkpoint", "time/validation"
FORWARD, BACKWARD, ALL_REDUCE, OPTIMISER = (
    f"time/{name}" for name in ("forward", "backward", "all_reduce", "optimiser")
)
SAMPLES, FRAMES, MEGAPIXELS = (f"throughput/{name}_per_second" for name in ("samples", "frames", "megapixels"))
TFLOPS, MFU = "throughput/tflops", "throughput/mfu"
GPU_PEAK, GPU_RESERVED, ALLOC_RETRIES, HOST_MEMORY = (
    f"memory/{name}" for name in ("gpu_peak", "gpu_reserved", "alloc_retries", "host")
)
PROTOCOL = "official"
"""By which held-out scenes are measured (:data:`tecogan_dist.metrics.protocol.OFFICIAL`)."""
VALIDATION = f"validation/{PROTOCOL}"
VALIDATION_LOSS = "validation/loss"

ORIGINAL_NAMES = {
    "content": "l2_content_loss",
    "warp": "l2_warp_loss",
    "perceptual_conv2_2": "vgg_loss_2",
    "perceptual_conv3_4": "vgg_loss_3",
    "perceptual_conv4_4": "vgg_loss_4",
    "perceptual_conv5_4": "vgg_loss_5",
    "perceptual": "vgg_all",
    "pingpong": "PingPang",
    "adversarial": "t_adversarial_loss",
    "feature_match_0": "D_layer_0_loss",
    "feature_match_1": "D_layer_1_loss",
    "feature_match_2": "D_layer_2_loss",
    "feature_match_3": "D_layer_3_loss",
    "feature_match": "D_layer_loss_sum",
    "discriminator": "t_discrim_loss",
    "real_score": "t_discrim_real_output",
    "fake_score": "t_discrim_fake_output",
    "balance": "t_balance",
    "total": "All_loss_Gen",
}
"""What the original's summaries call them (``update_list_name`` in lib/Teco.py), by our names of losses."""


def group_of(name: str) -> str:
    """The part of a name before its first slash."""
    return name.partition("/")[0]


@dataclass(frozen=True)
class Quantity:
    """A recorded quantity. ``name`` is whole, or ends in ``*`` for a family."""

    name: str
    unit: str
    meaning: str

    @property
    def group(self) -> str:
        return group_of(self.name)


QUANTITIES = (
    Quantity(
        "loss/*", "", "each loss times its weight, as it enters the sums; loss/total is the generator's, without warp"
    ),
    Quantity("raw/*", "", "each loss as the original lists it, before its weight"),
    Quantity("average/*", "", "of raw/*: exponential average of all steps, decay 0.99, begun at 0 as the original's"),
    Quantity(BALANCE, "", "the discriminator's lead, averaged like average/*: at the threshold it is not updated"),
    Quantity(REAL, "0..1", "mean score of true triplets"),
    Quantity(FAKE, "0..1", "mean score of generated triplets"),
    Quantity(ACCURACY, "0..1", "share of scores on the right side of 0.5"),
    Quantity(UPDATES, "steps", "in which the discriminator was updated, since the run began"),
    Quantity(SKIPS, "steps", "in which it was too far ahead to be updated, since the run began"),
    Quantity("grad_norm/flow", "", "L2 norm of the step's gradients before clipping: flow network"),
    Quantity("grad_norm/generator", "", "the same of the generator"),
    Quantity("grad_norm/discriminator", "", "the same of the discriminator, in steps that update it"),
    Quantity(UPDATE_RATIO, "", "L2 norm of the step's change of the upscaler's weights over that of the weights"),
    Quantity(LEARNING_RATE, "", "of the generator in the step"),
    Quantity(BAD_STEPS, "steps", "left out because a loss or gradient was not finite, since the run began"),
    Quantity(STEP_TIME, "s", "of a step"),
    Quantity(DATA_WAIT, "s", "of a step: waiting for windows, on the worker that waited longest"),
    Quantity(FORWARD, "s", "of a step: losses, and what VGG19 and the discriminator say of generated frames"),
    Quantity(BACKWARD, "s", "of a step: gradients of the weights"),
    Quantity(ALL_REDUCE, "s", "of a step: bringing gradients and losses together, and waiting for the slowest worker"),
    Quantity(OPTIMISER, "s", "of a step: updating the weights"),
    Quantity(CHECKPOINT_WAIT, "s", "of a step: taking checkpoints, and waiting for the one before to be written"),
    Quantity(
        VALIDATION_WAIT,
        "s",
        "of a step: losses of held-out windows, upscaling held-out scenes, waiting for their scores",
    ),
    Quantity(SAMPLES, "1/s", "windows, over all workers"),
    Quantity(FRAMES, "1/s", "high-resolution frames of these windows, without the way back of ping-pong"),
    Quantity(MEGAPIXELS, "MP/s", "pixels of these frames"),
    Quantity(TFLOPS, "TFLOP/s", "of each worker, counted: multiplications and additions of convolutions and products"),
    Quantity(
        MFU,
        "0..1",
        "that over the GPU's peak in the run's precision, if known; what checkpointing computes again counts as work",
    ),
    Quantity(GPU_PEAK, "GiB", "most memory in tensors since the last record, on the worker that had most"),
    Quantity(GPU_RESERVED, "GiB", "memory that torch has taken from the GPU, likewise"),
    Quantity(ALLOC_RETRIES, "", "times that torch had to empty its cache to get memory, since the worker began"),
    Quantity(HOST_MEMORY, "GiB", "resident memory of the worker's process, the largest"),
    *(
        Quantity(f"{VALIDATION}/{metric}", "", f"{metric} of held-out scenes, by the official protocol")
        for metric in METRICS
    ),
    Quantity(f"{VALIDATION_LOSS}/*", "", "losses of held-out windows, before their weights"),
)
"""In the order in which people read them."""
GROUPS = tuple(dict.fromkeys(quantity.group for quantity in QUANTITIES))


def described(name: str) -> Quantity | None:
    """What is known of a recorded name; None of one that is not ours."""
    for quantity in QUANTITIES:
        if quantity.name == name or (quantity.name.endswith("*") and name.startswith(quantity.name[:-1])):
            return quantity
    return None

"""``tecogan convert``: files of others into ours: the original's checkpoints, TF-slim's VGG19, TecoGAN-PyTorch's."""

from __future__ import annotations

import argparse

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.parser import CommandParser
from tecogan_dist.commands.values import input_path, output_path, whole_number
from tecogan_dist.runs.conversion import convert_training
from tecogan_dist.weights.format import MOST_WARM_UP
from tecogan_dist.weights.pytorch_port import TEST_WARM_UP, convert_port, is_torch_file
from tecogan_dist.weights.tensorflow.convert import convert

EXAMPLES = (
    "tecogan convert model/TecoGAN tecogan.safetensors",
    "tecogan convert TecoGAN_4x_BD_Vimeo_iter500K.pth port.safetensors",
    "tecogan convert vgg_19.ckpt vgg19.safetensors --overwrite",
    "tecogan convert model-500000 runs/original --to checkpoint",
)
WEIGHTS, VGG19, CHECKPOINT = "weights", "vgg19", "checkpoint"
"""What may be made."""

KEPT = "nothing was written, and an older output is as it was; the same command begins anew"
"""What an interruption leaves."""
LONGEST_LINE = 2000
"""Characters of a line about what was written, which names places."""


def main(argv: list[str] | None = None) -> None:
    """Convert, and print lines about what was written. Raises :class:`UserError`."""
    for line in converted(parse(argv)):
        print(printable(line, limit=LONGEST_LINE))


def converted(options: argparse.Namespace) -> list[str]:
    """Let the converter of this kind of source and target do it; lines about what it wrote.

    A kind of source that is known by its file (a .pth, say) comes before TensorFlow's, whose reader refuses all others.
    """
    if is_torch_file(options.source):
        if options.to != WEIGHTS:
            raise UserError(
                f"{options.source} is a file of torch's, and of those only weights are made: leave out --to."
            )
        return [convert_port(options.source, options.output, overwrite=options.overwrite, warm_up=options.warm_up)]
    if options.warm_up is not None:
        raise UserError(
            "--warm-up is for generators of TecoGAN-PyTorch: leave it out, the original's networks have their own."
        )
    if options.to == CHECKPOINT:
        if options.overwrite:
            raise UserError(
                "a checkpoint replaces nothing: leave out --overwrite, and name a folder that is not there."
            )
        return convert_training(options.source, options.output)
    return convert(options.source, options.output, overwrite=options.overwrite, vgg=options.to == VGG19)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser(
        "convert",
        description="Make a weights file, or a checkpoint to train on from, of a TensorFlow checkpoint, without "
        "TensorFlow; or a weights file of a generator of TecoGAN-PyTorch.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=input_path,
        help="prefix of a checkpoint of the original (model/TecoGAN), its .index file, TF-slim's vgg_19.ckpt, or a "
        "generator of TecoGAN-PyTorch (.pth)",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        type=output_path,
        help="the .safetensors file to write; with --to checkpoint the folder to make",
    )
    parser.add_argument(
        "--to",
        choices=(WEIGHTS, CHECKPOINT, VGG19),
        default=WEIGHTS,
        help="weights: the networks, or a VGG19 where SOURCE holds nothing else (default). checkpoint: all that the "
        "original's training was, for 'tecogan train --resume'. vgg19: the VGG19 in a checkpoint of that training",
    )
    parser.add_argument(
        "--warm-up",
        metavar="N",
        type=whole_number(0, MOST_WARM_UP),
        help="for a generator of TecoGAN-PyTorch: frames that upscale is to run, in reverse, before a scene's first. "
        f"0, as its infer_sequence has it (default); {TEST_WARM_UP}, as its settings for tests, with which its "
        "published numbers were measured",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    return parser.parse_args(argv)

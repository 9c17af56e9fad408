"""``tecogan convert``: the original's TensorFlow checkpoints, and TF-slim's VGG19, into our weights files."""

from __future__ import annotations

import argparse

from tecogan_dist.base.console import printable
from tecogan_dist.commands.parser import CommandParser
from tecogan_dist.commands.values import input_path, output_path
from tecogan_dist.weights.tensorflow.convert import convert

EXAMPLES = (
    "tecogan convert model/TecoGAN tecogan.safetensors",
    "tecogan convert vgg_19.ckpt vgg19.safetensors --overwrite",
)


KEPT = "nothing was written, and an older output is as it was; the same command begins anew"
"""What an interruption leaves."""


def main(argv: list[str] | None = None) -> None:
    """Convert a checkpoint and print a line about what was written. Raises :class:`UserError`."""
    options = parse(argv)
    print(printable(convert(options.source, options.output, overwrite=options.overwrite)))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser(
        "convert",
        description="Make a weights file of a TensorFlow checkpoint. TensorFlow itself is not needed.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=input_path,
        help="prefix of a checkpoint of the original (model/TecoGAN), its .index file, or TF-slim's vgg_19.ckpt",
    )
    parser.add_argument("output", metavar="OUTPUT", type=output_path, help="the .safetensors file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    return parser.parse_args(argv)

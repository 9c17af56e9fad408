"""FIXME docstring"""

from __future__ import annotations

import argparse
from pathlib import Path

from tecogan_dist.weights.tensorflow.convert import convert


def main(argv: list[str] | None = None) -> None:
    """Convert a checkpoint and print a line on what was written. Raises :class:`UserError`."""
    parser = argparse.ArgumentParser(
        prog="tecogan convert", description="Make weights files of TensorFlow checkpoints."
    )
    parser.add_argument(
        "source",
        type=Path,
        help="prefix of a checkpoint of the original (model/TecoGAN), its .index file, or TF-slim's vgg_19.ckpt",
    )
    parser.add_argument("output", type=Path, help="the .safetensors file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    arguments = parser.parse_args(argv)
    print(convert(arguments.source, arguments.output, overwrite=arguments.overwrite))

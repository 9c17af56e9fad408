"""``tecogan <command> ...``: the commands of this package under one name."""

from __future__ import annotations

import importlib
import sys

from tecogan_dist.base.errors import UserError, run_command

COMMANDS = {
    "prepare": "cut videos or scene folders into a clip store",
    "train": "train FRVSR or TecoGAN on a clip store",
    "upscale": "upscale a video or a folder of frames 4 times",
    "evaluate": "measure results against their targets: PSNR, SSIM, LPIPS, tOF, tLP",
    "convert": "make our weights of the original's TensorFlow checkpoints",
}
"""Each is ``tecogan_dist.<name>``, whose ``main`` takes the arguments after the name."""


def main(argv: list[str] | None = None) -> None:
    """The console script."""
    run_command(_dispatch, argv)


def _dispatch(argv: list[str] | None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: tecogan <command> [options]\n\ncommands:")
        for name, purpose in COMMANDS.items():
            print(f"  {name:10}{purpose}")
        print("\n'tecogan <command> --help' lists a command's options.")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}: the commands are {', '.join(COMMANDS)}.")
    # Imported only now: a command should not wait for what the others need.
    importlib.import_module(f"tecogan_dist.commands.{name}").main(rest)

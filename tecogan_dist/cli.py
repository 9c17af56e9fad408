"""``tecogan <command> ...``: the commands of this package under one name."""

from __future__ import annotations

import sys

from tecogan_dist.base.errors import UserError, run_command, run_module

TYPE_CHECKING = False  # typing's own takes a while to import, and type checkers know this one
if TYPE_CHECKING:
    from tecogan_dist.commands.parser import CommandParser

COMMANDS = {
    "prepare": "cut videos or scene folders into a clip store",
    "train": "train FRVSR or TecoGAN on a clip store",
    "tune": "search training settings, scored by held-out scenes",
    "status": "tell whether a run is alive, how far it has got, and what it warns of",
    "list": "show runs side by side: states, scores, settings that differ",
    "report": "make one page of a run, or of several runs beside each other",
    "upscale": "upscale a video or a folder of images",
    "evaluate": "measure results against their targets: PSNR, SSIM, LPIPS, tOF, tLP",
    "export": "write one step of the network as an ONNX file or a compiled package",
    "fetch": "get published weights and test scenes by name",
    "convert": "turn the original's TensorFlow checkpoints into our weights",
    "dashboard": "make or update a workspace at W&B for a project's runs and sweeps",
    "submit": "run another command as a job of a Ray cluster",
    "doctor": "examine this machine or all nodes of a cluster: are they fit for training?",
}
"""Each is a module of ``tecogan_dist.commands`` (:func:`module_of`), whose ``main`` takes the words after the name."""
MODULES = {"list": "list_runs"}
"""Modules that are not called as their command: its name is one of Python's own."""

EXAMPLES = (
    "tecogan train --config frvsr --data STORE --output runs/frvsr",
    "tecogan upscale film.mp4 film_x4.mp4 --weights runs/frvsr",
)


def main(argv: list[str] | None = None) -> None:
    """The console script."""
    run_command(_dispatch, argv)


def _dispatch(argv: list[str] | None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        _parser().print_help()
        return
    name, *rest = arguments
    if name.startswith("-"):
        _parser().parse_args([name])
    if name not in COMMANDS:
        from tecogan_dist.base.spelling import meant

        raise UserError(f"there is no command {name!r}{meant(name, list(COMMANDS))} 'tecogan --help' lists all.")
    # Imported only now: a command should not wait for what the others need.
    run_module(f"tecogan_dist.commands.{module_of(name)}", rest)


def module_of(command: str) -> str:
    """The name of a command's module."""
    return MODULES.get(command, command)


def _parser() -> CommandParser:
    """For what comes before a command's name: ``--help``, ``--version``, or mistakes."""
    import argparse  # only now, like all that takes time

    from tecogan_dist.commands.parser import CommandParser

    commands = "\n".join(f"  {name:10}{purpose}" for name, purpose in COMMANDS.items())
    parser = CommandParser(
        "",
        description="Train video super-resolution on one machine or many, and use and measure what was trained.",
        examples=EXAMPLES,
        usage="tecogan COMMAND [options]",
        epilog=f"commands:\n{commands}\n\n'tecogan COMMAND --help' lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.prog = "tecogan"
    return parser


if __name__ == "__main__":
    main()

"""``tecogan dashboard``: a workspace at W&B that shows a project's runs and sweeps as one wants to see them."""

from __future__ import annotations

import argparse
import json
import os

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.parser import CommandParser, input_path
from tecogan_dist.tracking.dashboard import SEARCHED, check_names, definition, save
from tecogan_dist.tracking.wandb_variables import ENTITY, PROJECT
from tecogan_dist.tuning.reading import read_space

DESCRIPTION = """
Make a saved workspace in a W&B project, or bring the one that was made before up to date: losses, the discriminator,
temporal metrics, previews over the steps, throughput, the machine, and sweeps with parallel coordinates. Sections that
you have added to it stay. It needs a key, of $WANDB_API_KEY or 'wandb login', and asks no question.
"""
EXAMPLES = (
    "tecogan dashboard --project vsr",
    "tecogan dashboard --project vsr --entity team --space tune_spaces/loss_weights.yaml",
)
KEPT = "the workspace is as it was, or as it was to be: the same command again makes sure"
"""What an interruption leaves."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = parse(argv)
    searched = SEARCHED if options.space is None else tuple(read_space(options.space).settings)
    if options.dry_run:
        print(json.dumps(definition(options.project, options.entity or "", searched=searched), indent=2))
        return
    saved = save(options.project, options.entity, searched=searched)
    print(f"{'made' if saved.is_new else 'brought up to date'}: {printable(saved.address, limit=2000)}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("dashboard", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("--project", metavar="NAME", help=f"the W&B project (default: ${PROJECT})")
    parser.add_argument(
        "--entity", metavar="NAME", help=f"the user or team it belongs to (default: ${ENTITY}, or the key's own)"
    )
    parser.add_argument(
        "--space",
        type=input_path,
        metavar="FILE",
        help="the search of your sweeps (tune_spaces/README.md): its settings are the axes of their picture (default: "
        "the learning rate, the losses' weights, and the discriminator's settings)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be saved, as JSON, and go nowhere")
    options = parser.parse_args(argv)
    options.project = options.project or os.environ.get(PROJECT)
    options.entity = options.entity or os.environ.get(ENTITY) or None
    if not options.project:
        raise UserError(f"--project is missing: name the W&B project, or set {PROJECT}.")
    check_names(options.project, options.entity)
    return options

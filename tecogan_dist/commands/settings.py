"""What ``train`` and ``tune`` have in common: settings from a preset or file, changed on the command line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.parser import CommandParser
from tecogan_dist.config import load as settings
from tecogan_dist.config.overrides import check_names, full_help, override, short_help
from tecogan_dist.config.schema import REQUIRED, Config


def add_settings(parser: CommandParser) -> None:
    """The options of a command that takes training settings; the parser is made with ``add_help=False``."""
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this, and the names of all settings")
    add("--help-all", action="store_true", help="also show what each setting means")
    add("--config", metavar="PRESET|FILE", help=f"{', '.join(settings.preset_names())}, or a YAML file of your own")
    add("--data", metavar="STORE", help="clip store made by 'tecogan prepare': a folder, s3:// or gs://")


def read_settings(
    parser: CommandParser, argv: list[str] | None, *, required: Sequence[str]
) -> tuple[argparse.Namespace, Config]:
    """The command's own options, and the config with the rest applied to it.

    Raises :class:`UserError` for mistakes, also where one of the options ``required`` is missing, and ``SystemExit``
    when help was asked for.
    """
    options, overrides = parser.parse_known_args(argv)
    if options.help or options.help_all:
        config = settings.load(options.config) if options.config else Config()
        parser.print_help()
        print("\n" + (full_help(config) if options.help_all else short_help(config)))
        raise SystemExit(0)
    names = [f"--{name.replace('_', '-')}" for name in vars(options)]
    check_names(overrides, others=names)
    missing = [f"--{name}" for name in required if getattr(options, name) is None]
    if missing:
        raise UserError(f"give {' and '.join(missing)}: '{parser.prog} --help' says what for.")
    config = override(settings.load(options.config), overrides)
    if config.steps < 1:
        raise UserError("steps must be at least 1: there is nothing to train in 0 steps.")
    return options, config


def with_initial_weights(config: Config, *, source: str) -> Config:
    """``config`` with the place of its initial weights made absolute, because workers have other working directories.

    Raises :class:`UserError` if ``source``, the name of the preset, asks for weights and none were named.
    """
    initial = config.initial_weights
    if initial == REQUIRED:
        raise UserError(
            f"{source} starts from FRVSR weights: give --initial-weights PATH (a run of the frvsr preset, or "
            "published weights after 'tecogan convert'), or --initial-weights none."
        )
    place = None if initial in ("none", None) else str(Location.of(initial).absolute())
    return dataclasses.replace(config, initial_weights=place)

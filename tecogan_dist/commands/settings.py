"""What ``train`` and ``tune`` have in common: settings from a preset or file, changed on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.memory import in_words, machine_memory
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.parser import CommandParser
from tecogan_dist.commands.values import input_place, is_judged_elsewhere
from tecogan_dist.config import load as settings
from tecogan_dist.config.overrides import check_names, full_help, override, short_help
from tecogan_dist.config.schema import REQUIRED, Config
from tecogan_dist.models.sizes import FLOATS, parameter_count, training_memory
from tecogan_dist.published.catalogue import is_name

SHOWN = "tecogan"
"""The preset whose values help shows where none is named."""
LARGEST_MACHINE = 64 * 10**12
"""Bytes of memory that no machine which trains has: those of a cluster, or of a GPU, are not known before."""


def add_settings(parser: CommandParser) -> None:
    """The options of a command that takes training settings; the parser is made with ``add_help=False``."""
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this, and the names of all settings")
    add("--help-all", action="store_true", help="also show what each setting means")
    add(
        "--config",
        type=input_place,
        metavar="PRESET|FILE",
        help=f"{', '.join(settings.preset_names())}, or a YAML file of your own",
    )
    add(
        "--data",
        type=input_place,
        metavar="STORE",
        help="clip store made by 'tecogan prepare': a folder, s3:// or gs://",
    )
    add("--verbose", action="store_true", help="also show all that Ray, DeepSpeed and the workers' processes print")


def read_settings(
    parser: CommandParser, argv: list[str] | None, *, required: Sequence[str]
) -> tuple[argparse.Namespace, Config]:
    """The command's own options, and the config with the rest applied to it.

    Raises :class:`UserError` for mistakes, also where one of the options ``required`` is missing, and ``SystemExit``
    when help was asked for.
    """
    options, overrides = parser.parse_known_args(argv)
    if options.help or options.help_all:
        config = settings.load(options.config or SHOWN)
        parser.print_help()
        print(f"\n{_whose(options.config)}\n\n" + (full_help(config) if options.help_all else short_help(config)))
        raise SystemExit(0)
    names = [f"--{name.replace('_', '-')}" for name in vars(options)]
    check_names(overrides, others=names)
    missing = [f"--{name}" for name in required if getattr(options, name) is None]
    if missing:
        raise UserError(f"give {' and '.join(missing)}: '{parser.prog} --help' says what for.")
    config = override(settings.load(options.config), overrides)
    check_size(config)
    if config.steps < 1:
        raise UserError("steps must be at least 1: there is nothing to train in 0 steps.")
    return options, config


def _whose(config: str | None) -> str:
    """Whose values help shows, in a sentence."""
    if config is None:
        return f"The values below are the preset {SHOWN}'s: add --config to see those of another preset, or of a file."
    return f"The values below are those of --config {printable(config)}."


def check_size(config: Config) -> None:
    """Raise :class:`UserError` for networks and windows that no machine has the memory for, or not this one.

    Where training runs on this machine's CPUs that is judged by its memory; networks are built here in any case.
    """
    network = parameter_count(config.model) * FLOATS
    if network > machine_memory() and not is_judged_elsewhere():
        raise UserError(
            f"the model needs {in_words(network)} of memory for its weights, and this machine has "
            f"{in_words(machine_memory())}: lower model.channels, model.blocks or model.flow_width."
        )
    size, workers = training_memory(config), config.cluster.workers
    if size * workers <= min(machine_memory(), LARGEST_MACHINE):
        return  # wherever it runs
    import torch  # knows whether there is a GPU here, and takes a second to import

    is_here = not (
        config.cluster.address or os.environ.get("RAY_ADDRESS") or is_judged_elsewhere() or torch.cuda.is_available()
    )
    have, where = (machine_memory(), "this machine") if is_here else (LARGEST_MACHINE, "the largest machine there is")
    needed = size * workers if is_here else size
    if needed > have:
        whose = "training" if is_here else "a worker"
        raise UserError(
            f"{whose} needs {in_words(needed)} of memory with these settings, and {where} has {in_words(have)}: lower "
            "model.channels, model.blocks, batch_size, data.crop_size or data.sequence_length."
        )


def with_initial_weights(config: Config, *, source: str) -> Config:
    """``config`` with the place of its initial weights made absolute, because workers have other working directories.

    A name of published weights stays as it is: it means the same everywhere.

    Raises :class:`UserError` if ``source``, the name of the preset, asks for weights and none were named.
    """
    initial = config.initial_weights
    if initial == REQUIRED:
        raise UserError(
            f"{source} starts from FRVSR weights: give --initial-weights frvsr (the published ones, which are fetched) "
            "or PATH (a run of the frvsr preset, or what 'tecogan convert' made), or --initial-weights none."
        )
    if initial is None or is_name(initial):
        return config
    place = None if initial == "none" else str(Location.of(initial).absolute())
    return dataclasses.replace(config, initial_weights=place)

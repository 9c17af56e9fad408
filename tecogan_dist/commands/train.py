"""``tecogan train``: train on a clip store, on this machine or a cluster, and go on where a run was interrupted."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from tecogan_dist.base.chatter import be_verbose
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.importing import import_aside
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.capacity import Demand, check_cluster, connected_for
from tecogan_dist.cluster.stopping import warn_of_short_stops
from tecogan_dist.commands.parser import CommandParser
from tecogan_dist.commands.settings import add_settings, read_settings, with_initial_weights
from tecogan_dist.commands.values import input_place, output_place
from tecogan_dist.config.schema import REQUIRED, Config
from tecogan_dist.data.cache_folder import check_wanted
from tecogan_dist.runs.checkpoints import checkpoint_step, read_state
from tecogan_dist.runs.facts import facts_of_command
from tecogan_dist.runs.folder import AUTO, NEVER, RUN_FILE, RunFolder, holds_run, open_run_folder, write_run_file
from tecogan_dist.runs.owner import Ownership
from tecogan_dist.runs.records import check_records
from tecogan_dist.tracking.wandb_variables import WandbVariables
from tecogan_dist.training.launching import check_graph
from tecogan_dist.training.profiled_steps import MOST_STEPS, Profile, check_device, check_profile, parse_steps
from tecogan_dist.training.task import TrainingTask, select_scenes

HEAVY = "pandas", "tecogan_dist.training.begin"
"""Torch and what else takes a second to import, but nothing of Ray."""
KEPT = "what the run had saved is kept, and the same command goes on from there"
EXAMPLES = (
    "tecogan train --config frvsr --data STORE --output runs/frvsr",
    "tecogan train --config tecogan --data STORE --output runs/tecogan --initial-weights runs/frvsr "
    "--perceptual.weights vgg19.pth",
)


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`, and ``KeyboardInterrupt`` for a run that was stopped."""
    options, config = parse(argv)
    profile = _profile(options)
    if options.verbose:
        be_verbose()
    warn_of_short_stops()
    output, data = (Location.of(path).absolute() for path in (options.output, options.data))
    check_wanted(config.data.cache_dir)
    folder = open_run_folder(output, config=config, data=data, resume=options.resume)
    if profile is not None:
        check_profile(profile, done=_done(folder), steps=config.steps)
    if _is_trained(folder, config):
        return
    with Ownership(output, made=RUN_FILE) as ownership:
        if holds_run(output):
            ownership.take()  # from now on it does not change; a new run makes its folder when all has been checked
            folder = open_run_folder(output, config=config, data=data, resume=options.resume)
        check_records(output)
        training_scenes, validation_scenes = select_scenes(data, config)
        task = TrainingTask(
            config=config,
            data=data,
            training_scenes=training_scenes,
            validation_scenes=validation_scenes,
            output=output,
            resume_from=folder.resume_from,
            facts=facts_of_command("train", sys.argv[1:] if argv is None else argv),
            wandb=WandbVariables.of(),
            profile=profile,
        )
        demand = Demand(config)
        with connected_for(demand, importing=HEAVY):
            import_aside("tecogan_dist.commands.train_run").join()  # which Ctrl-C may interrupt
            from tecogan_dist.commands.train_run import check_networks, run

            networks = check_networks(task, begun=folder.checkpoint or folder.resume_from)
            is_new = not holds_run(output)
            ownership.take()
            if is_new and holds_run(output):
                raise UserError(
                    f"another command has begun a run in {output} meanwhile: the same command goes on with it."
                )
            use_gpu = check_cluster(demand)
            if profile is not None:
                check_device(profile, is_gpu=use_gpu)
            check_graph(config, is_gpu=use_gpu)
            ownership.check()
            write_run_file(folder, config=config, data=data)
            task = dataclasses.replace(task, owner=ownership.word)
            run(task, networks=networks, use_gpu=use_gpu)


def _done(folder: RunFolder) -> int:
    """The step that the run goes on after; 0 for one that begins."""
    begun = folder.checkpoint or folder.resume_from
    return 0 if begun is None else read_state(begun).state.step


def _is_trained(folder: RunFolder, config: Config) -> bool:
    """Whether nothing is left to do, which is said. Raises :class:`UserError` if nothing could be done."""
    if folder.checkpoint is not None:
        if checkpoint_step(folder.checkpoint) < config.steps:
            return False
        done = read_state(folder.checkpoint).state.step
        print(f"{folder.path} is trained: {done} steps are done, the checkpoint is {folder.checkpoint}")
        return True
    if folder.resume_from is not None:
        done = read_state(folder.resume_from).state.step
        if done >= config.steps:
            raise UserError(f"{folder.resume_from} has done {done} steps: ask for more than that (--steps).")
    return False


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Config]:
    """This command's own options, and the config with the rest applied to it."""
    parser = CommandParser(
        "train",
        description="Train FRVSR or TecoGAN on a clip store. The same command again goes on where a run was stopped.",
        examples=EXAMPLES,
        add_help=False,
        usage="tecogan train --config PRESET|FILE --data STORE --output DIR [--resume ...] [--SETTING VALUE ...]",
    )
    add_settings(parser)
    add = parser.add_argument
    add(
        "--output",
        type=output_place,
        metavar="DIR",
        help="the run's folder; on a cluster one that all nodes share, or s3:// or gs://",
    )
    add(
        "--resume",
        type=input_place,
        default=AUTO,
        metavar="auto|never|PATH",
        help="auto: go on if the output folder holds this run (default). never: refuse to. PATH: begin from another "
        "run's or checkpoint's weights, optimiser and step, in a new output folder",
    )
    add(
        "--profile",
        type=_steps,
        metavar="FIRST:LAST",
        help="record where the time of these steps of the run goes, both included, as 10:15 (the first is 1, at most "
        f"{MOST_STEPS} of them): each worker writes a trace for Perfetto and a table into DIR/profiles",
    )
    add(
        "--profile-memory",
        action="store_true",
        help="with --profile, also a snapshot of what a GPU's memory is taken for in these steps",
    )
    options, config = read_settings(parser, argv, required=("config", "data", "output"))
    if config.initial_weights == REQUIRED and options.resume not in (AUTO, NEVER):
        config = dataclasses.replace(config, initial_weights=None)  # the other run's are taken
    return options, with_initial_weights(config, source=options.config)


def _steps(text: str) -> tuple[int, int]:
    """An option's type: the first and the last step."""
    try:
        return parse_steps(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def _profile(options: argparse.Namespace) -> Profile | None:
    if options.profile is None:
        if options.profile_memory:
            raise UserError("--profile-memory says what to record, and --profile of which steps: give both.")
        return None
    first, last = options.profile
    return Profile(first=first, last=last, memory=options.profile_memory)

"""``tecogan tune``: search training settings, scored by what held-out scenes look like after training with them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tecogan_dist.base.chatter import be_verbose
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.capacity import Demand, check_cluster, connected_for, trainings_at_a_time
from tecogan_dist.cluster.connect import cluster_address
from tecogan_dist.cluster.shortage import Names
from tecogan_dist.cluster.stopping import warn_of_short_stops
from tecogan_dist.commands.parser import CommandParser
from tecogan_dist.commands.settings import add_settings, check_size, read_settings, with_initial_weights
from tecogan_dist.commands.signals import stopping_by_signal
from tecogan_dist.commands.values import input_path, output_place
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.protocol import OFFICIAL
from tecogan_dist.pages.sweep import PAGE_FILE, write_sweep_page
from tecogan_dist.pages.sweep_pictures import Showing, bicubic_scores, showings
from tecogan_dist.runs.facts import facts_of_command
from tecogan_dist.runs.owner import Ownership
from tecogan_dist.tracking.wandb_variables import GROUP, WandbVariables
from tecogan_dist.training.begin import build_networks
from tecogan_dist.training.launching import check_graph
from tecogan_dist.training.task import Networks, TrainingTask, measured_scenes, read_networks, select_scenes
from tecogan_dist.tuning.checks import check_space, check_values, check_weights
from tecogan_dist.tuning.configs import (
    compared_trainings,
    largest_perceptual,
    number_of_trials,
    preset_values,
    trial_config,
)
from tecogan_dist.tuning.display import SweepDisplay
from tecogan_dist.tuning.folder import (
    SWEEP_FILE,
    check_sweep_folder,
    keep_starting_weights,
    starting_weights,
    write_sweep_file,
)
from tecogan_dist.tuning.ledger import Event
from tecogan_dist.tuning.ranking import summarise
from tecogan_dist.tuning.reading import read_space
from tecogan_dist.tuning.records import SweepResults, TrialRecord
from tecogan_dist.tuning.results import failures, front_line, plain_table, table, training_command, write_results
from tecogan_dist.tuning.segments import check_segments
from tecogan_dist.tuning.space import Space
from tecogan_dist.tuning.study import StudyFile, study_of
from tecogan_dist.tuning.sweep import Stopped, Sweep
from tecogan_dist.tuning.trial import SweepTask
from tecogan_dist.tuning.wandb_summary import write_summary_run

DESCRIPTION = """
Train with many settings, measure held-out scenes, and rank. SPACE says which settings, how they are scored, and how
much is tried. The same command again goes on where a sweep was stopped, and repeats nothing that is on record.
"""
EXAMPLES = (
    "tecogan tune --space tune_spaces/loss_weights.yaml --config tecogan --data STORE --output sweeps/weights "
    "--initial-weights runs/frvsr --perceptual.weights vgg19.pth",
    "tecogan tune --space tune_spaces/smoke.yaml --config smoke_tecogan --data demo/store --output sweeps/smoke "
    "--initial-weights demo/frvsr --data.validation-scenes 2003 2003",
)
KEPT = "trials on record are kept, and the same command goes on from there"
"""What an interruption leaves."""
STUDY_FILE = "study.log"
"""Optuna's view of the search, for optuna-dashboard."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`, and ``KeyboardInterrupt`` for a sweep that was stopped."""
    options, base = parse(argv)
    if options.verbose:
        be_verbose()
    warn_of_short_stops()
    output, data = (Location.of(path).absolute() for path in (options.output, options.data))
    space = read_space(options.space)
    check_space(space, base, source=options.space)
    check_weights(space, source=options.space)
    if check_sweep_folder(output, space=space, config=base, data=data):
        check_segments(output, steps=space.steps, fits=functools.partial(check_values, space, base))
    task = _training_task(space, base, data=data, output=output)
    networks = read_networks(_with_most_losses(task, space))
    if (cluster_address(base.cluster.address) or "").startswith("ray://"):
        raise UserError("a sweep cannot run through Ray's client (ray://): submit it with 'ray job submit'.")
    most = max(number_of_trials(space), compared_trainings(space))
    demand = Demand(
        dataclasses.replace(
            task.config, cluster=dataclasses.replace(task.config.cluster, address=base.cluster.address)
        ),
        trainings=min(space.concurrent or 1, most),
        gpus_per_worker=1.0 if space.trial.gpus_per_worker is None else space.trial.gpus_per_worker,
        names=Names(
            workers="trial.workers",
            cpus="trial.cpus_per_worker",
            resources="trial.resources_per_worker",
            trainings="concurrent",
        ),
        needs_dashboard=space.trial.workers > 1,
    )
    with Ownership(output, made=SWEEP_FILE) as ownership:
        ownership.take()
        with connected_for(demand):
            use_gpu = _check_machines(demand, space, source=options.space)
            ownership.check()
            known = check_sweep_folder(output, space=space, config=base, data=data)
            write_sweep_file(output, space=space, config=base, data=data)
            concurrent = min(space.concurrent or trainings_at_a_time(demand, use_gpu=use_gpu), most)
            bicubic = bicubic_scores(task, networks.lpips)
            _announce(space, concurrent=concurrent, known=known, scenes=len(measured_scenes(task)))
            trials_base = _for_trials(base, output)
            sweep_task = SweepTask(
                space=space,
                base=trials_base,
                data=data,
                output=output,
                training_scenes=task.training_scenes,
                validation_scenes=task.validation_scenes,
                use_gpu=use_gpu,
                facts=facts_of_command("tune", sys.argv[1:] if argv is None else argv),
                wandb=WandbVariables.of().for_trial(),
            )
            records = run(sweep_task, networks=networks, concurrent=concurrent)
            full = dataclasses.replace(base, initial_weights=trials_base.initial_weights)
            _conclude(task, _summary(task, space, records, bicubic=bicubic), base=full)


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Config]:
    """This command's own options, and the preset with the rest applied to it."""
    parser = CommandParser(
        "tune",
        description=DESCRIPTION,
        examples=EXAMPLES,
        add_help=False,
        usage="tecogan tune --space SPACE --config PRESET|FILE --data STORE --output DIR [--SETTING VALUE ...]",
    )
    add_settings(parser)
    parser.add_argument(
        "--space", type=input_path, metavar="FILE", help="the search as a YAML file: see tune_spaces/README.md"
    )
    parser.add_argument(
        "--output",
        type=output_place,
        metavar="DIR",
        help="the sweep's folder; on a cluster one that all nodes share, or s3:// or gs://",
    )
    options, config = read_settings(parser, argv, required=("space", "config", "data", "output"))
    return options, with_initial_weights(config, source=options.config)


def _training_task(space: Space, base: Config, *, data: Location, output: Location) -> TrainingTask:
    """The preset's training, as the sweep has it. Raises :class:`UserError` for scenes or weights that do not fit."""
    config = trial_config(base, space, {})
    check_size(dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, address=base.cluster.address)))
    training, held_out = select_scenes(data, config)
    task = TrainingTask(config=config, data=data, training_scenes=training, validation_scenes=held_out, output=output)
    if not measured_scenes(task):
        raise UserError(
            f"no held-out scene can be measured: the official protocol needs {OFFICIAL.minimum_frames} frames or more "
            "of at least 48x48 pixels; give others with --data.validation-scenes."
        )
    build_networks(config, initial_weights=starting_weights(output, config.initial_weights))  # do they fit?
    return task


def _check_machines(demand: Demand, space: Space, *, source: Path) -> bool:
    """Whether trials take GPUs. Raises :class:`UserError` if the connected Ray has less than a sweep needs."""
    use_gpu = check_cluster(demand)
    check_graph(demand.config, is_gpu=use_gpu)
    if space.trial.gpus_per_worker and not use_gpu:
        raise UserError(
            f"{source}: trial.gpus_per_worker is {space.trial.gpus_per_worker:g} and no GPU is used here: leave it "
            "out, or give --cluster.address."
        )
    return use_gpu


def _for_trials(base: Config, output: Location) -> Config:
    """With W&B's group, and with the sweep's own copy of the initial weights: the run that has them may go on."""
    tracking = dataclasses.replace(base.tracking, wandb_group=_wandb_group(base, output))
    if base.initial_weights is None:
        return dataclasses.replace(base, tracking=tracking)
    copy = keep_starting_weights(output, base.initial_weights)
    return dataclasses.replace(base, tracking=tracking, initial_weights=copy)


def _wandb_group(config: Config, output: Location) -> str:
    return config.tracking.wandb_group or WandbVariables.of().values.get(GROUP) or output.name


def _with_most_losses(task: TrainingTask, space: Space) -> TrainingTask:
    """With a perceptual loss if any trial has one, so that its network is read."""
    loss = dataclasses.replace(task.config.loss, perceptual=largest_perceptual(task.config, space))
    return dataclasses.replace(task, config=dataclasses.replace(task.config, loss=loss))


def _announce(space: Space, *, concurrent: int, known: bool, scenes: int) -> None:
    print(
        f"{'going on with' if known else 'beginning'} a search of {len(space.settings)} settings: "
        f"{number_of_trials(space)} trials of {space.steps} steps, {concurrent} at a time, {space.scheduler.kind} and "
        f"{space.searcher.kind}; {scenes} held-out scene{'s' if scenes > 1 else ''}, {OFFICIAL.name} protocol",
        flush=True,
    )


def run(task: SweepTask, *, networks: Networks, concurrent: int) -> tuple[TrialRecord, ...]:
    """Search on the connected Ray, showing the trials, until all are done.

    SIGTERM (``ray job stop``) and the first Ctrl-C end the sweep after the trials' present steps, with checkpoints.
    """
    with _study_file(task.output, task.space) as tell_study:

        def changed(record: TrialRecord, event: Event) -> None:
            tell_study(record, event)
            display.changed(record, event)

        sweep = Sweep(task, networks=networks, concurrent=concurrent, changed=changed)
        display = SweepDisplay(task.space, sweep.records)
        stopping = "trials end after their present step, with checkpoints"
        try:
            with display, stopping_by_signal(sweep.ask_to_stop, what=stopping):
                sweep.watch(display.news)
        except Stopped:
            print("stopped: the same command goes on from there")
            raise KeyboardInterrupt from None
        return sweep.records()


@contextlib.contextmanager
def _study_file(output: Location, space: Space) -> Iterator[Callable[[TrialRecord, Event], None]]:
    """Keeps Optuna's file of the search in the sweep's folder; for one that is not local, copied after each trial."""
    with contextlib.ExitStack() as stack:
        folder = output.path if output.is_local else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        study = StudyFile(folder / STUDY_FILE, space, say=print)

        def tell(record: TrialRecord, event: Event) -> None:
            if record.role != "search":
                return
            if event == "started":
                study.started(record)
            elif event == "measured":
                study.measured(record, record.step)
            else:
                study.ended(record)
                if not output.is_local:
                    with contextlib.suppress(UserError):  # storage that fails for a while: the next trial tries again
                        (output / STUDY_FILE).write_bytes((folder / STUDY_FILE).read_bytes())

        yield tell


def _summary(
    task: TrainingTask, space: Space, records: tuple[TrialRecord, ...], *, bicubic: dict[str, float]
) -> SweepResults:
    return summarise(
        space,
        preset_values=preset_values(task.config, space),
        trials=[record for record in records if record.role == "search"],
        preset=next((record for record in records if record.role == "preset"), None),
        repeats=[record for record in records if record.role == "repeat"],
        bicubic=bicubic,
    )


def _conclude(task: TrainingTask, results: SweepResults, *, base: Config) -> None:
    """Write and print what came out. Raises :class:`UserError` if nothing did."""
    output = task.output
    print("\n" + "\n".join([plain_table(table(results)), *front_line(results), *failures(results)]))
    written = write_results(output, results, base=base, data=task.data)
    if not results.ranking:
        with contextlib.suppress(FileNotFoundError):
            (output / PAGE_FILE).delete()
        raise UserError(
            f"no trial came to a score: the reasons are above and in {written[0]}; mend them, and the "
            "same command tries again."
        )
    address = _tell_wandb(output, results, task.config)
    command = training_command(output, data=task.data)
    page = write_sweep_page(
        output, results, study_of(results), _pictures(task, results), title=output.name, command=command, wandb=address
    )
    if results.verdict:
        print(f"\n{results.verdict}")
    print(f"\nwritten: {', '.join(map(str, [*written, page]))}")
    print(f"train the winner at full length:\n  {command}")


def _tell_wandb(output: Location, results: SweepResults, config: Config) -> str:
    variables = WandbVariables.of().for_trial()
    project = variables.project(config.tracking)
    if project is None:
        return ""
    try:
        return write_summary_run(
            output, results, project=project, group=_wandb_group(config, output), variables=variables
        )
    except Exception as error:  # whatever the client raises: the sweep's own results come first
        print(f"warning: W&B has no summary of the sweep ({type(error).__name__}: {error})")
        return ""


def _pictures(task: TrainingTask, results: SweepResults) -> list[Showing]:
    try:
        return showings(task, results, device="cuda" if torch.cuda.is_available() else "cpu")
    except UserError as error:
        print(f"warning: the page has no pictures: {error}")
        return []

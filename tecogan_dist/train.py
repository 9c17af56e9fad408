"""``tecogan train``: train on a clip store, on this machine or a cluster, and go on where a run was interrupted."""

from __future__ import annotations

import argparse
import dataclasses
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import ControllerError, WorkerGroupError
from ray.train.torch import TorchTrainer

from tecogan_dist import config as settings
from tecogan_dist.cluster import check_cluster, connected_for
from tecogan_dist.config import REQUIRED, Config
from tecogan_dist.errors import UserError, run_command
from tecogan_dist.overrides import override
from tecogan_dist.training.display import Board, Display, clock
from tecogan_dist.training.run_folder import AUTO, NEVER, open_run_folder, write_run_file
from tecogan_dist.training.state import newest_checkpoint, read_state
from tecogan_dist.training.worker import TrainingTask, build_networks, select_scenes, train_worker
from tecogan_dist.vgg_weights import VggWeights, read_vgg


def main(argv: list[str] | None = None) -> None:
    options, config = parse(argv)
    output, data = options.output.resolve(), options.data.resolve()
    folder = open_run_folder(output, config=config, data=data, resume=options.resume)
    begun = folder.checkpoint or folder.resume_from
    if begun is not None:
        state = read_state(begun, workers=config.cluster.workers, zero_stage=config.cluster.zero_stage)
        if state.step >= config.steps and folder.checkpoint is None:
            raise UserError(f"{begun} has done {state.step} steps: ask for more than that (--steps).")
        if state.step >= config.steps:
            print(f"{output} is trained: {state.step} steps are done, the checkpoint is {begun}")
            return
    training_scenes, validation_scenes = select_scenes(data, config)
    if begun is None:
        build_networks(config, initial_weights=config.initial_weights)  # do they fit?
    vgg_weights = read_vgg(config.perceptual.weights, seed=config.seed) if config.loss.perceptual > 0 else None
    task = TrainingTask(
        config=config,
        data=data,
        training_scenes=training_scenes,
        validation_scenes=validation_scenes,
        output=output,
        resume_from=folder.resume_from,
    )
    with connected_for(config):
        use_gpu = check_cluster(config)
        write_run_file(folder, config=config, data=data)
        run(task, vgg_weights=vgg_weights, use_gpu=use_gpu)


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Config]:
    """This command's own options, and the config with the rest applied to it."""
    parser = argparse.ArgumentParser(
        prog="tecogan train", description=__doc__, allow_abbrev=False, add_help=False, usage="%(prog)s [options]"
    )
    parser.add_argument("-h", "--help", action="store_true", help="show these options and all settings")
    parser.add_argument("--config", metavar="PRESET|FILE", help=f"{', '.join(settings.preset_names())}, or a YAML file")
    parser.add_argument("--data", type=Path, metavar="STORE", help="clip store made by 'tecogan prepare'")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the run's folder; on a cluster, one that all nodes share"
    )
    parser.add_argument(
        "--resume",
        default=AUTO,
        metavar="auto|never|PATH",
        help="auto: go on if the output folder holds this run (default). never: refuse to. PATH: begin from another "
        "run's or checkpoint's weights, optimiser and step, in a new output folder",
    )
    options, overrides = parser.parse_known_args(argv)
    if options.help:
        parser.print_help()
        print("\nAny setting of the config can be changed by its dotted name:\n")
        overrides = ["--help"]
        override(settings.load(options.config) if options.config else Config(), overrides)
    missing = [f"--{name}" for name in ("config", "data", "output") if getattr(options, name) is None]
    if missing:
        raise UserError(f"give {' and '.join(missing)}: 'tecogan train --help' says what for.")
    config = override(settings.load(options.config), overrides, program="tecogan train")
    if config.steps < 1:
        raise UserError("steps must be at least 1: there is nothing to train in 0 steps.")
    initial = config.initial_weights
    if initial == REQUIRED and options.resume in (AUTO, NEVER):
        raise UserError(
            f"{options.config} starts from FRVSR weights: give --initial_weights FILE (a run of the frvsr preset, or "
            "published weights after 'tecogan convert'), or --initial_weights none."
        )
    # Absolute, because workers have other working directories.
    initial = None if initial in (REQUIRED, "none", None) else str(Path(initial).resolve())
    return options, dataclasses.replace(config, initial_weights=initial)


def run(task: TrainingTask, *, vgg_weights: VggWeights | None, use_gpu: bool) -> None:
    """Train on the connected cluster, showing what the workers report, until done, failed or interrupted."""
    board: Any = ray.remote(num_cpus=0)(Board).remote()
    vgg_reference = None if vgg_weights is None else ray.put(vgg_weights)
    config, cluster = task.config, task.config.cluster
    callbacks: list[Any] = [AfterFailure(board)]
    trainer = TorchTrainer(
        lambda: train_worker(task, vgg_weights=vgg_reference, board=board),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=task.output.name,
            storage_path=str(task.output.parent),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.tracking.keep_checkpoints),
            callbacks=callbacks,
        ),
    )
    outcome: queue.Queue[Any] = queue.Queue()
    started = time.monotonic()
    threading.Thread(target=_fit, args=(trainer, outcome), daemon=True).start()
    display = Display(config)
    try:
        while outcome.empty():
            display.show(ray.get(board.take.remote()))
            time.sleep(0.3)
        display.show(ray.get(board.take.remote()))
    except KeyboardInterrupt:
        display.close()
        print(f"stopped; the same command goes on from {newest_checkpoint(task.output) or 'the beginning'}")
        raise
    finally:
        display.close()
    result = outcome.get()
    if isinstance(result, ControllerError) and isinstance(result.controller_failure, UserError):
        raise result.controller_failure
    if isinstance(result, WorkerGroupError):
        # Its own text is cut short.
        rank, error = next(iter(result.worker_failures.items()))
        print(f"worker {rank}: {error}", file=sys.stderr)
    if isinstance(result, BaseException):
        raise result
    minutes = clock(time.monotonic() - started)
    print(f"trained to step {config.steps} in {minutes} ({display.rate}): the checkpoint is {result.checkpoint.path}")


def _fit(trainer: TorchTrainer, outcome: queue.Queue[Any]) -> None:
    # Not in the main thread: there Ray would take Ctrl-C for itself.
    try:
        outcome.put(trainer.fit())
    except BaseException as error:
        outcome.put(error)


class AfterFailure(ray.train.UserCallback):
    """Runs in Ray Train's controller when a worker has failed: no new attempt after a :class:`UserError`."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        sentence = ray.get(self._board.given_up.remote())
        if sentence is not None:
            raise UserError(sentence)  # ends the run: the controller retries only what failed in workers
        for rank, error in worker_exceptions.items():
            last_line = (str(error).strip() or type(error).__name__).splitlines()[-1]
            self._board.say.remote(f"worker {rank} was lost: {last_line}")


if __name__ == "__main__":
    run_command(main)

"""``tecogan train``: train on a clip store, on this machine or a cluster, and go on where a run was interrupted."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import queue
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tecogan_dist import config as settings
from tecogan_dist.cluster import check_cluster, connected_for, resources_per_worker
from tecogan_dist.config import REQUIRED, Config
from tecogan_dist.errors import UserError, run_command
from tecogan_dist.metrics.perceptual import Trunk, find_trunk
from tecogan_dist.metrics.sequence import NEED_WEIGHTS
from tecogan_dist.overrides import override
from tecogan_dist.storage import Location
from tecogan_dist.training.display import Board, Display, clock
from tecogan_dist.training.failures import AfterFailure, BeforeChange, explained, same_command
from tecogan_dist.training.ray_worker import train_worker
from tecogan_dist.training.run_folder import AUTO, NEVER, open_run_folder, write_run_file
from tecogan_dist.training.state import newest_checkpoint, read_state
from tecogan_dist.training.task import TrainingTask, build_networks, select_scenes
from tecogan_dist.training.validation import measured_scenes
from tecogan_dist.training.worker import Networks
from tecogan_dist.vgg_weights import read_vgg


def main(argv: list[str] | None = None) -> None:
    options, config = parse(argv)
    output, data = (Location.of(place).absolute() for place in (options.output, options.data))
    folder = open_run_folder(output, config=config, data=data, resume=options.resume)
    begun = folder.checkpoint or folder.resume_from
    if begun is not None:
        done = read_state(begun).state.step
        if done >= config.steps and folder.checkpoint is None:
            raise UserError(f"{begun} has done {done} steps: ask for more than that (--steps).")
        if done >= config.steps:
            print(f"{output} is trained: {done} steps are done, the checkpoint is {begun}")
            return
    training_scenes, validation_scenes = select_scenes(data, config)
    if begun is None:
        build_networks(config, initial_weights=config.initial_weights)  # do they fit?
    vgg = read_vgg(config.perceptual.weights, seed=config.seed) if config.loss.perceptual > 0 else None
    task = TrainingTask(
        config=config,
        data=data,
        training_scenes=training_scenes,
        validation_scenes=validation_scenes,
        output=output,
        resume_from=folder.resume_from,
    )
    networks = Networks(vgg=vgg, lpips=lpips_trunk(config) if measured_scenes(task) else None)
    with connected_for(config):
        use_gpu = check_cluster(config)
        write_run_file(folder, config=config, data=data)
        run(task, networks=networks, use_gpu=use_gpu)


def lpips_trunk(config: Config) -> Trunk | None:
    """Weights of LPIPS's network if they are at one of their places; needed if the best checkpoint is chosen by it."""
    try:
        return find_trunk()
    except UserError:
        if config.tracking.best in NEED_WEIGHTS:
            raise
        return None


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Config]:
    """This command's own options, and the config with the rest applied to it."""
    parser = argparse.ArgumentParser(
        prog="tecogan train", description=__doc__, allow_abbrev=False, add_help=False, usage="%(prog)s [options]"
    )
    parser.add_argument("-h", "--help", action="store_true", help="show these options and all settings")
    parser.add_argument("--config", metavar="PRESET|FILE", help=f"{', '.join(settings.preset_names())}, or a YAML file")
    parser.add_argument(
        "--data", metavar="STORE", help="clip store made by 'tecogan prepare': a folder, s3:// or gs://"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="the run's folder; on a cluster one that all nodes share, or s3:// or gs://"
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


def run(task: TrainingTask, *, networks: Networks, use_gpu: bool) -> None:
    """Train on the connected cluster, showing what the workers report, until done, failed, stopped or interrupted.

    SIGTERM (``ray job stop``) and the first Ctrl-C end the run after the present step, with a checkpoint.
    """
    # Beside the driver: on another machine it could be lost while the run goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()
    networks_reference = ray.put(networks)
    config, cluster = task.config, task.config.cluster
    callbacks: list[Any] = [
        AfterFailure(board, max_failures=cluster.max_failures),
        BeforeChange(board, elastic=cluster.min_workers is not None),
    ]
    storage, name = storage_of(task.output)
    # Ray takes (min, max) too, which its annotation does not say yet.
    workers: Any = cluster.workers if cluster.min_workers is None else (cluster.min_workers, cluster.workers)
    trainer = TorchTrainer(
        lambda: train_worker(task, networks=networks_reference, board=board),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker=resources_per_worker(config, use_gpu=use_gpu),
            placement_strategy=cluster.placement,
            accelerator_type=cluster.accelerator_type,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            callbacks=callbacks,
            **storage,
        ),
        # Ours notices first, and says so.
        torch_config=TorchConfig(timeout_s=int(2 * cluster.step_timeout) + 60),
    )
    outcome: queue.Queue[Any] = queue.Queue()
    started = time.monotonic()
    threading.Thread(target=_fit, args=(trainer, outcome), daemon=True).start()
    display = Display(config)
    try:
        with stopping_by_signal(board):
            while outcome.empty():
                display.show(ray.get(board.take.remote()))
                time.sleep(0.3)
        display.show(ray.get(board.take.remote()))
    except RayActorError as error:
        raise explained(error, task.output) from error
    except KeyboardInterrupt:
        display.close()
        print(f"stopped; {same_command(task.output)}")
        raise
    finally:
        display.close()
    result = outcome.get()
    if isinstance(result, BaseException):
        raise explained(result, task.output)
    checkpoint = newest_checkpoint(task.output)
    assert checkpoint is not None, "a run ends with a checkpoint"
    done, spent = read_state(checkpoint).state.step, clock(time.monotonic() - started)
    if done < config.steps:
        print(f"stopped after {done} of {config.steps} steps: the same command goes on from {checkpoint}")
        raise KeyboardInterrupt
    print(f"trained to step {done} in {spent} ({display.rate}): the checkpoint is {checkpoint}")


@contextlib.contextmanager
def stopping_by_signal(board: Any) -> Iterator[None]:
    """Make SIGTERM and Ctrl-C ask for an orderly end; a second one interrupts."""

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for kind, handler in before.items():
            signal.signal(kind, signal.default_int_handler if kind == signal.SIGTERM else handler)
        print("asked to stop: the run ends after this step, with a checkpoint (once more: at once)", flush=True)
        board.ask_to_stop.remote()

    # Only now: Ray sets its own when it is started.
    before = {kind: signal.signal(kind, ask) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def storage_of(output: Location) -> tuple[dict[str, Any], str]:
    """Where Ray Train keeps its own notes of the run, beside the run's files, and their name there."""
    if output.is_local:
        return {"storage_path": str(output.path.parent)}, output.name
    files, path = output.filesystem()
    return {"storage_filesystem": files, "storage_path": path.rpartition("/")[0]}, output.name


def _fit(trainer: TorchTrainer, outcome: queue.Queue[Any]) -> None:
    # Not in the main thread: there Ray would take Ctrl-C for itself.
    try:
        outcome.put(trainer.fit())
    except BaseException as error:
        outcome.put(error)


if __name__ == "__main__":
    run_command(main)

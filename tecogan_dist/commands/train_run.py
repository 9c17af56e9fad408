"""What ``tecogan train`` does on the connected Ray. It imports torch: ``train.py`` imports it while Ray starts."""

from __future__ import annotations

from tecogan_dist.base.storage import Location
from tecogan_dist.cluster.worker_output import last_words
from tecogan_dist.commands.signals import stopping_by_signal
from tecogan_dist.runs.records import read_scores
from tecogan_dist.training.begin import build_networks, check_origin
from tecogan_dist.training.ray.display import Display, clock
from tecogan_dist.training.ray.failures import same_command
from tecogan_dist.training.ray.launch import Launch
from tecogan_dist.training.task import Networks, TrainingTask, read_networks


def check_networks(task: TrainingTask, *, begun: Location | None) -> Networks:
    """Those that are not trained, as workers get them. Raises :class:`UserError` for weights that do not fit.

    ``begun`` is the checkpoint that the run goes on from; None: it begins.
    """
    if begun is None:
        build_networks(task.config, initial_weights=task.config.initial_weights)  # do they fit?
    else:
        check_origin(begun, task.config)
    return read_networks(task)


def run(task: TrainingTask, *, networks: Networks, use_gpu: bool) -> None:
    """Train on the connected Ray, showing what the workers report, until done, failed, stopped or interrupted.

    SIGTERM (``ray job stop``) and the first Ctrl-C end the run after the present step, with a checkpoint.
    """
    display = Display(task.config, scores=read_scores(task.output), last_words=last_words)
    steps = task.config.steps
    launched = Launch(task, networks=networks, use_gpu=use_gpu)
    try:
        with stopping_by_signal(launched.ask_to_stop, what="the run ends after this step, with a checkpoint"):
            launched.watch(display.show)
    except KeyboardInterrupt:
        display.close()
        print(f"stopped; {same_command(task.output)}")
        raise
    finally:
        display.close()
    end = launched.end()
    if end.step < steps:
        print(f"stopped after {end.step} of {steps} steps: the same command goes on from {end.checkpoint}")
        raise KeyboardInterrupt
    print(f"trained to step {end.step} in {clock(end.seconds)} ({display.rate}): the checkpoint is {end.checkpoint}")

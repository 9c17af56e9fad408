"""A run at W&B: the same values under the same names, and what its users look for in a run.

All of it happens in a thread (:mod:`tecogan_dist.tracking.wandb_queue`). A row's ``_step``, W&B's own axis, is the
training step. What is measured beside training comes when the steps have gone on: ``validation/official/*`` and
``previews/*`` have an axis of their own, ``validation/step``.
"""

from __future__ import annotations

import math
import shlex
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import to_tree
from tecogan_dist.config.schema import Config
from tecogan_dist.metrics.names import HIGHER_IS_BETTER, METRICS
from tecogan_dist.runs import quantities
from tecogan_dist.runs.checkpoints import STATE_FILE, checkpoint_name
from tecogan_dist.runs.facts import Facts
from tecogan_dist.runs.previews import PROFILE_NAME, VIDEO_NAME, PreviewFiles
from tecogan_dist.runs.records import best_step, each_metrics, makes_record, read_scores
from tecogan_dist.tracking.wandb_alerts import Alerts
from tecogan_dist.tracking.wandb_artifacts import BEST, LATEST, artifact_of
from tecogan_dist.tracking.wandb_client import FINISH_SECONDS, TEARDOWN_SECONDS, finish_wandb, start_wandb, sync
from tecogan_dist.tracking.wandb_offline import LATE_STEP, Recorded, recorded, wait_until_settled
from tecogan_dist.tracking.wandb_queue import Deed, WandbQueue
from tecogan_dist.tracking.wandb_variables import DIR, NAME, WandbVariables

END_SECONDS = FINISH_SECONDS + TEARDOWN_SECONDS
"""For which the end of a run waits for W&B, whatever it does."""
LATE = f"{quantities.VALIDATION}/"
NODE_METRICS = (
    *("cpu_utilization", "mem_used", "mem_total", "disk_utilization_percentage"),
    *("network_receive_speed", "network_send_speed", "gpus_utilization", "gram_used", "gram_available"),
)
"""What Ray measures of a node that is shown, without ``ray_node_``."""
SAMPLING_SECONDS = 15.0
ALERT_SECONDS = 1800.0
"""For which an alert of the same title is not sent again."""


class WandbRecords:
    """The W&B run of the run in ``output``; its files are kept in ``folder``. ``first_step`` steps are done.

    ``identity`` is its id at W&B: attempts with the same one are one W&B run. What W&B lacks of the steps that are done
    is brought from ``metrics.jsonl`` in ``folder``; what it has already is not sent again.
    """

    def __init__(
        self,
        folder: Path,
        output: Location,
        config: Config,
        *,
        project: str,
        identity: str,
        variables: WandbVariables,
        facts: Facts,
        environment: Mapping[str, Any],
        first_step: int,
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._output, self._config, self._say = folder, output, config, say
        self._project, self._variables, self._facts = project, variables, facts
        self._environment, self._first_step = environment, first_step
        self._identity = identity
        self._run: Any = None
        self._step = self._validated = 0
        self._is_open = False
        self._shown: int | None = None
        """Whose measurements the open row holds."""
        self._late: OrderedDict[int, dict[str, Any]] = OrderedDict()
        """Those that wait for a row, by step."""
        self._checkpoint = 0
        self._scores: dict[int, dict[str, float]] = {}
        self._alerts = Alerts(config) if config.tracking.wandb_alerts else None
        self._queue = WandbQueue(self._begin, say=say)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name. Does not wait."""
        copy = dict(values)
        self._queue.put(lambda: self._record(step, copy))

    def preview(self, step: int, files: PreviewFiles) -> None:
        """What held-out frames look like after a step: the video, and the temporal profile."""
        self._queue.put(lambda: self._preview(step, files))

    def checkpoint(self, step: int) -> None:
        """A checkpoint is complete. It becomes an artifact if that was asked for."""
        if self._config.tracking.wandb_artifacts:
            self._queue.put(lambda: self._newest(step))

    def finish(self, *, failed: bool, reason: str = "") -> None:
        """End the W&B run, with so many seconds' patience; ``reason`` is why it failed."""
        last: list[Deed] = [lambda: self._end_run(failed)]
        if failed and self._config.tracking.wandb_alerts:
            last.insert(0, lambda: self._alert("the run has failed", reason or "see its log", level="ERROR"))
        if not self._queue.end(*last, seconds=END_SECONDS):
            self._say(
                f"warning: W&B has not taken all records of the run in {END_SECONDS:.0f} s: "
                f"'{sync(self._place, self._identity)}' sends what is recorded offline, and 'wandb sync "
                f"{self._place}/wandb/run-*-{self._identity}' the rest of an online run"
            )
        if self._queue.left_out:
            self._say(f"warning: W&B lacks {self._queue.left_out} records of this run; metrics.jsonl has them")

    # What follows runs in the queue's thread.

    @property
    def _place(self) -> str:
        return shlex.quote(self._variables.values.get(DIR) or str(self._output))

    def _begin(self) -> bool:
        files = Location.of(Path(self._variables.values[DIR])) if DIR in self._variables.values else self._output
        wait_until_settled(files, self._identity)
        before = recorded(files, self._identity)
        tracking = self._config.tracking
        self._run = start_wandb(
            self._folder,
            place=self._place,
            say=self._say,
            variables=self._variables,
            identity=self._identity,
            command=self._facts.command,
            settings=self._settings(),
            project=self._project,
            name=self._variables.values.get(NAME) or self._output.name,
            **({"group": tracking.wandb_group} if tracking.wandb_group else {}),
            config={**to_tree(self._config), "environment": dict(self._environment)},
            allow_val_change=True,
        )
        if self._run is None:
            return False
        try:
            self._continue(before)
        except BaseException:
            finish_wandb(self._run, say=self._say, failed=True)
            raise
        return True

    def _continue(self, before: Recorded) -> None:
        """Find out what W&B has, and bring it what it lacks; ``before`` is what files of earlier attempts hold."""
        if not self._run.offline:
            self._say(f"W&B: this run is {printable(self._run.url or self._run.id)}")
            # The server knows better than files what it has.
            validated = self._run.summary.get(LATE_STEP)
            validated = int(validated) if isinstance(validated, int | float) else 0
            before = Recorded(max(0, self._run.starting_step - 1), validated)
        self._step, self._validated = before.step, before.validated
        self._define()
        self._scores = self._scores_so_far()
        self._summarise()
        self._catch_up()

    def _settings(self) -> dict[str, Any]:
        git = self._facts.git or {}
        endpoints = {node["name"]: node["metrics"] for node in self._facts.nodes if node.get("metrics")}
        return {
            **({"git_commit": git["commit"], "git_remote_url": git.get("remote")} if git else {"disable_git": True}),
            "program": "tecogan",
            "x_stats_sampling_interval": SAMPLING_SECONDS,
            **(
                {
                    "x_stats_open_metrics_endpoints": endpoints,
                    "x_stats_open_metrics_filters": [f".*[.]ray_node_({'|'.join(NODE_METRICS)})$"],
                }
                if endpoints
                else {}
            ),
        }

    def _define(self) -> None:
        self._run.define_metric(LATE_STEP, hidden=True)
        self._run.define_metric("previews/*", step_metric=LATE_STEP)
        for metric in METRICS:
            best = "max" if metric in HIGHER_IS_BETTER else "min"
            self._run.define_metric(LATE + metric, step_metric=LATE_STEP, summary=f"{best},last")

    def _scores_so_far(self) -> dict[int, dict[str, float]]:
        try:
            return {step: dict(found) for step, found in read_scores(self._output).items() if step <= self._first_step}
        except UserError:
            return {}

    def _catch_up(self) -> None:
        """What an earlier attempt recorded and W&B has not got: it was out of reach, not wanted yet, or killed."""
        try:
            for line in each_metrics(self._folder):
                step = int(line.pop(quantities.STEP))
                if step <= self._first_step:
                    self._row(step, line)
        except (UserError, OSError) as error:
            self._say(f"warning: W&B does not get what earlier attempts recorded ({printable(error)})")

    def _record(self, step: int, values: dict[str, float]) -> None:
        self._row(step, values)
        for title, text in self._alerts.of(step, values, self._scores) if self._alerts else ():
            self._alert(title, text)

    def _row(self, step: int, values: dict[str, float]) -> None:
        late = {name: value for name, value in values.items() if name.startswith(LATE)}
        others = {name: value for name, value in values.items() if name not in late}
        if others and (step > self._step or (self._is_open and step == self._step)):
            self._log(step, others)
        if late and step > self._validated:
            self._log_late(step, late)
            self._scores[step] = {name.removeprefix(LATE): value for name, value in late.items()}
            self._summarise()
            if self._config.tracking.wandb_artifacts and step == self._best():
                self._artifact(step, BEST)
                if self._checkpoint != step:
                    self._artifact(self._checkpoint, LATEST)  # an alias that W&B gives to what is logged last

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._step:
            self._open_row(step)
        self._run.log(dict(values), step=step)
        if self._shown is None and self._late:
            self._show(*self._late.popitem(last=False))

    def _log_late(self, step: int, values: Mapping[str, Any]) -> None:
        """Into the row that is open, or one between the training steps that make a record, or else the next one: a row
        holds one such step, and W&B's steps never go back."""
        self._validated = max(self._validated, step)
        row = max(step, self._step + 1)
        if self._is_open and self._shown in (None, step):
            self._show(step, values)
        elif step in self._late or self._is_record(row):
            self._late.setdefault(step, {}).update(values)
        else:
            self._open_row(row)
            self._show(step, values)

    def _open_row(self, step: int) -> None:
        self._step, self._is_open, self._shown = step, True, None

    def _show(self, step: int, values: Mapping[str, Any]) -> None:
        """In the open row. Files may be gone: the numbers go first."""
        self._shown = step
        files = {name: value for name, value in values.items() if not isinstance(value, int | float)}
        numbers = {name: value for name, value in values.items() if name not in files}
        self._run.log({LATE_STEP: step, **numbers}, step=self._step)
        if files:
            self._run.log(files, step=self._step)

    def _preview(self, step: int, files: PreviewFiles) -> None:
        if step != self._shown and step not in self._late:
            return  # of an earlier attempt, which W&B has
        import wandb

        video = wandb.Video(str(files.video), format="mp4")
        self._log_late(step, {VIDEO_NAME: video, PROFILE_NAME: wandb.Image(str(files.profile))})

    def _best(self) -> int | None:
        return best_step(self._scores, self._config.tracking.best)

    def _summarise(self) -> None:
        best = self._best()
        if best is None:
            return
        values = {f"best/{name}": value for name, value in self._scores[best].items() if math.isfinite(value)}
        last = max(self._scores)
        values |= {f"last/{name}": value for name, value in self._scores[last].items() if math.isfinite(value)}
        self._run.summary.update({**values, "best/step": best, "last/step": last})

    def _newest(self, step: int) -> None:
        self._checkpoint = step
        self._artifact(step, *([LATEST, BEST] if step == self._best() else [LATEST]))

    def _artifact(self, step: int, *aliases: str) -> None:
        checkpoint = self._output / checkpoint_name(step)
        if (checkpoint / STATE_FILE).is_file():  # else it has been dropped, or is not complete and told of when it is
            artifact = artifact_of(checkpoint, identity=self._identity, scores=self._scores.get(step, {}))
            self._run.log_artifact(artifact, aliases=[*aliases, f"step-{step}"])

    def _alert(self, title: str, text: str, level: str = "WARN") -> None:
        self._run.alert(title=title[:63], text=text, level=level, wait_duration=ALERT_SECONDS)

    def _end_run(self, failed: bool) -> None:
        # What is left of what was measured gets rows of its own, but not those of steps that a later attempt comes to:
        # that one brings it then.
        try:
            while self._late and not self._is_record(self._step + 1):
                self._open_row(self._step + 1)
                self._show(*self._late.popitem(last=False))
        finally:
            finish_wandb(self._run, say=self._say, failed=failed)

    def _is_record(self, step: int) -> bool:
        return step <= self._config.steps and makes_record(step, self._config)

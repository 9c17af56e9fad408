"""W&B's variables of the command that was called, as they travel to the worker that speaks to W&B.

Workers on other machines have not got the driver's environment. The variables go with the task, which Ray keeps in
memory, and not in a runtime environment, which it shows and logs; the key is in no file of ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tecogan_dist.config.schema import TrackingConfig

PROJECT, ENTITY, NAME, RUN_ID, GROUP = (
    f"WANDB_{name}" for name in ("PROJECT", "ENTITY", "NAME", "RUN_ID", "RUN_GROUP")
)
JOB_TYPE, TAGS, NOTES, MODE, DIR = (f"WANDB_{name}" for name in ("JOB_TYPE", "TAGS", "NOTES", "MODE", "DIR"))
BASE_URL, KEY = "WANDB_BASE_URL", "WANDB_API_KEY"
CARRIED = (PROJECT, ENTITY, NAME, RUN_ID, GROUP, JOB_TYPE, TAGS, NOTES, MODE, DIR, BASE_URL, KEY)
ONE_RUN = (NAME, RUN_ID)
"""Which name one run: with them all trials of a sweep would be one."""
OF_MACHINE = (MODE, DIR, BASE_URL, KEY)
"""Which a machine may have of its own."""
DISABLED, OFFLINE = ("disabled",), ("offline", "dryrun")


@dataclass(frozen=True)
class WandbVariables:
    """Those that are set, by name."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str] | None = None) -> WandbVariables:
        """Of this process, unless another environment is given. A folder is made absolute."""
        source = os.environ if environment is None else environment
        values = {name: source[name] for name in CARRIED if source.get(name, "").strip()}
        if DIR in values:
            values[DIR] = str(Path(values[DIR]).expanduser().absolute())
        return cls(values)

    def for_trial(self) -> WandbVariables:
        """For one of many runs: each has a name of its own."""
        return WandbVariables({name: value for name, value in self.values.items() if name not in ONE_RUN})

    def completed(self) -> WandbVariables:
        """On the worker: what was not set for the command is this machine's, as far as that makes sense."""
        own = WandbVariables.of().values
        return WandbVariables({**{name: own[name] for name in OF_MACHINE if name in own}, **self.values})

    def project(self, tracking: TrackingConfig) -> str | None:
        """Where runs are recorded, the setting before the variable; None: nowhere."""
        if self.mode in DISABLED:
            return None
        return tracking.wandb_project or self.values.get(PROJECT)

    @property
    def mode(self) -> str:
        """``online`` unless another was asked for."""
        return self.values.get(MODE, "online").strip().lower()

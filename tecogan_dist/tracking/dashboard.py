"""A saved workspace at W&B for a project's runs and sweeps: made once, and brought up to date from then on.

It has a fixed name in its address (``?nw=tecogandash``), by which it is found again from any machine. Sections that
people have added to it stay.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.waiting import TooSlowError, within
from tecogan_dist.metrics.names import COLUMN, HIGHER_IS_BETTER
from tecogan_dist.runs.previews import PROFILE_NAME, VIDEO_NAME
from tecogan_dist.runs.quantities import VALIDATION
from tecogan_dist.tracking.charts import DISCRIMINATOR, LOSSES, SECTIONS, SYSTEM, TEMPORAL, Chart, pattern
from tecogan_dist.tracking.wandb_offline import LATE_STEP
from tecogan_dist.tracking.wandb_variables import DISABLED, KEY, MODE, OFFLINE

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

NAME = "tecogan"
VIEW = "tecogandash"
"""In the workspace's address: eleven small letters and digits, as W&B's own are."""
PREVIEWS, SWEEPS = "previews", "sweeps"
OPEN = LOSSES, DISCRIMINATOR, TEMPORAL, PREVIEWS
"""Sections that are not folded."""
SEARCHED = (
    *("optimizer.learning_rate", "loss.warp", "loss.perceptual", "loss.pingpong", "loss.adversarial"),
    *("loss.feature_match", "discriminator.learning_rate_scale", "discriminator.balance_threshold"),
)
"""Settings that sweeps are compared by where no space says what was searched."""
RANKED = ("tof", "tlp", "lpips", "psnr")
"""Metrics by which they are."""
MOST_GPUS = 8
"""Of the first worker's node, whose load W&B's client measures: names of GPUs that are not there draw no line."""
MACHINE = (
    ("GPU load in %", tuple(f"system/gpu.{number}.gpu" for number in range(MOST_GPUS))),
    ("GPU memory in %", tuple(f"system/gpu.{number}.memoryAllocated" for number in range(MOST_GPUS))),
    ("CPU load in %", ("system/cpu",)),
    ("network in bytes", ("system/network.recv", "system/network.sent")),
)
"""W&B's own, of the first worker's node."""
SECONDS = 90.0
"""For which W&B is waited for in all."""
REQUEST_SECONDS = 20
REFUSED = ("401", "403", "Authentication", "PERMISSION")
"""What the client's errors have in them when a key is not good enough."""
_NAME = re.compile(r"[^/\\#?%:\x00-\x1f\x7f]{1,128}")
"""What W&B takes as a project's name, and an entity's: wandb 0.31 refuses the characters and the length
(``Settings.validate_project``), and control characters have no place in an address."""


@dataclass(frozen=True)
class Saved:
    """A workspace as it is at W&B."""

    address: str
    is_new: bool


def workspace(project: str, entity: str, *, searched: Sequence[str] = SEARCHED) -> ws.Workspace:
    """The workspace, not saved. ``searched`` are dotted names of settings, the axes of the sweeps' picture."""
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name=section.title, panels=[_line(chart) for chart in section.charts], is_open=section.title in OPEN)
        for section in SECTIONS
    ]
    titles = [section.title for section in SECTIONS]
    sections[titles.index(SYSTEM)].panels += _machine()
    sections.insert(
        titles.index(TEMPORAL) + 1,
        ws.Section(
            name=PREVIEWS,
            panels=_media(),
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=1, rows=2),
        ),
    )
    sections.append(
        ws.Section(
            name=SWEEPS,
            panels=_sweeps(searched),
            layout_settings=ws.SectionLayoutSettings(columns=1, rows=2),
        )
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections,
        runset_settings=ws.RunsetSettings(pinned_columns=[f"summary:best/{metric}" for metric in RANKED]),
    )


def definition(project: str, entity: str, *, searched: Sequence[str] = SEARCHED) -> dict[str, Any]:
    """What W&B would get, as JSON has it."""
    view = workspace(project, entity, searched=searched)._to_model()
    spec: dict[str, Any] = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return spec


def check_names(project: str, entity: str | None) -> None:
    """Raise :class:`UserError` for what W&B has no project or entity under."""
    for name, what in ((project, "project"), *(((entity, "entity"),) if entity is not None else ())):
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{printable(name, limit=200)!r} is not a name of a W&B {what}: give one of at most 128 characters, "
                "without / \\ # ? % and :."
            )


def save(project: str, entity: str | None, *, searched: Sequence[str] = SEARCHED) -> Saved:
    """Make the workspace at W&B, or bring it up to date. Nobody is asked anything.

    ``entity`` is a user's or a team's name; None: the key's own. Raises :class:`UserError` without a key, for one that
    is refused, for a project that is not there, and where W&B cannot be reached or does not take it.
    """
    check_names(project, entity)
    _check_key()
    try:
        return within(SECONDS, lambda: _save(project, entity, searched), what="W&B to answer")
    except TooSlowError as error:
        raise UserError(f"W&B does not answer ({error}): check the network and WANDB_BASE_URL.") from error


def _save(project: str, entity: str | None, searched: Sequence[str]) -> Saved:
    import wandb

    try:
        api = wandb.Api(timeout=REQUEST_SECONDS)
        owner = entity or api.default_entity
        if owner is None:
            raise UserError("W&B does not say whose projects the key is for: give --entity.")
        planned = workspace(project, owner, searched=searched)
        found = _find(project, owner)
        if found is None:
            planned._internal_name = f"nw-{VIEW}-v"
            saved = planned.save()
        else:
            ours = {section.name for section in planned.sections}
            found.sections = [*planned.sections, *(section for section in found.sections if section.name not in ours)]
            saved = found.save()
        return Saved(str(saved.url), found is None)
    except UserError:
        raise
    except Exception as error:  # whatever the client raises
        raise _sentence(error) from error


def _find(project: str, entity: str) -> ws.Workspace | None:
    """The workspace as it is there; None if there is none. Raises :class:`UserError` if there is no such project."""
    import wandb_workspaces.workspaces as ws

    try:
        # Of the address only the path and the view's name are read.
        return ws.Workspace.from_url(f"https://wandb.ai/{entity}/{project}?nw={VIEW}")
    except ValueError as error:
        if str(error).startswith("Workspace "):
            return None
        if str(error).startswith("Project "):
            raise UserError(
                f"W&B has no project {entity}/{project} that this key may see: check the name and --entity; a project "
                "begins with its first run (tecogan train --tracking.wandb-project)."
            ) from error
        raise


def _check_key() -> None:
    """Raise :class:`UserError` if there is no key, or none that could be one. The client is quiet from now on."""
    if os.environ.get(MODE, "").strip().lower() in (*OFFLINE, *DISABLED):
        raise UserError(f"a workspace is at W&B, and {MODE} forbids to go there: unset it for this command.")
    import wandb

    try:
        wandb.setup(settings=wandb.Settings(silent=True))
        has_key = wandb.login(prompt=False, verify=False)
    except Exception as error:
        raise UserError(
            f"W&B cannot be used ({_reason(error)}): set {KEY} to a key of yours, and check other variables WANDB_..."
        ) from error
    if not has_key:
        raise UserError(f"there is no key for W&B here: set {KEY}, or run 'wandb login' first.")


def _sentence(error: Exception) -> UserError:
    reason = _reason(error)
    words = f"{type(error).__name__} {error}"
    # To ask whether the key is good is its first request, which fails as any other where there is no answer.
    if any(sign in words for sign in REFUSED) and "Failed to execute API request" not in words:
        return UserError(f"W&B refuses the key ({reason}): set {KEY} to one that may write to the project.")
    return UserError(
        f"the workspace cannot be saved ({reason}): check the network and WANDB_BASE_URL, and run it again; "
        "--dry-run shows what would be saved."
    )


def _reason(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return printable(line.rstrip(".") or type(error).__name__, limit=200)


def _line(chart: Chart) -> wr.LinePlot:
    import wandb_workspaces.reports.v2 as wr

    late = all(name.startswith(f"{VALIDATION}/") for name in chart.names)
    family = next((name for name in chart.names if name.endswith("*")), None)
    return wr.LinePlot(
        title=chart.title,
        x=LATE_STEP if late else "Step",
        y=[] if family else list(chart.names),
        metric_regex=pattern(family) if family else None,
        log_y=chart.log or None,
    )


def _machine() -> list[wr.LinePlot]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.LinePlot(title=title, y=list(names)) for title, names in MACHINE]


def _media() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.MediaBrowser(
            title="LR, bicubic, generated, HR, difference", media_keys=[VIDEO_NAME], num_columns=1, gallery_axis="step"
        ),
        wr.MediaBrowser(
            title="one row of pixels over time: generated, HR",
            media_keys=[PROFILE_NAME],
            num_columns=2,
            gallery_axis="step",
        ),
    ]


def _sweeps(searched: Sequence[str]) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    columns = [
        *(wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name), display_name=name) for name in searched),
        *(
            wr.ParallelCoordinatesPlotColumn(
                metric=wr.SummaryMetric(f"best/{metric}"),
                display_name=COLUMN[metric],
                inverted=metric in HIGHER_IS_BETTER or None,
            )
            for metric in RANKED
        ),
    ]
    return [
        wr.ParallelCoordinatesPlot(title="settings, and what was measured with them", columns=columns),
        wr.ParameterImportancePlot(with_respect_to=f"best/{RANKED[0]}"),
        wr.BarPlot(title="tOF, the best of each run", metrics=[f"best/{RANKED[0]}"]),
        wr.RunComparer(diff_only="split"),
    ]

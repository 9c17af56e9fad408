"""A sweep at W&B: a run of its own beside the trials' runs, with the table of all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tecogan_dist.base.storage import Location
from tecogan_dist.tracking.wandb_client import finish_wandb, start_wandb
from tecogan_dist.tracking.wandb_identity import sweep_identity
from tecogan_dist.tracking.wandb_variables import WandbVariables
from tecogan_dist.tuning.records import SweepResults
from tecogan_dist.tuning.results import table, winner


def write_summary_run(
    output: Location, results: SweepResults, *, project: str, group: str, variables: WandbVariables
) -> str:
    """Make or update the run ``summary`` in the sweep's group; returns its address, empty where W&B is offline.

    It holds the ranking as a table, the winner's scores as its summary, and the verdict of the repeats.
    """
    import wandb

    with tempfile.TemporaryDirectory(prefix="tecogan_wandb_") as temporary:
        folder = str(output.path) if output.is_local else temporary
        run = start_wandb(
            Path(folder),
            place=folder,
            say=print,
            variables=variables,
            identity=sweep_identity(output),
            project=project,
            group=group,
            job_type="sweep",
            name="summary",
        )
        if run is None:
            return ""
        head, *rows = table(results)
        run.log({"ranking": wandb.Table(columns=list[str | int](head), data=rows)})
        if results.ranking:
            best = winner(results)
            run.summary.update({f"best/{name}": value for name, value in best.last.items()})
            run.summary.update({"best/trial": best.number, "verdict": results.verdict})
        url = run.url or ""
        finish_wandb(run, say=print)
        return url

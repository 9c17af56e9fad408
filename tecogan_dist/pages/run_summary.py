"""A run at a glance: where it stands, and what is known about it, in a few numbers and words."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass

from tecogan_dist.metrics.names import HIGHER_IS_BETTER
from tecogan_dist.pages.run_curves import recent
from tecogan_dist.pages.run_records import RunRecords, score_text
from tecogan_dist.pages.run_settings import command, variant
from tecogan_dist.pages.values import LABEL, UNIT
from tecogan_dist.runs import advice, quantities
from tecogan_dist.runs.patterns import limits_of
from tecogan_dist.runs.standing import spoken
from tecogan_dist.runs.unhealthy_losses import RISE_STEPS
from tecogan_dist.runs.unhealthy_pace import WAITING
from tecogan_dist.runs.unhealthy_scores import UNTRAINED_STEPS, WINNING_STEPS

KINDS = {
    "running": "good",
    "finished": "good",
    "starting": "",
    "stopped": "warn",
    "silent": "warn",
    "unknown": "warn",
    "failed": "bad",
    "gone": "bad",
}
"""How a verdict is coloured; "": neither well nor ill."""
MOST_NODES = 8
ON_GPUS = ("cuda", "driver")
"""Versions of what a run on CPUs does not use, though it may be installed."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A number with what it is about; ``kind`` colours it: good, warn, bad or nothing."""

    label: str
    value: str
    words: str = ""
    kind: str = ""
    share: float | None = None
    """0..1, drawn as a bar."""


def state(run: RunRecords) -> Card | None:
    """Where the run stands, as ``tecogan status`` says it; None if nothing says so."""
    standing = run.standing
    if standing is None:
        return None
    words = standing.text.removeprefix(standing.verdict).lstrip(" :,;")
    return Card(label="state", value=standing.verdict, words=words, kind=KINDS[standing.verdict])


def sentence(words: str) -> str:
    """Half a sentence as a whole one."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def untroubled(run: RunRecords) -> tuple[str, bool]:
    """What it means that a run has none of the known patterns, and whether it is long enough for all of them."""
    steps = run.curves.last_step - (run.restarts[0].step if run.restarts else 0)
    needed = {advice.DIVERGENCE: RISE_STEPS}
    if run.network == "TecoGAN":
        faded_in = limits_of(run.config)["faded_in"]
        needed |= {
            advice.DISCRIMINATOR_WINS: faded_in + WINNING_STEPS,
            advice.CANNOT_TELL: faded_in + UNTRAINED_STEPS,
        }
    missing = [f"{kind.name} ({least:,})" for kind, least in needed.items() if steps < least]
    words = "None of the known patterns of trouble is in its records"
    if not missing:
        return f"{words}.", True
    so_far = "1 step is" if steps == 1 else f"{steps:,} steps are"
    return f"{words}, but {so_far} too few for some, which need more: {', '.join(missing)}.", False


def cards(run: RunRecords) -> list[Card]:
    """The most important first."""
    return [*_progress(run), *_scores(run), *_discriminator(run), *_work(run)]


def _progress(run: RunRecords) -> Iterator[Card]:
    standing, steps = run.standing, run.config.steps
    if standing is not None:
        steps = standing.steps
        again = f"attempt {len(run.restarts)}" if len(run.restarts) > 1 else ""
        yield Card(label="state", value=standing.verdict, words=again, kind=KINDS[standing.verdict])
    share = min(1.0, run.step / steps) if steps else 1.0
    words = f"of {steps:,}: {share:.0%}" if share >= 0.1 else f"of {steps:,}: {share:.1%}"
    yield Card(label="steps done", value=f"{run.step:,}", words=words, share=share)
    left = standing.seconds_left if standing is not None else None
    if left is not None:
        yield Card(label="time left", value=spoken(left), words=_rate(run))
    elif _rate(run):
        yield Card(label="a step took", value=_seconds(recent(run.curves.series.get(quantities.STEP_TIME))))


def _rate(run: RunRecords) -> str:
    status = run.standing.status if run.standing is not None else None
    rate = status.rate if status is not None else None
    if rate is None:
        seconds = recent(run.curves.series.get(quantities.STEP_TIME))
        rate = 1 / seconds if seconds > 0 else None
    if rate is None:
        return ""
    return f"{rate:.3g} steps/s" if rate >= 1 else f"{1 / rate:.3g} s a step"


def _seconds(seconds: float) -> str:
    return "–" if math.isnan(seconds) else f"{seconds:.3g} s" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"  # noqa: RUF001


def _scores(run: RunRecords) -> Iterator[Card]:
    metric, best = run.config.tracking.best, run.best
    if best is None:
        return
    value = run.scores[best][metric]
    measured = [step for step, values in run.scores.items() if metric in values]
    last = max(measured)
    words = f"after step {best:,}"
    if last != best:
        words += f"; last {score_text(run.scores[last][metric], metric)}"
    elif len(measured) > 1:
        words += ", the last measured"
    name = LABEL[metric].partition(" ")[0]
    arrow = "↑" if metric in HIGHER_IS_BETTER else "↓"
    yield Card(label=f"best {name} {arrow}", value=f"{score_text(value, metric)}{UNIT[metric]}", words=words)


def _discriminator(run: RunRecords) -> Iterator[Card]:
    series = run.curves.series.get(quantities.BALANCE)
    balance = recent(series, 1)
    if series is None or math.isnan(balance):
        return
    threshold = run.config.discriminator.balance_threshold
    ahead = balance >= threshold
    words = f"{'at or above' if ahead else 'below'} {threshold:g}: {'it pauses' if ahead else 'it learns'}"
    yield Card(label="D's lead", value=f"{round(balance, 2) + 0.0:.2f}", words=words, kind="warn" if ahead else "good")


def _work(run: RunRecords) -> Iterator[Card]:
    series = run.curves.series
    rate = recent(series.get(quantities.SAMPLES))
    use = recent(series.get(quantities.MFU))
    if not math.isnan(rate):
        words = "" if math.isnan(use) else f"{use:.0%} of what the GPUs can do"
        yield Card(label="windows/s", value=f"{rate:.3g}", words=words)
    share = recent(series.get(quantities.DATA_WAIT)) / (recent(series.get(quantities.STEP_TIME)) or math.nan)
    if not math.isnan(share):
        is_long = share > WAITING
        words = f"of a step: more than {WAITING:.0%} is too much" if is_long else "of a step"
        yield Card(label="waiting for data", value=f"{share:.1%}", words=words, kind="warn" if is_long else "good")
    for name, label in ((quantities.GPU_PEAK, "GPU memory"), (quantities.HOST_MEMORY, "memory")):
        most = recent(series.get(name), 1)
        if not math.isnan(most):
            yield Card(label=label, value=f"{most:.1f} GiB", words="of the worker that has most")
            break
    left_out = recent(series.get(quantities.BAD_STEPS), 1)
    if left_out > 0:
        yield Card(label="steps left out", value=f"{left_out:,.0f}", words="they were not finite", kind="warn")


def facts(run: RunRecords) -> list[tuple[str, str]]:
    """Which run it is, by names."""
    found = variant(run.config)
    changed = len(found.differences)
    much = "as it is" if not changed else f"with {changed} setting{'s' if changed > 1 else ''} changed"
    listed = [("network", f"{run.network}; nearest preset: {found.preset}, {much}")]
    listed += [("folder", str(run.place.absolute())), ("clips", run.data)]
    if run.begun_from is not None:
        listed.append(("resumed from", run.begun_from))
    if run.config.initial_weights is not None:
        listed.append(("initial weights", run.config.initial_weights))
    status = run.standing.status if run.standing is not None else None
    if status is not None:
        who = f"{status.workers} worker{'s' if status.workers != 1 else ''}"
        gpus = f", {status.gpus} GPU{'s' if status.gpus != 1 else ''} ({status.device})" if status.gpus else " on CPUs"
        listed.append(("workers", f"{who}{gpus}; the first on {status.host}"))
        if status.checkpoint is not None:
            listed.append(("checkpoint", f"of step {status.checkpoint.step:,}, {moment(status.checkpoint.time)}"))
        if status.warning is not None:
            listed.append(("last warning", f"after step {status.warning.step:,}: {status.warning.text}"))
    listed += _ran_on(run)
    if run.restarts:
        again = len(run.restarts) - 1
        times = {0: "", 1: "; gone on once", 2: "; gone on twice"}.get(again, f"; gone on {again} times")
        listed.append(("begun", f"{moment(run.restarts[0].time)}{times}"))
    return listed


def _ran_on(run: RunRecords) -> Iterator[tuple[str, str]]:
    """What the newest attempt wrote of the software, and of the machines."""
    found, git = run.environment.get("versions"), run.environment.get("git")
    if isinstance(found, dict) and found:
        unused = ON_GPUS if run.environment.get("device") == "cpu" else ()
        yield "versions", ", ".join(f"{name} {version}" for name, version in found.items() if name not in unused)
    elif run.standing is not None and run.standing.status is not None:
        yield "versions", f"tecogan_dist {run.standing.status.version}"
    if isinstance(git, dict) and git.get("commit"):
        yield "revision", f"{git['commit']}{', with changes' if git.get('is_dirty') else ''}"
    nodes = run.environment.get("nodes")
    if isinstance(nodes, list) and nodes and all(isinstance(node, dict) for node in nodes):
        shown = [f"{node.get('name', '?')}: {node.get('cpus', '?')} CPUs, {node.get('gpus', 0)} GPUs" for node in nodes]
        more = f" and {len(shown) - MOST_NODES} more" if len(shown) > MOST_NODES else ""
        yield "nodes", "; ".join(shown[:MOST_NODES]) + more


def train_command(run: RunRecords) -> tuple[str, str]:
    """What it was trained by, or a command that trains it again where that is not known; with what it is."""
    known = run.environment.get("command")
    if isinstance(known, str) and known:
        return "The command", known
    return "A command that trains it again, and goes on where it stopped", _again(run)


def _again(run: RunRecords) -> str:
    return command(run.config, data=run.data, output=str(run.place), begun_from=run.begun_from)


def moment(time: datetime.datetime) -> str:
    """A time in UTC, to the minute."""
    return f"{time.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"

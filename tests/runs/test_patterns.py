"""Known patterns in recorded curves: none in healthy ones, and exactly the planted one where one is planted.

The curves in ``tests/reference/curves.json`` are records of real runs on CPU (``training/NORMAL.md`` says which), by
column and with four digits.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tecogan_dist.config import load as settings
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.overrides import override
from tecogan_dist.runs.advice import KNOWN, SEVERITIES
from tecogan_dist.runs.patterns import ENOUGH_LINES, limits_of, patterns
from tecogan_dist.runs.quantities import ORIGINAL_NAMES, QUANTITIES, described
from tests.support.paths import REFERENCE, REPOSITORY

Lines = list[dict[str, Any]]


def recorded(name: str) -> Lines:
    """A recorded curve as lines of ``metrics.jsonl``."""
    columns = json.loads((REFERENCE / "curves.json").read_text("utf-8"))[name]
    rows = zip(*columns.values(), strict=True)
    return [{key: value for key, value in zip(columns, row, strict=True) if value is not None} for row in rows]


def longer(lines: Lines, times: int, *, last_lines: int | None = None) -> Lines:
    """A longer run: the recorded one, and its later half, or its last lines, again and again."""
    again = lines[-(last_lines or len(lines) // 2) :]
    before = lines[-len(again) - 1]
    found = list(lines)
    for number in range(1, times):
        for line in again:
            counted = ("step", "discriminator/updates", "discriminator/skips")
            grown = {name: line[name] + number * (lines[-1][name] - before[name]) for name in counted if name in line}
            found.append(line | grown)
    return found


def with_a_lead(lines: Lines) -> Lines:
    """The same run with a discriminator whose balance swings through the threshold, and which is updated while it is
    below, as the original's rule is meant to work. In no recorded run did both networks learn and it came to that.
    """
    updates = skips = before = 0
    for line in lines:
        balance = 0.33 + 0.12 * math.sin(line["step"] / 150)
        passed, before = line["step"] - before, line["step"]
        updates, skips = (updates, skips + passed) if balance > 0.4 else (updates + passed, skips)
        line |= {"discriminator/balance": balance, "discriminator/accuracy": 0.72 + 0.05 * math.cos(line["step"])}
        line |= {"discriminator/updates": updates, "discriminator/skips": skips}
        line |= {"raw/adversarial": 0.9 + 0.2 * math.sin(line["step"] / 150), "discriminator/fake": 0.4}
    return lines


def names(lines: Lines, **limits: Any) -> list[str]:
    return [pattern.name for pattern in patterns(lines, **limits)]


HEALTHY = ("frvsr", "tecogan", "small", "tiny")


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_has_none_at_any_time(name: str) -> None:
    lines = recorded(name)
    for end in [*range(0, len(lines), max(1, len(lines) // 60)), len(lines)]:
        assert names(lines[:end]) == [], end
        assert names(lines[max(0, end - 100) : end]) == [], end


@pytest.mark.parametrize("name", HEALTHY)
def test_nor_has_a_longer_one(name: str) -> None:
    assert names(longer(recorded(name), 8)) == []


def test_nor_has_one_whose_balance_swings_through_the_threshold() -> None:
    lines = with_a_lead(longer(recorded("tiny"), 5))
    assert lines[-1]["discriminator/skips"] > 2000
    assert names(lines) == []


@pytest.mark.parametrize("variant", ["main", "fade", "skip", "nopp", "frvsr"])
def test_nor_have_the_originals_own_traces(variant: str) -> None:
    batches = {"main": "gan_pp", "fade": "gan_pp", "skip": "gan_pp", "nopp": "gan_nopp", "frvsr": "frvsr"}[variant]
    raw = np.load(REFERENCE / f"train_{variant}_asis.npz")["raw"]
    original = {name: f"raw/{ours}" for ours, name in ORIGINAL_NAMES.items()}
    listed = [str(name) for name in np.load(REFERENCE / f"train_{batches}_batches.npz")["update_list_name"]]
    lines = [
        {"step": step + 1} | {original[name]: float(value) for name, value in zip(listed, row, strict=False)}
        for step, row in enumerate(raw)
    ]
    assert "raw/content" in lines[0]
    assert names(lines) == []


# ---- planted ----


class Planted:
    """A healthy curve of 27,000 steps, 20 a line, in which something goes wrong from some step on."""

    def __init__(self, base: str = "tiny", times: int = 8) -> None:
        self.lines = longer(recorded(base), times)

    def set(self, name: str, value: float | Callable[[float, int], float], *, first: int, last: int) -> Planted:
        """Replace, or by a function of the value and the step change, what the lines of these steps say of a name."""
        for line in self.lines:
            if first <= line["step"] <= last:
                line[name] = value(line.get(name, math.nan), line["step"]) if callable(value) else value
        return self

    @property
    def end(self) -> int:
        return int(self.lines[-1]["step"])


def steps_of(planted: Planted, first: int, last: int) -> tuple[int, int]:
    """First and last recorded step in this range."""
    inside = [line["step"] for line in planted.lines if first <= line["step"] <= last]
    return inside[0], inside[-1]


def discriminator_wins() -> Planted:
    run = Planted()
    frozen = next(line for line in run.lines if line["step"] >= 5400)["discriminator/updates"]
    run.set("discriminator/balance", 0.9, first=5400, last=11_100)
    run.set("discriminator/updates", frozen, first=5400, last=11_100)
    run.set("discriminator/skips", lambda _, step: step - frozen, first=5400, last=11_100)
    # From then on it is updated again.
    run.set("discriminator/balance", 0.3, first=11_101, last=run.end)
    run.set("discriminator/updates", lambda _, step: frozen + step - 11_100, first=11_101, last=run.end)
    return run.set("discriminator/skips", 11_100 - frozen, first=11_101, last=run.end)


def cannot_tell() -> Planted:
    run = Planted()
    run.set("discriminator/accuracy", lambda _, step: 0.5 + 0.01 * math.sin(step), first=4000, last=run.end)
    return run.set("discriminator/balance", lambda _, step: 0.003 * math.cos(step), first=4000, last=run.end)


def collapse() -> Planted:
    run = Planted()
    for name in ("raw/content", "loss/content", "loss/total"):
        run.set(name, lambda value, _: 5 * value, first=6000, last=run.end)
    return run


def collapse_of_psnr() -> Planted:
    run = Planted("small", 1)
    return run.set(
        "validation/official/psnr", lambda value, _: value - 6 if value == value else value, first=7001, last=9000
    )


def saturated() -> Planted:
    run = Planted().set("raw/adversarial", 27.4, first=6000, last=8000)
    return run.set("discriminator/fake", 1e-12, first=6000, last=8000)


def spikes() -> Planted:
    run = Planted()
    for step in (4000, 6000, 9000):
        run.set("raw/content", lambda value, _: 12 * value, first=step, last=step + 19)
    return run


def divergence() -> Planted:
    run = Planted()
    return run.set("raw/content", lambda value, step: value * math.exp((step - 5000) / 3000), first=5000, last=run.end)


def left_out() -> Planted:
    return Planted().set("optim/bad_steps", lambda _, step: min(7, (step - 5980) // 20), first=6000, last=10**6)


def vanished() -> Planted:
    return Planted().set("grad_norm/generator", 3e-9, first=6000, last=10**6)


def clipped() -> Planted:
    return Planted().set("grad_norm/generator", lambda value, _: max(value, 0.01), first=0, last=10**6)


def large_updates() -> Planted:
    return Planted().set("weights/update_ratio", 0.05, first=6000, last=8000)


def small_updates() -> Planted:
    return Planted().set("weights/update_ratio", 1e-8, first=6000, last=8000)


def no_rate() -> Planted:
    run = Planted().set("optim/learning_rate", 0.0, first=6000, last=10**6)
    return run.set("weights/update_ratio", 0.0, first=6000, last=10**6)


def data_wait() -> Planted:
    return Planted().set("time/step", 0.5, first=0, last=10**6).set("time/data_wait", 0.2, first=6000, last=8000)


def checkpoint_wait() -> Planted:
    run = Planted().set("time/step", 0.5, first=0, last=10**6).set("time/checkpoint", 0.0, first=0, last=10**6)
    for step in range(2000, 10001, 400):
        run.set("time/checkpoint", 4.0, first=step, last=step + 19)
    return run


def all_reduce() -> Planted:
    return Planted().set("time/step", 0.5, first=0, last=10**6).set("time/all_reduce", 0.3, first=6000, last=8000)


def full_memory() -> Planted:
    run = Planted().set("memory/gpu_reserved", 78.5, first=0, last=10**6)
    run.set("memory/alloc_retries", 0, first=0, last=5999)
    run.set("memory/alloc_retries", lambda _, step: (step - 5980) // 20, first=6000, last=6100)
    return run.set("memory/alloc_retries", 6, first=6101, last=10**6)


def worse_validation() -> Planted:
    run = Planted("small", 1)
    run.set("raw/content", lambda value, step: value * (1 - (step - 3000) / 20000), first=3000, last=9000)
    return run.set("validation/official/psnr", lambda value, step: value - (step - 4500) / 4500, first=4501, last=9000)


PLANTED: dict[Callable[[], Planted], tuple[str, int, int]] = {
    discriminator_wins: ("discriminator wins", 5400, 11_100),
    cannot_tell: ("discriminator cannot tell", 4000, 10**6),
    collapse: ("collapse", 6000, 10**6),
    collapse_of_psnr: ("collapse", 7500, 9000),
    saturated: ("scores saturated", 6000, 8000),
    spikes: ("loss spikes", 4000, 9019),
    divergence: ("divergence", 0, 10**6),
    left_out: ("steps left out", 6000, 6120),
    vanished: ("gradients vanish", 6000, 10**6),
    clipped: ("clipping always on", 0, 10**6),
    large_updates: ("updates too large", 6000, 8000),
    small_updates: ("updates too small", 6000, 8000),
    no_rate: ("learning rate is zero", 6000, 10**6),
    data_wait: ("waiting for data", 6000, 8000),
    checkpoint_wait: ("waiting for checkpoints", 2000, 10019),
    all_reduce: ("all-reduce dominates", 6000, 8000),
    full_memory: ("GPU memory is full", 6000, 6100),
    worse_validation: ("validation gets worse", 4500, 9000),
}
ROUGHLY = "divergence", "clipping always on"
"""Patterns without a first step of their own: a drift, and a state."""


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_what_is_planted_is_found_where_it_is_and_nothing_else(plant: Callable[[], Planted]) -> None:
    name, first, last = PLANTED[plant]
    run = plant()
    (found,) = patterns(run.lines, clipping=0.005 if plant is clipped else 0.0)
    assert found.name == name
    if name in ROUGHLY:
        assert first <= found.first < found.last == run.end
    else:
        beginning, end = steps_of(run, first, last)
        assert abs(found.first - beginning) <= 80, (found.first, beginning)
        assert abs(found.last - end) <= 80, (found.last, end)


def test_every_known_pattern_is_planted() -> None:
    assert {name for name, _, _ in PLANTED.values()} == {kind.name for kind in KNOWN}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_before_it_is_planted_there_is_nothing(plant: Callable[[], Planted]) -> None:
    """No pattern is there before its beginning, nor just after it."""
    name, first, _ = PLANTED[plant]
    run = plant()
    early = [line for line in run.lines if line["step"] <= first + 40]
    allowed = {"steps left out", "learning rate is zero", "loss spikes"}  # are said at once
    allowed |= {"GPU memory is full"} if name == "GPU memory is full" else set()
    found = set(names(early))
    assert found <= (allowed & {name, "loss spikes"} if name in allowed | {"collapse"} else set()), found


# ---- unhealthy runs, recorded ----


def test_a_discriminator_that_wins_is_seen() -> None:
    """It learnt as fast as it could, and the generator hardly at all; after 1240 steps it was not updated any more."""
    lines = recorded("slow_generator")
    assert names(lines) == []  # a thousand steps of it
    (found,) = patterns(longer(lines, 10, last_lines=45))
    assert (found.name, found.first) == ("discriminator wins", 1260)


def test_a_discriminator_that_has_died_is_seen() -> None:
    """Its learning rate was 20 times the preset's: after 60 steps it gave a half to everything. Had it gone on so:"""
    lines = longer(recorded("died"), 300)
    assert lines[-1]["step"] > 20_000
    assert names(lines) == ["discriminator cannot tell"]


def test_a_learning_rate_that_is_far_too_high_is_seen() -> None:
    """The first steps of the preset with 30 times its rate: gradients were not finite."""
    (found,) = patterns([{"step": 10, "raw/content": math.nan, "optim/bad_steps": 8}])
    assert (found.name, found.first, found.last) == ("steps left out", 10, 10)


def test_a_run_that_goes_on_with_ten_times_the_rate_collapses() -> None:
    before, after = recorded("frvsr"), recorded("hot")
    lines = before + [line | {"step": line["step"] + before[-1]["step"]} for line in after]
    collapse, vanished = patterns(lines)
    assert collapse.name == "collapse"
    assert (collapse.first, collapse.last) == (510, 650)
    # Indeed the flow network has died of it.
    assert vanished.name == "gradients vanish"
    assert (vanished.first, vanished.last) == (520, 650)


# ---- thresholds ----


def test_what_is_within_the_limits_is_not_said() -> None:
    run = Planted().set("time/step", 0.5, first=0, last=10**6)
    run.set("time/data_wait", 0.099, first=0, last=10**6).set("time/all_reduce", 0.24, first=0, last=10**6)
    run.set("time/checkpoint", 0.04, first=0, last=10**6)
    run.set("memory/alloc_retries", 0, first=0, last=5999).set("memory/alloc_retries", 2, first=6000, last=10**6)
    run.set("discriminator/balance", lambda _, step: 0.4 + 0.1 * math.sin(step / 300), first=6000, last=10**6)
    run.set("raw/content", lambda value, _: 1.8 * value, first=8000, last=10**6)
    run.set("optim/bad_steps", 0, first=0, last=10**6)
    assert names(run.lines, clipping=10.0) == []


def test_the_first_record_may_wait_for_the_first_windows() -> None:
    run = Planted().set("time/step", 3.0, first=0, last=20).set("time/data_wait", 2.5, first=0, last=20)
    assert names(run.lines) == []


def test_a_short_wait_is_not_said() -> None:
    run = Planted().set("time/step", 0.5, first=0, last=10**6).set("time/data_wait", 0.4, first=6000, last=6060)
    assert names(run.lines) == []


def test_ten_records_of_single_steps_are_too_few() -> None:
    lines = [{"step": step, "time/step": 0.5, "time/data_wait": 0.3 if 50 < step < 90 else 0.0} for step in range(200)]
    assert names(lines) == []
    assert names([line | {"step": 3 * line["step"]} for line in lines]) == ["waiting for data"]


def test_the_threshold_is_that_of_the_run() -> None:
    run = discriminator_wins()
    assert names(run.lines, threshold=0.4) == ["discriminator wins"]
    assert names(run.lines, threshold=1.2) == []


def test_bad_steps_of_earlier_lines_are_not_told_again() -> None:
    run = left_out()
    later = [line for line in run.lines if line["step"] > 7000]
    assert later[0]["optim/bad_steps"] == 7
    assert names(later) == []


def test_a_fade_in_is_waited_for() -> None:
    run = cannot_tell()
    assert names(run.lines, faded_in=run.end - 15_000) == []


def test_scores_may_come_from_their_own_file() -> None:
    run = worse_validation()
    scores = {
        line["step"]: {"psnr": line.pop("validation/official/psnr")}
        for line in run.lines
        if "validation/official/psnr" in line
    }
    assert names(run.lines) == []
    assert names(run.lines, scores=scores) == ["validation gets worse"]


def test_the_last_lines_are_enough() -> None:
    for plant in (discriminator_wins, cannot_tell, collapse, data_wait, vanished, no_rate):
        run = plant()
        first = PLANTED[plant][1]
        lines = [line for line in run.lines if line["step"] <= first + 21_000]
        assert names(lines[-ENOUGH_LINES:]) == names(lines), plant.__name__


# ---- bad input ----


def test_any_line_is_survived() -> None:
    generator = np.random.default_rng(1)
    odd = [None, math.nan, math.inf, -math.inf, 0, -1.0, 1e308, -1e-320, 10**400, True, "text", [1], 0.5, 3]
    known = [quantity.name.replace("*", "content") for quantity in QUANTITIES] + ["raw/adversarial", "grad_norm/flow"]
    for size in (0, 1, 2, 31, 200):
        for step in (lambda n: 20 * n, lambda _: 5, lambda n: -n, lambda _: None, lambda n: 2**62 + n):
            lines = [
                {"step": step(n)} | {name: odd[generator.integers(len(odd))] for name in known} for n in range(size)
            ]
            for found in patterns(lines, clipping=1.0, gpu_memory=math.nan, best="nothing"):
                assert "nan" not in found.seen.split(), found
    assert patterns([{}, {"loss/content": 1.0}]) == []


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_missing_names_and_gaps_are_lived_with(plant: Callable[[], Planted]) -> None:
    """Whatever else is missing, and with lines of validations between, the same is found."""
    name, _, _ = PLANTED[plant]
    lines = []
    for line in plant().lines:
        lines += [line, {"step": line["step"], "validation/official/lpips": None}]
    assert names(lines, clipping=0.005 if plant is clipped else 0.0) == [name]


def test_time_grows_with_the_lines_only() -> None:
    lines = longer(recorded("tiny"), 20)
    taken = {}
    for size in (len(lines) // 4, len(lines)):
        best = math.inf
        for _ in range(3):
            began = time.perf_counter()
            patterns(lines[:size])
            best = min(best, time.perf_counter() - began)
        taken[size] = best
    assert taken[len(lines)] < 12 * taken[len(lines) // 4]


# ---- what is said ----


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.name)
def test_what_to_change_can_be_changed(kind: Any) -> None:
    known = dict(leaves(settings.load("frvsr")))
    assert kind.settings
    assert set(kind.settings) <= set(known)
    sections = {name.split(".")[0] for name in known if "." in name}
    dotted = {name for name in re.findall(r"\b([a-z_]+\.[a-z_0-9]+)", kind.change) if name.split(".")[0] in sections}
    assert dotted <= set(kind.settings)
    assert all(re.search(rf"(?<![\w.]){re.escape(name)}\b", kind.change) for name in kind.settings), kind.settings
    assert kind.change.endswith(".")
    assert kind.change.count(". ") == 0
    assert kind.severity in SEVERITIES


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_what_is_seen_is_one_sentence_with_figures(plant: Callable[[], Planted]) -> None:
    (found,) = patterns(plant().lines, clipping=0.005 if plant is clipped else 0.0, gpu_memory=80.0)
    assert found.seen[0].isupper()
    assert found.seen.endswith(".")
    assert found.seen.count(". ") == 0
    assert re.search(r"\d", found.seen)
    assert "nan" not in found.seen
    assert len(found.seen) < 220
    assert found.advice == f"{found.seen} {found.change}"


def test_the_worst_comes_first() -> None:
    run = collapse().set("time/step", 0.5, first=0, last=10**6).set("time/data_wait", 0.3, first=3000, last=10**6)
    run.set("memory/alloc_retries", lambda _, step: step // 20, first=0, last=10**6)
    run.set("optim/bad_steps", lambda _, step: step // 20, first=0, last=10**6)
    found = patterns(run.lines)
    assert [pattern.name for pattern in found][:1] == ["collapse"]
    assert len(found) == 4
    order = [SEVERITIES.index(pattern.severity) for pattern in found]
    assert order == sorted(order, reverse=True)


def test_all_that_is_looked_at_is_recorded() -> None:
    """The names in the code are names of records."""
    folder = REPOSITORY / "tecogan_dist" / "runs"
    text = "".join((folder / name).read_text("utf-8") for name in ("unhealthy_losses.py", "unhealthy_pace.py"))
    used = set(re.findall(r'"((?:loss|raw|grad_norm|validation|time|optim)/[a-z_]+)"', text))
    assert len(used) >= 5
    assert all(described(name) for name in used), used


def test_limits_follow_from_the_settings() -> None:
    config = settings.load("tecogan")
    assert limits_of(config) == {"threshold": 0.4, "clipping": 0.0, "faded_in": 0, "best": "psnr"}
    words = (
        "--loss.fade-in-start 0.2 --loss.fade-in-increment 0.0001 --optimizer.gradient-clipping 2 --tracking.best tlp"
    )
    changed = override(config, [*words.split(), "--discriminator.balance-threshold", "0.7"])
    assert limits_of(changed) == {"threshold": 0.7, "clipping": 2.0, "faded_in": 8000, "best": "tlp"}
    for increment, ends in (("0", 0), ("-1", 0), ("1e-310", config.steps)):
        never = override(config, ["--loss.fade-in-start", "0.2", f"--loss.fade-in-increment={increment}"])
        assert limits_of(never)["faded_in"] == ends


# ---- the page ----

PAGE = REPOSITORY / "tecogan_dist" / "training" / "NORMAL.md"


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.name)
def test_the_page_says_the_same(kind: Any) -> None:
    page = " ".join(PAGE.read_text("utf-8").replace("`", "").split())
    assert kind.name in page
    assert kind.change in page


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.name)
def test_the_page_knows_every_curve(quantity: Any) -> None:
    page = PAGE.read_text("utf-8")
    last = quantity.name.split("/")[-1]
    assert quantity.name in page or (f"`{quantity.group}/" in page and f"{last}" in page), quantity.name

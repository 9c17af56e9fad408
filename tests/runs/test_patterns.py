"""Known patterns in recorded curves: none in healthy ones, and exactly the planted one where one is planted.

What is planted is in ``tests/support/planted_runs.py``.
"""

from __future__ import annotations

import math
import re
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
from tests.support.planted_runs import (
    PLANTED,
    ROUGHLY,
    Lines,
    Planted,
    cannot_tell,
    clipped,
    collapse,
    data_wait,
    discriminator_wins,
    held_out_windows,
    left_out,
    longer,
    no_rate,
    recorded,
    steps_of,
    vanished,
    with_a_lead,
    worse_validation,
)


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
    assert (found.name, found.first) == ("discriminator wins", 1240)


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


def test_a_discriminator_far_above_its_threshold_wins_whatever_its_updates() -> None:
    """5000 steps of it, in which it went below between records: no generator that hovers at the threshold is so far."""
    for balance, expected in ((0.7, ["discriminator wins"]), (0.45, [])):
        run = Planted().set("discriminator/balance", balance, first=6000, last=11_000)
        run.set("discriminator/updates", lambda _, step: round(0.5 * step), first=0, last=10**6)
        run.set("discriminator/skips", lambda _, step: step - round(0.5 * step), first=0, last=10**6)
        found = patterns(run.lines)
        assert [pattern.name for pattern in found] == expected
        if found:
            assert (found[0].first, found[0].last) == (6000, 11_000)
            assert "2500 of 5000 updates were skipped" in found[0].seen
            assert names([line for line in run.lines if line["step"] <= 9900]) == []  # not for so many steps yet
    for line in run.lines:
        del line["discriminator/updates"]
    assert names(run.lines) == ["discriminator wins"]  # at 0.45, and nothing says that it was updated


@pytest.mark.parametrize("every", [20, 200])
@pytest.mark.parametrize("rises", [1e-4, 1.4e-3, 2e-2])
@pytest.mark.parametrize("slower", [3, 30, 200])
def test_a_balance_that_hovers_by_the_published_rule_is_healthy(slower: int, rises: float, every: int) -> None:
    """A lead that grows with each update, and shrinks in each step without one, so many times slower. Its average is
    what decides. Only where the generator takes thousands of steps for what the discriminator does in some is it said.
    """
    noise = np.random.default_rng(3).normal(0, 0.15, 30_000).tolist()
    lead = average = 0.0
    updates, lines = 0, []
    for step in range(30_000):
        is_updated = average < 0.4
        updates += is_updated
        lead += rises * (1 - lead / 3) if is_updated else -rises / slower
        average = 0.99 * average + 0.01 * (lead + noise[step])
        if (step + 1) % every == 0:
            counts = {"discriminator/updates": updates, "discriminator/skips": step + 1 - updates}
            lines.append({"step": step + 1, "discriminator/balance": average, **counts})
    assert lines[-1]["discriminator/skips"] > 10_000
    assert names(lines) == (["discriminator wins"] if slower == 200 else [])


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


def test_held_out_windows_that_only_waver_say_nothing() -> None:
    """Other windows in each record: the last of them are worse than the best by chance."""
    false = sum(bool(names(held_out_windows(seed, noise=(0.1, 0.2, 0.4, 0.7)[seed % 4]))) for seed in range(200))
    assert false == 0


def test_held_out_windows_count_where_no_scene_is_measured() -> None:
    lines = held_out_windows(0, noise=0.15, grows=1.5)
    (found,) = patterns(lines)
    assert found.name == "validation gets worse"
    assert 4000 < found.first < 13_000
    assert found.last == 22_000
    assert "held-out windows, a median of 20 records, was least at step" in found.seen
    scores = {step: {"psnr": 30 + step / 22_000} for step in range(1000, 22_001, 1000)}
    assert names(lines, scores=scores) == []


def test_validation_names_the_step_that_is_best_by_what_got_worse() -> None:
    """Of PSNR, though another metric chooses the checkpoint that is kept."""
    run = worse_validation()
    tof = {line["step"]: {"tof": 1 - line["step"] / 10_000} for line in run.lines if line["step"] % 500 == 0}
    (found,) = patterns(run.lines, best="tof", scores=tof)
    measured = {line["step"]: value for line in run.lines if (value := line.get("validation/official/psnr"))}
    best = max(measured, key=lambda step: measured[step])
    assert found.first == best
    assert found.seen.startswith(f"Of the held-out scenes PSNR was best at step {best} ")
    assert "the checkpoint of that step if it is kept, as the best one by tracking.best is" in found.change


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
    text = "".join(path.read_text("utf-8") for path in folder.glob("unhealthy_*.py"))
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

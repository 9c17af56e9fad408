"""The page of a run: complete and self-contained, with the values that the run recorded."""

from __future__ import annotations

import datetime
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tecogan_dist.base.storage import Location
from tecogan_dist.pages.run import MARK, render_runs
from tecogan_dist.pages.run_curves import Series, thinned
from tecogan_dist.pages.run_records import read_runs
from tecogan_dist.pages.run_summary import sentence
from tecogan_dist.runs.folder import RunFolder, write_run_file
from tecogan_dist.runs.records import METRICS_FILE, read_metrics
from tecogan_dist.runs.standing import standing_of
from tecogan_dist.runs.status import STATUS_FILE
from tecogan_dist.runs.unhealthy_pace import WAITING
from tecogan_dist.training.loop import train
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.task import TrainingTask, select_scenes
from tests.support.plain_runs import make_config, noise
from tests.support.recorded_runs import config_of, record
from tests.support.run_pages import RunPage, page_of, points
from tests.support.training_runs import write_store


def test_the_values_on_the_page_are_those_that_were_recorded(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=120, restarts=(800, 1600))
    lines = [line for line in read_metrics(folder) if "raw/content" in line]
    figures = page_of(folder).by_title
    for title, name, number in (
        ("content", "raw/content", 0),
        ("Balance", "discriminator/balance", 1),
        ("What it says", "discriminator/fake", 1),
        ("Weighted losses", "loss/content", 0),
        ("Learning rate", "optim/learning_rate", 0),
        ("Windows per second", "throughput/samples_per_second", 0),
        ("GPU memory", "memory/gpu_reserved", 1),
    ):
        drawn = points(figures[title]["data"][number])
        assert drawn == pytest.approx({line["step"]: line[name] for line in lines}, rel=1e-5), name
    averages = points(figures["content"]["data"][1])
    known = {one["step"]: one["average/content"] for one in lines if one["step"] >= 300}
    assert averages == pytest.approx(known, rel=1e-5)
    held_out = points(figures["content"]["data"][2])
    known = {one["step"]: one["validation/loss/content"] for one in lines if "validation/loss/content" in one}
    assert held_out == pytest.approx(known, rel=1e-5)
    waited = points(figures["Waiting for data"]["data"][0])
    assert waited == pytest.approx({one["step"]: one["time/data_wait"] / one["time/step"] for one in lines}, rel=1e-5)
    for figure in figures.values():
        dotted = [shape["x0"] for shape in figure["layout"]["shapes"] if shape["line"].get("dash") == "dot"]
        assert dotted == [800, 1600]


def test_a_step_is_wholly_in_the_parts_that_its_time_is_spent_on(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=60)
    lines = [line for line in read_metrics(folder) if "time/step" in line]
    page = page_of(folder)
    layers = [points(trace) for trace in page.by_title["A step's time"]["data"]]
    for line in lines:
        assert sum(layer[int(line["step"])] for layer in layers) == pytest.approx(line["time/step"], rel=1e-4)
    shares = [float(share) for share in re.findall(r"flex: ([\d.]+); background", " ".join(map(str, page.tags)))]
    assert sum(shares) == pytest.approx(1, abs=0.02)


def test_held_out_scenes_with_the_best_of_each_metric_and_the_best_checkpoint(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=200, validations=6, config=config_of("tecogan", "--tracking.best", "tof"))
    scores = {int(step): values for step, values in json.loads((folder / "scores.json").read_text()).items()}
    figures = page_of(folder).by_title
    best = min(scores, key=lambda step: scores[step]["tof"])
    for title, metric, choose in (("PSNR", "psnr", max), ("tOF", "tof", min), ("LPIPS", "lpips", min)):
        line, star = figures[title]["data"]
        values = {step: values[metric] for step, values in scores.items()}
        assert points(line) == pytest.approx(values, rel=1e-5)
        assert star["marker"]["symbol"] == "star"
        (at,) = star["x"]
        assert values[at] == choose(values.values())
        (marked,) = [one["x0"] for one in figures[title]["layout"]["shapes"] if one["line"]["color"] == "var(--good)"]
        assert marked == best


def test_the_healthy_band_ends_at_the_threshold_of_the_settings(tmp_path: Path) -> None:
    config = config_of("tecogan", "--discriminator.balance-threshold", "0.25")
    figure = page_of(record(tmp_path / "film", lines=80, config=config)).by_title["Balance"]
    bands = {one["fillcolor"]: (one["y0"], one["y1"]) for one in figure["layout"]["shapes"] if one["type"] == "rect"}
    low, high = figure["layout"]["yaxis"]["range"]
    assert bands == {"var(--good-band)": (low, 0.25), "var(--bad-band)": (0.25, high)}


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=3000), wanted=st.integers(20, 400)
)
def test_thinning_keeps_the_extremes_of_each_part_and_where_a_curve_is_broken(values: list[float], wanted: int) -> None:
    whole = Series(np.arange(len(values)) * 7, np.array(values))
    thin = thinned(whole, wanted)
    assert len(thin.steps) <= max(wanted, 3 * (wanted // 2) + 2)
    assert (np.diff(thin.steps) > 0).all()
    assert {thin.steps[0], thin.steps[-1]} == {whole.steps[0], whole.steps[-1]}
    of = dict(zip(whole.steps.tolist(), values, strict=True))
    assert all(value == of[step] or math.isnan(of[step]) for step, value in zip(thin.steps, thin.values, strict=True))
    known = [value for value in values if not math.isnan(value)]
    if known:
        assert np.nanmax(thin.values) == max(known)
        assert np.nanmin(thin.values) == min(known)
    assert np.isnan(thin.values).any() == any(map(math.isnan, values))


def test_a_single_spike_is_seen_in_a_run_of_many_records(tmp_path: Path) -> None:
    changes = {4321: {"raw/content": 0.5, "grad_norm/flow": 40.0}}
    folder = record(tmp_path / "film", lines=6000, every=10, changes=changes, without="raw/[^c]|average|memory|through")
    html = render_runs(read_runs([Location.of(folder)]), [None])
    figures = RunPage(html).by_title
    assert points(figures["content"]["data"][0])[43220] == 0.5
    assert max(points(trace)[43220] for trace in figures["Gradients"]["data"] if 43220 in trace["x"]) == 40
    assert max(len(trace["x"]) for figure in figures.values() for trace in figure["data"]) < 1600
    assert len(html) < 6.5e6


def kinds_told(page: RunPage) -> set[str]:
    """How the boxes that say where a run stands, and whether patterns were found, are coloured."""
    classes = [attributes.get("class", "").split() for attributes in page.named("p")]
    return {one for found in classes if "told" in found for one in found if one.startswith("is-")}


def aged(folder: Path, hours: float) -> Path:
    """As if its status had been written so long ago."""
    status = json.loads((folder / STATUS_FILE).read_text())
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
    (folder / STATUS_FILE).write_text(json.dumps(status | {"time": then.isoformat(), "step_time": then.isoformat()}))
    return folder


def test_a_run_that_has_recorded_nothing_stands_where_its_status_says(tmp_path: Path) -> None:
    """One that has been silent for hours has not just begun."""
    for number, (state, hours, kinds, words) in enumerate(
        (
            ("running", 0.0, set(), "running (pid 4711 on node1), last seen"),
            ("running", 5.0, {"is-warn"}, "No sign of life for 5 hours (pid 4711 on node1)"),
            ("stopped", 5.0, {"is-warn"}, "Stopped 5 hours ago"),
            ("failed", 5.0, {"is-bad"}, "Failed 5 hours ago: the GPU fell off the bus; "),
        )
    ):
        folder = aged(record(tmp_path / str(number), lines=0, state=state), hours)
        page = page_of(folder)
        assert words in page.words
        assert words[1:] in sentence(standing_of(Location.of(folder)).text)
        assert kinds_told(page) == kinds, state
        assert "Nothing is recorded yet." in page.words


def test_a_run_that_has_failed_says_why_and_is_not_praised(tmp_path: Path) -> None:
    page = page_of(record(tmp_path / "film", lines=60, state="failed"))
    assert kinds_told(page) == {"is-bad"}
    assert re.search(r"ago: the GPU fell off the bus; [^.]*\. None of the known patterns", page.words)
    whole = config_of("frvsr", "--steps", "2400")
    other = page_of(record(tmp_path / "other", lines=120, state="finished", config=whole))
    assert kinds_told(other) == {"is-good"}
    assert "trouble is in its records. " in other.words


def test_a_run_is_not_praised_for_what_needs_more_steps_to_be_seen(tmp_path: Path) -> None:
    """Divergence is looked for in 2000 steps, a discriminator that wins in 4000, one that cannot tell in 20,000."""
    needs = ["divergence (2,000)", "discriminator wins (4,000)", "discriminator cannot tell (20,000)"]
    for lines, every, missing in ((3, 20, needs), (150, 20, needs[1:]), (210, 100, [])):
        page = page_of(record(tmp_path / str(lines), lines=lines, every=every, state="running"))
        assert kinds_told(page) == (set() if missing else {"is-good"}), lines
        assert "None of the known patterns of trouble is in its records" in page.words
        few = f"but {lines * every:,} steps are too few for some, which need more: {', '.join(missing)}."
        assert (few in page.words) == bool(missing), page.words
    plain = page_of(record(tmp_path / "plain", lines=1, every=1, config=config_of("frvsr")))
    assert "but 1 step is too few for some, which need more: divergence (2,000)." in plain.words
    slow = config_of("tecogan", "--loss.fade-in-start", "0", "--loss.fade-in-increment", "0.001")
    assert "discriminator wins (5,000)" in page_of(record(tmp_path / "slow", lines=20, config=slow)).words


def log_axes(page: RunPage) -> dict[str, object]:
    """The distance of ticks of each logarithmic axis."""
    axes = {title: figure["layout"]["yaxis"] for title, figure in page.by_title.items() if "yaxis" in figure["layout"]}
    return {title: axis.get("dtick") for title, axis in axes.items() if axis.get("type") == "log"}


def test_a_logarithmic_axis_has_room_for_its_ticks_and_enough_of_them(tmp_path: Path) -> None:
    def page(name: str, low: float, high: float) -> RunPage:
        changes = {
            number: {"weights/update_ratio": value, "raw/content": value}
            for number, value in enumerate(np.geomspace(low, high, 30).tolist())
        }
        return page_of(record(tmp_path / name, lines=30, changes=changes))

    # 0.0002 to 0.0004: of ticks at 1, 2 and 5 there may be none, or one.
    assert not {"Update ratio", "content"} & set(log_axes(page("narrow", 2.2e-4, 4.4e-4)))
    assert not {"Update ratio", "content"} & set(log_axes(page("small", 2.2e-4, 2e-3)))
    some = log_axes(page("some", 2.2e-4, 3.3e-3))
    assert some["Update ratio"] == "D2"
    assert "content" not in some
    # plotly.js, left alone, marks each digit of two decades, over each other.
    wide = log_axes(page("wide", 2e-4, 5e-2))
    assert (wide["Update ratio"], wide["content"]) == ("D2", "D2")
    assert log_axes(page("far", 1e-300, 1e300))["Update ratio"] is None  # a tick each decade would be 600


def test_how_to_read_a_loss_says_what_there_is_to_read(tmp_path: Path) -> None:
    long = page_of(record(tmp_path / "long", lines=60)).words
    assert "pale the values, strong their average over the last hundred steps or so (from step 300 on" in long
    short = page_of(record(tmp_path / "short", lines=10, without="validation")).words
    assert "Each as the original lists it, before its weight. Spikes are kept" in short
    for lines, said in ((60, False), (120, True)):
        gradients = page_of(record(tmp_path / f"norms{lines}", lines=lines))
        assert ("pale: as they were, strong: their mean" in gradients.words) == said
        assert len(gradients.by_title["Gradients"]["data"]) == (6 if said else 3)


def test_a_lead_of_nothing_has_no_sign(tmp_path: Path) -> None:
    changes = {19: {"discriminator/balance": -0.0012}}
    words = page_of(record(tmp_path / "film", lines=20, changes=changes)).words
    assert re.search(r"D's lead\s*0\.00", words)
    changes = {19: {"discriminator/balance": -0.012}}
    assert re.search(r"D's lead\s*-0\.01", page_of(record(tmp_path / "other", lines=20, changes=changes)).words)


def test_a_run_on_cpus_says_nothing_of_gpus(tmp_path: Path) -> None:
    for device, said in (("cpu", False), ("NVIDIA H100 80GB HBM3", True)):
        folder = record(tmp_path / device[:3], lines=20)
        versions = {"torch": "2.14.1", "cuda": "13.0", "driver": "570.1"}
        (folder / "environment.json").write_text(json.dumps({"versions": versions, "device": device}))
        page = page_of(folder)
        assert "torch 2.14.1" in page.words
        assert ("cuda 13.0" in page.words, "driver 570.1" in page.words) == (said, said)
    assert "the workers idle for too long" in page.words


def test_the_folder_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "film", lines=5)
    monkeypatch.chdir(tmp_path)
    assert f"folder{tmp_path.resolve() / 'film'} clips" in page_of(Path("film")).words


@pytest.mark.parametrize("share", [0.15, 0.25])
def test_card_figure_and_pattern_have_one_limit_of_waiting_for_data(tmp_path: Path, share: float) -> None:
    changes = {number: {"time/data_wait": share, "time/step": 1.0} for number in range(200)}
    page = page_of(record(tmp_path / "film", lines=200, changes=changes))
    is_long = share > WAITING
    (card,) = re.findall(rf"waiting for data{share:.1%} of a step", page.words.replace("data ", "data"))
    assert card
    colours = [attributes.get("class") for attributes in page.named("b")]
    assert ("warn" in colours, "more than 20% is too much" in page.words) == (is_long, is_long)
    assert ("Set data.decoded_cache to true" in page.words) == is_long
    levels = [one["y0"] for one in page.by_title["Waiting for data"]["layout"]["shapes"] if one.get("yref") == "y"]
    assert levels == [WAITING]
    assert "above the line, 20% of a step" in page.words


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=0, state=None)
    (folder / METRICS_FILE).unlink()
    page = page_of(folder)
    assert page.figures == []
    assert "Nothing is recorded yet." in page.words
    assert "Not running: no step is on record" in page.words  # as no command is at work there
    assert "is-good" not in kinds_told(page)
    assert "tecogan train --config tecogan --data s3://films/store" in page.words


def test_the_page_says_who_made_it_in_its_first_lines(tmp_path: Path) -> None:
    html = render_runs(read_runs([Location.of(record(tmp_path / "film", lines=5))]), [None])
    assert html.splitlines()[1].startswith(MARK)


def test_known_patterns_stand_with_what_to_change(tmp_path: Path) -> None:
    changes = {number: {"time/data_wait": 0.9, "time/step": 1.5} for number in range(100, 400)}
    page = page_of(record(tmp_path / "film", changes=changes))
    assert "waiting for data" in page.words.split("Where the time of a step goes")[0]
    assert "Set data.decoded_cache to true" in page.words


def test_the_table_of_a_profile(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=20)
    (folder / "profiles").mkdir()
    for first, text in ((10, "old"), (90, "aten::<convolution>  12 ms")):
        (folder / "profiles" / f"steps_{first:08}-{first + 5:08}_rank0.txt").write_text(text)
    words = page_of(folder).words
    assert "profiles/steps_00000090-00000095_rank0.txt aten::<convolution> 12 ms" in words.replace(
        "txtaten", "txt aten"
    )


def test_the_evaluation_that_a_run_has(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=20)
    content = {
        "protocol": {"name": "official"},
        "sequences": [{"name": "walk", "frames": [2, 3]}, {"name": "city", "frames": [2]}],
        "averages": {
            "Avg_PSNR": [26.125, None],
            "FolderAvg_PSNR": 27.375,
            "Avg_tOF": [0.125, 0.25],
            "FolderAvg_tOF": 0.1,
        },
    }
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(content))
    words = page_of(folder).words
    assert "3 frames by the official protocol" in words
    assert re.search(r"walk\s*26\.12\s*0\.1250\s*city\s*–\s*0\.2500\s*average of sequences\s*27\.38\s*0\.1000", words)  # noqa: RUF001


def test_a_run_that_was_really_trained(tmp_path: Path) -> None:
    store, folder = Location.of(write_store(tmp_path / "store")), tmp_path / "film"
    config = make_config(
        [
            *("--steps", "6", "--tracking.save-every", "3", "--tracking.summary-every", "2"),
            *("--data.train-scenes", "2000", "2002", "--data.validation-scenes", "2003", "2003"),
        ]
    )
    output = Location.of(folder)
    write_run_file(RunFolder(path=output, checkpoint=None, resume_from=None), config=config, data=store)
    training, held_out = select_scenes(store, config)
    task = TrainingTask(config=config, data=store, training_scenes=training, validation_scenes=held_out, output=output)
    train(task, device=torch.device("cpu"), reporter=PlainReporter(), stream=noise)
    lines = [line for line in read_metrics(folder) if "raw/content" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    (found,) = read_runs([output])
    assert (found.config, found.step, found.checkpoints, found.notes) == (config, 6, (3, 6), ())
    page = RunPage(render_runs([found], [None]))
    known = {line["step"]: line["raw/content"] for line in lines}
    assert points(page.by_title["content"]["data"][0]) == pytest.approx(known, rel=1e-5)
    assert page.by_title["PSNR"]["data"][0]["x"] == [3, 6]
    strips = [one for one in page.named("img") if one.get("data-layer") == "run-0" and one["data-kind"] == "strip"]
    assert [one["data-step"] for one in strips] == ["3", "6"]
    assert "finished" in page.words
    assert "others" not in page.headings, "training records what no section of the page shows"

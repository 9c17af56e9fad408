"""The page of a run: complete, self-contained and safe, with the values that the run recorded."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.train import parse as parse_train
from tecogan_dist.pages.run import MARK, render_runs
from tecogan_dist.pages.run_curves import Series, read_curves, thinned
from tecogan_dist.pages.run_evaluation import find_evaluation
from tecogan_dist.pages.run_pictures import chosen_steps
from tecogan_dist.pages.run_records import names, read_runs
from tecogan_dist.pages.run_settings import command, variant
from tecogan_dist.runs.folder import RunFolder, write_run_file
from tecogan_dist.runs.records import METRICS_FILE, read_metrics
from tecogan_dist.training.loop import train
from tecogan_dist.training.reporter import PlainReporter
from tecogan_dist.training.task import TrainingTask, select_scenes
from tests.support.pages import Page, pixels, policy_of
from tests.support.plain_runs import make_config, noise
from tests.support.recorded_runs import add_previews, config_of, record
from tests.support.training_runs import write_store

HOSTILE = "<script>alert(1)<&\"'"


class RunPage(Page):
    """With its headings, and its figures by their titles."""

    @property
    def headings(self) -> list[str]:
        return [attributes["id"] for attributes in self.named("h2")]

    @property
    def by_title(self) -> dict[str, dict[str, Any]]:
        titles = [attributes["aria-label"] for attributes in self.named("div") if attributes.get("class") == "drawing"]
        assert len(titles) == len(self.figures)
        return dict(zip(titles, self.figures, strict=True))


def page_of(*folders: Path) -> RunPage:
    runs = read_runs([Location.of(folder) for folder in folders])
    return RunPage(render_runs(runs, [find_evaluation(one.place) for one in runs]))


def points(trace: dict[str, Any]) -> dict[int, float]:
    return dict(zip(trace["x"], trace["y"], strict=True))


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


def test_what_is_not_finite_is_a_gap_with_a_mark(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=50, changes={9: {"raw/warp": math.nan}})
    file = folder / METRICS_FILE
    lines = file.read_text().splitlines()
    # As programs write them that take JSON less strictly.
    lines[20] = re.sub(r'"raw/warp": [^,]+', '"raw/warp": NaN', lines[20])
    lines[30] = re.sub(r'"raw/warp": [^,]+', '"raw/warp": -Infinity', lines[30])
    file.write_text("\n".join(lines))
    broken = [200, json.loads(lines[20])["step"], json.loads(lines[30])["step"]]
    page = page_of(folder)
    figure = page.by_title["warp"]
    assert [step for step, value in points(figure["data"][0]).items() if value is None] == broken
    assert [one["x0"] for one in figure["layout"]["shapes"] if one["line"]["color"] == "var(--bad)"] == broken
    assert "left out" not in page.words


WILD = (0, -0.0, 1e308, -1e308, 5e-324, 1e-300, None, 2**63 - 1, -(2**63), -1, 0.5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(12))
def test_values_gone_wild_and_missing_make_a_page_without_a_warning(tmp_path: Path, seed: int) -> None:
    folder = record(tmp_path / "film", lines=10)
    known = sorted({name for line in read_metrics(folder) for name in line} - {"step"})
    random = np.random.default_rng(seed)
    chosen = list(random.permutation(known))[: random.integers(1, 60)]
    lines, step = [], int(random.choice([0, 10**6, 2**62]))
    for _ in range(random.choice([1, 5, 1200])):
        step += int(random.choice([0, 1, 1000]))
        some = [name for name in chosen if random.random() < 0.7]
        lines.append(json.dumps({"step": step, **{name: WILD[random.integers(len(WILD))] for name in some}}))
    (folder / METRICS_FILE).write_text("\n".join(lines) + "\n")
    scores = {str(10 * i): {"psnr": WILD[random.integers(len(WILD))], "tof": 1e308} for i in range(random.integers(4))}
    (folder / "scores.json").write_text(json.dumps(scores))
    page_of(folder, record(tmp_path / "other", lines=3))
    assert page_of(folder).figures or not chosen


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("what is this", "is not valid JSON"),
        ('{"raw/content": 1}', "it has no step"),
        ('{"step": -1}', "it has no step"),
        ('{"step": 5, "raw/content": "much"}', "the value of raw/content is not a number"),
        ('{"step": 5, "raw/content": NaNs}', "is not valid JSON"),
        ("\x00\xff", "is not valid JSON"),
    ],
)
def test_a_damaged_line_is_told_of_and_the_others_are_shown(tmp_path: Path, line: str, reason: str) -> None:
    folder = record(tmp_path / "film", lines=30, validations=1)
    file = folder / METRICS_FILE
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:10], line, *lines[11:]]) + '\n{"step": 700, "raw/cont')
    page = page_of(folder)
    assert re.search(rf"line 11 of metrics\.jsonl is left out: .*{reason}", page.words)
    assert "line 32" not in page.words  # half a line, which training is about to complete
    there = [json.loads(one)["step"] for one in (*lines[:10], *lines[11:-1])]
    assert page.by_title["content"]["data"][0]["x"] == there


def test_records_of_which_nothing_can_be_read_are_refused(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=3)
    (folder / METRICS_FILE).write_text("a\nb\nc\n")
    with pytest.raises(UserError, match="none of its 3 lines can be read"):
        page_of(folder)
    (folder / METRICS_FILE).write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(UserError, match="has more than 1048576 bytes"):
        page_of(folder)
    (folder / METRICS_FILE).write_text(json.dumps({"step": 1, **{f"a{i}": i for i in range(1001)}}) + "\n")
    with pytest.raises(UserError, match="more than 1000 different names"):
        page_of(folder)


def test_a_run_that_went_back_counts_each_step_once(tmp_path: Path) -> None:
    steps = [10, 20, 30, 40, 20, 30]
    lines = [json.dumps({"step": step, "raw/content": float(i)}) for i, step in enumerate(steps)]
    (tmp_path / METRICS_FILE).write_text("\n".join(lines) + "\n")
    series = read_curves(Location.of(tmp_path)).series["raw/content"]
    assert dict(zip(series.steps.tolist(), series.values.tolist(), strict=True)) == {10: 0, 20: 4, 30: 5}


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=0, state=None)
    (folder / METRICS_FILE).unlink()
    page = page_of(folder)
    assert page.figures == []
    assert "The run has just begun: nothing is recorded yet." in page.words
    assert "tecogan train --config tecogan --data s3://films/store" in page.words


def test_damaged_notes_cost_what_they_say_and_no_more(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=40)
    add_previews(folder, [100, 200])
    for name in ("scores.json", "status.json", "restarts.jsonl", "previews/index.json"):
        (folder / name).write_text("{\n")
    page = page_of(folder)
    for name in ("scores.json", "status.json", "restarts.jsonl", "index.json"):
        assert re.search(rf"{name}.* is damaged", page.words), name
    assert len(page.by_title["PSNR"]["data"][0]["x"]) == 8  # the records have the scores, too


def test_hostile_words_are_words(tmp_path: Path) -> None:
    folder = record(
        tmp_path / HOSTILE, lines=60, changes={0: {f"raw/{HOSTILE}</script>": 1.0, '<a href="javascript:x">': 1.0}}
    )
    add_previews(folder, [500, 1000])
    environment = {"command": f"tecogan {HOSTILE}", "versions": {HOSTILE: HOSTILE}, "git": {"commit": HOSTILE}}
    (folder / "environment.json").write_text(json.dumps(environment))
    other = record(tmp_path / "other", lines=60)
    for page in (page_of(folder), page_of(folder, other)):
        scripts = page.executed()
        assert len(scripts) == 3  # plotly.js, what draws, what wipes
        assert page.policy == policy_of(scripts, images="data: blob:")
        assert HOSTILE in page.words
        texts = [trace["name"] for figure in page.figures for trace in figure["data"] if "name" in trace]
        assert not [text for text in texts if "<" in text]
        assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form", "video"} == set()
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on")]
            assert "src" not in attributes or (tag == "img" and attributes["src"].startswith("data:image/png;"))
        links = [attributes["href"] for attributes in page.named("a")]
        assert links
        assert all(link.startswith("#") for link in links)
        assert {link[1:] for link in links} <= {a["id"] for _, a in page.tags if "id" in a}


def test_the_page_says_who_made_it_in_its_first_lines(tmp_path: Path) -> None:
    html = render_runs(read_runs([Location.of(record(tmp_path / "film", lines=5))]), [None])
    assert html.splitlines()[1].startswith(MARK)


def test_pictures_are_the_runs_own(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=100, validations=4)
    add_previews(folder, [500, 1000, 1500, 2000])
    page = page_of(folder)
    images = [image for image in page.named("img") if "data-layer" in image]
    with Image.open(folder / "previews" / "reference.png") as image:
        reference = np.asarray(image.convert("RGB"))
    rows = dict(zip(("still-LR", "still-bicubic", "still-HR"), np.split(reference, 3), strict=True))
    for layer, expected in rows.items():
        (found,) = [image for image in images if image["data-layer"] == layer]
        assert (pixels(found["src"]) == expected).all()
    for kind, ending in (("strip", ""), ("profile", "_profile")):
        shown = {int(one["data-step"]): one["src"] for one in images if one["data-kind"] == kind and "data-step" in one}
        assert list(shown) == [500, 1000, 1500, 2000]
        for step, uri in shown.items():
            with Image.open(folder / "previews" / f"{step:08}{ending}.png") as image:
                assert (pixels(uri) == np.asarray(image.convert("RGB"))).all()
    worst = [image for image in page.named("img") if image["alt"].startswith("frame ")]
    with Image.open(folder / "previews" / "00002000_worst.png") as image:
        assert (np.concatenate([pixels(one["src"]) for one in worst]) == np.asarray(image.convert("RGB"))).all()


def test_pictures_that_are_missing_or_something_else_cost_themselves(tmp_path: Path) -> None:
    folder = record(tmp_path / "film", lines=100)
    add_previews(folder, [500, 1000, 1500])
    previews = folder / "previews"
    (previews / "00000500.png").unlink()
    Image.new("RGB", (9, 9)).save(previews / "00001000.png")
    (previews / "reference.png").write_text("no picture")
    page = page_of(folder)
    assert [one["data-step"] for one in page.named("img") if one.get("data-kind") == "strip"] == ["1500"]
    for words in (
        "00000500.png is missing",
        "00001000.png is left out: it has 9x9",
        "reference.png is left out: it is",
    ):
        assert words in page.words


@given(st.sets(st.integers(1, 10**6), min_size=1, max_size=100), st.integers(3, 20), st.data())
def test_steps_of_pictures_have_the_first_the_best_and_the_last(
    steps: set[int], count: int, data: st.DataObject
) -> None:
    best = data.draw(st.sampled_from(sorted(steps)))
    chosen = chosen_steps(steps, best, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, len(steps))
    assert {min(steps), best, max(steps)} <= set(chosen) <= steps


def test_several_runs_over_each_other(tmp_path: Path) -> None:
    first = record(tmp_path / "first", lines=100, seed=1, restarts=(600,))
    second = record(
        tmp_path / "second", lines=80, seed=2, better=5, config=config_of("tecogan", "--loss.pingpong", "0.25")
    )
    for number, folder in enumerate((first, second)):
        add_previews(folder, [500, 1000], seed=number)
    page = page_of(first, second)
    figure = page.by_title["content"]
    for folder, colour in ((first, "var(--series-1)"), (second, "var(--series-2)")):
        traces = [trace for trace in figure["data"] if trace["name"].startswith(folder.name)]
        assert {trace["line"]["color"] for trace in traces} == {colour}
        known = {line["step"]: line["raw/content"] for line in read_metrics(folder) if "raw/content" in line}
        assert points(traces[0]) == pytest.approx(known, rel=1e-5)
    assert "loss.pingpong0.50.25" in page.words.replace(" ", "")
    table = page.words.split("Where they stand")[1].split("Held-out scenes")[0]
    best = {
        folder: max(values["psnr"] for values in json.loads((folder / "scores.json").read_text()).values())
        for folder in (first, second)
    }
    assert all(f"{value:.2f}" in table for value in best.values())
    wins = [attributes for attributes in page.named("td") if attributes.get("class") == "wins"]
    assert wins
    options = [attributes["value"] for attributes in page.named("option")]
    assert options == 2 * ["still-LR", "still-bicubic", "still-HR", "run-0", "run-1"]


def test_runs_of_different_kinds_are_compared_by_what_both_have(tmp_path: Path) -> None:
    gan = record(tmp_path / "gan", lines=60)
    plain = record(tmp_path / "plain", lines=60, config=config_of("frvsr"), state=None)
    words = page_of(gan, plain).words
    assert "These are runs of different kinds (TecoGAN: gan; FRVSR: plain)." in words
    assert "Only gan recorded the discriminator." in words
    assert "loss.adversarial0.010.0" in words


def test_previews_of_other_frames_are_not_laid_over_each_other(tmp_path: Path) -> None:
    folders = [record(tmp_path / name, lines=20) for name in ("first", "second")]
    add_previews(folders[0], [200])
    add_previews(folders[1], [200], scene=2260)
    page = page_of(*folders)
    assert "the previews of second show other frames than those of first" in page.words
    assert {one["data-layer"] for one in page.named("img") if "data-layer" in one} == {
        *("still-LR", "still-bicubic", "still-HR", "run-0")
    }


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


@pytest.mark.parametrize("preset", ["frvsr", "tecogan", "small", "smoke_tecogan", "tecogan_temporal_only"])
def test_the_shown_command_trains_with_the_settings_of_the_run(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    config = config_of(
        preset,
        *("--steps", "77", "--data.flip", "false", "--data.train-scenes", "3", "9", "--data.cache-dir", "a b"),
        *("--loss.feature-match-norms", "1", "2", "3", "4.5", "--data.validation-scenes", "none"),
        *("--cluster.resources-per-worker", "disk", "2", "--optimizer.epsilon", "1e-7"),
    )
    words = shlex.split(command(config, data="s3://films/store", output="runs/a b", begun_from=None))
    assert words[:2] == ["tecogan", "train"]
    options, parsed = parse_train(words[2:])
    assert parsed == config
    assert (options.data, options.output) == ("s3://films/store", "runs/a b")


def test_the_preset_with_the_fewest_differences_is_named() -> None:
    found = variant(config_of("smoke_frvsr", "--loss.warp", "0.5", "--cluster.workers", "1"))
    assert found.preset == "smoke_frvsr"
    assert {one.name: one.values for one in found.differences}["loss.warp"] == ("0.5", "1.0")


def test_short_names_tell_runs_apart(tmp_path: Path) -> None:
    places = [Location(f"{tmp_path}/{name}") for name in ("a/run", "b/run", "c/other")]
    assert names(places[:1]) == ["run"]
    assert names(places[1:]) == ["run", "other"]
    assert names(places) == ["a/run", "b/run", "c/other"]
    assert names([Location("s3://films/a/run"), Location("s3://films/b/run?region=x")]) == ["a/run", "b/run"]


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

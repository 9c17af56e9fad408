"""An evaluation's files: the HTML report complete, self-contained and safe, with the right numbers, frames and pixels;
and all three written together or none.
"""

from __future__ import annotations

import json
import math
import re
import resource
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from skimage.color import rgb2lab

from tecogan_dist.base.errors import UserError
from tecogan_dist.metrics.measuring import Settings, in_this_process, measure_sequences, open_sequences
from tecogan_dist.metrics.names import METRICS
from tecogan_dist.metrics.protocol import OFFICIAL, STANDARD, Protocol
from tecogan_dist.metrics.summary import Evaluation
from tecogan_dist.metrics.worst import worst_frames
from tecogan_dist.pages.charts import DRAW
from tecogan_dist.pages.evaluation import render_report, write_evaluation
from tecogan_dist.pages.pictures import COLOUR_MAP, Profile, colours
from tests.support.evaluations import COLUMN, FRAMES, MEASURED, clip, evaluate, write
from tests.support.pages import Page, pixels, policy_of

TIMES, NONE = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


@pytest.mark.parametrize("metrics", [METRICS, ("psnr", "ssim", "tof"), ("ssim",)])
@pytest.mark.parametrize("protocol", [OFFICIAL, STANDARD])
def test_every_number_stands_under_its_protocol(tmp_path: Path, protocol: Protocol, metrics: tuple[str, ...]) -> None:
    inputs = evaluate(tmp_path, {"one": clip(1), "two": clip(2, 12)}, protocol=protocol, metrics=metrics)
    evaluation = inputs[0]
    page = Page(render_report(*inputs, note="measured with care & love"))
    assert f"{protocol.name} protocol: {protocol.description}" in page.words
    assert "measured with care & love" in page.words
    assert len(page.figures) == 2 * len(metrics)
    heads = {
        "psnr": "PSNR (dB) ↑",
        "ssim": "SSIM ↑",
        "lpips": "LPIPS ↓",
        "tof": "tOF (px) ↓",
        "tlp": f"tLP {TIMES}100 ↓",
    }
    for metric, head in heads.items():
        labelled = len(re.findall(re.escape(f"{head}, {protocol.name}"), page.words))
        # card, table, two charts; the worst frames' heading and captions may add to it
        assert labelled >= 4 if metric in metrics else labelled == 0
        assert page.words.count(head) == labelled
    for metric in metrics:
        decimals = 2 if metric == "psnr" else 4
        for sequence in evaluation.sequences:
            assert f"average {np.mean(sequence.values[metric]):.{decimals}f} " in page.words
        folders = np.mean([np.mean(sequence.values[metric]) for sequence in evaluation.sequences])
        frames = np.mean(np.concatenate([sequence.values[metric] for sequence in evaluation.sequences]))
        for row, number in (("sequences (FolderAvg)", folders), ("frames (FrameAvg)", frames)):
            numbers = page.words.split(f"average of {row}")[1].split()[: len(metrics)]
            assert numbers[metrics.index(metric)] == f"{number:.{decimals}f}"


def test_the_page_loads_nothing_and_runs_only_what_draws_its_curves(tmp_path: Path) -> None:
    html = render_report(*evaluate(tmp_path, {"calendar": clip(1), "other": clip(2)}))
    page = Page(html)
    assert page.executed() == [get_plotlyjs(), DRAW]
    assert page.policy == policy_of(page.executed(), images="data: blob:")
    html = html.replace(get_plotlyjs(), "")
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form", "video"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        if "src" in attributes:
            assert pixels(attributes["src"]).size
        if "href" in attributes and tag == "image":
            assert pixels(attributes["href"]).size
        elif "href" in attributes:
            assert tag == "a"
            assert attributes["href"].startswith(("#", "https://doi.org/"))
    assert not re.findall(r"url\(|@import|srcset|http-equiv=.refresh", html)
    anchors = {attributes["href"][1:] for attributes in page.named("a") if attributes["href"].startswith("#")}
    assert anchors <= {attributes.get("id", "") for _, attributes in page.tags}


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}<!--"
    evaluation, profiles, sources = evaluate(tmp_path, {name: clip(1)})
    html = render_report(evaluation, profiles, sources, note="</p><script>alert(2)</script>")
    page = Page(html)
    assert name in page.text
    assert "<script>alert(2)</script>" in page.text
    assert page.executed() == [get_plotlyjs(), DRAW]
    assert all(attributes["src"].startswith("data:image/") for attributes in page.named("img"))
    # Linux gives a name of other bytes than UTF-8 as lone surrogates, which no file of UTF-8 can hold.
    odd = replace(evaluation, sequences=[replace(evaluation.sequences[0], name="b\udcffd")])
    assert b"b\\udcffd" in render_report(odd, profiles, sources).encode("utf-8")


@pytest.mark.parametrize(
    ("names", "protocol", "shown"),
    [
        (["Calendar", "my_city-BD", "foliage", "walk"], OFFICIAL, ["Vid4, official: 4 of 4"]),
        (["walk", "other", "vid4.city"], OFFICIAL, ["Vid4, official: 2 of 4"]),
        (["room", "walk"], OFFICIAL, ["Vid4, official: 1 of 4", "ToS3, official: 1 of 3"]),
        (["cityscape", "sidewalk", "face2"], OFFICIAL, []),
        (["calendar", "city", "foliage", "walk"], STANDARD, []),
    ],
)
def test_published_rows_appear_for_their_scenes_only(
    tmp_path: Path, names: list[str], protocol: Protocol, shown: list[str]
) -> None:
    inputs = evaluate(tmp_path, {name: clip(seed) for seed, name in enumerate(names)}, protocol=protocol)
    page = Page(render_report(*inputs, worst=1))
    assert re.findall(r"\w+, official: \d of \d", page.words) == shown
    numbers = {"Vid4": [f"26.91 {NONE} 0.251 0.209 0.957", f"25.57 {NONE} 0.162 0.190 0.668"]}
    numbers["ToS3"] = [f"34.01 {NONE} 0.145 0.145 0.541", f"32.75 {NONE} 0.108 0.133 0.661"]
    for name, rows in numbers.items():
        for model, row in zip(("Official FRVSR", "TecoGAN+"), rows, strict=True):
            assert (f"{model}, published {row}" in page.words) == any(name in heading for heading in shown)
    if "other" in names:
        ours = [np.mean(sequence.values["psnr"]) for sequence in inputs[0].sequences if sequence.name != "other"]
        assert f"this evaluation {np.mean(ours):.2f}" in page.words
        assert "averages of all 4 scenes, so the numbers do not compare" in page.words
    assert ("not checked against" in page.words) == bool(shown)


@pytest.mark.parametrize("names", [["face_01", "face_02"], ["face_room"]])
def test_an_unclear_match_is_said_and_not_averaged(tmp_path: Path, names: list[str]) -> None:
    page = Page(render_report(*evaluate(tmp_path, {name: clip(1) for name in names}), worst=1))
    assert f"Not compared: it is not clear which scene each of {', '.join(dict.fromkeys(names))}" in page.words
    assert "34.01" not in page.words


def test_infinite_values_are_shown_and_break_no_curve(tmp_path: Path) -> None:
    results, targets = clip(1)
    results[3] = targets[3]
    clips = {"some": (results, targets), "all": (targets, targets)}
    page = Page(render_report(*evaluate(tmp_path, clips, metrics=("psnr",), protocol=STANDARD)))
    assert "average of sequences (FolderAvg) ∞" in page.words
    some, every = page.traces("infinite")
    assert some["x"] == [3]
    assert every["x"] == list(range(FRAMES))
    assert "∞ dB" in some["hovertemplate"]
    gaps, nothing = ([value is None for value in trace["y"]] for trace in page.traces("values"))
    assert gaps == [frame == 3 for frame in range(FRAMES)]
    assert all(nothing)


def test_the_worst_frames_are_ringed_on_every_curve(tmp_path: Path) -> None:
    inputs = evaluate(tmp_path, {"one": clip(1, 40)})
    page = Page(render_report(*inputs))
    shown = re.findall(r"Frame (\d+) ·", page.words)
    sequence = inputs[0].sequences[0]
    rings = page.traces("worst")
    assert len(rings) == len(METRICS)
    for metric, trace in zip(METRICS, rings, strict=True):
        assert [str(frame) for frame in trace["x"]] == shown
        values = dict(zip(sequence.frames_of(metric), sequence.values[metric], strict=True))
        assert trace["y"] == pytest.approx([values[int(frame)] for frame in shown], rel=1e-5)
    assert page.words.count("rings: the worst frames by tOF") == len(METRICS)


@pytest.mark.timeout(60)
def test_ten_thousand_frames_stay_small(tmp_path: Path) -> None:
    evaluation, _, sources = evaluate(tmp_path, {"film": clip(1)}, metrics=METRICS)
    count = 10_000
    generator = np.random.default_rng(3)
    values = {metric: generator.normal(30, 1, count).tolist() for metric in METRICS}
    values["tof"][4] = 60.0  # the worst, and a frame that there is
    film = replace(evaluation.sequences[0], frames=range(count), values=values)
    columns = generator.integers(0, 255, (count, 200, 3), dtype=np.uint8)
    page = render_report(replace(evaluation, sequences=[film]), [Profile(columns, columns, COLUMN)], sources, worst=1)
    assert len(page) - len(get_plotlyjs()) < 3_000_000  # of which 2 are the profile, here of noise
    assert "The first 1200 of 10000 frames." in Page(page).words


def choose(values: Sequence[float], count: int, gap: int) -> list[int]:
    """Take the greatest of what is left, then strike it and what is nearer than ``gap``; again."""
    left = dict(enumerate(values))
    taken: list[int] = []
    while left and len(taken) < count:
        taken.append(max(left, key=lambda index: left[index]))
        left = {index: value for index, value in left.items() if abs(index - taken[-1]) >= gap}
    return taken


@pytest.mark.parametrize(("length", "gap"), [(400, 24), (60, 4), (8, 1), (2, 1)])
def test_the_worst_frames_are_the_worst_apart_from_neighbours(length: int, gap: int) -> None:
    values = np.random.default_rng(length).normal(size=length).cumsum()
    frames = range(3, 3 + length)
    assert worst_frames(frames, values.tolist(), "tof", count=3) == [3 + i for i in choose(values.tolist(), 3, gap)]
    assert worst_frames(frames, values.tolist(), "psnr", count=3) == [3 + i for i in choose((-values).tolist(), 3, gap)]
    assert worst_frames(frames, [math.inf] * length, "psnr", count=1) == [3]
    assert worst_frames(frames, values.tolist(), "tof", count=0) == []


@pytest.mark.parametrize(
    ("metrics", "blamed"), [(METRICS, "tof"), (("psnr", "lpips", "tlp"), "lpips"), (("psnr", "ssim"), "psnr")]
)
def test_the_worst_frames_show_their_own_pixels(tmp_path: Path, metrics: Collection[str], blamed: str) -> None:
    results, targets = clip(5)
    larger = np.pad(results, ((0, 0), (0, 8), (0, 4), (0, 0)))
    evaluation, profiles, sources = evaluate(tmp_path, {"one": (larger, targets)}, metrics=list(metrics))
    sequence = evaluation.sequences[0]
    values = dict(zip(sequence.frames_of(blamed), sequence.values[blamed], strict=True))
    order = sorted(values, key=lambda frame: values[frame] * (-1 if blamed != "psnr" else 1))[:2]
    page = Page(render_report(evaluation, profiles, sources, worst=2))
    assert [int(frame) for frame in re.findall(r"Frame (\d+) ·", page.words)] == order
    shown = page.named("img")
    assert len(shown) == 8  # the frame before the first measured one is there, so each has its flow
    for number, frame in enumerate(order):
        names = [attributes["alt"].split(",")[0] for attributes in shown[4 * number : 4 * number + 4]]
        assert names == ["result", "target", "difference", "flow difference"]
        pictures = [pixels(attributes["src"]) for attributes in shown[4 * number : 4 * number + 4]]
        for picture, clean in zip(pictures, (results, targets), strict=False):
            apart = np.abs(picture.astype(float) - clean).mean(axis=(1, 2, 3))
            assert apart.argmin() == frame
            assert apart[frame] < 4  # what JPEG does to noise
        match = re.search(TIMES + r"(\d+)", shown[4 * number + 2]["alt"])
        assert match is not None
        difference = np.abs(results[frame].astype(float) - targets[frame])
        assert (difference * int(match[1]) > 255).mean() <= 0.01
        assert (difference * int(match[1]) * 2 > 255).mean() > 0.01
        assert np.abs(pictures[2] - (difference * int(match[1])).clip(0, 255)).mean() < 8


def test_a_first_frame_has_no_flow(tmp_path: Path) -> None:
    results, targets = clip(6)
    results[0] = 0
    page = Page(
        render_report(*evaluate(tmp_path, {"x": (results, targets)}, protocol=STANDARD, metrics=["psnr"]), worst=1)
    )
    assert "Frame 0 ·" in page.words
    assert "no flow: there is no frame before" in page.words
    assert len(page.named("img")) == 3


def test_a_profile_is_its_column_over_time(tmp_path: Path) -> None:
    results, targets = clip(7)
    page = Page(render_report(*evaluate(tmp_path, {"x": (results, targets)}), worst=1))
    above, below = sorted(page.named("image"), key=lambda attributes: float(attributes["y"]))
    np.testing.assert_array_equal(pixels(above["href"]), results[:, :, COLUMN].transpose(1, 0, 2))
    np.testing.assert_array_equal(pixels(below["href"]), targets[:, :, COLUMN].transpose(1, 0, 2))
    assert f"column x = {COLUMN}" in page.words


def test_all_files_are_written_or_none(tmp_path: Path) -> None:
    results, targets = clip(1)
    for name, frames in (("results", results), ("targets", targets)):
        write(tmp_path / name, frames)
    sequences = open_sequences([str(tmp_path / "results")], [str(tmp_path / "targets")], OFFICIAL)
    measure_chunks = in_this_process(Settings(OFFICIAL, MEASURED, None))
    values = measure_sequences(sequences, measure_chunks, processes=1, metrics=MEASURED)
    evaluation, folder = Evaluation(OFFICIAL, MEASURED, values), tmp_path / "deep" / "scores"
    written = write_evaluation(folder, evaluation, sequences, note="by hand")
    names = ["metrics.csv", "metrics.json", "report.html"]
    assert [path.name for path in written] == sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "metrics.csv").read_text() == evaluation.to_csv()
    assert json.loads((folder / "metrics.json").read_text()) == evaluation.to_json() | {"measured_with": "by hand"}
    assert "by hand" in Page((folder / "report.html").read_text("utf-8")).words

    before = {path: path.read_bytes() for path in written}
    other = replace(evaluation, metrics=("psnr",))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # as a disk that fills up before the page is written
    try:
        with pytest.raises(UserError, match="cannot be written"):
            write_evaluation(folder, other, sequences, note="again")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    written[-1].unlink()
    written[-1].mkdir()
    with pytest.raises(UserError, match=r"report\.html is a folder"):
        write_evaluation(folder, other, sequences, note="again")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == dict(list(before.items())[:2])


def test_the_colour_map_gets_lighter_in_even_steps() -> None:
    lightness = rgb2lab(colours(np.linspace(0, 1.2, 61)[None]))[0, :, 0]
    steps = np.diff(lightness[:51])
    assert steps.min() > 0
    assert lightness[50] - lightness[0] > 85
    assert np.ptp(lightness[50:]) == 0
    assert tuple(colours(np.zeros((1, 1)))[0, 0]) == tuple(COLOUR_MAP[0])

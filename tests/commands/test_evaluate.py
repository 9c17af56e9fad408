"""The evaluate command on real image folders and videos, in one process and by Ray tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import output_lock
from tecogan_dist.commands import evaluate
from tecogan_dist.metrics.names import METRICS
from tecogan_dist.metrics.perceptual import WEIGHTS_VARIABLE, Lpips, find_trunk
from tecogan_dist.metrics.protocol import STANDARD
from tecogan_dist.metrics.sequence import measure
from tecogan_dist.video.open import open_video
from tecogan_dist.video.writer import FrameWriter
from tests.support.local_ray import small_ray
from tests.support.lpips_files import write_trunk

Images = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def no_weights_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trunk(tmp_path_factory.mktemp("weights") / "alexnet.pth")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with small_ray(cpus=2, megabytes=150):
        yield


def texture(frames: int, *, height: int = 50, width: int = 68, shift: int = 1, seed: int = 0) -> Images:
    """(T, H, W, 3): smooth noise that moves ``shift`` pixels a frame."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, (width + frames * shift) // 4 + 2, 3))
    wide = np.asarray(Image.fromarray(noise.astype(np.uint8)).resize((noise.shape[1] * 4, noise.shape[0] * 4), 3))
    return np.stack([wide[:height, t * shift : t * shift + width] for t in range(frames)])


def write_folder(folder: Path, images: Images) -> Path:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"frame_{index:04}.png")
    return folder


def noisy(images: Images, *, extra: int = 0) -> Images:
    """A result of ``images``: with noise, and ``extra`` more rows and columns."""
    padded = np.pad(images, ((0, 0), (0, extra), (0, extra), (0, 0)), mode="edge")
    noise = np.random.default_rng(1).integers(-9, 10, padded.shape)
    return np.clip(padded + noise, 0, 255).astype(np.uint8)


def run(*arguments: str | Path) -> None:
    evaluate.main([str(argument) for argument in arguments])


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_both_ways_give_what_the_library_gives(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk, city = texture(21), texture(8, seed=1)
    walk_result, city_result = noisy(walk, extra=4), noisy(city)
    results = [
        write_folder(tmp_path / "ours" / "walk", walk_result),
        write_folder(tmp_path / "ours" / "city", city_result),
    ]
    targets = [write_folder(tmp_path / "hr" / "walk", walk), write_folder(tmp_path / "hr" / "city", city)]
    given: list[str | Path] = ["--results", ",".join(map(str, results)), "--targets", ",".join(map(str, targets))]
    run(*given, "--output", tmp_path / "ray", "--lpips-weights", weights, "--workers", "2")
    assert "official protocol" in capsys.readouterr().out
    content = read(tmp_path / "ray")
    assert content["protocol"]["name"] == "official"
    assert [sequence["name"] for sequence in content["sequences"]] == ["walk", "city"]
    assert content["sequences"][0]["frames"] == list(range(2, 19))

    lpips = Lpips(find_trunk("alex", weights))
    for number, (result, target) in enumerate([(walk_result, walk), (city_result, city)]):
        expected = measure(result, target, lpips=lpips)
        for metric, column in zip(METRICS, ("PSNR", "SSIM", "LPIPS", "tOF", "tLP100"), strict=True):
            # 17 measured frames in chunks of 4: each frame's values are those of one pass over all.
            assert content["per_frame"][f"{column}_{number:02}"] == pytest.approx(expected[metric], rel=1e-6)
            average = content["averages"][f"Avg_{column}"][number]
            assert average == pytest.approx(np.mean(expected[metric]), rel=1e-6)
    psnr = [*content["per_frame"]["PSNR_00"], *content["per_frame"]["PSNR_01"]]
    assert content["averages"]["FrameAvg_PSNR"] == pytest.approx(np.mean(psnr))

    # A process of its own, which uses no Ray for a single worker: the equal numbers do not depend on it.
    given += ["--output", tmp_path / "one", "--workers", "1", "--lpips_weights", weights]
    (tmp_path / "ray_files").mkdir()
    process = subprocess.run(
        [sys.executable, "-m", "tecogan_dist.evaluate", *given],
        env=os.environ | {"RAY_TMPDIR": str(tmp_path / "ray_files")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert not list((tmp_path / "ray_files").iterdir())
    assert read(tmp_path / "one") == content
    assert (tmp_path / "one" / "metrics.csv").read_bytes() == (tmp_path / "ray" / "metrics.csv").read_bytes()


@pytest.mark.usefixtures("cluster")
def test_standard_protocol_and_its_labels(tmp_path: Path) -> None:
    target = texture(3)
    results, targets = write_folder(tmp_path / "a", noisy(target)), write_folder(tmp_path / "b", target)
    given: list[str | Path] = [
        "--results",
        results,
        "--targets",
        targets,
        "--protocol",
        "standard",
        "--metrics",
        "tof,PSNR,ssim",
    ]
    run(*given, "--output", tmp_path / "out")
    content = read(tmp_path / "out")
    expected = measure(noisy(target), target, protocol=STANDARD, metrics=("psnr", "ssim", "tof"))
    assert content["protocol"]["name"] == "standard"
    assert content["per_frame"] == {
        "PSNR_00": pytest.approx(expected["psnr"]),
        "SSIM_00": pytest.approx(expected["ssim"]),
        "tOF_00": pytest.approx(expected["tof"]),
    }
    header = (tmp_path / "out" / "metrics.csv").read_text().splitlines()[0]
    assert header == ",standard_PSNR_00,standard_SSIM_00,standard_tOF_00"
    assert "standard" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.usefixtures("cluster")
def test_videos_are_measured_as_the_frames_they_hold(tmp_path: Path) -> None:
    target = texture(9, height=64, width=80)
    for name, images in (("a.mp4", noisy(target)), ("b.mkv", target)):
        with FrameWriter(tmp_path / name, rate=Fraction(25), pix_fmt="yuv444p", crf=0) as writer:
            for image in images:
                writer.write(image)
    run("--results", tmp_path / "a.mp4", "--targets", tmp_path / "b.mkv", "--output", tmp_path, "--metrics", "psnr,tof")
    decoded = [np.stack(list(open_video(tmp_path / name).frames())) for name in ("a.mp4", "b.mkv")]
    expected = measure(*decoded, metrics=("psnr", "tof"))
    assert read(tmp_path)["per_frame"] == {
        "PSNR_00": pytest.approx(expected["psnr"]),
        "tOF_00": pytest.approx(expected["tof"]),
    }


@pytest.mark.usefixtures("cluster")
def test_identical_videos_are_infinitely_good(tmp_path: Path, weights: Path) -> None:
    frames = texture(7)
    results, targets = write_folder(tmp_path / "a", frames), write_folder(tmp_path / "b", frames)
    run("--results", results, "--targets", targets, "--output", tmp_path / "out", "--lpips-weights", weights)
    averages = read(tmp_path / "out")["averages"]
    assert averages["FrameAvg_PSNR"] is None  # JSON has no infinity
    assert averages["FrameAvg_SSIM"] == pytest.approx(1)
    assert [averages[f"FrameAvg_{name}"] for name in ("LPIPS", "tOF", "tLP100")] == [0, 0, 0]
    assert "0,inf,1.0,0.0,0.0,0.0" in (tmp_path / "out" / "metrics.csv").read_text()


@pytest.mark.usefixtures("cluster")
def test_png_kinds(tmp_path: Path) -> None:
    """16-bit, grey, palette and opaque alpha PNG are converted to what they show."""
    grey = np.repeat(texture(7)[..., :1], 3, axis=-1)
    targets = write_folder(tmp_path / "rgb", grey)
    kinds = {
        "16": lambda image: Image.fromarray(image[..., 0].astype(np.uint16) * 257),
        "grey": lambda image: Image.fromarray(image[..., 0]),
        "alpha": lambda image: Image.fromarray(np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])),
        "palette": lambda image: Image.fromarray(image[..., 0]).convert("P"),
    }
    for kind, convert in kinds.items():
        (tmp_path / kind).mkdir()
        for index, image in enumerate(grey):
            convert(image).save(tmp_path / kind / f"{index}.png")
        output = tmp_path / "out" / kind
        run("--results", tmp_path / kind, "--targets", targets, "--output", output, "--metrics", "psnr")
        assert "FrameAvg_PSNR\n0,inf\n" in (output / "metrics.csv").read_text(), kind


def make_bad(kind: str, folder: Path) -> tuple[Path, Path, str]:
    """Results and targets that cannot be measured, and what the sentence says."""
    target = texture(8)
    good = write_folder(folder / "good", target)
    bad = folder / "bad"
    if kind == "counts":
        return write_folder(bad, target[:7]), good, r"bad has 7 frames and .*good has 8"
    if kind == "smaller":
        return write_folder(bad, target[:, :48]), good, r"68x48 pixels and the targets 68x50"
    if kind == "far larger":
        return write_folder(bad, texture(8, height=200, width=272)), good, r"272x200 pixels and the targets only 68x50"
    if kind == "short":
        return write_folder(bad, target[:5]), write_folder(folder / "five", target[:5]), r"5 frames .* needs 6"
    if kind == "tiny":
        return write_folder(bad, target[:, :40]), write_folder(folder / "low", target[:, :40]), r"68x40 are too small"
    if kind == "same":
        return good, folder / "bad" / ".." / "good", r"its own target"
    if kind == "missing":
        return bad, good, r"bad does not exist"
    if kind == "empty":
        bad.mkdir()
        return bad, good, r"bad holds no PNG or JPG images"
    write_folder(bad, target)
    image = bad / "frame_0004.png"
    if kind == "unreadable":
        image.write_bytes(image.read_bytes()[:300])
        return bad, good, r"frame_0004\.png cannot be read as an image"
    if kind == "transparent":
        Image.fromarray(np.dstack([target[4], np.full(target.shape[1:3], 128, np.uint8)])).save(image)
        return bad, good, r"frame_0004\.png has transparent pixels"
    assert kind == "float"
    Image.fromarray(target[4, ..., 0].astype(np.float32)).save(image, format="TIFF")
    return bad, good, r"frame_0004\.png cannot be read as an image \(it is neither PNG nor JPEG"


@pytest.mark.parametrize(
    "kind",
    [
        "counts",
        "smaller",
        "far larger",
        "short",
        "tiny",
        "same",
        "missing",
        "empty",
        "unreadable",
        "transparent",
        "float",
    ],
)
@pytest.mark.usefixtures("cluster")
def test_bad_input_is_one_sentence_and_loses_nothing(tmp_path: Path, kind: str) -> None:
    results, targets, sentence = make_bad(kind, tmp_path)
    output = tmp_path / "out"
    output.mkdir()
    (output / "metrics.csv").write_text("earlier")
    with pytest.raises(UserError, match=sentence):
        run("--results", results, "--targets", targets, "--output", output, "--metrics", "psnr", "--overwrite")
    assert [path.name for path in output.iterdir()] == ["metrics.csv"]
    assert (output / "metrics.csv").read_text() == "earlier"


def scores(*given: str | Path) -> None:
    run(*given, "--metrics", "psnr", "--workers", "1")


def test_earlier_files_are_replaced_on_request_only_and_all_or_none(tmp_path: Path) -> None:
    target = texture(8)
    results, targets = write_folder(tmp_path / "a", noisy(target)), write_folder(tmp_path / "b", target)
    output = tmp_path / "out"
    given: list[str | Path] = ["--results", results, "--targets", targets, "--output", output]
    scores(*given)
    first = {path.name: path.read_bytes() for path in output.iterdir()}
    other: list[str | Path] = ["--results", targets, "--targets", results, "--output", output]
    with pytest.raises(UserError, match=r"metrics\.csv exists: .*--overwrite"):
        scores(*other)
    with output_lock(output), pytest.raises(UserError, match="another process"):
        scores(*other, "--overwrite")
    assert {path.name: path.read_bytes() for path in output.iterdir()} == first
    scores(*other, "--overwrite")
    second = {path.name: path.read_bytes() for path in output.iterdir()}
    assert second["metrics.json"] != first["metrics.json"]
    (output / "report.html").unlink()
    (output / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html is a folder"):
        scores(*given, "--overwrite")
    assert {path.name for path in output.iterdir()} == set(first)
    assert (output / "metrics.json").read_bytes() == second["metrics.json"]


def test_names_with_commas_and_terminal_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = texture(8)
    comma, plain, steering = (write_folder(tmp_path / name, noisy(target)) for name in ("a,b", "c", "d"))
    targets = [write_folder(tmp_path / name, target) for name in ("walk\x1b[31m", "<b>&", "city")]
    given: list[str | Path] = ["--results", f"{comma},{plain}", "--results", steering]
    for path in targets:
        given += ["--targets", path]
    scores(*given, "--output", tmp_path / "out\x1b[2J")
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "walk\\x1b[31m  " in shown.out
    content = read(tmp_path / "out\x1b[2J")
    assert [Path(sequence["results"]).name for sequence in content["sequences"]] == ["a,b", "c", "d"]
    assert "<b>&" not in (tmp_path / "out\x1b[2J" / "report.html").read_text("utf-8")
    write_folder(tmp_path / "a", target)
    for text, sentence in (
        (f"{plain},", "has an empty name in it"),
        (",", "has an empty name in it"),
        ("", "--results: is empty"),
        (f"{comma},{plain}", "2 results and 1 targets"),
    ):
        with pytest.raises(UserError, match=sentence):
            scores("--results", text, "--targets", targets[0], "--output", tmp_path / "other")


def test_frames_are_paired_by_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = texture(8)
    targets, results = write_folder(tmp_path / "hr", target), write_folder(tmp_path / "sr", target)
    for number in reversed(range(8)):
        (results / f"frame_{number:04}.png").rename(results / f"output_{number + 1:04}.png")
    given: list[str | Path] = ["--results", results, "--targets", targets, "--output", tmp_path / "out"]
    scores(*given)
    assert "differ by 1: output_0001 is taken for frame_0000\n" in capsys.readouterr().out
    (results / "output_0008.png").rename(results / "output_0009.png")
    with pytest.raises(UserError, match=r"sr has a gap in its numbers, .* with --allow-gaps\.$"):
        scores(*given, "--overwrite")
    with pytest.raises(UserError, match="output_0009 would meet frame_0007"):
        scores(*given, "--overwrite", "--allow-gaps")


@pytest.mark.usefixtures("cluster")
def test_videos_of_different_length_are_counted(tmp_path: Path) -> None:
    for name, count in (("a.mp4", 9), ("b.mp4", 12)):
        with FrameWriter(tmp_path / name) as writer:
            for image in texture(count, height=64, width=64):
                writer.write(image)
    with pytest.raises(UserError, match=r"a\.mp4 has 9 frames and .*b\.mp4 has 12"):
        run("--results", tmp_path / "a.mp4", "--targets", tmp_path / "b.mp4", "--output", tmp_path, "--metrics", "psnr")


def test_wrong_arguments(tmp_path: Path) -> None:
    frames = write_folder(tmp_path / "a", texture(8))
    other = write_folder(tmp_path / "b", texture(8, seed=1))
    output: list[str | Path] = ["--output", tmp_path / "out"]
    wrong: list[tuple[list[str | Path], str]] = [
        (["--results", f"{frames},{other}", "--targets", other], "2 results and 1 targets"),
        (["--results", f"{frames},{frames}", "--targets", f"{other},{other}"], "given twice"),
        (["--results", frames, "--targets", other, "--metrics", "psnr,vmaf"], "choose from psnr"),
        (["--results", frames, "--targets", other, "--workers", "0"], "--workers: must be at least 1, not 0"),
        (["--results", frames, "--targets", other, "--workers", "100000"], "--workers: must be at most 4096"),
        (["--results", frames, "--targets", other, "--workers", "4096", "--metrics", "psnr"], "too many for the"),
        (["--results", frames, "--targets", other], "LPIPS and tLP need the weights"),
        (["--results", frames], "required: --targets"),
        (["--results", frames, "--targets", other, "--protocol", "offical"], "invalid choice: 'offical'"),
        (["--results", frames, "--targets", other, "--lpips_wieghts", other], "did you mean --lpips-weights"),
        (
            ["--results", frames, "--targets", other, "--metrics", "psnr", "--output", frames / "frame_0001.png"],
            "cannot",
        ),
    ]
    for given, sentence in wrong:
        with pytest.raises(UserError, match=sentence):
            run(*output, *given)


@pytest.mark.slow
def test_memory_is_bounded_on_a_long_video(tmp_path: Path) -> None:
    """10,000 frames pass through a process that keeps a few: its peak is far below their 240 MB."""
    frames = texture(40, height=64, width=64)
    for name in ("a.mp4", "b.mp4"):
        with FrameWriter(tmp_path / name, preset="ultrafast") as writer:
            for index in range(10_000):
                writer.write(frames[index % len(frames)])
    program = (
        "import resource, sys; from tecogan_dist import evaluate; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; evaluate.main(sys.argv[1:]); "
        "print('grown', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    given: list[str | Path] = [
        "--results",
        tmp_path / "a.mp4",
        "--targets",
        tmp_path / "b.mp4",
        "--output",
        tmp_path,
        "--workers",
        "1",
    ]
    process = subprocess.run(
        [sys.executable, "-c", program, *given, "--metrics", "psnr,tof"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert read(tmp_path)["sequences"][0]["frames"][-1] == 9_997
    grown_kib = int(process.stdout.split("grown")[1])
    assert grown_kib < 100 * 1024

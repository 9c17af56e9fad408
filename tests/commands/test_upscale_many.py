"""The upscale command on many films and with several workers, and what it shows before and after the work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.upscale import main
from tecogan_dist.video.open import open_video
from tecogan_dist.weights.format import save_weights
from tests.support.films import write_film
from tests.support.pages import Page
from tests.support.upscaling import TINY, scene_frames, tiny_model, write_images


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, upscaler_state=tiny_model().state_dict(), model=TINY, run_config=None)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 12, 8 and 11 frames."""
    frames = scene_frames([12, 8, 11], height=48, width=64)
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", frames, options={"crf": "4"})


def run(*words: object) -> None:
    torch.set_num_threads(1)
    main([*map(str, words), "--device", "cpu"])


def test_two_processes_make_the_same_file(film: Path, weights: Path, tmp_path: Path) -> None:
    words = ("--weights", weights, "--segment-frames", 6, "--threads", 1)
    run(film, tmp_path / "one.mp4", *words, "--workers", 1)
    run(film, tmp_path / "two.mp4", *words, "--workers", 2)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert len(list(open_video(tmp_path / "two.mp4").frames())) == 31


@pytest.mark.slow
def test_actors_of_a_ray_make_the_same_file(film: Path, weights: Path, tmp_path: Path) -> None:
    words = [str(film), "--weights", str(weights), "--segment-frames", "6", "--threads", "1", "--device", "cpu"]
    for name, workers in (("one.mp4", ["--workers", "1"]), ("ray.mp4", ["--workers", "2", "--address", "local"])):
        done = subprocess.run(
            [sys.executable, "-m", "tecogan_dist.upscale", words[0], str(tmp_path / name), *words[1:], *workers],
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "ray.mp4").read_bytes()


def test_a_failed_film_stops_no_other_and_a_second_run_does_what_is_missing(
    film: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films, results = tmp_path / "films", tmp_path / "results"
    films.mkdir()
    for name in ("a.mp4", "c.mp4"):
        (films / name).write_bytes(film.read_bytes())
    (films / "b.mp4").write_bytes(b"no film")
    words = (films, results, "--weights", weights, "--workers", 1)
    with pytest.raises(UserError, match=r"3 films: 2 made, 1 failed \(.*b\.mp4\): mend what is said above"):
        run(*words)
    assert sorted(path.name for path in results.iterdir()) == ["a.mp4", "c.mp4"]
    told = capsys.readouterr().err
    assert re.search(r"film 2 of 3: \S+b\.mp4 failed: ", told)
    assert re.search(r"film 3 of 3: \S+c\.mp4 is made", told)
    before = (results / "a.mp4").stat().st_mtime_ns
    (films / "b.mp4").write_bytes(film.read_bytes())
    run(*words)
    told = capsys.readouterr().err
    assert "a.mp4 is there already" in told
    assert "3 films: 1 made, 2 there already" in told
    assert (results / "a.mp4").stat().st_mtime_ns == before
    assert (results / "b.mp4").read_bytes() == (results / "a.mp4").read_bytes()


def test_a_preview_and_nothing_else(film: Path, weights: Path, tmp_path: Path) -> None:
    words = (film, tmp_path / "large.mp4", "--weights", weights, "--preview")
    run(*words, "5f@10f")
    assert [path.name for path in tmp_path.iterdir()] == ["large.preview.mp4"]
    video = open_video(tmp_path / "large.preview.mp4")
    assert (video.width, video.height, len(list(video.frames()))) == (2 * 4 * 64, 24 + 4 * 48, 5)
    with pytest.raises(UserError, match=r"large\.preview\.mp4 exists: name another one, or .*--overwrite"):
        run(*words, "1f")
    run(*words, "1f", "--overwrite")
    assert len(list(open_video(tmp_path / "large.preview.mp4").frames())) == 1
    with pytest.raises(UserError, match="is to begin after that"):
        run(*words, "1f@10:00", "--overwrite")
    with pytest.raises(UserError, match=r"--preview: .* is not a part of a film"):
        run(*words, "soon")
    with pytest.raises(UserError, match="leave --frames out"):
        run(*words, "1f", "--frames", 3)


def test_an_estimate_and_nothing_else(
    film: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(film, tmp_path / "large.mp4", "--weights", weights, "--estimate")
    assert "about " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("degrade", [False, True])
def test_a_page_of_the_result(film: Path, weights: Path, tmp_path: Path, degrade: bool) -> None:
    page = tmp_path / "page.html"
    more = ["--degrade", "--cut", "detected"] if degrade else []
    run(film, tmp_path / "large.mp4", "--weights", weights, "--page", page, "--start-frame", 2, *more)
    shown = Page(page.read_text("utf-8"))
    assert "29, 3 scenes" in shown.words
    layers = {a["class"] for a in shown.named("img") if "class" in a}
    assert layers == {"bicubic", "upscaled"} | ({"truth"} if degrade else set())
    frames = [int(a["id"].removeprefix("frame-")) for a in shown.named("section")]
    assert len(frames) == 8
    assert all(2 <= frame < 31 for frame in frames)
    with pytest.raises(UserError, match=r"page\.html exists"):
        run(film, tmp_path / "again.mp4", "--weights", weights, "--page", page)
    assert not (tmp_path / "again.mp4").exists()


def test_a_page_of_deep_images(weights: Path, tmp_path: Path) -> None:
    frames = scene_frames([3], height=16, width=24)
    source = write_images(tmp_path / "source", frames)
    run(source, tmp_path / "large", "--weights", weights, "--png16", "--page", tmp_path / "page.html")
    shown = Page((tmp_path / "page.html").read_text("utf-8"))
    assert len([a for a in shown.named("img") if a.get("class") == "upscaled"]) == 3
    assert next(iter(open_video(tmp_path / "large", deep=True).frames())).dtype == np.uint16


def test_what_is_of_one_input(film: Path, weights: Path, tmp_path: Path) -> None:
    for option in (["--page", tmp_path / "page.html"], ["--preview", "1s"], ["--estimate"]):
        with pytest.raises(UserError, match=f"{option[0]} is of one input, and there are several"):
            run(film, film, tmp_path / "out", "--weights", weights, *option)
    with pytest.raises(UserError, match="name a file of its own elsewhere"):
        run(film, tmp_path / "large.mp4", "--weights", weights, "--page", tmp_path / "large.mp4")

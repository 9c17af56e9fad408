"""Pictures of a run over time: those that training left, byte for byte, and as many as a page can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tecogan_dist.pages.run_pictures import chosen_steps
from tests.support.pages import pixels
from tests.support.recorded_runs import add_previews, record
from tests.support.run_pages import page_of


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


def test_previews_of_other_frames_are_not_laid_over_each_other(tmp_path: Path) -> None:
    folders = [record(tmp_path / name, lines=20) for name in ("first", "second")]
    add_previews(folders[0], [200])
    add_previews(folders[1], [200], scene=2260)
    page = page_of(*folders)
    assert "the previews of second show other frames than those of first" in page.words
    assert {one["data-layer"] for one in page.named("img") if "data-layer" in one} == {
        *("still-LR", "still-bicubic", "still-HR", "run-0")
    }

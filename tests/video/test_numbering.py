"""Folders whose names do not say one sequence, and folders that do not belong together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.video.numbering import GapError, check_pairing, frame_numbers
from tecogan_dist.video.open import open_video
from tests.support.video_files import write_video


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir()
    Image.new("RGB", (16, 12)).save(path / "first.png")
    for name in names:
        shutil.copy(path / "first.png", path / name)
    (path / "first.png").unlink()
    return path


def names(*stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}.png" for stem in stems)


@pytest.mark.parametrize(
    "taken",
    [
        names("f8", "f9", "f10"),
        names("im1", "im2"),
        names("shot_3", "shot_8", "shot_13"),
        names("x4_9", "x4_10", "x4_11"),
        names("000007_10", "000008_10"),
        names("a", "b", "c"),
        names("only_7"),
        names(f"{10**80}", f"{10**80 + 1}"),
    ],
)
def test_one_sequence_is_taken(tmp_path: Path, taken: tuple[str, ...]) -> None:
    folder = folder_of(tmp_path / "in", *taken, ".hidden.tif", "notes.txt", "metrics.csv")
    (folder / "more").mkdir()
    assert open_video(folder).names == tuple(Path(name).stem for name in taken)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (names("frame_0001", "frame_0003"), r"between frame_0001\.png and frame_0003\.png are missing"),
        (names("f1", "f2", "f3", "f5"), r"between f3\.png and f5\.png are missing"),
        (names("f0", "f5", "f10", "f12", "f15"), r"f10\.png and f12\.png are closer"),
        (names("f1", "g2", "f3"), r"f1\.png and g2\.png, which are not of one sequence"),
        (names("cover", "f1", "f2"), r"cover\.png and f1\.png, which are not of one sequence"),
        (names("s1_01", "s1_02", "s2_01", "s2_02"), r"not of one sequence"),
    ],
)
def test_gaps_and_mixed_names_are_refused_unless_allowed(tmp_path: Path, given: tuple[str, ...], sentence: str) -> None:
    folder = folder_of(tmp_path / "in", *given)
    with pytest.raises(GapError, match=sentence):
        open_video(folder)
    assert open_video(folder, allow_gaps=True).count == len(given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("a.png", "a.jpg"), r"a\.jpg and a\.png, two images of one name"),
        (("f1.png", "f01.png", "f2.png"), "two images of one number"),
        (("f1.png", "f2.tif"), r"holds f2\.tif"),
        (("f1.bmp", "f2.bmp"), r"holds f1\.bmp"),
        (("f1.png", "F2.WEBP"), r"holds F2\.WEBP"),
        ((), "holds no PNG or JPG"),
    ],
)
def test_images_that_would_be_left_out_are_named(tmp_path: Path, given: tuple[str, ...], sentence: str) -> None:
    folder = folder_of(tmp_path / "in", *given)
    for allow_gaps in (False, True):
        with pytest.raises(UserError, match=sentence):
            open_video(folder, allow_gaps=allow_gaps)


def test_a_video_beside_images_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "f1.png", "f2.png")
    write_video(folder / "film.mp4", 2)
    with pytest.raises(UserError, match=r"holds film\.mp4"):
        open_video(folder)


def test_numbers_of_names() -> None:
    assert frame_numbers(["x4_0009", "x4_0010"]) == [9, 10]
    assert frame_numbers(["7", "8"]) == [7, 8]
    assert frame_numbers(["shot1_1", "shot2_2"]) is None
    assert frame_numbers(["a", "b"]) is None


def paired(ours: list[str], theirs: list[str]) -> str:
    return check_pairing(ours, theirs, our_path="ours", their_path="theirs")


def test_frames_belong_together_by_their_numbers() -> None:
    original = [f"col_high_{number:04}" for number in range(6)]
    assert paired([f"output_{number:04}" for number in range(6)], original) == ""
    assert paired([f"output_{name}" for name in "abc"], ["a", "b", "c"]) == ""
    shifted = paired([f"output_{number}" for number in range(1, 7)], original)
    assert shifted == "the numbers of ours and theirs differ by 1: output_1 is taken for col_high_0000"
    for other in (
        [f"output_{2 * number}" for number in range(6)],
        [f"output_{number}" for number in (0, 1, 2, 4, 5, 6)],
        list("abcdef"),
    ):
        with pytest.raises(UserError, match=r"do not belong together, \w+ would meet col_high_000\d"):
            paired(other, original)

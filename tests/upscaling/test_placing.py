"""A command that is killed between its two outputs, more than once: the next one finishes."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.upscale import main
from tecogan_dist.upscaling import placing
from tecogan_dist.upscaling.request import Request
from tecogan_dist.upscaling.segment import SegmentTask, finish, render, upscale_segment
from tecogan_dist.upscaling.source import SourceOptions
from tecogan_dist.video.open import open_video
from tests.support.small_disk import small_disk
from tests.support.upscaling import Killed, begun, folder_of, run, scene_frames, tiny_model, write_images
from tests.upscaling.test_survival import contents, film, killed, weights, words

__all__ = ["film", "weights"]  # fixtures


@pytest.fixture(params=["here", "in memory"])
def elsewhere(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for the comparison, on the same disk and on another one."""
    if request.param == "here":
        yield tmp_path
        return
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs another disk")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_killed_twice_between_the_outputs(
    tmp_path: Path, elsewhere: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    source = write_images(tmp_path / "source", scene_frames([5]))
    output, beside = tmp_path / f"large{suffix}", elsewhere / f"beside{suffix}"
    request = Request(source=SourceOptions(path=source), output=output, comparison=beside, segment_frames=3)
    run(request, model)
    straight = [contents(path) for path in (output, beside)]
    for path in (output, beside):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    real, put = placing._put, list[Path]()

    def dying(made: Path, path: Path) -> None:
        if path == output:
            raise Killed
        real(made, path)
        put.append(path)

    monkeypatch.setattr(placing, "_put", dying)
    for _ in range(3):
        with pytest.raises(Killed):
            run(request, model)
        assert not output.exists()
        assert folder_of(request).has_placed(beside)
    assert put == [beside]  # not again
    monkeypatch.setattr(placing, "_put", real)
    assert run(request, model) == []
    assert [contents(path) for path in (output, beside)] == straight
    assert {path.name for path in (*tmp_path.iterdir(), *elsewhere.iterdir())} == {"source", output.name, beside.name}


def test_the_disks_number_after_a_reboot_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(
        source=SourceOptions(path=write_images(tmp_path / "source", scene_frames([3]))),
        output=tmp_path / "large.mp4",
        comparison=tmp_path / "beside.mp4",
    )
    real = placing._put

    def dying(made: Path, path: Path) -> None:
        if path == request.output:
            raise Killed
        real(made, path)

    monkeypatch.setattr(placing, "_put", dying)
    with pytest.raises(Killed):
        run(request, tiny_model())
    lstat = Path.lstat

    def other_disk(path: Path) -> os.stat_result:
        numbers: list[Any] = list(lstat(path))
        numbers[2] += 1
        return os.stat_result(numbers, {"st_mtime_ns": lstat(path).st_mtime_ns})

    monkeypatch.setattr(Path, "lstat", other_disk)
    assert folder_of(request).has_placed(tmp_path / "beside.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_what_appears_meanwhile_is_not_replaced_unless_it_may_be(tmp_path: Path, suffix: str) -> None:
    source = write_images(tmp_path / "source", scene_frames([3]))
    output = tmp_path / f"large{suffix}"
    request = Request(source=SourceOptions(path=source), output=output)
    job = begun(request, tiny_model())
    for task in job.todo[0]:
        upscale_segment(task, tiny_model())
    [one] = job._outputs(job.segments)
    if suffix:
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "mine").touch()
    with pytest.raises(UserError, match=r"large.* has appeared while it was made, and is not replaced: move it away"):
        placing.place([one], folder=job.folder)
    if suffix:
        assert output.read_text() == "mine"
        placing.place([dataclasses.replace(one, may_replace=True)], folder=job.folder)
        assert open_video(output).count_frames() == 3
    else:
        (output / "mine").unlink()  # an empty folder holds nothing
        placing.place([one], folder=job.folder)
        assert len(list(output.iterdir())) == 3


def test_a_work_folder_that_is_removed_in_the_middle_is_said(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source", scene_frames([6]))
    request = Request(source=SourceOptions(path=source), output=tmp_path / "large.mp4", segment_frames=2)
    taken = r"large\.mp4\.unfinished has been removed while the work was put into it: leave it alone"

    def remove(task: SegmentTask) -> None:
        if task.segment.number == 1:
            shutil.rmtree(folder_of(request).path)

    with pytest.raises(UserError, match=taken):
        run(request, tiny_model(), at_segment=remove)
    rendered = render(begun(request, tiny_model()).todo[0][0], tiny_model())
    shutil.rmtree(folder_of(request).path)
    with pytest.raises(UserError, match=taken):
        finish(rendered)


@pytest.mark.slow
def test_a_process_that_is_killed_between_outputs_on_two_disks(film: Path, weights: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096) as disk:
        command = words(film, tmp_path / "large.mp4", weights, "--side-by-side", disk / "beside.mp4")
        killed("placing:_put", 2, command)
        assert [path.name for path in disk.glob("*.mp4")] == ["beside.mp4"]
        assert not (tmp_path / "large.mp4").exists()
        killed("placing:_put", 1, command)
        main(command)
        assert {path.name for path in (*tmp_path.iterdir(), *disk.iterdir())} == {"disk", "large.mp4", "beside.mp4"}
        straight = words(film, tmp_path / "other.mp4", weights, "--side-by-side", tmp_path / "both.mp4")
        main(straight)
        assert contents(tmp_path / "large.mp4") == contents(tmp_path / "other.mp4")
        assert contents(disk / "beside.mp4") == contents(tmp_path / "both.mp4")

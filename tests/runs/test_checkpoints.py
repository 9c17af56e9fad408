"""Checkpoints on a disk: how one is found and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import (
    MOMENTS_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    StateFile,
    TrainingState,
    checkpoint_name,
    checkpoints,
    find_checkpoint,
    is_checkpoint_name,
    newest_checkpoint,
    read_state,
    remove_checkpoint,
)


def test_newest_checkpoint_has_most_steps(tmp_path: Path) -> None:
    run_folder = Location.of(tmp_path)
    for step in (20, 100, 3):
        write_state(run_folder / checkpoint_name(step), step=step)
    (tmp_path / checkpoint_name(200)).mkdir()  # its writing was cut off
    assert find_checkpoint(run_folder) == run_folder / checkpoint_name(100)
    assert find_checkpoint(run_folder / checkpoint_name(20)) == run_folder / checkpoint_name(20)
    with pytest.raises(UserError, match="nothing to resume from"):
        find_checkpoint(run_folder / "nowhere")


def write_state(checkpoint: Location, *, step: int) -> None:
    content = StateFile(TrainingState(step=step), {"upscaler": step}, 0, {})
    (checkpoint / STATE_FILE).write_bytes(content.to_json())
    assert read_state(checkpoint) == content


OTHERS = ("checkpoint_best", "checkpoint_notes", "checkpoint_9", "checkpoint_00000099_copy", "checkpoint_٠٠٠٠٠٠٩٩")


def test_only_names_that_are_written_here_count(tmp_path: Path) -> None:
    run = Location.of(tmp_path)
    write_state(run / checkpoint_name(20), step=20)
    write_state(run / checkpoint_name(123_456_789), step=123_456_789)
    for name in OTHERS:
        assert not is_checkpoint_name(name)
        write_state(run / name, step=99)
    assert checkpoints(run) == [run / checkpoint_name(20), run / checkpoint_name(123_456_789)]
    assert newest_checkpoint(run) == run / checkpoint_name(123_456_789)
    for name in OTHERS:
        remove_checkpoint(run / name)
        assert (run / name / STATE_FILE).is_file()
    assert find_checkpoint(run / "checkpoint_best") == run / "checkpoint_best"  # it may be given itself


def test_what_is_removed_with_a_checkpoint_is_its_own(tmp_path: Path) -> None:
    own, other = tmp_path / checkpoint_name(3), tmp_path / checkpoint_name(4)
    for folder in (own, other):
        write_state(Location.of(folder), step=3 if folder == own else 4)
        for name in (WEIGHTS_FILE, MOMENTS_FILE, f".{WEIGHTS_FILE}.0123abcd.partial"):
            (folder / name).write_bytes(b"x")
    (other / "notes.txt").write_text("mine")
    (other / "weights_best.safetensors").write_text("mine")
    (other / "weights_ema.safetensors").mkdir()
    elsewhere = tmp_path / "elsewhere"
    write_state(Location.of(elsewhere), step=5)
    (tmp_path / checkpoint_name(5)).symlink_to(elsewhere)
    for step in (3, 4, 5, 6):
        remove_checkpoint(Location.of(tmp_path / checkpoint_name(step)))
    assert not own.exists()
    kept = ["notes.txt", "weights_best.safetensors", "weights_ema.safetensors"]
    assert sorted(path.name for path in other.iterdir()) == sorted(kept)
    assert (elsewhere / STATE_FILE).is_file()
    assert checkpoints(Location.of(tmp_path)) == [Location.of(tmp_path / checkpoint_name(5))]


def test_a_checkpoint_under_another_step_s_name_is_refused(tmp_path: Path) -> None:
    write_state(Location.of(tmp_path / "checkpoint"), step=20)
    (tmp_path / "checkpoint").rename(tmp_path / checkpoint_name(99))
    with pytest.raises(UserError, match=r"is named after another step than its state\.json has \(20\)"):
        read_state(Location.of(tmp_path / checkpoint_name(99)))


GOOD = '{"state": {"step": 3}, "updates": {}, "average_updates": 0, "files": %s}'
HOSTILE = [
    *("", "[]", "null", '{"step": 3}', "not json", "{" * 5000, "[" * 100_000, "\x00", "1e999", "9" * 5000),
    *(GOOD.replace("3", step) % "{}" for step in ("-1", "true", "3.5", '"3"', "null", "1e400", "9" * 30, "NaN")),
    *(GOOD % files for files in ('{"../../x": "%s"}' % ("0" * 64), '{"weights.safetensors": 5}', "[]", '{"a": "b"}')),
    GOOD.replace('"updates": {}', '"updates": {"upscaler": -1}') % "{}",
    GOOD.replace('"step": 3', '"step": 3, "stepp": 4') % "{}",
    GOOD.replace('"average_updates": 0, ', "") % "{}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(UserError, match=r"state\.json is damaged") as caught:
        read_state(Location.of(tmp_path))
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)

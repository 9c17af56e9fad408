"""Checkpoints on a disk: how one is found and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import (
    STATE_FILE,
    StateFile,
    TrainingState,
    checkpoint_name,
    find_checkpoint,
    read_state,
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


@pytest.mark.parametrize("text", ["", "[]", '{"step": 3}', "not json"])
def test_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(UserError, match=r"state\.json is damaged"):
        read_state(Location.of(tmp_path))

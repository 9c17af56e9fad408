"""Whose output folder is whose, and whether a command may go on in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import checkpoint_name
from tecogan_dist.runs.folder import AUTO, NEVER, RunFolder, open_run_folder, write_run_file
from tests.support.plain_runs import make_config


def test_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    for output in (Location.of(tmp_path / "new" / "deep"), Location.of(tmp_path)):
        folder = open_run_folder(output, config=make_config([]), data=Location.of(tmp_path), resume=AUTO)
        assert folder == RunFolder(path=output, checkpoint=None, resume_from=None)


def test_folder_of_a_run_is_taken_up_only_with_its_settings(tmp_path: Path) -> None:
    config, data, output = make_config([]), Location.of(tmp_path / "store"), Location.of(tmp_path / "run")
    write_run_file(RunFolder(path=output, checkpoint=None, resume_from=None), config=config, data=data)

    def reopen(overrides: list[str], **changed: Any) -> RunFolder:
        arguments: dict[str, Any] = {"config": make_config(overrides), "data": data, "resume": AUTO} | changed
        return open_run_folder(output, **arguments)

    assert reopen([]).checkpoint is None
    reopen(
        [
            "--steps",
            "99",
            "--tracking.display_every",
            "7",
            "--cluster.max_failures",
            "0",
            "--data.decoded_cache",
            "True",
        ]
    )
    with pytest.raises(UserError, match=r"a run with loss\.warp 1\.0, not 2\.0"):
        reopen(["--loss.warp", "2"])
    with pytest.raises(UserError, match="data path"):
        reopen([], data=Location.of(tmp_path / "other"))
    with pytest.raises(UserError, match="already holds a run"):
        reopen([], resume=NEVER)
    checkpoint = output / checkpoint_name(3)
    (checkpoint / "state.json").write_bytes(b"{}")
    assert reopen([]).checkpoint == checkpoint
    with pytest.raises(UserError, match="did not begin from"):
        reopen([], resume=str(checkpoint))


def test_run_of_a_version_with_another_name_for_a_setting_is_taken_up(tmp_path: Path) -> None:
    config, data, output = make_config([]), Location.of(tmp_path / "store"), Location.of(tmp_path / "run")
    write_run_file(RunFolder(path=output, checkpoint=None, resume_from=None), config=config, data=data)
    file = tmp_path / "run" / "run.yaml"
    file.write_text(file.read_text().replace("validation_scene_count", "validation_scenes"))
    assert open_run_folder(output, config=config, data=data, resume=AUTO).checkpoint is None


def test_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds files but no run"):
        open_run_folder(place, config=make_config([]), data=place, resume=AUTO)
    with pytest.raises(UserError, match="is a file"):
        open_run_folder(
            Location.of(tmp_path / "thesis.tex"), config=make_config([]), data=Location.of(tmp_path), resume=AUTO
        )
    (tmp_path / "run.yaml").write_text("steps: [")
    with pytest.raises(UserError, match="is damaged"):
        open_run_folder(place, config=make_config([]), data=place, resume=AUTO)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "5", "x: &a [*a]", "\x00", "config: 5\ndata: x\nresume_from: null"),
        *("config: {}\ndata: [1]\nresume_from: null", "config: {}\ndata: x\nresume_from: 7", "config: {}\ndata: x"),
        *("config: {}\ndata: ''\nresume_from: null", "config: {}\ndata: x\nresume_from: 's3://'", "[" * 100_000),
    ],
)
def test_a_damaged_run_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    place = Location.of(tmp_path)
    with pytest.raises(UserError, match=r"run\.yaml") as caught:
        open_run_folder(place, config=make_config([]), data=place, resume=AUTO)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run.yaml").read_text() == text


def test_links_and_buckets_are_not_a_run_s_folder(tmp_path: Path) -> None:
    config, data = make_config([]), Location.of(tmp_path / "store")
    with pytest.raises(UserError, match="is a whole bucket: give --output a folder in it"):
        open_run_folder(Location("s3://some-bucket"), config=config, data=data, resume=AUTO)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a symbolic link to what is not there"):
        open_run_folder(Location.of(tmp_path / "dangling"), config=config, data=data, resume=AUTO)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="is not a folder"):
        open_run_folder(Location.of(tmp_path / "fifo"), config=config, data=data, resume=AUTO)
    run = Location.of(tmp_path / "run")
    write_run_file(RunFolder(path=run, checkpoint=None, resume_from=None), config=config, data=data)
    (tmp_path / "run" / checkpoint_name(7)).symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint_00000007 is a symbolic link in a checkpoint's place"):
        open_run_folder(run, config=config, data=data, resume=AUTO)


def test_run_that_began_from_another_is_taken_up_by_the_same_command(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    other = place / "other" / checkpoint_name(3)
    (other / "state.json").write_bytes(b"{}")
    arguments: dict[str, Any] = {"config": make_config([]), "data": place, "resume": str(tmp_path / "other")}
    folder = open_run_folder(place / "run", **arguments)
    assert folder.resume_from == other
    write_run_file(folder, config=arguments["config"], data=place)
    assert open_run_folder(place / "run", **arguments) == folder

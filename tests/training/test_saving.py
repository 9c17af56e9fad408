"""Checkpoints while training: what they hold, which stay, and storage that fails."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import safetensors
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config import load as settings
from tecogan_dist.runs.checkpoints import (
    WEIGHTS_FILE,
    checkpoint_name,
    checkpoints,
    newest_checkpoint,
    opened,
)
from tecogan_dist.runs.find import read_weights
from tecogan_dist.runs.owner import claim
from tecogan_dist.runs.records import read_metrics
from tests.support.plain_runs import make_config, run


def test_checkpoints_hold_the_run_and_only_the_newest_stay(tmp_path: Path) -> None:
    config = make_config(["--tracking.save_every", "2", "--tracking.keep_checkpoints", "2"])
    run(config, tmp_path / "run")
    kept = sorted(folder.name for folder in (tmp_path / "run").glob("*checkpoint*"))
    assert kept == ["checkpoint_00000004", "checkpoint_00000006"]
    newest = newest_checkpoint(Location.of(tmp_path / "run"))
    assert newest is not None
    assert newest.name == kept[-1]
    with safetensors.safe_open(newest.path / WEIGHTS_FILE, framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == settings.to_tree(config)
    assert read_weights(newest.path).step == 6
    assert not list((tmp_path / "run").glob(".staging*"))


def test_a_torn_checkpoint_is_ignored_and_cleared_away(tmp_path: Path) -> None:
    config = make_config(["--tracking.save_every", "2"])
    run(dataclasses.replace(config, steps=4), tmp_path / "run")
    torn = tmp_path / "run" / checkpoint_name(5)
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    newest = newest_checkpoint(Location.of(tmp_path / "run"))
    assert newest is not None
    assert newest.name == checkpoint_name(4)
    assert run(config, tmp_path / "run").step == 6
    assert not torn.exists()


def test_what_the_user_put_into_a_run_stays_and_changes_nothing(tmp_path: Path) -> None:
    config = make_config(["--tracking.save_every", "2", "--tracking.keep_checkpoints", "1"])
    output = tmp_path / "run"
    run(dataclasses.replace(config, steps=2), output)
    shutil.copytree(output / checkpoint_name(2), output / "checkpoint_best")
    for folder in ("checkpoint_notes", ".staging_of_mine", checkpoint_name(2), ".staging_00000000"):
        (output / folder).mkdir(exist_ok=True)
        (output / folder / "notes.txt").write_text("mine")
    (output / ".staging_00000000" / "weights.safetensors").write_bytes(b"of a killed process")
    (tmp_path / "elsewhere").mkdir()
    (output / ".staging_11111111").symlink_to(tmp_path / "elsewhere")
    said: list[str] = []
    assert run(config, output, say=said.append).step == 6
    assert said[0].startswith("going on after step 2 ")
    assert [line["step"] for line in read_metrics(output)] == [1, 2, 3, 4, 5, 6]
    kept = {str(path.relative_to(output)) for path in output.rglob("*") if "notes" in path.name or path.is_dir()}
    mine = {"checkpoint_notes", ".staging_of_mine", checkpoint_name(2), ".staging_00000000"}
    assert kept >= mine | {f"{folder}/notes.txt" for folder in mine} | {"checkpoint_best"}
    assert [path.name for path in (output / checkpoint_name(2)).iterdir()] == ["notes.txt"]
    assert [path.name for path in (output / ".staging_00000000").iterdir()] == ["notes.txt"]
    assert (output / "checkpoint_best" / "state.json").exists()
    assert not (output / checkpoint_name(4)).exists()


def test_a_process_of_an_earlier_command_writes_nothing_more(tmp_path: Path) -> None:
    """As the workers of a killed driver, or of a machine that was cut off."""
    config, output = make_config(["--tracking.save_every", "2"]), tmp_path / "run"
    word = claim(Location.of(output))
    asked = 0

    def asked_to_stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == 4:
            until = time.monotonic() + 60
            while not checkpoints(Location.of(output)) and time.monotonic() < until:
                time.sleep(0.01)  # it is written beside training
            claim(Location.of(output))
        return False

    with pytest.raises(UserError, match="another command has taken over"):
        run(config, output, owner=word, asked_to_stop=asked_to_stop)
    assert [checkpoint.name for checkpoint in checkpoints(Location.of(output))] == [checkpoint_name(2)]
    assert len(read_metrics(output)) in (3, 4)
    with pytest.raises(UserError, match="another command has taken over"):
        run(config, output, owner=word)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    config = make_config(["--tracking.save_every", "2"])
    run(dataclasses.replace(config, steps=4), tmp_path / "run")
    damaged = tmp_path / "run" / checkpoint_name(4) / "moments.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    sentence = r"checkpoint_00000004 is damaged \(the checksum of moments.safetensors is wrong\): move it away"
    with pytest.raises(UserError, match=sentence):
        run(config, tmp_path / "run")
    damaged.unlink()
    with pytest.raises(UserError, match=r"moments\.safetensors is missing"), opened(Location.of(damaged.parent)):
        pass


def test_a_disk_that_is_full_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last checkpoint has to succeed; what could not be written leaves nothing torn."""
    monkeypatch.setattr("tecogan_dist.training.saving.PATIENCE", 0.0)
    config = make_config(["--tracking.save_every", "2"])
    output = tmp_path / "run"
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    asked = 0

    def asked_to_stop() -> bool:
        # Files may grow to 1 kB from step 2 to the beginning of step 3: the checkpoint of step 2 fails.
        nonlocal asked
        asked += 1
        if asked == 3:
            time.sleep(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if asked == 2 else limit[0], limit[1]))
        return False

    try:
        state = run(config, output, say=say, asked_to_stop=asked_to_stop)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert state.step == 6
    assert any("could not be written" in line and "training goes on" in line for line in said)
    assert sorted(folder.name for folder in output.glob("checkpoint_*")) == [checkpoint_name(4), checkpoint_name(6)]


@pytest.mark.slow
def test_a_run_on_gs_goes_on_from_its_checkpoints(tmp_path: Path, gs_address: str) -> None:
    """Where folders cannot be listed, checkpoints are found and dropped all the same."""
    config = make_config(["--tracking.save_every", "1", "--tracking.keep_checkpoints", "2"])
    run(config, tmp_path / "straight")
    output = Location(gs_address.format("run_that_goes_on"))
    run(dataclasses.replace(config, steps=4), output)
    assert [checkpoint.name for checkpoint in checkpoints(output)] == [checkpoint_name(3), checkpoint_name(4)]
    run(config, output)
    assert output.names()[:2] == [checkpoint_name(5), checkpoint_name(6)]
    found, expected = read_weights(output).upscaler, read_weights(tmp_path / "straight").upscaler
    assert all(torch.equal(found[name], expected[name]) for name in expected)

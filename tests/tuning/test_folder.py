"""The folder of a sweep: whose it is, and with what the same command may be given again."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import LOCK_NAME
from tecogan_dist.base.storage import Location
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tecogan_dist.tuning.folder import SWEEP_FILE, check_sweep_folder, write_sweep_file
from tecogan_dist.tuning.reading import read_space, shipped_spaces
from tecogan_dist.tuning.space import Space
from tests.support.s3_server import S3Server
from tests.support.spaces import BASE, space_of

STORE = Location("/data/store")
SPACE = space_of(repeat={"top": 2, "seeds": 3}, concurrent=2)
PBT = {"scheduler": {"kind": "pbt"}, "repeat": {"top": 2, "seeds": 3}}


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return Location.of(tmp_path / "sweep")
    server: S3Server = request.getfixturevalue("server")
    return Location(server.uri(f"sweeps/{tmp_path.name}"))


def known(output: Location, *, space: Space = SPACE, config: Config = BASE, data: Location = STORE) -> bool:
    return check_sweep_folder(output, space=space, config=config, data=data)


def refusal(output: Location, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        known(output, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_folder_becomes_this_sweeps(output: Location) -> None:
    assert not known(output)
    assert output.names() == []
    (output / LOCK_NAME).write_bytes(b"")  # which the command has taken
    assert not known(output)
    write_sweep_file(output, space=SPACE, config=BASE, data=STORE)
    (output / "trials.csv").write_bytes(b"")
    assert known(output)


def test_folders_of_others_are_refused(output: Location) -> None:
    (output / "mine.txt").write_bytes(b"")
    assert refusal(output) == (
        f"{output} holds files but no sweep (no sweep.yaml): give --output a new or empty folder."
    )


@pytest.mark.parametrize("kind", ["link", "file"])
def test_notes_of_ray_tune_are_removed_only_from_a_folder_of_the_sweep(kind: str, tmp_path: Path) -> None:
    output, films = Location.of(tmp_path / "sweep"), tmp_path / "films"
    write_sweep_file(output, space=SPACE, config=BASE, data=STORE)
    films.mkdir()
    notes = tmp_path / "sweep" / "tune"
    if kind == "link":
        notes.symlink_to(films)
    else:
        notes.write_bytes(b"mine")
    assert "tune is not a folder of its own" in refusal(output)
    assert os.path.lexists(notes)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file: give --output a folder." in refusal(Location.of(tmp_path / "file"))


@pytest.mark.parametrize("file", shipped_spaces(), ids=lambda path: path.stem)
def test_every_shipped_space_is_known_again(file: Path, tmp_path: Path) -> None:
    output, space = Location.of(tmp_path), read_space(file)
    write_sweep_file(output, space=space, config=BASE, data=STORE)
    assert known(output, space=read_space(file))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"settings": {"loss.pingpong": {"loguniform": [0.05, 4.0]}}}, "holds a sweep with space.settings.loss.pingpo"),
        ({"settings": {"loss.warp": {"uniform": [0.5, 2]}}}, "holds a sweep with space.settings.loss.warp"),
        ({"fixed": {"batch_size": 8}}, "holds a sweep with space.fixed"),
        ({"score": {"metrics": {"psnr": "max"}}}, "holds a sweep with space.score.metrics.psnr None, not max"),
        ({"score": {"metrics": {"tof": "min"}, "limits": {"psnr": 30}}}, "space.score.limits.psnr None, not 30.0"),
        ({"scheduler": {"kind": "asha"}}, "holds a sweep with space.scheduler.kind fifo, not asha"),
        ({"searcher": {"kind": "optuna", "startup_trials": 3}}, "with space.searcher.kind random, not optuna"),
        ({"steps": 75}, "holds a sweep with space.steps 60, not 75: give --output a new folder, or set it back."),
        ({"measure_every": 30}, "holds a sweep with space.measure_every 15, not 30"),
    ],
)
def test_another_search_is_refused(change: dict[str, Any], part: str, tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    write_sweep_file(output, space=SPACE, config=BASE, data=STORE)
    other = space_of(**{"repeat": {"top": 2, "seeds": 3}, "concurrent": 2, **change})
    assert part in refusal(output, space=other)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["--seed", "2"], "holds a sweep with config.seed 1, not 2"),
        (["--loss.warp", "0.5"], "holds a sweep with config.loss.warp 1.0, not 0.5"),
        (["--initial-weights", "other"], "holds a sweep with config.initial_weights fnet, not other"),
        (["--tracking.validation-frames", "12"], "holds a sweep with config.tracking.validation_frames 24, not 12"),
        (["--cluster.precision", "bf16"], "holds a sweep with config.cluster.precision fp32, not bf16"),
        (["--data.validation-scenes", "2252", "2290"], "holds a sweep with config.data.validation_scenes"),
    ],
)
def test_other_settings_are_refused(changes: list[str], part: str, tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    write_sweep_file(output, space=SPACE, config=BASE, data=STORE)
    assert part in refusal(output, config=override(BASE, changes))
    assert "holds a sweep with data /data/store, not /data/other" in refusal(output, data=Location("/data/other"))


@pytest.mark.parametrize(
    "change",
    [
        {"trials": 20},
        {"concurrent": 1},
        {"concurrent": None},
        {"repeat": {"top": 1, "seeds": 5}},
        {"repeat": None},
        {"trial": {"cpus_per_worker": 2}},
    ],
)
def test_what_changes_no_trial_may_change(change: dict[str, Any], tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    write_sweep_file(output, space=SPACE, config=BASE, data=STORE)
    before = (output / SWEEP_FILE).read_bytes()
    other = space_of(**{"repeat": {"top": 2, "seeds": 3}, "concurrent": 2, **change})
    assert known(output, space=other)
    assert (output / SWEEP_FILE).read_bytes() == before
    longer = override(BASE, ["--steps", "900000", "--cluster.workers", "4", "--data.decoded-cache", "true"])
    assert known(output, config=longer)
    write_sweep_file(output, space=other, config=longer, data=STORE)
    assert known(output)  # and back


def test_a_population_cannot_grow(tmp_path: Path) -> None:
    output, space = Location.of(tmp_path), space_of(**PBT)
    write_sweep_file(output, space=space, config=BASE, data=STORE)
    assert known(output, space=dataclasses.replace(space, concurrent=1, repeat=None))
    larger = dataclasses.replace(space, trials=9)
    assert "holds a sweep with space.trials 8, not 9" in refusal(output, space=larger)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "space: [",
        "!!python/object/apply:os.system ['true']",
        yaml.safe_dump({"data": "/data/store", "config": {}}),
        yaml.safe_dump({"data": "/data/store", "space": {"steps": 3}, "config": {}}),
    ],
)
def test_a_damaged_record_is_one_sentence(text: str, tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    (tmp_path / SWEEP_FILE).write_text(text)
    sentence = refusal(output)
    assert sentence.startswith(f"{output / SWEEP_FILE} is damaged (")
    assert sentence.endswith("): put it right, or give --output a new folder.")


@pytest.mark.parametrize(("before", "after"), [("warp: 1.0", "warp: much"), ("kind: loguniform", "kind: normal")])
def test_a_record_with_wrong_values_is_damaged(before: str, after: str, tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    write_sweep_file(output, space=SPACE, config=BASE, data=STORE)
    text = (tmp_path / SWEEP_FILE).read_text("utf-8")
    assert before in text
    (tmp_path / SWEEP_FILE).write_text(text.replace(before, after))
    assert "sweep.yaml is damaged" in refusal(output)

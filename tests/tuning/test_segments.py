"""A sweep's memory: the folders of its trials, found again by what they were trained with."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.checkpoints import STATE_FILE, WEIGHTS_FILE, StateFile, TrainingState, checkpoint_name
from tecogan_dist.runs.records import SCORES_FILE
from tecogan_dist.tuning.checks import check_values
from tecogan_dist.tuning.segments import Pointer, SegmentFolder, check_segments, open_segment, recorded_values
from tests.support.s3_server import S3Server
from tests.support.spaces import BASE, space_of

VALUES: dict[str, Any] = {"loss.warp": 0.1 + 0.2, "optimizer.kind": "adam", "discriminator.temporal_only": True}
OTHER = {**VALUES, "loss.warp": 0.36}


@pytest.fixture(params=["local", "s3"])
def sweep(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return Location.of(tmp_path / "my sweep")
    server: S3Server = request.getfixturevalue("server")
    return Location(server.uri(f"sweeps/{tmp_path.name}"))


def pointer(segment: SegmentFolder, step: int, *, trial: str = "0003", weights: str = "abc") -> Pointer:
    place = segment.folder
    checkpoint = str(place / checkpoint_name(step))
    return Pointer(trial=trial, folder=str(place), checkpoint=checkpoint, step=step, weights=weights)


def test_a_segment_is_found_by_its_values_and_its_beginning(sweep: Location) -> None:
    before = time.time()
    donor = open_segment(sweep, "0003", values=OTHER, origin=None)
    first = open_segment(sweep, "0000", values=VALUES, origin=None)
    assert (first.folder, first.origin, first.first_step) == (sweep / "trials" / "0000", None, 0)
    assert before <= first.began <= time.time()
    assert open_segment(sweep, "0000", values=dict(VALUES), origin=None) == first

    copied = open_segment(sweep, "0000", values=OTHER, origin=pointer(donor, 30))
    assert (copied.folder, copied.first_step) == (sweep / "trials" / "0000_part2", 30)
    again = open_segment(sweep, "0000", values=OTHER, origin=pointer(donor, 30))
    assert again == copied
    # From another step of the same trial, with other values, or with the weights of a donor that was trained again.
    later = open_segment(sweep, "0000", values=OTHER, origin=pointer(donor, 45))
    changed = open_segment(sweep, "0000", values=VALUES, origin=pointer(donor, 30))
    otherwise = open_segment(sweep, "0000", values=OTHER, origin=pointer(donor, 30, weights="abd"))
    assert [found.folder.name for found in (later, changed, otherwise)] == ["0000_part3", "0000_part4", "0000_part5"]
    assert sorted(name for name in (sweep / "trials").names() if name.startswith("0000")) == [
        "0000.json",
        "0000_part2.json",
        "0000_part3.json",
        "0000_part4.json",
        "0000_part5.json",
    ]


def test_a_trial_that_goes_on_from_itself_stays_where_it_is(sweep: Location) -> None:
    donor = open_segment(sweep, "0003", values=OTHER, origin=None)
    first = open_segment(sweep, "0000", values=VALUES, origin=None)
    copied = open_segment(sweep, "0000", values=OTHER, origin=pointer(donor, 30))
    assert open_segment(sweep, "0000", values=VALUES, origin=pointer(first, 15, trial="0000")) == first
    assert open_segment(sweep, "0000", values=OTHER, origin=pointer(copied, 45, trial="0000")) == copied
    changed = open_segment(sweep, "0000", values=VALUES, origin=pointer(copied, 45, trial="0000"))
    assert changed.folder.name == "0000_part3"


def test_pointers_are_read_as_they_were_written() -> None:
    checkpoint = "/a b/\u00fc/checkpoint_00000015"
    written = Pointer(trial="0001", folder="/a b/\u00fc", checkpoint=checkpoint, step=15, weights="abc")
    assert Pointer.from_json(written.to_json()) == written
    assert Pointer.from_json(written.to_json().encode()) == written


def test_a_measurement_counts_once_its_checkpoint_is_there(tmp_path: Path) -> None:
    segment = open_segment(Location.of(tmp_path), "0000", values=VALUES, origin=None)
    assert segment.measured(every=15) == {}
    scores = {step: {"tof": step / 100} for step in (45, 15, 20, 30)}
    (segment.folder / SCORES_FILE).write_bytes(json.dumps(scores).encode())
    assert segment.measured(every=15) == {}
    for step in (15, 30):
        content = StateFile(TrainingState(step=step), {}, 0, {}).to_json()
        (segment.folder / checkpoint_name(step) / STATE_FILE).write_bytes(content)
    (segment.folder / checkpoint_name(45)).path.mkdir()  # its writing was cut off
    assert segment.measured(every=15) == {15: {"tof": 0.15}, 30: {"tof": 0.3}}
    assert segment.measured(every=30) == {30: {"tof": 0.3}}


def test_what_is_noted_is_kept(sweep: Location) -> None:
    segment = open_segment(sweep, "0000", values=VALUES, origin=None)
    noted = segment.noted(times={15: 1.5, 30: 2.5}).noted(passed=15).noted(stopped=30)
    assert (noted.times, noted.passed, noted.stopped) == ({15: 1.5, 30: 2.5}, 15, 30)
    assert dataclasses.replace(noted, times={}, passed=0, stopped=None) == segment
    assert SegmentFolder.read(segment.folder) == noted
    assert open_segment(sweep, "0000", values=VALUES, origin=None) == noted


def test_values_of_trials_that_were_begun_come_in_their_order(sweep: Location) -> None:
    assert recorded_values(sweep) == []
    for name, values in (("0001", OTHER), ("0003", VALUES)):
        open_segment(sweep, name, values=values, origin=None)
    assert recorded_values(sweep) == []
    first = open_segment(sweep, "0000", values=VALUES, origin=None)
    open_segment(sweep, "0000", values=OTHER, origin=pointer(first, 15))
    open_segment(sweep, "preset", values=OTHER, origin=None)
    assert recorded_values(sweep) == [VALUES, OTHER]  # those that they began with, up to the gap


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "{}", '{"values": {"loss.warp": 1}, "origin": null, "began": 1, "times": {}, "passed": 0}'),
        '{"values": {}, "origin": {"step": 1}, "began": 1, "times": {}, "passed": 0, "stopped": null}',
        '{"values": {',
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    sweep = Location.of(tmp_path)
    segment = open_segment(sweep, "0000", values=VALUES, origin=None)
    (tmp_path / "trials" / "0000.json").write_text(text)
    for look in (
        lambda: SegmentFolder.read(segment.folder),
        lambda: open_segment(sweep, "0000", values=VALUES, origin=None),
        lambda: recorded_values(sweep),
    ):
        with pytest.raises(UserError) as caught:
            look()
        assert str(caught.value) == (
            f"{sweep}/trials/0000.json is damaged: move it and {segment.folder} away, and the trial starts again."
        )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"values": {}, "values": {}}',
        b'{"began": NaN}',
        b"9" * 5000,
    ],
)
def test_damaged_records_are_found_before_a_ray_is_started(tmp_path: Path, text: bytes) -> None:
    sweep = Location.of(tmp_path)
    check_segments(sweep)  # nothing is there yet
    segment = open_segment(sweep, "0000", values=VALUES, origin=None)
    check_segments(sweep)
    note = tmp_path / "trials" / "0000.json"
    note.write_bytes(text)
    with pytest.raises(UserError, match=r"0000\.json is damaged: move it and .* away, and the trial starts again\.$"):
        check_segments(sweep)
    assert note.read_bytes() == text
    segment.write()
    (segment.folder / SCORES_FILE).write_bytes(b"{")
    with pytest.raises(UserError, match=SCORES_FILE):
        check_segments(sweep)


@pytest.mark.parametrize(
    "change",
    [
        {"values": {"loss.warp": 1.0}},
        {"values": {**VALUES, "loss.warp": 7.0}},
        {"values": {**VALUES, "loss.warp": "0.3"}},
        {"values": {**VALUES, "discriminator.temporal_only": 1}},
        {"passed": "4"},
        {"passed": True},
        {"times": {"-1": 1.0}},
        {"began": "1"},
        {"origin": {"trial": "0", "folder": "a", "checkpoint": "a\0b", "step": 1, "weights": "c"}},
    ],
)
def test_values_that_a_space_cannot_give_are_damage(change: dict[str, Any], tmp_path: Path) -> None:
    space = space_of(
        settings={
            "loss.warp": {"uniform": [0.1, 0.3]},
            "optimizer.kind": {"choice": ["adam", "adam_tf1"]},
            "discriminator.temporal_only": {"choice": [True, False]},
        }
    )
    sweep = Location.of(tmp_path)
    open_segment(sweep, "0000", values=VALUES, origin=None)
    note = tmp_path / "trials" / "0000.json"
    fits = functools.partial(check_values, space, BASE)
    check_segments(sweep, fits=fits)
    note.write_text(json.dumps({**json.loads(note.read_text()), **change}))
    with pytest.raises(UserError, match=r"0000\.json is damaged.*: move it and .* away, and the trial starts again\.$"):
        check_segments(sweep, fits=fits)


def test_an_unfinished_trial_is_read_before_a_ray_is_started(tmp_path: Path) -> None:
    sweep = Location.of(tmp_path)
    segment = open_segment(sweep, "0000", values=VALUES, origin=None)
    state = StateFile(TrainingState(step=5), {}, 0, {WEIGHTS_FILE: "0" * 64}).to_json()
    (segment.folder / checkpoint_name(5) / STATE_FILE).write_bytes(state)
    check_segments(sweep, steps=5)  # it is done
    with pytest.raises(UserError, match=rf"{checkpoint_name(5)} is damaged"):
        check_segments(sweep, steps=6)

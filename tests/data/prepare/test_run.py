"""Preparing without the command, as a script or an actor does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.prepare import main
from tecogan_dist.data.clips import ClipStore, Scene
from tecogan_dist.data.prepare.cutting import Event, Finished
from tecogan_dist.data.prepare.run import Preparation
from tecogan_dist.data.prepare.scene_plans import InputPlan
from tecogan_dist.data.prepare.sources import make
from tecogan_dist.data.writing import ClipStoreWriter
from tests.support.small_disk import small_disk
from tests.support.video_files import write_video


def test_a_preparation_says_what_happens_and_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = write_video(tmp_path / "film.mp4", 50)
    settings = {"scene_length": 20, "minimum_size": 1, "cut": "fixed"}
    sources = [make({"source": str(path)}, name="a", **settings) for path in (film, tmp_path / "missing.mp4")]
    store = Location.of(tmp_path / "store")
    events: list[tuple[str, Event]] = []

    def watch(plan: InputPlan, event: Event) -> None:
        events.append((plan.name, event))

    with ClipStoreWriter(store) as writer:
        preparation = Preparation(sources, store, writer, first_scene=5)
        assert [(plan.name, plan.numbers) for plan in preparation.todo()] == [(str(film), range(5, 7))]
        preparation.run(workers=1, watch=watch)
        assert not preparation.todo()
        again = Preparation(sources, store, writer, first_scene=5)
        assert not again.todo()
        damaged = Preparation(sources, store, writer, first_scene=5, damaged=[6])
        assert [damaged.results[plan].missing for plan in damaged.todo()] == [1]
    made, missing = preparation.results.values()
    assert (made.made, made.there, made.missing) == (2, 0, 0)
    assert made.note == "the last 10 frames are less than a scene: dropped"
    assert missing.problem.endswith("missing.mp4 does not exist: give a video, a folder or an archive.")
    assert [name for name, _ in events] == [str(film)] * 3
    scenes = [event for _, event in events if isinstance(event, Scene)]
    assert tuple(scenes) == ClipStore.open(store).scenes
    assert events[-1][1] == Finished(note="")
    assert capsys.readouterr().out == ""


def test_what_stops_all_inputs_is_raised(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", 200, height=120, width=160)
    source = make({"source": str(film)}, name="a", minimum_size=1, cut="fixed", scene_length=20, encoding="lossless")
    with small_disk(tmp_path / "disk", 700) as disk, ClipStoreWriter(disk / "store") as writer:
        preparation = Preparation([source], writer.location, writer)
        with pytest.raises(UserError, match="No space left on device"):
            preparation.run(workers=1)
        (result,) = preparation.results.values()
        assert "No space left on device" in result.problem
        assert result.made == len(writer.scenes) < 10


def test_the_clips_of_a_store_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its other files not at all: on gs:// that would be a list of everything below."""
    film, listed = write_video(tmp_path / "film.mp4", 50), list[str]()
    words = [str(film), "--scene-length", "20", "--output", str(tmp_path / "store")]
    main(words)

    def noting(action: Callable[[Location], Any]) -> Callable[[Location], Any]:
        def noted(place: Location) -> Any:
            listed.append(place.name)
            return action(place)

        return noted

    for name in ("names", "entries"):
        monkeypatch.setattr(Location, name, noting(getattr(Location, name)))
    for more in ([], ["--verify"], ["--dry-run"]):
        listed.clear()
        main([*words, *more])
        assert listed.count("clips") == (0 if "--dry-run" in more else 1)
        assert set(listed) <= {"clips", "index_parts"}


def test_scenes_are_seen_as_they_are_made_and_those_to_be_made_again_are_not(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", 60)
    source = make({"source": str(film)}, name="a", minimum_size=1, cut="fixed", scene_length=20)
    with ClipStoreWriter(tmp_path / "store") as writer:
        preparation = Preparation([source], writer.location, writer)
        seen: list[list[int]] = []
        preparation.run(workers=1, watch=lambda _plan, _event: seen.append(list(preparation.scenes())))
        assert seen == [[2000], [2000, 2001], [2000, 2001, 2002], [2000, 2001, 2002]]
        (writer.location / "clips/scene_2001.mp4").delete()
        again = Preparation([source], writer.location, writer, damaged=[2002])
        assert list(again.scenes()) == [2000]
        assert again.scenes().of(range(1999, 2003)).keys() == {2000}
        again.run(workers=1)
        assert again.scenes().of(range(1999, 2003)) == again.scenes() == writer.scenes
        assert len(again.scenes()) == 3

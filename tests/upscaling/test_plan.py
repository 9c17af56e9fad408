"""How scenes become segments: every frame once, no segment too long, and memory handed on inside scenes only."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.documents import dump_json, parse_json
from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.plan import (
    FEWEST,
    MOST,
    chains,
    default_length,
    default_shared,
    from_plain,
    scenes_of,
    segments_of,
    to_plain,
)


@st.composite
def scenes(draw: st.DrawFn) -> list[range]:
    start = draw(st.integers(0, 50))
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=12))
    ends = list(itertools.accumulate(lengths, initial=start))
    return [range(first, end) for first, end in itertools.pairwise(ends)]


@given(scenes(), st.integers(1, 40), st.integers(1, 60))
def test_segments_cover_all_frames_and_hand_on_inside_scenes(parts: list[range], most: int, shared: int) -> None:
    segments = segments_of(parts, most=most, shared=shared)
    frames = [frame for one in segments for frame in range(one.start, one.stop)]
    assert frames == list(range(parts[0].start, parts[-1].stop))
    assert all(1 <= one.frames <= most for one in segments)
    assert [scene for one in segments for scene in one.scenes] == [(scene.start, scene.stop) for scene in parts]
    begins = {scene.start for scene in parts}
    for one in segments:
        assert one.continues == (one.start not in begins)
        assert one.hands_on == (one.stop not in begins and one.stop != parts[-1].stop)
        assert [first for first, _ in one.scenes] == sorted(begins & set(range(one.start, one.stop)))
    groups = chains(segments)
    assert [one for group in groups for one in group] == segments
    assert all(not group[0].continues and all(one.continues for one in group[1:]) for group in groups)
    assert from_plain(parse_json(dump_json(to_plain(segments)), source="it"), source="it") == segments


def test_short_scenes_share_a_segment_and_long_ones_are_parted_evenly() -> None:
    parts = [range(3), range(3, 8), range(8, 10), range(10, 31), range(31, 35)]
    segments = segments_of(parts, most=10, shared=10)
    assert [(one.start, one.stop) for one in segments] == [(0, 10), (10, 17), (17, 24), (24, 31), (31, 35)]
    segments = segments_of(parts, most=10, shared=7)
    assert [(one.start, one.stop) for one in segments] == [(0, 3), (3, 10), (10, 17), (17, 24), (24, 31), (31, 35)]


def test_a_short_film_has_parts_for_many_workers() -> None:
    parts = [range(first, first + 20) for first in range(0, 600, 20)]
    most = default_length(144, 180, "cuda")
    assert most >= 600
    assert len(chains(segments_of(parts, most=most, shared=default_shared(600)))) == 30
    assert default_shared(40) == FEWEST
    film = default_shared(170_000)  # two hours
    assert film > 1000


def test_what_is_between_shots_is_the_end_of_the_scene_before() -> None:
    shots = [range(2, 30), range(35, 60), range(60, 61)]  # a black beginning, a dissolve, a flash
    assert scenes_of(shots, start=0, stop=70) == [range(2), range(2, 35), range(35, 60), range(60, 70)]
    assert scenes_of([], start=3, stop=9) == [range(3, 9)]
    assert scenes_of(shots, start=40, stop=50) == [range(40, 50)]


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [],
        [[0, 5, [], False]],  # the first one continues nothing
        [[0, 5, [[0, 5]], True]],  # the last one hands on
        [[0, 5, [[0, 9]], False], [5, 9, [], False]],  # they do not agree
        [[0, 5, [[0, 9]], True], [6, 9, [], False]],  # a gap
        [[0, 0, [[0, 9]], False]],
        [[0, 5, [[0, 5], [7, 9]], False]],
        [[0, 5.0, [[0, 5]], False]],
        [[0, True, [[0, 5]], False]],
        [[-1, 5, [[-1, 5]], False]],
    ],
)
def test_a_damaged_plan_is_one_sentence(rows: object) -> None:
    with pytest.raises(UserError, match=r"plan\.json is damaged .*--restart"):
        from_plain(rows, source="plan.json")


def test_the_usual_length_goes_by_size_and_device() -> None:
    assert default_length(16, 16, "cpu") == MOST
    assert default_length(1080, 1920, "cpu") == round(40e6 / (1080 * 1920))
    assert default_length(4320, 7680, "cpu") == FEWEST
    assert default_length(1080, 1920, "cuda") > 10 * default_length(1080, 1920, "cpu")

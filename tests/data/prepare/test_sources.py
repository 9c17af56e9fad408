from __future__ import annotations

from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.data.prepare.sources import Source, is_list, load, name_of, parse, printable


def sources(text: str, **settings: object) -> list[Source]:
    return parse(text, name="list.yaml", folder=Path("/lists"), **settings)


def test_the_shipped_list_is_the_original_s() -> None:
    shipped = load("tecogan_vimeo")
    assert len(shipped) == 28
    assert sum(len(source.starts or ()) for source in shipped) == 308
    assert all(source.address.startswith("https://vimeo.com/") for source in shipped)
    assert {(source.scene_length, source.minimum_size, source.downscale) for source in shipped} == {(120, 400, 1)}
    # Scene numbers follow from the order; the last scene is 2307, so that 2290 and on are the original's validation.
    first = 2000 + sum(len(source.starts or ()) for source in shipped[:-1])
    assert (shipped[0].address, shipped[0].starts) == ("https://vimeo.com/121649159", (0, 310, 460, 720, 860))
    assert (shipped[-1].address, shipped[-1].starts, first) == ("https://vimeo.com/89936769", (1260, 1380, 1880), 2305)
    assert [source.starts for source in load("tecogan_vimeo", scene_length=60, downscale=2)] == [
        source.starts for source in shipped
    ]


def test_entries_say_what_they_differ_in_and_options_are_for_the_rest() -> None:
    text = """
    sources:
      - source: films/*.mkv
        minimum_length: 24
        cut: fixed
      - {hr: sharp/*, lr: /abs/X4/*}
      - source: https://example.org/a.mp4?x=1
        starts: [5, 0]
        scene_length: 12
      - source: s3://bucket/clip.mp4
    """
    films, pair, web, stored = sources(text, scene_length=30, downscale=1, end_frame=None)
    assert (films.source, films.minimum_length, films.cut, films.scene_length) == (
        "/lists/films/*.mkv",
        24,
        "fixed",
        30,
    )
    assert (pair.hr, pair.lr, pair.is_remote) == ("/lists/sharp/*", "/abs/X4/*", False)
    assert (web.source, web.starts, web.scene_length, web.is_remote) == (
        "https://example.org/a.mp4?x=1",
        (5, 0),
        12,
        True,
    )
    assert (stored.source, stored.is_remote) == ("s3://bucket/clip.mp4", True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not a list of sources"),
        ("- source: a.mp4", "is not a list of sources"),
        ("sources: []", "is not a list of sources"),
        ("sources: [{source: a}]\nsoures: []", "is not a list of sources"),
        ("sources: [a.mp4]", "entry 1: a source is a mapping"),
        ("sources: [{1: a}]", "entry 1: a source is a mapping"),
        ("sources: [{source: a}, {source: b, start: [1]}]", "entry 2: unknown key 'start': use source, hr, lr, starts"),
        ("sources: [{scene_length: 5}]", "give either 'source', or 'hr' and 'lr'"),
        ("sources: [{source: a, hr: b, lr: c}]", "give either 'source', or 'hr' and 'lr'"),
        ("sources: [{hr: b}]", "give either 'source', or 'hr' and 'lr'"),
        ("sources: [{hr: b, lr: c, downscale: 2}]", "pairs are kept as they are"),
        ("sources: [{hr: 'https://a/b', lr: c}]", "the sides of a pair must be local paths"),
        ("sources: [{source: ''}]", "source must be a path or a URL, not ''"),
        ("sources: [{source: 121649159}]", "source: input should be a valid string, not 121649159"),
        ("sources: [{source: 'file:///etc/passwd'}]", "give a path or a URL of http, https, s3 or gs"),
        ("sources: [{source: 'ftp://a/b.mp4'}]", "give a path or a URL of http, https, s3 or gs"),
        ("sources: [{source: a, cut: sometimes}]", "cut: input should be 'fixed', 'detected' or 'whole'"),
        ("sources: [{source: a, starts: [3, -1]}]", "starts must be different positions from 0 on"),
        ("sources: [{source: a, starts: [3, 3]}]", "starts must be different positions from 0 on"),
        ("sources: [{source: a, starts: []}]", "starts must be different positions from 0 on"),
        ("sources: [{source: a, starts: [0], cut: fixed}]", "with 'starts' there is nothing to cut otherwise"),
        ("sources: [{source: a, scene_length: 0}]", "scene_length must be at least 1, not 0"),
        ("sources: [{source: a, maximum_scenes: 0}]", "maximum_scenes must be at least 1, not 0"),
        ("sources: [{source: a, start_frame: 4, end_frame: 4}]", "end_frame must be above start_frame"),
        ("sources: [{source: list.yaml}]", "is a list, and lists do not name others"),
        ("sources: [{source: 'http://'}]", "is not a URL that can be asked for: it names no host"),
        (
            "sources: [{source: a, starts: [4000000000]}]",
            "starts must be 100000 positions at most, none above",
        ),
        ("sources: [{source: a, scene_length: 4000000000}]", "scene_length must be at most 2147483647, not 4000000000"),
        ("sources: [{source: a, start_frame: 4000000000}]", "start_frame must be at most 2147483647, not 4000000000"),
        ("sources: [{source: a, scene_length: true}]", "scene_length: input should be a valid integer, not true"),
        ("sources: [{source: a", "is not valid YAML"),
        ("sources: !!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
    ],
)
def test_what_is_not_a_valid_list_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        sources(text)
    message = str(caught.value)
    assert message.startswith("list.yaml")
    assert sentence in message
    assert "\n" not in message


def test_missing_and_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.yaml does not exist: give a YAML file or one of tecogan_vimeo"):
        load(str(tmp_path / "no.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.yaml is not UTF-8 text"):
        load(str(tmp_path / "binary.yaml"))
    assert is_list("tecogan_vimeo")
    assert is_list("mine.YML")
    assert not is_list("https://example.org/list.yaml")
    assert not is_list("film.mp4")


def test_names_from_elsewhere_are_shown_without_secrets_and_control_characters() -> None:
    assert name_of("https://me:secret@example.org:80/a?b=c#d") == "https://example.org:80/a?b=c#d"
    assert printable("a\x1b[31m\nb\udcff ü") == "a\\x1b[31m\\nb\\udcff ü"

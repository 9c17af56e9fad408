"""What is noticed when a job looks through its input before hours are spent."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling import source
from tecogan_dist.upscaling.source import SourceOptions, look_through
from tests.support.films import moving, write_film


def film_with_fields(path: Path) -> Path:
    """20 whole frames, and 20 of two fields each; the decoder loses number 19, where one becomes the other."""
    clock = Fraction(1, 25)
    whole = write_film(path.with_name("a.mkv"), moving(20), codec="mpeg2video", clock=clock, options={"g": "5"})
    options = {"g": "5", "flags": "+ildct+ilme"}
    fields = write_film(path.with_name("b.mkv"), moving(20), codec="mpeg2video", clock=clock, options=options)
    with av.open(str(path), "w") as output:
        target = None
        for number, part in enumerate((whole, fields)):
            with av.open(str(part)) as whole_or_fields:
                stream = whole_or_fields.streams.video[0]
                target = target or output.add_stream_from_template(stream, opaque=True)
                for packet in whole_or_fields.demux(stream):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts = packet.pts + number * 800, packet.dts + number * 800
                        packet.stream = target
                        output.mux(packet)
    return path


@pytest.mark.parametrize("cut", [False, True])
def test_a_film_that_becomes_interlaced_is_refused_by_the_look(
    tmp_path: Path, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film_with_fields(tmp_path / "v.mkv")
    options = SourceOptions(path=path)
    assert not options.properties()[0].is_interlaced  # as its first frames are
    sentence = r"v\.mkv is interlaced from frame 19 on: convert it with ffmpeg .*--deinterlace"
    with pytest.raises(UserError, match=sentence):
        look_through(options.open(), start=0, stop=None, cut=cut)
    with pytest.raises(UserError, match=sentence):
        look_through(options.open(), start=15, stop=25, cut=cut)
    scenes = look_through(options.open(), start=0, stop=19, cut=False)
    assert (scenes[0].start, scenes[-1].stop) == (0, 19)
    monkeypatch.setattr(source, "FEW", 0.6)
    notes: list[str] = []
    look_through(options.open(), start=0, stop=None, cut=cut, note=notes.append)
    [note] = notes
    assert "20 of 39 frames, the first of them number 19, are marked as interlaced" in note
    made = look_through(SourceOptions(path=path, deinterlace=True).open(), start=0, stop=None, cut=False)
    assert made[-1].stop == 39


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_film_that_lost_its_end_is_said_to_have(tmp_path: Path, suffix: str) -> None:
    """With `--on-damage repeat` nothing else tells of it: what is not there has no frames to be replaced."""
    early = {"movflags": "+faststart"} if suffix == ".mp4" else {}
    film = write_film(tmp_path / f"v{suffix}", moving(40), container_options=early, options={"g": "10"})
    assert SourceOptions(path=film, on_damage="repeat").properties()[1] == []
    data = film.read_bytes()
    film.write_bytes(data[: len(data) * 2 // 3])
    options = SourceOptions(path=film, on_damage="repeat")
    assert options.properties()[1] == [f"{film} is cut off: the result ends where it does."]
    assert 10 < len(list(options.open().frames())) < 36
    with pytest.raises(UserError, match=r"is (cut off|damaged)"):
        look_through(SourceOptions(path=film).open(), start=0, stop=None, cut=False)

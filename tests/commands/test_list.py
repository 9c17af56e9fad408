"""``tecogan list``: runs side by side."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.storage import Location
from tecogan_dist.cli import main
from tecogan_dist.commands import list_runs as command
from tecogan_dist.commands.list_runs import lines_of
from tecogan_dist.runs import listing
from tecogan_dist.runs.folder import RUN_FILE, RunFolder, write_run_file
from tecogan_dist.runs.listing import DEPTH, list_runs
from tecogan_dist.runs.records import SCORES_FILE, scores_text
from tecogan_dist.runs.status import STATUS_FILE
from tecogan_dist.runs.status_writer import StatusWriter
from tests.support.plain_runs import make_config, run
from tests.support.s3_server import S3Server


def make_run(
    place: Location, *overrides: str, step: int | None = None, scores: dict[int, dict[str, float]] | None = None
) -> None:
    config = make_config(["--steps", "10", *overrides])
    write_run_file(RunFolder(path=place, checkpoint=None, resume_from=None), config=config, data=Location.of("/store"))
    if step is not None:
        given: dict[str, Any] = {"first_step": 0, "steps": 10, "workers": 1, "gpus": 0, "device": "cpu"}
        given |= {"metric": "psnr", "scores": {}, "say": print}
        with StatusWriter(place, **given) as one:
            one.progress(step, 1.0)
    if scores is not None:
        (place / SCORES_FILE).write_bytes(scores_text(scores))


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server) -> Location:
    """Five runs, at several depths, and what is none."""
    top = Location.of(tmp_path / "runs" if request.param == "local" else server.uri(f"{tmp_path.name}/runs"))
    make_run(
        top / "run2", step=10, scores={5: {"psnr": 30.0, "tof": 0.5}, 10: {"psnr": 29.0, "tof": 0.25, "ssim": 0.8}}
    )
    make_run(top / "run10", "--loss.warp", "2.0", "--seed", "7", step=4)
    make_run(top / "sweep" / "trials" / "0000", "--tracking.best", "tof", scores={5: {"psnr": 1.0, "tof": 2.0}})
    make_run(top / "sweep" / "trials" / "0001", scores={5: {"psnr": float("nan")}})
    (top / "sweep" / "sweep.yaml").write_bytes(b"{}")
    make_run(top / "broken", step=3)
    (top / "broken" / SCORES_FILE).write_bytes(b'{"1": {')
    (top / "run2" / "checkpoint_00000010" / "state.json").write_bytes(b"{}")
    (top / "notes" / "a.txt").write_bytes(b"x")
    (top / "a.txt").write_bytes(b"x")
    return top


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    main(["list", *words])
    return capsys.readouterr().out.splitlines()


def test_runs_stand_side_by_side(folder: Location, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = listed(capsys, str(folder))
    scores, settings = ["best", "at", "PSNR", "tOF"], ["seed", "loss.warp", "tracking.best"]
    assert head.split() == ["run", "state", "step", "last", "seen", *scores, *settings]
    columns = {
        name: head.index(name) for name in ("run", "state", "step", "best at", "PSNR", "tOF", "loss.warp", "seed")
    }

    def cell(row: str, name: str) -> str:
        return row[columns[name] :].split("  ")[0].strip()

    assert [cell(row, "run") for row in rows[:5]] == [
        "broken",
        "run2",
        "run10",
        "sweep/trials/0000",
        "sweep/trials/0001",
    ]
    assert [cell(row, "state") for row in rows[:5]] == ["stopped", "finished", "stopped", "stopped", "stopped"]
    assert [cell(row, "step") for row in rows[1:5]] == ["10/10", "4/10", "0/10", "0/10"]
    assert [cell(row, "best at") for row in rows[1:5]] == ["5", "", "5", ""]
    assert cell(rows[1], "PSNR") == "30"  # of the best step, not the last
    assert cell(rows[3], "tOF") == "2"
    assert [cell(row, "loss.warp") for row in rows[1:4]] == ["1", "2", "1"]
    assert cell(rows[2], "seed") == "7"
    assert rows[5].startswith(f"broken: {SCORES_FILE} is damaged (it is not valid JSON")
    assert len(rows) == 6
    assert "0.8" not in " ".join(rows[:5])  # SSIM of another step


def test_settings_that_are_the_same_everywhere_are_not_shown(folder: Location) -> None:
    assert set(list_runs(folder).differing) == {"loss.warp", "seed", "tracking.best"}
    assert list_runs(folder / "run2").differing == ()
    assert [run.name for run in list_runs(folder / "run2").runs] == ["."]


def test_json_has_all(folder: Location, capsys: pytest.CaptureFixture[str]) -> None:
    tree = json.loads("\n".join(listed(capsys, str(folder), "--json")))
    by_name = {run["name"]: run for run in tree["runs"]}
    assert by_name["run10"]["settings"]["loss.warp"] == 2.0
    assert by_name["run2"]["scores"] == {"psnr": 30.0, "tof": 0.5}
    assert (by_name["broken"]["state"], by_name["broken"]["step"]) == ("stopped", 3)
    assert SCORES_FILE in by_name["broken"]["problem"]
    assert (tree["found"], tree["are_more"]) == (5, False)


def test_what_cannot_be_read_is_told_below(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good", "half", "lost"):
        make_run(Location.of(tmp_path / name), step=10)
    (tmp_path / "half" / STATUS_FILE).write_text('{"state": "runn')
    (tmp_path / "lost" / RUN_FILE).write_text("config: [1, 2")
    _, *rows, half, lost = listed(capsys, str(tmp_path))
    assert [row.split()[:2] for row in rows] == [["good", "finished"], ["half", "unknown"], ["lost", "damaged"]]
    assert half.startswith(f"half: {STATUS_FILE} is damaged")
    assert lost.startswith(f"lost: {RUN_FILE} is damaged (it is not valid YAML")
    assert str(tmp_path) not in half + lost  # the run is named already
    (tmp_path / "half" / STATUS_FILE).unlink()
    (tmp_path / "half" / STATUS_FILE).mkdir()
    (tmp_path / "lost" / RUN_FILE).write_text("data: 3")
    *_, half, lost = listed(capsys, str(tmp_path))
    assert half == f"half: {STATUS_FILE} is a folder where an ordinary file is wanted: move it away."
    assert lost.startswith(f"lost: {RUN_FILE} is damaged (it is not what 'tecogan train' writes)")


def test_of_many_runs_the_newest_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 13):
        make_run(Location.of(tmp_path / f"trial_{number}"), step=3)
    shown = [row.split()[0] for row in listed(capsys, str(tmp_path))[1:]]
    assert shown == [f"trial_{number}" for number in range(1, 13)]
    for number in range(1, 13):
        for file in (tmp_path / f"trial_{number}").iterdir():
            os.utime(file, (1e9 - number, 1e9 - number))
    os.utime(tmp_path / "trial_10" / STATUS_FILE, (2e9, 2e9))
    monkeypatch.setattr(listing, "MOST_RUNS", 4)
    _, *rows, last = listed(capsys, str(tmp_path))
    assert [row.split()[0] for row in rows] == ["trial_10", "trial_1", "trial_2", "trial_3"]
    assert last.startswith("(4 of 12 runs, those that were written to last")
    monkeypatch.setattr(listing, "MOST_FOLDERS", 8)
    assert "(4 of at least " in listed(capsys, str(tmp_path))[-1]


def test_a_long_look_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        make_run(Location.of(tmp_path / f"run{number}"))
    main(["list", str(tmp_path)])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(command, "QUIET_SECONDS", 0.0)
    main(["list", str(tmp_path)])
    told = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in told] == ["6 folders", "5 of 5 runs"]


@pytest.mark.parametrize("width", [40, 80, 100, 1000])
def test_a_table_fits_a_terminal(width: int, tmp_path: Path) -> None:
    top = Location.of(tmp_path)
    scores = {3: {"psnr": 30.1234, "ssim": 0.81234, "lpips": 0.1, "tof": 0.25, "tlp": 1.5}}
    for number in range(40):
        name = f"a_long_name_of_a_run_that_somebody_has_chosen_{number}"
        make_run(top / name, "--seed", str(number), "--loss.warp", str(1 + number), scores=scores)
    lines = lines_of(list_runs(top), width=width)
    if width > 40:
        assert max(map(len, lines)) <= width
    table = [line for line in lines if line.startswith("a_")]
    assert len(table) == 40
    assert ("seed" in lines[0]) == (width == 1000)
    if width < 1000:
        assert "    seed 39, loss.warp 40" in lines
    assert ("(too narrow for" in lines[-1]) == (width <= 80)
    assert "PSNR" in lines[0]


def test_what_training_leaves_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Location.of(tmp_path / "real"))
    run(make_config(["--steps", "10"]), tmp_path / "real")
    capsys.readouterr()
    _, row = listed(capsys, str(tmp_path))
    assert row.split()[:3] == ["real", "finished", "10/10"]


def test_folders_far_below_are_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Location.of(tmp_path.joinpath(*map(str, range(DEPTH))))
    make_run(deep)
    assert len(list_runs(Location.of(tmp_path)).runs) == 1
    make_run(Location.of(tmp_path.joinpath("x", *map(str, range(DEPTH)))))
    make_run(Location.of(tmp_path / ".hidden"))
    found = list_runs(Location.of(tmp_path))
    assert (len(found.runs), found.found, found.are_more) == (1, 1, False)
    monkeypatch.setattr(listing, "MOST_FOLDERS", 6)
    found = list_runs(Location.of(tmp_path))
    assert found.are_more
    assert "folders were looked into: name a folder further down for others" in lines_of(found, width=80)[-1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "does not exist: name a folder that runs are in."),
        (["empty"], "holds no run, and neither do the folders up to 4 below it"),
        (["file"], "is not a folder: name one that runs are in."),
        ([""], "FOLDER: is empty"),
    ],
)
def test_what_holds_no_run(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit) as end:
        main(["list", *words])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_link_that_leads_in_a_circle(tmp_path: Path) -> None:
    make_run(Location.of(tmp_path / "good"))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    found = list_runs(Location.of(tmp_path))
    assert [run.name for run in found.runs] == ["good"]


def test_a_run_is_listed_once_whatever_links_lead_there(tmp_path: Path) -> None:
    """By its own name if it has one below the folder, and by a link's name if it is elsewhere."""
    top, elsewhere = tmp_path / "s2", tmp_path / "elsewhere"
    for place in (top / "b", top / "deep" / "c", elsewhere / "d"):
        make_run(Location.of(place))
    (top / "loop").symlink_to(Path("..") / "s2")
    (top / "deep" / "loop").symlink_to("..")
    (top / "a").symlink_to("b")  # before it by name
    (top / "latest").symlink_to(Path("deep") / "c")
    (top / "outside").symlink_to(elsewhere / "d")
    (top / "outside_too").symlink_to(elsewhere)
    found = list_runs(Location.of(top))
    assert [run.name for run in found.runs] == ["b", "deep/c", "outside"]
    assert (found.found, found.are_more) == (3, False)
    assert [run.name for run in list_runs(Location.of(top / "loop")).runs] == ["b", "deep/c", "outside"]

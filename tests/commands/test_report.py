"""The report command: where its page goes, what that replaces, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tecogan_dist import cli
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.commands.report import main
from tests.support.pages import Page
from tests.support.recorded_runs import add_previews, config_of, record
from tests.support.s3_server import S3Server, s3_server
from tests.support.small_disk import small_disk


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return record(tmp_path / "film", lines=20)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as found:
        yield found


def report(*words: str | Path) -> None:
    main([str(word) for word in words])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_page_of_a_local_run_is_in_its_folder_and_replaced_by_the_next(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    report(run)
    page = run / "report.html"
    assert capsys.readouterr().out == f"written: {page}\n"
    assert contents(run) == {**before, "report.html": page.read_bytes()}
    first = page.stat().st_mtime_ns
    report(run)
    assert page.stat().st_mtime_ns > first
    assert "film" in Page(page.read_text("utf-8")).words


def test_another_file_is_replaced_only_if_asked_for(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    # An evaluation's page, say, that even speaks of this command.
    target.write_text("<!DOCTYPE html>\n<html lang='en'><head></head><body>made by tecogan report</body></html>")
    before = target.read_bytes()
    with pytest.raises(UserError, match=r"exists and is not a page of 'tecogan report': .* --overwrite\.$"):
        report(run, "--output", target)
    assert target.read_bytes() == before
    report(run, "--output", target, "--overwrite")
    report(run, "--output", target)
    assert b"data-made-by" in target.read_bytes()[:100]


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.yaml", "status.json", "page", "previews/index.json"])
def test_a_slip_costs_a_run_none_of_its_files(run: Path, name: str) -> None:
    before = contents(run)
    with pytest.raises(UserError, match=r"must have a name that ends in \.html"):
        report(run, "--output", run / name, "--overwrite")
    assert contents(run) == before


def test_several_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {number: {"time/data_wait": 0.9, "time/step": 1.5} for number in range(100, 400)}
    other = record(tmp_path / "other", config=config_of("frvsr"), changes=changes)
    with pytest.raises(UserError, match=r"^a page of several runs has no default place: give --output FILE\.$"):
        report(run, other)
    report(run, other, "--output", tmp_path / "new" / "both.html")
    said = capsys.readouterr().out
    assert "warning: other: " in said
    assert "data.decoded_cache" in said
    assert "2 runs: film, other" in Page((tmp_path / "new" / "both.html").read_text("utf-8")).words


def test_what_could_not_be_read_is_said_here_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("hello\x1b[31m\n")
    (run / "evaluation").mkdir()
    (run / "evaluation" / "metrics.json").write_text("[]")
    report(run)
    said = capsys.readouterr().out
    assert "note: line 29 of metrics.jsonl is left out" in said
    assert "note: the evaluation of film is left out" in said
    assert "\x1b" not in said


def test_what_is_no_run_is_refused_by_what_it_is(run: Path, tmp_path: Path) -> None:
    report(run)
    for name, files in {
        "sweep": ["sweep.yaml", "trials.csv"],
        "scores": ["metrics.json", "metrics.csv", "report.html"],
        "film/checkpoint_00000010": ["state.json"],
        "else": ["a.png"],
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    (tmp_path / "film.mp4").write_bytes(b"\0")
    (tmp_path / "empty").mkdir()
    for name, sentence in {
        "sweep": "holds a sweep, not a run: look at its sweep.html",
        "scores": "holds an evaluation, not a run",
        "film/checkpoint_00000010": f"is a checkpoint, not a run: give the run's folder, {run}.",
        "else": r"holds no run \(no run.yaml\)",
        "empty": r"holds no run \(no run.yaml\)",
        "film.mp4": "is a file, not a run",
        "missing": "there is no run .*missing: check the name",
    }.items():
        for others in ([], [run]):
            with pytest.raises(UserError, match=sentence):
                report(*others, tmp_path / name, "--output", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_mistakes_about_several_runs_and_their_evaluations(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(UserError, match="is given twice"):
        report(run, tmp_path / "." / "film", "--output", page)
    with pytest.raises(UserError, match="9 runs are more than the 8"):
        report(*(tmp_path / str(number) for number in range(9)), "--output", page)
    with pytest.raises(UserError, match=r"^--evaluation is given twice for one run: give one\.$"):
        report(run, "--evaluation", tmp_path, "--evaluation", tmp_path)
    other = record(tmp_path / "other", lines=0)
    each = r"^--evaluation is given {} for 2 runs: give one for each, in their order\.$"
    for times, words in ((1, "once"), (3, "3 times")):
        with pytest.raises(UserError, match=each.format(words)):
            report(run, other, "--output", tmp_path / "a.html", *times * ("--evaluation", tmp_path))
    with pytest.raises(UserError, match=r"holds no evaluation \(no metrics\.json\)"):
        report(run, "--evaluation", tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"averages": {}, "sequences": 5}))
    with pytest.raises(UserError, match=r"metrics\.json is damaged, or something else"):
        report(run, "--evaluation", tmp_path)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match="is a folder: name the page's file"):
        report(run, "--output", tmp_path / "folder.html")
    (run / "run.yaml").write_text("config: {steps: many}\ndata: a\nresume_from: null\n")
    with pytest.raises(UserError, match=r"run\.yaml: steps: .*, not 'many'\.$"):
        report(run)
    (run / "run.yaml").write_text("half of i")
    with pytest.raises(
        UserError, match=r"run\.yaml is damaged .*put it right, or (give another run|move the run's folder away)\.$"
    ):
        report(run)


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(tmp_path / "nothing")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: there is no run {tmp_path / 'nothing'}: check the name.\n"


def test_a_full_disk_leaves_the_old_page_and_nothing_half_written(run: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=8_000) as disk:
        page = disk / "page.html"
        report(run, "--output", page)
        before = page.read_bytes()
        assert len(before) > 4e6  # so that a second one does not fit beside it
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            report(run, "--output", page)
        assert [path.name for path in disk.iterdir()] == ["page.html"]
        assert page.read_bytes() == before


def test_a_run_on_s3(run: Path, tmp_path: Path, server: S3Server) -> None:
    add_previews(run, [100, 200], side=48)
    for name, data in contents(run).items():
        Location(server.uri(f"runs/film/{name}")).write_bytes(data)
    there = server.uri("runs/film")
    with pytest.raises(UserError, match="is not on this machine: give --output FILE"):
        report(there)
    report(there, "--output", tmp_path / "page.html")
    report(run, "--output", tmp_path / "local.html")
    both = [Page((tmp_path / name).read_text("utf-8")) for name in ("page.html", "local.html")]
    assert both[0].figures == both[1].figures != []
    pictures = [[one["src"] for one in page.named("img") if "src" in one] for page in both]
    assert pictures[0] == pictures[1] != []
    # Its page may go there, too, and is replaced there by the same rule.
    target = Location(server.uri("pages/film.html"))
    report(there, "--output", target.uri)
    report(there, "--output", target.uri)
    assert Page(target.read_bytes().decode()).figures == both[0].figures
    target.write_bytes(b"<html>mine</html>")
    with pytest.raises(UserError, match="is not a page of 'tecogan report'"):
        report(there, "--output", target.uri)
    with pytest.raises(UserError, match="there is no run s3://"):
        report(server.uri("runs/other"), "--output", tmp_path / "page.html")
    with pytest.raises(UserError, match="is a whole bucket"):
        report(server.uri("").rstrip("/"), "--output", tmp_path / "page.html")


def test_an_output_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.symlink_to(tmp_path / "nowhere.html")
    with pytest.raises(UserError, match="symbolic link to what is not there"):
        report(run, "--output", page)
    with pytest.raises(UserError, match=r"--output: .*is not a folder"):
        report(run, "--output", run / "run.yaml" / "page.html")

"""One command trains into a folder, and what an earlier one left running writes nothing more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.runs.owner import OWNER_FILE, Ownership, TakenOverError, check_owner, claim
from tests.support.s3_server import S3Server


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server) -> Location:
    return Location.of(tmp_path / "run" if request.param == "local" else server.uri(f"{tmp_path.name}/run"))


def test_the_word_of_the_last_command_counts(run: Location) -> None:
    first = claim(run)
    check_owner(run, first)
    second = claim(run)
    check_owner(run, second)
    check_owner(run, None)
    with pytest.raises(TakenOverError, match=r"another command has taken over .*/run\S*: this one writes nothing more"):
        check_owner(run, first)


def test_a_second_command_is_refused_and_leaves_nothing_changed(run: Location) -> None:
    with Ownership(run, made="run.yaml") as first:
        first.take()
        word = first.word
        for _ in range(2):
            with Ownership(run, made="run.yaml") as second, pytest.raises(UserError, match=r"another process \("):
                second.take()
        first.check()
        assert first.word == word
        (run / "run.yaml").write_bytes(b"")
    assert (run / "run.yaml").is_file()
    with Ownership(run, made="run.yaml") as third:
        third.take()
        third.check()


def test_a_folder_of_which_nothing_came_goes_away_again(tmp_path: Path) -> None:
    with Ownership(Location.of(tmp_path / "run"), made="run.yaml") as ownership:
        ownership.take()
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with Ownership(Location.of(tmp_path / "mine"), made="run.yaml") as ownership:
        ownership.take()
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "mine" / OWNER_FILE).exists()
    with Ownership(Location.of(tmp_path / "never"), made="run.yaml"):
        pass
    assert not (tmp_path / "never").exists()


def test_a_file_of_the_user_s_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / OWNER_FILE).write_text("me")
    with pytest.raises(UserError, match="is not a file of tecogan's: move it away"):
        claim(Location.of(tmp_path))
    assert (tmp_path / OWNER_FILE).read_text() == "me"

"""``tecogan fetch``: by name into the cache, a list of what there is, and one sentence where it does not work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tecogan_dist import cli
from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.fetch import main
from tecogan_dist.published.catalogue import names
from tests.support.published_files import checkpoint_zip, entry, scenes_zip, using
from tests.support.web_server import Site, serving


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("TECOGAN_CACHE", str(tmp_path / "cache"))
    with serving() as site:
        site.files |= {"/model.zip": checkpoint_zip(), "/vid4.zip": scenes_zip("walk")}
        text = entry("tecogan", site.url("/model.zip")) + entry("vid4", site.url("/vid4.zip"), kind="scenes")
        text += entry("frvsr", site.url("/gone.zip")) + entry("tecogan-mini")
        text += entry("small", more="  packaged: true\n").replace("model.zip\n", "nothing.safetensors\n")
        with using(text):
            yield site


def test_names_are_fetched_and_their_places_printed(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tecogan", "vid4", "tecogan"])
    shown = capsys.readouterr()
    cache = tmp_path / "cache"
    assert shown.out == f"tecogan: {cache}/tecogan/tecogan.safetensors\nvid4: {cache}/vid4\n"
    assert "fetching tecogan from http://127.0.0.1" in shown.err
    assert len(site.log) == 2
    main(["tecogan", "--again"])
    assert len(site.log) == 3


@pytest.mark.usefixtures("site")
def test_the_list_says_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tecogan"])
    capsys.readouterr()
    main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    by_name = {line.split()[0]: line for line in lines[::2]}
    assert "here since 20" in by_name["tecogan"]
    assert "0.1 MB" in by_name["tecogan"]
    assert "not here" in by_name["vid4"]
    assert "no address known" in by_name["tecogan-mini"]
    assert "missing" in by_name["small"]
    assert all("licence: none; trained on: nothing" in line for line in lines[1:-1:2])
    assert lines[-1] == f"the cache is {tmp_path}/cache"
    (tmp_path / "cache" / "tecogan" / "record.json").write_text("{")
    main(["--list"])
    assert "damaged" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.usefixtures("site")
def test_one_that_cannot_be_had_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^frvsr, tecogan-mini cannot be fetched: above is why"):
        main(["frvsr", "tecogan-mini", "vid4"])
    shown = capsys.readouterr()
    assert shown.out.startswith("vid4: ")
    assert "frvsr cannot be fetched (" in shown.err
    assert "no address of tecogan-mini is known" in shown.err
    with pytest.raises(
        UserError, match=r"frvsr cannot be fetched \(.* is gone \(404 Not Found\)\): run it again with a"
    ):
        main(["frvsr"])


@pytest.mark.parametrize("words", [[], ["--list", "vid4"], ["--list", "--again"], ["--again"]])
def test_names_or_the_list(words: list[str]) -> None:
    with pytest.raises(UserError, match="give names to fetch, or --list alone"):
        main(words)


def test_a_name_that_is_none_is_told_before_any_is_fetched(site: Site) -> None:
    with pytest.raises(UserError, match=r"nothing published called 'vid-4': did you mean vid4\?"):
        main(["tecogan", "vid-4"])
    assert not site.log


def test_the_package_lists_its_own_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["fetch", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1:2]] == names()

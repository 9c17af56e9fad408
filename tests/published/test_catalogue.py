"""The catalogue: the package's own is whole and honest, and another one is valid or a sentence."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.metrics.perceptual import TRUNK_FILES
from tecogan_dist.published.catalogue import FILE, catalogue, find, names, parse
from tests.support.published_files import entry

SHA = "ab" * 32


def test_the_names_that_commands_speak_of_are_there() -> None:
    assert {"tecogan", "frvsr", "tecogan-mini", "small", "vgg19", "lpips-alex", "vid4", "tos"} <= set(names())
    assert names("vgg") == ["vgg19", "vgg19-slim"]
    assert find("tecogan").blocks == 16
    assert find("frvsr").member == "ourFRVSR"
    assert find("lpips-alex").file == TRUNK_FILES["alex"]


def test_what_can_be_fetched_has_addresses_and_a_file_that_these_end_in() -> None:
    for found in catalogue().values():
        assert bool(found.addresses) != (found.packaged or found.name == "tecogan-mini")
        assert not found.addresses or found.addresses[0].endswith(f"/{found.file}")


def test_torchvisions_checksums_begin_as_their_names_say() -> None:
    for name in ("vgg19", "lpips-alex"):
        found = find(name)
        digits = re.search(r"-([0-9a-f]{8})\.pth", found.file)
        assert digits is not None
        assert found.sha256 is not None
        assert found.sha256.startswith(digits[1])


def test_every_address_in_the_data_has_its_source_beside_it() -> None:
    lines = (resources.files("tecogan_dist.published") / FILE).read_text("utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith("    - http"):
            assert "  # " in line or before.strip().startswith("#"), line


def test_a_name_that_is_nearly_one_is_understood() -> None:
    with pytest.raises(UserError, match=r"nothing published called 'vgg-19': did you mean vgg19\?"):
        find("vgg-19")


def test_a_catalogue_of_ones_own() -> None:
    found = parse(entry("x", "https://example.org/model.zip", more=f"  sha256: {SHA}\n"), source="c")["x"]
    assert (found.name, found.sha256, found.addresses) == ("x", SHA, ("https://example.org/model.zip",))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "c is not a catalogue"),
        ("[a]", "c is not a catalogue"),
        ("x: 1", "c: x is not a mapping"),
        (entry("../x"), "cannot be a name"),
        (entry("X"), "cannot be a name"),
        (entry("x" * 50), "cannot be a name"),
        (entry("x", kind="code"), "c: x: kind: "),
        (entry("x", "ftp://example.org/a"), "not a URL that can be asked for"),
        (entry("x", "file:///etc/passwd"), "not a URL that can be asked for"),
        (entry("x", "https://a.org/b", "https://a.org/b"), "different ones"),
        (entry("x", more="  sha256: 12\n"), "c: x: sha256: "),
        (entry("x", more=f"  sha256: {SHA.upper()}\n"), "c: x: sha256: "),
        (entry("x", more="  bytes: 0\n"), "c: x: bytes: "),
        (entry("x", more="  bytes: 1e99\n"), "c: x: bytes: "),
        (entry("x", more="  adress: y\n"), "unknown key 'adress': did you mean addresses"),
        (entry("x", more="  name: y\n"), "is not a mapping of"),
        (entry("x").replace("model.zip", "../model.zip"), "cannot be the name of a file"),
        (entry("x").replace("member: TecoGAN", "member: a/b"), "cannot be the name of a file"),
        (entry("x", kind="scenes", more="  scenes: [.., a]\n"), "cannot be the name of a file"),
        (entry("x", "https://a.org/b", more="  packaged: true\n"), "a part of this package has no addresses"),
    ],
)
def test_what_is_no_catalogue_is_a_sentence(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        parse(text, source="c")

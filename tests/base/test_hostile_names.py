"""Any text as a path, an address or an owner's line ends in a value or a ``UserError``."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.owners import Owner
from tecogan_dist.base.storage import Location
from tests.support.properties import EXAMPLES

WORDS = st.sampled_from(
    ["s3://", "gs://", "file:", "~", "/", "..", "?", "&", "=", "@", "endpoint_override", "bucket", "%"]
)
NAMES = st.lists(WORDS | st.text(max_size=8), max_size=12).map("".join)


@EXAMPLES
@given(NAMES)
def test_any_text_is_a_place_or_is_refused(name: str) -> None:
    with contextlib.suppress(UserError):
        place = Location.of(name)
        assert isinstance((place.name, place.is_local, place.is_bucket, str(place / "below")), tuple)
        if place.is_local:
            assert isinstance(place.exists(), bool)


@EXAMPLES
@given(st.binary(max_size=200) | st.text().map(lambda text: f"tecogan_dist lock: pid {text} on x".encode()))
def test_any_line_is_an_owner_s_or_nobody_s(line: bytes) -> None:
    owner = Owner.parse(line)
    assert owner is None or owner.line().strip() == line.strip()

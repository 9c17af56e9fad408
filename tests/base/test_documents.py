"""YAML and JSON from outside: a plain value or one sentence, whatever comes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.documents import (
    YAML_BYTES,
    dump_json,
    dump_yaml,
    parse_json,
    parse_yaml,
    quoted,
    read_json,
    read_text,
    validated,
)
from tecogan_dist.base.errors import UserError
from tests.support.properties import EXAMPLES

LONGEST_SENTENCE = 700
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.sampled_from(["yes", "010", "1:30", "1e5", "2001-01-01", "~", "", ".5", "0x1f", "1_000", "null", "True", "-"])
)
TREES = st.recursive(SCALARS, lambda below: st.lists(below) | st.dictionaries(st.text("abc_"), below), max_leaves=12)
BOMB = "\n".join(["a: &a [x, x]", *(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))])


def refusal(read: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments, **options)
    sentence = str(caught.value)
    assert len(sentence) < LONGEST_SENTENCE
    assert "\n" not in sentence
    return sentence


@EXAMPLES
@given(TREES)
def test_what_is_written_is_read(tree: Any) -> None:
    assert parse_yaml(dump_yaml(tree), source="here") == tree
    assert parse_json(dump_json(tree), source="here") == tree


@EXAMPLES
@given(st.binary(max_size=300) | st.text(alphabet="ab:-[]{}&*!|>'\"# \n\t0189.eE?,%@`~", max_size=120))
def test_anything_as_yaml(text: bytes | str) -> None:
    for parse in (parse_yaml, parse_json):
        with contextlib.suppress(UserError):
            value = parse(text, source="here")
            json.dumps(value, allow_nan=False)  # nothing but plain values, and finite ones


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: yes", "yes"),
        ("a: off", "off"),
        ("a: 010", "010"),
        ("a: 0o17", "0o17"),
        ("a: 1:30", "1:30"),
        ("a: 1_000", "1_000"),
        ("a: 2026-11-26", "2026-11-26"),
        ("a: .inf", ".inf"),
        ("a: 1e-4", 1e-4),
        ("a: -5", -5),
        ("a: true", True),
        ("a:", None),
        ("\ufeffa: 1", 1),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    found = parse_yaml(text.encode(), source="here")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: 1\nb: 2\na: 3", "key 'a' is there twice, line 3"),
        ("a: &x 1\nb: *x", "anchors"),
        (BOMB, "anchors"),
        ("a: !!python/object/apply:os.system [echo]", "tags"),
        ("a: !!float x", "tags"),
        ("--- 1\n--- 2", "document"),
        ("[" * 100, "nested"),
        ("[" + "[]," * 60_000 + "]", "more than 20000 keys and values"),
        ("a: " + "9" * 5000, "64 bits"),
        ("a: 1e999", "too large"),
        ("? [1]\n: 2", "a key is"),
        ("a: \x07", "not valid YAML"),
        ('a: "\\ud800"', "half a character"),
        ("a: [1", "line 1"),
        ("x" * (YAML_BYTES + 1), "more than"),
        ("a: 1".encode("utf-16"), "UTF-8"),
        ("a: \xe9".encode("latin-1"), "UTF-8"),
    ],
)
def test_yaml_that_is_refused(text: str | bytes, word: str) -> None:
    began = time.process_time()
    sentence = refusal(parse_yaml, text, source="space.yaml")
    assert sentence.startswith("space.yaml ")
    assert re.search(word, sentence), sentence
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1, "a": 2}', "twice"),
        ("1" * 5000, "64 bits"),
        ("18446744073709551616", "64 bits"),
        ("1e999", "too large"),
        ("[" * 100_000, "nested"),
        ("[" * 100 + "]" * 100, "nested"),
        ('"\\ud800"', "half a character"),
        ("", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        (b"\xff\xfe1\x00", "UTF-8"),
    ],
)
def test_json_that_is_refused(text: str | bytes, word: str) -> None:
    sentence = refusal(parse_json, text, source="state.json")
    assert sentence.startswith("state.json ")
    assert word in sentence


def test_numbers_that_are_not_finite_are_written_as_null() -> None:
    tree = {"psnr": math.inf, "all": [math.nan, 1.5, (-math.inf,)]}
    assert parse_json(dump_json(tree), source="here") == {"psnr": None, "all": [None, 1.5, [None]]}


def test_texts_are_quoted_for_readers_of_yaml_1_1_too() -> None:
    for text in ("yes", "010", "1:30", "1e5", "2026-11-26", "<<", "~"):
        assert yaml.safe_load(dump_yaml({"a": text})) == {"a": text}


def test_files(tmp_path: Path) -> None:
    assert refusal(read_json, tmp_path / "none.json").endswith("none.json does not exist: check the name.")
    assert refusal(read_text, tmp_path / "none", missing="make it.") == "make it."
    (tmp_path / "large").write_bytes(b"1" * 101)
    assert "more than 100 bytes" in refusal(read_text, tmp_path / "large", missing="", limit=100)
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        assert str(place) in refusal(read_text, place, missing="")
    (tmp_path / "state.json").write_text('{"step": 5}')
    assert read_json(tmp_path / "state.json") == {"step": 5}


def test_what_a_sentence_quotes_is_short() -> None:
    assert quoted(True) == "true"
    assert quoted(None) == "null"
    assert quoted("a\x1b[31m") == r"'a\x1b[31m'"
    for value in ("x" * 10**6, [[0] * 10**4] * 10**4, {"a": 1}, 10**5000, object()):
        assert len(quoted(value)) <= 80


def test_wrong_values_and_keys_are_named() -> None:
    adapter = pydantic.TypeAdapter(dict[str, int])
    assert "a: input should be a valid integer" in refusal(
        validated, adapter, {"a": "x" * 10**6}, source="f.yaml", known=""
    )

    class Known(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        steps: int = 1

    for key, hint in (("stesp", ": did you mean steps?"), ("zzzz", ":")):
        assert refusal(validated, pydantic.TypeAdapter(Known), {key: 1}, source="f", known="ask", names=["steps"]) == (
            f"f: unknown key '{key}'{hint} ask."
        )

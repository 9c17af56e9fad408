"""Settings and spaces of any shape: taken, or refused in one short sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.documents import dump_yaml
from tecogan_dist.base.errors import UserError
from tecogan_dist.config import load as settings
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tecogan_dist.tuning.checks import check_space
from tecogan_dist.tuning.reading import space_from_yaml
from tests.support.properties import EXAMPLES
from tests.support.spaces import BASE, RANKS, TREE

LONGEST_SENTENCE = 700
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 1, 2, 8, 2**31, 2**62, 1e30, 1e300, 5e-324, 0.5, "", "none", "yes", "1e3", "x" * 5000])
    | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["kind", "uniform", "tof", ""]), below),
    max_leaves=5,
)
SPACE: dict[str, Any] = {
    **TREE,
    "settings": {"loss.pingpong": {"uniform": [0.1, 1.0]}, "optimizer.decay_steps": {"randint": [1, 9]}},
    "score": {**RANKS, "limits": {"psnr": 20}},
    "scheduler": {"kind": "asha", "metric": "tof", "grace_steps": 15, "reduction": 3},
    "fixed": {"batch_size": 8, "model.channels": 16},
    "trial": {"workers": 1, "gpus_per_worker": 0.5, "resources_per_worker": {"tpu": 1}},
    "repeat": {"top": 1, "seeds": 2},
    "concurrent": 2,
}


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a tree has something."""
    if path:
        yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*path, key))


def changed(tree: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The tree with up to three of its values replaced, moved to another key, or gone."""
    change = st.tuples(st.sampled_from(list(places(tree))), st.sampled_from(["value", "key", "gone"]), VALUES)

    def apply(changes: list[tuple[tuple[Any, ...], str, Any]]) -> dict[str, Any]:
        result = copy.deepcopy(tree)
        for path, deed, value in changes:
            node: Any = result
            for key in path[:-1]:
                node = node[key] if isinstance(node, list | dict) and _has(node, key) else None
            if isinstance(node, list | dict) and _has(node, path[-1]):
                _do(node, path[-1], deed, value)
        return result

    return st.lists(change, min_size=1, max_size=3).map(apply)


def _has(node: Any, key: Any) -> bool:
    return key in node if isinstance(node, dict) else isinstance(key, int) and key < len(node)


def _do(node: Any, key: Any, deed: str, value: Any) -> None:
    if deed == "value":
        node[key] = value
    elif deed == "gone":
        node.pop(key)
    elif isinstance(node, dict) and isinstance(value, str | int | float | None):
        node[value] = node.pop(key)


def is_taken_or_refused(read: Callable[[], Any]) -> None:
    try:
        read()
    except UserError as error:
        sentence = str(error)
        assert 10 < len(sentence) < LONGEST_SENTENCE
        assert "\n" not in sentence


@EXAMPLES
@given(changed(settings.to_tree(Config())))
def test_any_tree_as_settings(tree: dict[str, Any]) -> None:
    is_taken_or_refused(lambda: settings.from_tree(tree, source="mine.yaml"))
    is_taken_or_refused(lambda: settings.from_record(tree, source="run.yaml"))
    is_taken_or_refused(lambda: settings.model_from_tree(tree.get("model"), source="weights"))


@EXAMPLES
@given(changed(SPACE))
def test_any_tree_as_a_space(tree: dict[str, Any]) -> None:
    is_taken_or_refused(lambda: check_space(space_from_yaml(dump_yaml(tree), source="mine.yaml"), BASE))


@EXAMPLES
@given(st.lists(st.sampled_from(["--steps", "--loss.warp", "--data.flip=", "--model.scale"]) | st.text(max_size=6)))
def test_any_words_as_overrides(words: list[str]) -> None:
    is_taken_or_refused(lambda: override(Config(), words))


@EXAMPLES
@given(VALUES)
def test_any_value_as_settings_of_a_record(value: Any) -> None:
    is_taken_or_refused(lambda: settings.from_record(value, source="run.yaml"))
    json.dumps(value)

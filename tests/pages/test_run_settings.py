"""Which run a page is about, by its settings: its preset, and the command that trains it again."""

from __future__ import annotations

import shlex

import pytest

from tecogan_dist.commands.train import parse as parse_train
from tecogan_dist.pages.run_settings import command, variant
from tests.support.recorded_runs import config_of


@pytest.mark.parametrize("preset", ["frvsr", "tecogan", "small", "smoke_tecogan", "tecogan_temporal_only"])
def test_the_shown_command_trains_with_the_settings_of_the_run(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    config = config_of(
        preset,
        *("--steps", "77", "--data.flip", "false", "--data.train-scenes", "3", "9", "--data.cache-dir", "a b"),
        *("--loss.feature-match-norms", "1", "2", "3", "4.5", "--data.validation-scenes", "none"),
        *("--cluster.resources-per-worker", "disk", "2", "--optimizer.epsilon", "1e-7"),
    )
    words = shlex.split(command(config, data="s3://films/store", output="runs/a b", begun_from=None))
    assert words[:2] == ["tecogan", "train"]
    options, parsed = parse_train(words[2:])
    assert parsed == config
    assert (options.data, options.output) == ("s3://films/store", "runs/a b")


def test_the_preset_with_the_fewest_differences_is_named() -> None:
    found = variant(config_of("smoke_frvsr", "--loss.warp", "0.5", "--cluster.workers", "1"))
    assert found.preset == "smoke_frvsr"
    assert {one.name: one.values for one in found.differences}["loss.warp"] == ("0.5", "1.0")

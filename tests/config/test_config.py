"""Settings: presets, strictness, overrides, schedules."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from tecogan_dist.base.documents import dump_yaml
from tecogan_dist.base.errors import UserError, run_command
from tecogan_dist.base.storage import Location
from tecogan_dist.config import load as settings
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.overrides import full_help, override, short_help
from tecogan_dist.config.schema import Config, LossConfig, OptimizerConfig
from tecogan_dist.training.schedules import fade_in_at, learning_rate_at
from tests.support.s3_server import S3Server


def test_every_preset_loads_and_survives_a_round_trip() -> None:
    names = settings.preset_names()
    assert {"tecogan", "frvsr", "tecogan_temporal_only", "smoke_frvsr", "smoke_tecogan"} <= set(names)
    for name in names:
        config = settings.load(name)
        assert settings.from_yaml(yaml.safe_dump(settings.to_tree(config)), source=name) == config


def test_tecogan_preset_has_the_published_settings() -> None:
    # shared/original/commands.md, column "case 3"
    config = settings.load("tecogan")
    assert (config.batch_size, config.steps, config.initial_weights) == (4, 500_000, "required")
    assert (config.data.sequence_length, config.data.crop_size, config.data.moving_first_frame) == (10, 32, 0.3)
    assert (config.data.train_scenes, config.data.validation_scenes) == ((2000, 2250), (2251, 2290))
    assert config.model.blocks == 16
    assert config.loss == LossConfig(
        warp=1.0,
        perceptual=0.2,
        adversarial=0.01,
        pingpong=0.5,
        feature_match=0.02,
        feature_match_norms=(12.0, 14.0, 24.0, 100.0),
        fade_in_start=1.0,
        fade_in_increment=0.0,
        fade_in_maximum=1.0,
    )
    assert (config.discriminator.balance_threshold, config.discriminator.temporal_crop) == (0.4, 0.75)
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.beta1, optimizer.epsilon, optimizer.decay_rate) == (5e-5, 0.9, 1e-8, 1.0)
    assert optimizer.kind == "adam"


def test_frvsr_preset_differs_where_the_original_does() -> None:
    tecogan, frvsr = settings.load("tecogan"), settings.load("frvsr")
    assert (frvsr.model.blocks, frvsr.initial_weights) == (10, None)
    assert frvsr.loss == LossConfig(perceptual=0.0, adversarial=0.0, pingpong=0.0, feature_match=0.0)
    alike = dataclasses.replace(frvsr, model=tecogan.model, loss=tecogan.loss, initial_weights=tecogan.initial_weights)
    assert alike == tecogan


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("loss: {adversarail: 1}", "unknown key 'loss.adversarail'"),
        ("stepps: 3", "unknown key 'stepps'"),
        ("steps: many", "steps: "),
        ("loss: 3", "loss: "),
        ("- 1", "mine.yaml: settings are keys with values"),
        ("5", "mine.yaml: settings are keys with values"),
        ("steps: 010", "steps: input should be a valid integer, not '010'"),
        ("steps: 5.0", "steps: input should be a valid integer"),
        ("steps: true", "steps: input should be a valid integer, not true"),
        ("steps: '5'", "steps: input should be a valid integer"),
        ("steps: 9223372036854775808", "64 bits"),
        ("steps:", "steps: input should be a valid integer, not null"),
        ("data: {flip: yes}", "data.flip: input should be a valid boolean, not 'yes'"),
        ("data: {flip: 1}", "data.flip: input should be a valid boolean"),
        ("data: {cache_dir: 5}", "data.cache_dir: input should be a valid string"),
        ("data: {cache_dir: ''}", "data.cache_dir: "),
        ("data: {train_scenes: [-1, 5]}", "data.train_scenes.0: "),
        ("data: {sequence_length: -3}", "data.sequence_length: "),
        ("loss: {warp: 1:30}", "loss.warp: input should be a valid number"),
        ("loss: {warp: [1]}", "loss.warp: input should be a valid number"),
        ("loss:", "loss: "),
        ("loss: {adversrial: 1}", "unknown key 'loss.adversrial': did you mean loss.adversarial?"),
        ("zzzzzzzz: 1", "unknown key 'zzzzzzzz': 'tecogan train --help' lists all"),
        ("1: 2", "mine.yaml: "),
        ("loss: {pingpong: .nan}", "loss.pingpong"),
        ("data: {train_scenes: [1]}", "data.train_scenes"),
        ("cluster: {zero_stage: 4}", "cluster.zero_stage"),
        ("model: {scale: 3}", "model.scale"),
        ("data: {degradation: bi}", "data.degradation"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("batch_size: 3\ncluster: {workers: 2}", "batch_size 3 cannot be divided among 2 workers"),
        ("batch_size: 0", "batch_size: input should be greater than 0, not 0"),
        ("loss: {warp: -1}", "loss.warp: input should be greater than or equal to 0, not -1"),
        ("optimizer: {ema_decay: 1}", "optimizer.ema_decay: input should be less than 1, not 1"),
        ("cluster: {workers: 1, min_workers: 2}", "cluster.min_workers 2 is above cluster.workers 1"),
        ("data: {crop_size: 30}", "multiple of 8"),
        ("loss: {adversarial: 0}", "feature_match needs the discriminator"),
        ("data: {train_scenes: [1, 5], validation_scenes: [5, 9]}", "overlap"),
        ("data: {train_scenes: [9, 5]}", "data.train_scenes begins with 9 and ends with 5"),
        ("discriminator: {temporal_crop: 1e-9}", "temporal_crop leaves 0 pixels of a frame's side"),
        ("steps: 9000000000000000000", "steps: input should be less than or equal to 1000000000000"),
        ("optimizer: {learning_rate: 1e300}", "optimizer.learning_rate: input should be less than or equal to 1"),
        ("optimizer: {decay_rate: 1.5}", "optimizer.decay_rate: input should be less than or equal to 1"),
        ("optimizer: {epsilon: 1e-300}", "optimizer.epsilon: "),
        ("cluster: {workers: 100000000}", "cluster.workers: "),
        ("cluster: {resources_per_worker: {tpu: 0.00001}}", "input should be 0 or at least 0.0001"),
        ("cluster: {compile: on, zero_stage: 3}", "cluster.compile on needs cluster.zero_stage 0, 1 or 2"),
        ("cluster: {compile: graph, zero_stage: 1}", "cluster.compile graph needs cluster.zero_stage 0 ("),
        ("cluster: {compile: true}", "cluster.compile: input should be 'off', 'on', 'graph' or 'auto', not true"),
    ],
)
def test_bad_settings_are_one_sentence(text: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        settings.from_yaml(text, source="mine.yaml")
    sentence = str(caught.value)
    assert part in sentence
    assert "\n" not in sentence


def test_a_missing_preset_names_those_that_are_there() -> None:
    with pytest.raises(UserError, match="presets are frvsr, "):
        settings.load("tecogann")


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_config_is_a_file_here_or_on_an_object_store(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = Location.of(tmp_path)
    if where == "s3":
        server: S3Server = request.getfixturevalue("server")
        folder = Location(server.uri("sweeps/mine"))
    good, bad = folder / "best.yaml", folder / "bad.yaml"
    good.write_bytes("# gesch\u00e4tzt\r\nsteps: 7\r\nloss: {pingpong: 0.25}\r\n".encode())
    bad.write_bytes(b"stepps: 7\n")
    config = settings.load(str(good))
    assert (config.steps, config.loss.pingpong) == (7, 0.25)
    with pytest.raises(UserError, match=r"bad\.yaml: unknown key 'stepps'"):
        settings.load(str(bad))
    bad.write_bytes(b"steps: \xff\n")
    with pytest.raises(UserError, match=r"bad\.yaml is not UTF-8 text"):
        settings.load(str(bad))
    with pytest.raises(UserError, match=r"no preset or file is named '.*gone\.yaml': presets are frvsr, "):
        settings.load(str(folder / "gone.yaml"))


def test_other_addresses_are_no_configs() -> None:
    with pytest.raises(UserError, match=r"https://x/best\.yaml is not a place for files"):
        settings.load("https://x/best.yaml")


def test_yaml_numbers_with_an_exponent_need_no_point() -> None:
    # PyYAML reads 5e-5 as a string.
    assert settings.from_yaml("optimizer: {learning_rate: 5e-5}", source="x").optimizer.learning_rate == 5e-5


@pytest.mark.parametrize("word", ["off", "on", "auto"])
def test_off_and_on_are_words_in_yaml_and_on_the_command_line(word: str) -> None:
    # YAML 1.1 reads them as false and true.
    config = settings.from_yaml(f"cluster: {{compile: {word}}}", source="x")
    assert config.cluster.compile == word
    assert settings.from_yaml(dump_yaml(settings.to_tree(config)), source="x") == config
    assert override(Config(), ["--cluster.compile", word]) == config


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    config = settings.load("frvsr")
    changes = "--optimizer.learning_rate 1e-4 --data.flip False --data.train_scenes 1 2 --data.degradation BI"
    changed = override(config, [*changes.split(), "--model.scale", "2"])
    expected = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, scale=2),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-4),
        data=dataclasses.replace(config.data, flip=False, train_scenes=(1, 2), degradation="BI"),
    )
    assert changed == expected


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--loss.advers", "1"], "did you mean --loss.adversarial"),
        (["--steps", "3", "--batchsize", "1"], "did you mean --batch-size"),
        (["--seed", "2", "--steps", "many"], "--steps cannot be 'many'"),
        (["--data.flip", "perhaps"], "--data.flip cannot be 'perhaps'"),
        (["--data.train_scenes", "1"], "--data.train-scenes cannot be '1'"),
        (["--cluster.compile", "true"], "--cluster.compile cannot be 'true': write off, on, graph or auto"),
        (["--cluster.zero_stage=7"], "--cluster.zero-stage cannot be '7'"),
        (["--model.scale", "8"], "--model.scale cannot be '8'"),
        (["7"], "'7' belongs to no setting"),
        (["--steps", "5", "--steps=6"], "--steps is given twice"),
        (["--steps="], "--steps cannot be ''"),
        (["--steps"], "--steps has no value: write one after it."),
        (["--steps", "010"], "--steps cannot be '010': write the number in plain digits"),
        (["--steps", "1_000"], "--steps cannot be '1_000'"),
        (["--steps", "9" * 30], "too large"),
        (["--steps", "9" * 6000], "too large"),
        (["--steps", "-5"], "steps: input should be greater than or equal to 0, not -5"),
        (["--steps", "5", "6"], "--steps cannot be '5 6'"),
        (["--step", "5"], "there is no setting --step: did you mean --steps?"),
        (["--loss.warp", "nan"], "loss.warp"),
        (["--loss.warp", "1e999"], "too large"),
        (["--data.flip", "1"], "--data.flip cannot be '1': write true or false."),
        (["--model.scale", "04"], "--model.scale cannot be '04': write 4 or 2."),
        (["--seed", "\u0665"], "write the number in plain digits"),
        (["--seed", " 5"], "write the number in plain digits"),
        (["--seed", "5_0"], "write the number in plain digits"),
        (["--cluster.resources-per-worker", "a", "1", "a", "2"], "has the same name twice"),
        (["--cluster.step-timeout", "1e300"], "cluster.step_timeout: "),
        (["--data.windows-per-decode", "9" * 18], "data.windows_per_decode: "),
        (["--data.cache-dir", "a\0b"], "data.cache_dir: input should have no control characters"),
        (["--zzzzzzzz", "1"], "there is no setting --zzzzzzzz: 'tecogan train --help' lists all."),
        (["--data.cache_dir", "\ud800"], "not proper text"),
    ],
)
def test_bad_overrides_are_one_sentence(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        override(Config(), arguments)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_help_shows_every_setting() -> None:
    config = settings.load("frvsr")
    names = [name for name, _ in leaves(config)]
    assert len(names) > 60
    for text in (short_help(config), full_help(config)):
        options = set(re.findall(r"--[a-z][a-z0-9.-]*", text))
        assert {f"--{name.replace('_', '-')}" for name in names} <= options
    assert "--model.blocks 10" in short_help(config)
    assert "Residual blocks of the generator" in full_help(config)
    assert max(map(len, short_help(config).splitlines())) <= 120


def test_names_may_be_written_with_hyphens_or_underscores() -> None:
    hyphens, underscores = (["--data.train-scenes", "1", "2"], ["--data.train_scenes", "1", "2"])
    assert override(Config(), hyphens) == override(Config(), underscores) != Config()


def test_words_may_be_written_as_in_yaml() -> None:
    changed = override(Config(), ["--data.flip", "false", "--data.decoded-cache=true", "--data.cache-dir", "none"])
    assert (changed.data.flip, changed.data.decoded_cache, changed.data.cache_dir) == (False, True, None)
    assert override(Config(), ["--tracking.wandb-project", "true"]).tracking.wandb_project == "true"


def test_renamed_settings_are_understood_in_records_and_named_elsewhere() -> None:
    tree = settings.to_tree(Config())
    tree["tracking"]["validation_scenes"] = 5
    del tree["tracking"]["validation_scene_count"]
    assert settings.from_record(tree, source="run.yaml").tracking.validation_scene_count == 5
    assert "validation_scenes" in tree["tracking"]  # untouched
    with pytest.raises(UserError, match=r"tracking\.validation_scenes is called tracking\.validation_scene_count now"):
        settings.from_yaml("tracking: {validation_scenes: 5}", source="mine.yaml")
    with pytest.raises(UserError, match=r"is called --tracking\.validation-scene-count now"):
        override(Config(), ["--tracking.validation_scenes", "5"])


@pytest.mark.parametrize("name", settings.preset_names())
def test_a_preset_states_only_what_differs_from_the_defaults(name: str) -> None:
    text = (resources.files("tecogan_dist.config") / "presets" / f"{name}.yaml").read_text("utf-8")
    stated = dict(flatten(yaml.safe_load(text)))
    defaults = dict(flatten(settings.to_tree(Config())))
    assert {key for key, value in stated.items() if defaults[key] == value} == set()


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_overrides_are_checked_like_a_file() -> None:
    with pytest.raises(UserError, match="batch_size"):
        override(Config(), ["--batch_size", "0"])


def test_learning_rate_decays_smoothly_or_in_steps() -> None:
    smooth = OptimizerConfig(learning_rate=1e-4, decay_rate=0.5, decay_steps=1000, decay_staircase=False)
    stairs = dataclasses.replace(smooth, decay_staircase=True)
    assert learning_rate_at(smooth, 500) == pytest.approx(1e-4 * 0.5**0.5)
    assert [learning_rate_at(stairs, step) for step in (0, 999, 1000, 2000)] == [1e-4, 1e-4, 5e-5, 2.5e-5]


def test_losses_fade_in_to_the_maximum() -> None:
    loss = LossConfig(fade_in_start=0.1, fade_in_increment=0.25, fade_in_maximum=0.5)
    assert [fade_in_at(loss, step) for step in (0, 1, 2, 9)] == pytest.approx([0.1, 0.35, 0.5, 0.5])


def test_commands_show_a_user_error_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(_: list[str] | None) -> None:
        raise UserError("give a folder.")

    with pytest.raises(SystemExit) as caught:
        run_command(fails)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: give a folder.\n"

"""The spaces in tune_spaces/: they go with their presets, and their comments and README say what is true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tecogan_dist.config import load as settings
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tecogan_dist.tuning.checks import check_space
from tecogan_dist.tuning.configs import largest_perceptual, needed_metrics, number_of_trials
from tecogan_dist.tuning.reading import read_space, shipped_spaces, space_from_yaml
from tests.support.paths import REPOSITORY

FOLDER = REPOSITORY / "tune_spaces"
README = (FOLDER / "README.md").read_text("utf-8")
SPACES = pytest.mark.parametrize("file", shipped_spaces(), ids=lambda path: path.stem)


def command_of(file: Path) -> list[str]:
    """The words of the command in a space's comments."""
    text = file.read_text("utf-8")
    lines = re.search(r"#   tecogan (tune(?:.*\\\n)*.*)\n", text)
    assert lines, "no command line"
    return shlex.split(re.sub(r"\\\n#", "", lines[1]))


def config_of(file: Path) -> Config:
    """As the command in the comments gives it."""
    words = command_of(file)
    own = {"--space", "--config", "--data", "--output"}
    given = {word: words[index + 1] for index, word in enumerate(words) if word in own}
    assert given.keys() == own
    assert REPOSITORY / given["--space"] == file
    first = next(index for index, word in enumerate(words) if word.startswith("--") and word not in own)
    return override(settings.load(given["--config"]), words[first:])


def test_all_are_shipped() -> None:
    names = {"loss_weights", "pbt_loss_weights", "discriminator", "pareto_tof_lpips", "smoke"}
    assert names == {file.stem for file in shipped_spaces()}


@SPACES
def test_it_goes_with_its_command(file: Path) -> None:
    space, config = read_space(file), config_of(file)
    check_space(space, config, source=str(file))
    assert (largest_perceptual(config, space) > 0) == (config.perceptual.weights is not None)
    assert config.initial_weights is not None


@SPACES
def test_ranges_hold_the_published_value(file: Path) -> None:
    """Or a search around it could not find that nothing needs to change."""
    published = settings.to_tree(settings.load("tecogan"))
    for name, distribution in read_space(file).settings.items():
        section, leaf = name.split(".")
        value = published[section][leaf]
        if distribution.kind == "choice":
            assert value in distribution.values, name
        else:
            low, high = distribution.values[:2]
            assert low <= value <= high, name
    for name, text in re.findall(r"^  ([a-z_.]+): \{.*#(?: published:)? ([0-9.]+)", file.read_text("utf-8"), re.M):
        section, leaf = name.split(".")
        assert published[section][leaf] == float(text.rstrip(".")), name


@SPACES
def test_the_comments_count_right(file: Path) -> None:
    space = read_space(file)
    comments = " ".join(
        line.removeprefix("#").strip() for line in file.read_text("utf-8").split("\n\n")[0].splitlines()
    )
    assert f"{number_of_trials(space)} trials x {space.steps} steps" in comments
    assert space.repeat is not None
    top = "1" if space.repeat.top == 1 else str(space.repeat.top)
    repeats = (space.repeat.top + 1) * space.repeat.seeds * space.steps
    assert f"({top} + the preset) x {space.repeat.seeds} seeds x {space.steps} = {repeats}" in comments
    hours = re.search(r"At 0\.33 s a step \(one H100, fp32\) (\d+) steps are ([\d.]+) hours", comments)
    if file.stem == "smoke":
        assert hours is None
        return
    assert hours
    steps, stated = int(hours[1]), float(hours[2])
    searched = steps - space.steps - repeats
    everything = number_of_trials(space) * space.steps
    assert searched == (64000 if space.scheduler.kind == "asha" else everything)
    assert stated == pytest.approx(steps * 0.33 / 3600, abs=0.06)
    assert re.search(rf"`{file.name}`.*\| {stated:.1f} h \|", README)


@SPACES
def test_what_needs_weights_says_so(file: Path) -> None:
    needs = {"lpips", "tlp"} & set(needed_metrics(read_space(file)))
    assert bool(needs) == ("Needs the weights of LPIPS's network" in file.read_text("utf-8"))


def test_the_smoke_search_can_be_repeated_on_two_cores() -> None:
    space = read_space(FOLDER / "smoke.yaml")
    assert (space.concurrent, space.trial.workers, space.trial.cpus_per_worker) == (1, 1, 2)
    assert number_of_trials(space) >= 8
    assert space.scheduler.kind == "asha"
    assert needed_metrics(space) == ("tof",)


def test_the_readme_lists_the_spaces_and_its_example_is_one() -> None:
    assert set(re.findall(r"^\| `(\w+)\.yaml`", README, re.M)) == {file.stem for file in shipped_spaces()}
    for target in re.findall(r"\]\(([^)#\s]+)\)", README):
        assert "://" in target or (FOLDER / target).exists(), target
    example = re.search(r"```yaml\n(.*?)```", README, re.S)
    assert example
    space = space_from_yaml(example[1], source="README.md")
    check_space(space, override(settings.load("tecogan"), ["--initial-weights", "none"]), source="README.md")
    kinds = {distribution.kind for distribution in space.settings.values()}
    assert kinds | {"grid"} == {"uniform", "loguniform", "quniform", "randint", "choice", "grid"}

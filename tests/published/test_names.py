"""A name where weights are wanted: what it stands for, and what happens where it cannot be had."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.commands import evaluate, train
from tecogan_dist.commands.parser import judged_elsewhere
from tecogan_dist.commands.places import Place
from tecogan_dist.config.load import load
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.published import default, names
from tecogan_dist.published.cache import Cache, FileRecord
from tecogan_dist.published.catalogue import parse
from tecogan_dist.published.default import choose
from tecogan_dist.published.names import if_cached, is_name, resolve
from tecogan_dist.runs.find import load_upscaler, read_weights, weights_file
from tecogan_dist.training.begin import build_networks
from tecogan_dist.training.task import TrainingTask, read_networks
from tecogan_dist.tuning.folder import keep_starting_weights
from tecogan_dist.weights.vgg import read_vgg, save_vgg
from tests.support.lpips_files import write_trunk
from tests.support.published_files import checkpoint_zip, entry, using
from tests.support.web_server import Site, serving
from tests.support.weights_files import save_small

torch.set_num_threads(1)
MODEL = checkpoint_zip()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server of what tecogan, frvsr, vgg19 and lpips-alex stand for here, and a cache of its own."""
    monkeypatch.setenv("TECOGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with serving() as site:
        site.files |= {"/model.zip": MODEL, "/frvsr.zip": checkpoint_zip(seed=2)}
        text = entry("tecogan", site.url("/model.zip")) + entry("frvsr", site.url("/frvsr.zip"))
        text += entry("small", more="  packaged: true\n").replace("model.zip\n", "small.safetensors\n")
        text += entry("lpips-alex", site.url("/alex.pth"), kind="lpips").replace("model.zip\n", "alex.pth\n", 1)
        with using(text):
            yield site


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's small model, in a package that has one for certain."""
    (tmp_path / "package").mkdir()
    save_small(tmp_path / "package" / "small.safetensors")
    monkeypatch.setattr(names, "package_folder", lambda: tmp_path / "package")
    return tmp_path / "package" / "small.safetensors"


def test_weights_are_read_by_name_and_fetched_once(site: Site) -> None:
    weights = read_weights("tecogan")
    assert (weights.model.blocks, weights.model.channels, weights.degradation) == (2, 8, "BD")
    assert load_upscaler("tecogan", "cpu").generator is not None
    assert str(weights_file("tecogan")).endswith("cache/tecogan/tecogan.safetensors")
    assert len(site.log) == 1


@pytest.mark.usefixtures("site")
def test_a_file_or_folder_of_that_name_is_meant_by_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_small(tmp_path / "w.safetensors", model=ModelConfig(blocks=1, channels=8, flow_width=4))
    (tmp_path / "tecogan").mkdir()
    assert read_weights("tecogan").model.blocks == 2
    assert "tecogan is taken as the name of weights of an upscaler that are published; what is here is ./tecogan" in (
        capsys.readouterr().err
    )
    for place in ("./tecogan", Path("tecogan"), str(tmp_path / "tecogan")):
        with pytest.raises(UserError, match="no weights are at"):
            read_weights(place)
    assert read_weights("w.safetensors").model.blocks == 1


def test_a_name_of_something_else_is_refused(site: Site) -> None:
    with pytest.raises(
        UserError, match=r"lpips-alex is published as weights of LPIPS's network, and weights of an ups"
    ):
        read_weights("lpips-alex")
    assert not site.log
    with pytest.raises(UserError, match="no weights are at tecogna"):
        read_weights("tecogna")
    assert [is_name(word) for word in ("tecogan", "./tecogan", "Tecogan", Path("tecogan"), None)] == [
        True,
        *[False] * 4,
    ]
    assert resolve("s3://bucket/run", "weights") == "s3://bucket/run"


def test_without_a_name_tecogan_is_taken_and_without_a_network_the_small_model(site: Site, small: Path) -> None:
    said: list[str] = []
    assert choose(None, said.append).endswith("cache/tecogan/tecogan.safetensors")
    site.files.clear()
    assert choose(None, said.append).endswith("cache/tecogan/tecogan.safetensors")  # it is there
    assert len(said) == 2  # that it was fetched, and what it became
    assert choose("w.safetensors", said.append) == "w.safetensors"
    assert choose("small", said.append) == str(small)


def test_the_small_model_is_taken_with_a_line_that_says_so(site: Site, small: Path) -> None:
    site.files.clear()
    said: list[str] = []
    assert choose(None, said.append) == str(small)
    assert said[-1] == (
        f"no weights were named and tecogan cannot be fetched ({site.url('/model.zip')} is gone (404 Not Found)): the "
        "small model of this package (small) is used instead"
    )
    with pytest.raises(UserError, match="tecogan cannot be fetched"):
        choose("tecogan", said.append)


def test_without_a_place_for_a_cache_it_is_the_small_model_too(
    site: Site, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TECOGAN_CACHE", "/dev/null/cache")
    said: list[str] = []
    assert choose(None, said.append) == str(small)
    assert "cannot be made (File exists): name another in $TECOGAN_CACHE" in said[-1]
    assert not site.log


def test_without_any_the_sentence_says_what_to_do(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(names, "package_folder", lambda: tmp_path)
    site.files.clear()
    with pytest.raises(UserError, match=r"download .* with a browser"):
        choose(None, lambda _line: None)
    assert default.DEFAULT == "tecogan"


def test_the_real_catalogue_without_a_network_is_quick(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request goes to a proxy that is not there: as on a machine without a network, and with one too."""
    monkeypatch.setenv("TECOGAN_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    began = time.monotonic()
    assert choose(None, lambda _line: None) == str(small)
    assert time.monotonic() - began < 5


def test_training_starts_from_a_name(site: Site, tmp_path: Path) -> None:
    words = ["--config", "smoke_frvsr", "--data", "store", "--output", "run", "--initial-weights", "frvsr"]
    with judged_elsewhere():
        _, config = train.parse(words)
    assert not site.log  # whoever only reads the options fetches nothing
    assert config.initial_weights == "frvsr"  # and not a path of this machine
    config = dataclasses.replace(config, model=ModelConfig(blocks=2, channels=8, flow_width=4))
    upscaler, _, sentence = build_networks(config, initial_weights=config.initial_weights)
    assert "frvsr" in sentence
    assert torch.equal(
        upscaler.state_dict()["generator.input.bias"], read_weights("frvsr").upscaler["generator.input.bias"]
    )
    copy = keep_starting_weights(Location.of(tmp_path / "sweep"), "frvsr")
    assert read_weights(copy).model.blocks == 2


def test_a_preset_that_needs_weights_says_that_a_name_will_do() -> None:
    assert load("tecogan").initial_weights == "required"
    with pytest.raises(UserError, match="give --initial-weights frvsr"):
        train.parse(["--config", "tecogan", "--data", "s", "--output", "r"])


def test_vgg19_of_the_perceptual_loss_by_name(site: Site, tmp_path: Path) -> None:
    vgg = read_vgg("random", seed=3)
    cache, wanted = Cache(tmp_path / "cache"), parse(entry("vgg19", kind="vgg"), source="a test")["vgg19"]
    with cache.writing(wanted), cache.replacing(wanted) as folder:
        save_vgg(folder / "vgg19.safetensors", vgg)
        cache.keep(folder, wanted, address="", download=FileRecord(bytes=1, sha256="0" * 64), note="")
    config = load("smoke_tecogan")
    perceptual = dataclasses.replace(config.perceptual, weights="vgg19")
    loss = dataclasses.replace(config.loss, perceptual=0.2)
    task = TrainingTask(
        config=dataclasses.replace(config, perceptual=perceptual, loss=loss),
        data=Location("store"),
        training_scenes=(),
        validation_scenes=(),
        output=Location("run"),
    )
    with using(entry("vgg19", site.url("/never"), kind="vgg")):
        found = read_networks(task).vgg
    assert found is not None
    assert torch.equal(found.state["conv1_1.weight"], vgg.state["conv1_1.weight"])
    assert not site.log


def test_lpips_weights_by_name_and_from_the_cache(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv("TECOGAN_LPIPS_WEIGHTS", raising=False)
    site.files["/alex.pth"] = write_trunk(tmp_path / "alex.pth").read_bytes()
    words = ["--results", "a", "--targets", "b", "--output", "c"]
    assert if_cached("lpips-alex") is None
    with pytest.raises(UserError, match="tecogan fetch lpips-alex"):
        evaluate._trunk(evaluate.parse(words))
    assert not site.log
    with pytest.raises(UserError, match="lpips-alex is AlexNet, and --lpips-net is vgg"):
        evaluate._trunk(evaluate.parse([*words, "--lpips-weights", "lpips-alex", "--lpips-net", "vgg"]))
    for more in (["--lpips-weights", "lpips-alex"], []):  # from now on without the option too
        trunk = evaluate._trunk(evaluate.parse([*words, *more]))
        assert trunk.path == tmp_path / "cache" / "lpips-alex" / "alex.pth"
    assert len(site.log) == 1


def test_names_are_no_places_for_a_job() -> None:
    for option, word in (
        ("--weights", "tecogan"),
        ("--weights", "small"),
        ("--initial-weights", "frvsr"),
        ("--perceptual.weights", "vgg19"),
        ("--lpips-weights", "lpips-alex"),
    ):
        assert not Place(option, word, True).is_here
        assert Place(option, f"./{word}", True).is_here


def test_the_small_model_of_the_package_is_what_it_should_be() -> None:
    """Under 2 MB, 4 to 6 blocks of 32 channels, half-width flow, BD: issue 13."""
    file = names.package_folder() / "small.safetensors"
    assert file.stat().st_size < 2_000_000
    weights = read_weights("small")
    model = weights.model
    assert 4 <= model.blocks <= 6
    assert (model.channels, model.flow_width, weights.degradation) == (32, ModelConfig().flow_width // 2, "BD")
    assert weights.step > 0

"""From a path to weights: files, checkpoints and runs, here and on an object store, whole and damaged."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.runs.checkpoints import (
    EMA_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    StateFile,
    TrainingState,
    checkpoint_name,
    file_digest,
)
from tecogan_dist.runs.find import load_upscaler, read_weights
from tecogan_dist.weights.format import save_weights
from tests.support.s3_server import S3Server

SMALL = ModelConfig(blocks=1, channels=8, flow_width=4)


def save_small(path: Path, *, step: int) -> Path:
    """Weights of their own for each step."""
    torch.manual_seed(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = build_upscaler(SMALL).state_dict()
    save_weights(path, upscaler_state=state, model=SMALL, run_config=None, step=step)
    return path


def write_checkpoint(run: Path, step: int, *, complete: bool = True) -> Path:
    folder = run / checkpoint_name(step)
    weights = save_small(folder / WEIGHTS_FILE, step=step)
    if complete:
        files = {WEIGHTS_FILE: file_digest(weights)}
        (folder / STATE_FILE).write_bytes(StateFile(TrainingState(step=step), {}, 0, files).to_json())
    return folder


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1  # of a tensor: the format itself stays right
    path.write_bytes(data)


Publish = Callable[[Path], Location]


@pytest.fixture(params=["local", "s3", "gs"])
def publish(request: pytest.FixtureRequest, tmp_path: Path) -> Publish:
    """Bring a local file or folder to where it is to be found; for a disk it is there."""
    if request.param == "local":
        return Location.of

    def upload(path: Path) -> Location:
        name = f"{tmp_path.name}/{path.name}"
        if request.param == "s3":
            server: S3Server = request.getfixturevalue("server")
            place = Location(server.uri(name))
        else:
            place = Location(request.getfixturevalue("gs_address").format(name))
        if path.is_file():
            place.put(path)
        for file in path.rglob("*.*"):
            if file.is_file():
                (place / str(file.relative_to(path))).put(file)
        return place

    return upload


def test_a_file(publish: Publish, tmp_path: Path) -> None:
    place = publish(save_small(tmp_path / "small.safetensors", step=7))
    for given in (place, str(place)):
        weights = read_weights(given)
        assert (weights.step, weights.model, weights.degradation) == (7, SMALL, "BD")
    upscaler = load_upscaler(place, "cpu")
    assert not upscaler.training
    assert all(torch.equal(tensor, weights.upscaler[name]) for name, tensor in upscaler.state_dict().items())


def test_a_run_stands_for_its_newest_complete_checkpoint(publish: Publish, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_checkpoint(run, 90)
    write_checkpoint(run, 100)
    cut_off = write_checkpoint(run, 110, complete=False)
    place = publish(run)
    assert read_weights(place).step == 100
    assert read_weights(place / checkpoint_name(90)).step == 90
    assert read_weights(place / checkpoint_name(90) / WEIGHTS_FILE).step == 90
    with pytest.raises(UserError) as caught:
        read_weights(place / cut_off.name)
    folder = place / cut_off.name
    sentence = f"{folder} is a checkpoint that was not written to its end (state.json is missing): give another one."
    assert str(caught.value) == sentence
    with pytest.raises(UserError) as caught:
        read_weights(folder / WEIGHTS_FILE)
    assert str(caught.value) == sentence


def test_a_flipped_byte_in_a_checkpoint_is_found(publish: Publish, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "run", 100)
    flip_a_byte(checkpoint / WEIGHTS_FILE)
    run = publish(tmp_path / "run")
    for place in (run, run / checkpoint.name, run / checkpoint.name / WEIGHTS_FILE):
        with pytest.raises(UserError, match=r"is damaged \(the checksum of weights\.safetensors is wrong\)"):
            read_weights(place)
        with pytest.raises(UserError, match="checksum"):
            load_upscaler(place, "cpu")


def test_weights_that_a_checkpoint_does_not_know_are_refused(publish: Publish, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "run", 100)
    save_small(checkpoint / EMA_FILE, step=100)
    run = publish(tmp_path / "run")
    with pytest.raises(UserError, match=r"weights_ema\.safetensors\S* is not one of its checkpoint\'s files"):
        read_weights(run / checkpoint.name / EMA_FILE)


def test_other_files_and_places_without_weights(publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.pth").write_text("x")
    folder = publish(tmp_path / "folder")
    with pytest.raises(UserError, match=r"notes\.pth\S* is not a \.safetensors file: .*tecogan convert"):
        read_weights(folder / "notes.pth")
    for place in (folder, folder / "nothing"):
        with pytest.raises(UserError, match=rf"no weights are at {re.escape(str(place))}: .*checkpoint_\*"):
            read_weights(place)

"""Commands of which something is killed again and again, at random, and that end as if nothing had happened.

The kills come from a seed, ``CHAOS_SEED`` (default 1): another one is another story. ``CHAOS_ROUNDS`` is how many times
each kind of process is killed in the training; without it, the driver and three other kinds are, once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from tecogan_dist.commands import prepare, upscale
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import build_upscaler
from tecogan_dist.weights.format import save_weights
from tests.support.chaos import DRIVER, kills, until_done
from tests.support.training_runs import TINY, Command, assert_same_run, write_store
from tests.support.video_files import write_video

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "0"))
IMPATIENT = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # a GCS that was killed is waited for a minute otherwise
    "RAY_gcs_server_request_timeout_seconds": "5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
}


@pytest.fixture
def random() -> Random:
    return Random(os.environ.get("CHAOS_SEED", "1"))


def tecogan(*words: str | Path, **env: str) -> Command:
    """``tecogan WORDS`` as a process."""
    return Command([sys.executable, "-m", "tecogan_dist.cli", *map(str, words)], env=env)


def test_training(random: Random, tmp_path: Path) -> None:
    """Workers, decoders, the driver and its embedded Ray's own processes."""
    store, config = write_store(tmp_path / "store"), tmp_path / "tiny.yaml"
    config.write_text(TINY)

    def train(output: Path) -> Command:
        words = ("train", "--config", config, "--data", store, "--output", output)
        return tecogan(*words, "--cluster.max_failures", str(10 * max(1, ROUNDS)), **IMPATIENT)

    straight = train(tmp_path / "straight")
    assert straight.finish() == 0, straight.end
    others = ["worker", "decoder", "controller", "GCS", random.choice(["raylet", "agent"])]
    victims = [DRIVER, *others] * ROUNDS or [DRIVER, *random.sample(others, 3)]
    told = until_done(
        lambda: train(tmp_path / "run"),
        kills(random, victims, steps=4, seconds=10),
        progress=r"^step \d+/",
    )
    print(*told, sep="\n")
    assert not any("never happened" in line for line in told)
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_prepare(random: Random, tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(films / name, 60, height=192, width=256)

    def words(store: str) -> list[str | Path]:
        return ["prepare", films, "--output", tmp_path / store, "--scene-length", "20", "--workers", "1"]

    prepare.main(list(map(str, words("straight")[1:])))
    until_done(
        lambda: tecogan(*words("store")),
        kills(random, [DRIVER] * 3, steps=2, seconds=1),
        progress="^scene ",
        has_begun=lambda: list((tmp_path / "store" / "clips").glob(".*")),
    )
    assert files(tmp_path / "store") == files(tmp_path / "straight")


def test_upscale(random: Random, tmp_path: Path) -> None:
    model = ModelConfig(blocks=1, channels=8, flow_width=4)
    torch.manual_seed(1)
    weights, film = tmp_path / "weights.safetensors", write_video(tmp_path / "film.mp4", 30)
    save_weights(weights, upscaler_state=build_upscaler(model).state_dict(), model=model, run_config=None)
    options = ("--weights", weights, "--segment-frames", "7")
    upscale.main([*map(str, (film, tmp_path / "straight" / "frames", *options))])
    words = ("upscale", film, tmp_path / "out" / "frames", *options)
    until_done(
        lambda: tecogan(*words),
        kills(random, [DRIVER] * 3, steps=0, seconds=1),
        progress="frame",
        has_begun=lambda: list((tmp_path / "out").glob("*.unfinished/.segment_*/frame_*")),
    )
    assert files(tmp_path / "out") == files(tmp_path / "straight")


def files(folder: Path) -> dict[str, bytes]:
    """All files, hidden ones too, but for locks, which stay."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

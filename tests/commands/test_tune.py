"""What ``tecogan tune`` refuses before anything starts, in one sentence, leaving everything as it was."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
import ray

from tecogan_dist import cli
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.lock import WriterLock
from tecogan_dist.base.storage import Location
from tecogan_dist.commands import tune
from tecogan_dist.config.schema import Config
from tecogan_dist.runs.checkpoints import WEIGHTS_FILE, checkpoint_name
from tecogan_dist.tuning.folder import write_sweep_file
from tecogan_dist.tuning.reading import read_space
from tests.support.local_ray import small_ray
from tests.support.plain_runs import make_config, run
from tests.support.sweeps import SPACE, TINY, arguments
from tests.support.training_runs import write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store")


GRID = """
settings:
  loss.pingpong: {grid: [0.1, 0.2, 0.3]}
  loss.warp: {grid: [0.5, 1.0, 2.0]}
searcher: {kind: grid}
trials: 8
score: {metrics: {tof: min}}
steps: 20
measure_every: 5
"""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("loss.pingpong: {", "loss.pingpnog: {"), "loss.pingpnog.*did you mean loss.pingpong"),
        (("[0.1, 1.0]", "[-0.1, 1.0]"), "loss.pingpong.*greater than or equal to 0"),
        (("{tof: min}", "{vmaf: min}"), "vmaf"),
        (("{tof: min}", "{tof: max}"), "tof"),
        (("{tof: min}", "{tlp: min}"), "tlp needs the weights of LPIPS's network"),
        (("trials: 5", "trials: none"), "trials"),
        (("trials: 5", "trails: 5"), "unknown key 'trails'"),
        (("measure_every: 5", "measure_every: 7"), "measure_every"),
        (("settings:", "settings: {"), "is not valid YAML"),
        (("kind: asha", "kind: hyperband"), "hyperband"),
        (("concurrent: 1", "trial: {workers: 3}"), "batch_size 2 cannot be divided among 3 workers"),
        (("trials: 5", "trials: 5\nfixed: {model.channels: 1000000}"), r"needs [0-9.]+ [TP]B of memory"),
        (("trials: 5", "trials: 5\nfixed: {data.crop_size: 800000}"), r"needs [0-9.]+ [TP]B of memory"),
        ((SPACE, "steps: 20"), "settings"),
        ((SPACE, GRID), "9 combinations"),
    ],
)
def test_spaces_that_are_refused(
    change: tuple[str, str], sentence: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no weights there
    monkeypatch.delenv("TECOGAN_LPIPS_WEIGHTS", raising=False)
    assert change[0] in SPACE
    words = arguments(tmp_path, store=store, output=tmp_path / "out", space=SPACE.replace(*change))
    with pytest.raises(UserError, match=sentence) as refusal:
        tune.main(words)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.validation-scenes", "none"], "--data.validation-scenes FIRST LAST"),
        (["--data.validation-scenes", "9", "9"], "no scene of the clip store is selected"),
        (["--loss.perceptual", "0.2"], "perceptual.weights"),
        (["--initial-weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--initial-weights", "required"], "give --initial-weights frvsr"),
        (["--spcae", "x"], "--spcae: did you mean --space"),
        (["--cluster.address", "127.0.0.1:1"], r"no Ray cluster answers at 127\.0\.0\.1:1"),
    ],
)
def test_settings_that_are_refused(words: list[str], sentence: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        tune.main([*arguments(tmp_path, store=store, output=tmp_path / "out"), *words])
    assert not [path for path in tmp_path.rglob("out/*") if path.name != ".lock"]


def test_folders_that_are_not_this_sweeps(store: Path, tmp_path: Path) -> None:
    output = tmp_path / "films"
    output.mkdir()
    (output / "film.mkv").write_bytes(b"a film")
    with pytest.raises(UserError, match=r"holds files but no sweep \(no sweep.yaml\): give --output a new"):
        tune.main(arguments(tmp_path, store=store, output=output))
    assert [path.name for path in output.iterdir()] == ["film.mkv"]


def test_one_sweep_at_a_time(store: Path, tmp_path: Path) -> None:
    words = arguments(tmp_path, store=store, output=tmp_path / "out")
    with (
        WriterLock(Location.of(tmp_path / "out")),
        pytest.raises(UserError, match=r"another process \(.*\) is writing"),
    ):
        tune.main(words)
    with pytest.raises(UserError, match="no Ray cluster answers"):
        tune.main([*words, "--cluster.address", "127.0.0.1:1"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]  # it was there before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("initial.safetensors", b"not weights"),
        ("trials/0000.json", b'{"values": {"loss.pingpong": 0.5'),
        ("trials/0000.json", b"[" * 100_000),
        ("sweep.yaml", b"space: null"),
    ],
)
def test_what_a_sweep_left_is_read_before_a_ray_is_started(
    file: str, text: bytes, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "connected_for", lambda _: pytest.fail("a Ray is started"))
    output = tmp_path / "out"
    words = [*arguments(tmp_path, store=store, output=output), "--initial-weights", str(tmp_path / "moved_away")]
    options, base = tune.parse(words)
    write_sweep_file(
        Location.of(output), space=read_space(options.space), config=base, data=Location.of(store).absolute()
    )
    (output / file).parent.mkdir(exist_ok=True)
    (output / file).write_bytes(text)
    with pytest.raises(UserError, match=re.escape(str(output / file))):
        tune.main(words)
    assert (output / file).read_bytes() == text


MORE = [
    (SPACE + "trial: {cpus_per_worker: 4}\n", TINY, r"4 CPUs and 0 GPUs cannot hold 1 workers of 4 CPUs"),
    (SPACE + "trial: {resources_per_worker: {tpu: 1}}\n", TINY, r"1 tpu"),
    (SPACE.replace("concurrent: 1", "concurrent: 3"), TINY, r"3 trials at a time, 3 workers of 1 CPU.*concurrent 2"),
    (SPACE, TINY + "cluster: {device: cuda}\n", r"0 GPUs cannot hold 1 workers of 1 CPU and 1 GPU"),
]


def test_more_than_the_machines_have(store: Path, tmp_path: Path) -> None:
    with small_ray(cpus=4, num_gpus=0):
        for space, config, sentence in MORE:
            words = arguments(tmp_path, store=store, output=tmp_path / "out", space=space, config=config)
            with pytest.raises(UserError, match=sentence):
                tune.main(words)
    assert not (tmp_path / "out" / "sweep.yaml").exists()


def test_more_cpus_than_this_machine_has(store: Path, tmp_path: Path) -> None:
    space = SPACE + f"trial: {{cpus_per_worker: {(os.cpu_count() or 1) + 1}}}\n"
    words = arguments(tmp_path, store=store, output=tmp_path / "out", space=space)
    with pytest.raises(UserError, match=rf"\(trial\.cpus_per_worker {os.cpu_count() or 1}\)"):
        tune.main(words)


def test_the_starting_weights_are_copied_and_stay_where_they_are(tmp_path: Path) -> None:
    """Another command may train the run on while the sweep goes on."""
    run(make_config(["--steps", "1"]), tmp_path / "frvsr")
    weights = tmp_path / "frvsr" / checkpoint_name(1) / WEIGHTS_FILE
    before = weights.read_bytes()
    output = tmp_path / "out"
    output.mkdir()
    base = dataclasses.replace(Config(), initial_weights=str(tmp_path / "frvsr"))
    first = tune._for_trials(base, Location.of(output))
    run(make_config(["--steps", "2"]), tmp_path / "frvsr")
    assert tune._for_trials(base, Location.of(output)) == first
    assert Path(str(first.initial_weights)).read_bytes() == before == weights.read_bytes()


def test_it_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(["tune", "--help"])
    assert ending.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("examples:\n  tecogan tune --space tune_spaces/loss_weights.yaml")
    assert "--loss.adversarial" in shown

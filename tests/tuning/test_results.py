"""What a sweep leaves in its folder: a table, and a config and weights that train and upscale take."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.commands import train, upscale
from tecogan_dist.config import load as settings
from tecogan_dist.runs.checkpoints import EMA_FILE, WEIGHTS_FILE, checkpoint_name
from tecogan_dist.runs.find import read_weights
from tecogan_dist.tuning.configs import full_config
from tecogan_dist.tuning.ranking import summarise
from tecogan_dist.tuning.records import Segment, SweepResults, TrialRecord, TrialState
from tecogan_dist.tuning.results import (
    front_line,
    plain_table,
    short_names,
    table,
    training_command,
    trials_csv,
    value_text,
    write_results,
)
from tecogan_dist.tuning.space import Distribution, Repeat, Score, Space
from tests.support.plain_runs import make_config, run
from tests.support.s3_server import S3Server

SPACE = Space(
    settings={
        "loss.warp": Distribution("uniform", (0.0, 2.0)),
        "discriminator.balance_threshold": Distribution("choice", (0.4, 0.6)),
    },
    fixed={"optimizer.beta1": 0.8},
    score=Score(metrics={"tof": "min"}),
    trials=3,
    steps=4,
    measure_every=2,
    repeat=Repeat(top=1, seeds=2),
)
BASE = make_config(["--steps", "5000", "--data.train-scenes", "1", "5", "--loss.pingpong", "0.25"])
STORE = Location("/data/my store")


def trial(
    number: int, state: TrialState, tofs: list[float], *, warp: float, folder: Location | None = None
) -> TrialRecord:
    steps = [2 * (index + 1) for index in range(len(tofs))]
    values = {"loss.warp": warp, "discriminator.balance_threshold": 0.4}
    return TrialRecord(
        number=number,
        seed=1,
        segments=(Segment(values=values, first_step=0),),
        state=state,
        scores={step: {"psnr": 30.0 + tof, "tof": tof} for step, tof in zip(steps, tofs, strict=True)},
        times={step: 1000.0 + 10 * step for step in steps},
        began=1000.5,
        folder=folder,
    )


def results_of(trials: list[TrialRecord], *, repeats: tuple[TrialRecord, ...] = ()) -> SweepResults:
    preset = dataclasses.replace(trial(0, "complete", [0.31, 0.21], warp=1.0), role="preset")
    return summarise(
        SPACE,
        preset_values=preset.values,
        trials=trials,
        preset=preset,
        repeats=repeats,
        bicubic={"psnr": 28.0, "tof": 0.5},
    )


def sweep(folder: Location | None = None) -> SweepResults:
    """Trial 1 is the best."""
    failed = dataclasses.replace(trial(2, "failed", [], warp=1.5), reason='worker 0 failed:\nout of "memory", twice')
    stopped = dataclasses.replace(trial(0, "stopped", [0.3], warp=0.1234567), reason="stopped by asha after step 2")
    trials = [stopped, trial(1, "complete", [0.3, 1 / 7], warp=0.7, folder=folder), failed]
    again = tuple(
        dataclasses.replace(
            trial(index, "complete", [0.3, tof], warp=0.7), role="repeat", repeats=repeats, seed=2 + index
        )
        for index, (repeats, tof) in enumerate([(1, 0.14), (1, 0.15), (None, 0.2), (None, 0.22)])
    )
    return results_of(trials, repeats=again)


def test_the_front_is_named() -> None:
    trials = [trial(0, "complete", [0.1], warp=0.1), trial(1, "complete", [0.2], warp=0.2)]
    assert front_line(results_of(trials)) == []
    both = dataclasses.replace(SPACE, score=Score(metrics={"tof": "min", "psnr": "max"}, combine="pareto"), repeat=None)
    worst = dataclasses.replace(trial(2, "complete", [0.3], warp=0.3), scores={2: {"psnr": 20.0, "tof": 0.3}})
    results = summarise(
        both, preset_values=trials[0].values, trials=[*trials, worst], preset=None, repeats=[], bicubic={}
    )
    (line,) = front_line(results)
    assert line.startswith("the front (no other trial is better in everything): ")
    assert set(line.partition(": ")[2].split(", ")) == {"0000", "0001"}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A run with checkpoints after steps 2 and 4."""
    folder = Location.of(tmp_path_factory.mktemp("run"))
    run(make_config(["--steps", "4", "--tracking.save-every", "2"]), folder)
    return folder


def test_the_winner_can_be_trained_and_used(
    run_folder: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Location.of(tmp_path / "my sweep")
    results = sweep(run_folder)
    written = write_results(output, results, base=BASE, data=STORE)
    assert [place.name for place in written] == ["trials.csv", "best.yaml", "best.safetensors"]
    assert all(place.is_file() for place in written)

    config = settings.load(str(output / "best.yaml"))
    assert config == full_config(BASE, SPACE, results.trials[1].values)
    assert (config.loss.warp, config.discriminator.balance_threshold, config.optimizer.beta1) == (0.7, 0.4, 0.8)
    assert (config.steps, config.loss.pingpong) == (5000, 0.25)

    comment = [line for line in (output / "best.yaml").path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    assert "Trial 1, the best of 3, with loss.warp 0.7, discriminator.balance_threshold 0.4." in text
    assert "At step 4: PSNR 30.14, tOF 0.1429. The preset at step 4: PSNR 30.21, tOF 0.2100." in text
    assert "Trial 1 is better than the preset: tOF 0.1450 +- 0.0071 against 0.2100 +- 0.0141 over 2 seeds" in text
    command = comment[-1].removeprefix("#").strip()
    assert command == training_command(output, data=STORE)
    program, name, *words = shlex.split(command)
    assert (program, name) == ("tecogan", "train")
    options, parsed = train.parse(words)
    assert (options.data, options.output, parsed) == (str(STORE), str(output / "best_run"), config)

    weights = output / "best.safetensors"
    assert weights.sha256() == (run_folder / checkpoint_name(4) / WEIGHTS_FILE).sha256()
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(2):
        Image.fromarray(np.full((16, 24, 3), 40 * number, np.uint8)).save(frames / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    upscale.main(["frames", "upscaled", "--weights", str(weights), "--device", "cpu"])
    assert Image.open(tmp_path / "upscaled" / "1.png").size == (96, 64)


def test_weights_are_those_that_were_ranked(run_folder: Location, tmp_path: Path) -> None:
    output = Location.of(tmp_path)
    ranked_at_2 = results_of([trial(0, "stopped", [0.3], warp=0.5, folder=run_folder)])
    write_results(output, ranked_at_2, base=BASE, data=STORE)
    assert read_weights(output / "best.safetensors").step == 2
    only_newest = tmp_path / "run"
    (only_newest / checkpoint_name(4)).mkdir(parents=True)
    for name in (run_folder / checkpoint_name(4)).names():
        content = (run_folder / checkpoint_name(4) / name).read_bytes()
        (only_newest / checkpoint_name(4) / name).write_bytes(content)
    ranked = dataclasses.replace(ranked_at_2.trials[0], folder=Location.of(only_newest))
    write_results(output, results_of([ranked]), base=BASE, data=STORE)
    found, expected = read_weights(output / "best.safetensors"), read_weights(run_folder)
    assert found.step == 4
    assert all(torch.equal(found.upscaler[name], expected.upscaler[name]) for name in expected.upscaler)


def test_damaged_or_missing_weights_are_told_after_all_else_is_written(tmp_path: Path) -> None:
    output = Location.of(tmp_path / "sweep")
    with pytest.raises(UserError, match=r"no weights are at .*gone"):
        write_results(output, sweep(Location.of(tmp_path / "gone")), base=BASE, data=STORE)
    assert output.names() == ["best.yaml", "trials.csv"]


def test_an_average_of_weights_is_what_was_scored(tmp_path: Path) -> None:
    folder, output = Location.of(tmp_path / "run"), Location.of(tmp_path / "sweep")
    run(make_config(["--steps", "2", "--optimizer.ema-decay", "0.5"]), folder)
    results = results_of([trial(0, "stopped", [0.3], warp=0.5, folder=folder)])
    write_results(output, results, base=BASE, data=STORE)
    average = folder / checkpoint_name(2) / EMA_FILE
    assert (output / "best.safetensors").sha256() == average.sha256()
    assert read_weights(output / "best.safetensors").step == 2
    average.write_bytes(average.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"is damaged \(the checksum of weights_ema\.safetensors is wrong\)"):
        write_results(output, results, base=BASE, data=STORE)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_without_a_winner_nothing_stale_is_left(
    where: str, run_folder: Location, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    output = Location.of(tmp_path)
    if where == "s3":
        server: S3Server = request.getfixturevalue("server")
        output = Location(server.uri("a/sweep"))
    write_results(output, sweep(run_folder), base=BASE, data=STORE)
    assert output.names() == ["best.safetensors", "best.yaml", "trials.csv"]
    if where == "s3":
        command = training_command(output, data=STORE)
        assert f"#   {command}\n" in (output / "best.yaml").read_bytes().decode()
        _, parsed = train.parse(shlex.split(command)[2:])
        assert parsed.loss.warp == 0.7
        assert read_weights(output / "best.safetensors").step == 4
    failed = results_of([trial(0, "failed", [0.1], warp=0.5)])
    for _ in range(2):
        assert write_results(output, failed, base=BASE, data=STORE) == [output / "trials.csv"]
        assert output.names() == ["trials.csv"]


def test_changing_values_are_said(run_folder: Location, tmp_path: Path) -> None:
    first = trial(0, "complete", [0.3, 0.2], warp=0.5, folder=run_folder)
    later = Segment(values={**first.values, "loss.warp": 0.6}, first_step=2, donor=1)
    changed = dataclasses.replace(first, segments=(*first.segments, later))
    write_results(Location.of(tmp_path), results_of([changed]), base=BASE, data=STORE)
    text = (tmp_path / "best.yaml").read_text()
    assert "loss.warp 0.6" in text
    assert "they changed while it was trained" in text
    assert settings.load(str(tmp_path / "best.yaml")).loss.warp == 0.6


def test_the_table_of_trials_is_csv_with_all_that_is_known() -> None:
    results = sweep(Location("/runs/0001"))
    text = trials_csv(results)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["role"], row["number"], row["repeats"]) for row in rows] == [
        ("search", "0", ""),
        ("search", "1", ""),
        ("search", "2", ""),
        ("preset", "0", ""),
        ("repeat", "0", "1"),
        ("repeat", "1", "1"),
        ("repeat", "2", "preset"),
        ("repeat", "3", "preset"),
    ]
    assert [row["rank"] for row in rows] == ["2", "1", *[""] * 6]
    assert rows[0]["loss.warp"] == "0.1234567"
    best, failed = rows[1], rows[2]
    assert float(best["tOF"]) == 1 / 7  # in full
    assert (best["step"], best["seconds"], best["folder"], best["state"]) == ("4", "39.5", "/runs/0001", "complete")
    assert failed["reason"] == 'worker 0 failed:\nout of "memory", twice'
    assert (failed["tOF"], failed["PSNR"], failed["step"], failed["seconds"], failed["folder"]) == ("", "", "0", "", "")
    assert text.count("\r\n") == 9  # RFC 4180: the line break in the reason is another
    assert list(rows[0])[9:] == ["PSNR", "tOF", "loss.warp", "discriminator.balance_threshold", "folder"]


def test_the_ranking_is_a_table_of_text() -> None:
    rows = table(sweep())
    assert rows == [
        ["rank", "trial", "step", "tOF", "PSNR", "state", "warp", "balance_threshold"],
        ["1", "0001", "4/4", "0.1429", "30.14", "complete", "0.7", "0.4"],
        ["2", "0000", "2/4", "0.3000", "30.30", "stopped by asha", "0.1235", "0.4"],
        ["", "0002", "0/4", "", "", "failed", "1.5", "0.4"],
        ["", "preset", "4/4", "0.2100", "30.21", "complete", "1", "0.4"],
        ["", "bicubic", "", "0.5000", "28.00", "", "", ""],
    ]
    plain = plain_table(rows).splitlines()
    assert len(plain) == len(rows)
    assert plain[0].index("tOF") == plain[1].index("0.1429") == plain[5].index("0.5000")
    assert all(line == line.rstrip() for line in plain)


def test_names_are_short_where_that_is_clear() -> None:
    names = ["loss.warp", "optimizer.beta1", "discriminator.learning_rate_scale"]
    assert list(short_names(names).values()) == ["warp", "beta1", "learning_rate_scale"]
    assert short_names(["a.x", "b.x", "b.y"]) == {"a.x": "a.x", "b.x": "b.x", "b.y": "y"}


def test_values_are_written_as_the_command_line_takes_them() -> None:
    values = [True, None, 5, 1e-05, "BD", 0.1234567]
    assert [value_text(value) for value in values] == ["true", "none", "5", "1e-05", "BD", "0.1234567"]
    assert [value_text(value, digits=3) for value in values] == ["true", "none", "5", "1e-05", "BD", "0.123"]

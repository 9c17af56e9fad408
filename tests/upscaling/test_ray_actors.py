"""Segments made by actors of a real Ray: bit for bit as in one process, also when one is killed in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.ray_actors import CPUS_OF_ACTOR, RayActors, cluster, cpus_of_actor
from tecogan_dist.upscaling.segment import SegmentResult
from tecogan_dist.upscaling.spread import Finished, GivenUp, Spread, Spreading
from tecogan_dist.upscaling.working import Order, check_shared, frozen, plan_digest
from tests.support.local_ray import small_ray
from tests.support.segments import film, in_one_process, moving_folder, small_model

MODEL = frozen(small_model())


@pytest.fixture(scope="module", autouse=True)
def _running_ray() -> Iterator[None]:
    torch.set_num_threads(1)
    with small_ray(cpus=3):
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_folder(tmp_path_factory.mktemp("source") / "source", height=24, width=40)


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return in_one_process(source, tmp_path_factory.mktemp("one") / "out", small_model())


@pytest.mark.slow
def test_two_films_on_two_actors_one_of_which_is_killed(source: Path, expected: dict[str, str], tmp_path: Path) -> None:
    films = {"first": film(source, tmp_path / "first"), "second": film(source, tmp_path / "second")}
    results, notes, frames, killed = list[tuple[str, SegmentResult]](), list[str](), dict.fromkeys(films, 0), 0
    with RayActors(MODEL, count=2, device="cpu", cpus=1) as actors:

        def advance(key: str, count: int) -> None:
            frames[key] += count

        def done(key: str, result: SegmentResult) -> None:
            nonlocal killed
            results.append((key, result))
            if not killed:
                killed = next(p.pid for p in psutil.process_iter(["cmdline"]) if is_actor(p))
                os.kill(killed, signal.SIGKILL)

        spread = Spread[str](actors, advance=advance, note=notes.append, done=done)
        for key, made in films.items():
            spread.add(key, made.groups)
        ended = []
        while spread.is_busy:
            ended += list(spread.outcomes(1.0))
    assert killed
    assert sorted(outcome.key for outcome in ended if isinstance(outcome, Finished)) == ["first", "second"]
    assert frames == {"first": 20, "second": 20}
    assert len(results) == 14
    assert all("actor was lost" in note for note in notes)
    for made in films.values():
        assert made.digests() == expected
    until = time.monotonic() + 60
    while [p for p in psutil.process_iter(["cmdline"]) if is_actor(p)]:
        assert time.monotonic() < until  # they end with the block, not with Ray
        time.sleep(0.5)


def is_actor(process: psutil.Process) -> bool:
    """Of this test's Ray."""
    ours = psutil.Process().children(recursive=True)
    return process in ours and "ray::_Actor" in " ".join(process.info["cmdline"] or [])


def test_through_the_cluster_that_is_connected(source: Path, expected: dict[str, str], tmp_path: Path) -> None:
    made = film(source, tmp_path / "out")
    with cluster(None, workers=1, device="auto") as found:
        assert (found.device, found.cpus, found.places) == ("cpu", 3, 1)
        with pytest.raises(UserError, match="there is no CUDA device here"), cluster(None, workers=1, device="cuda"):
            pass
        run = Spreading(lambda groups: found.actors(MODEL, workers=1, groups=groups))
        run(made.groups, done=lambda _: None, advance=lambda _: None, note=lambda _: None)
        assert made.digests() == expected
        # An actor that fails at its task says so in the task's own words, and others go on.
        gone = film(source, tmp_path / "gone")
        hidden = [[replace(task, source=replace(task.source, path=tmp_path / "no")) for task in gone.groups[0]]]
        with found.actors(MODEL, workers=1, groups=2) as actors:
            spread = Spread[str](actors)
            spread.add("hidden", hidden)
            spread.add("gone", gone.groups)
            ended = []
            while spread.is_busy:
                ended += list(spread.outcomes(1.0))
        (failed,) = [outcome for outcome in ended if isinstance(outcome, GivenUp)]
        assert failed.key == "hidden"
        assert "cannot see" in str(failed.error)
        assert "storage that all nodes share" in str(failed.error)
        assert gone.digests() == expected


def test_a_node_that_sees_another_folder_or_none(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tecogan_dist.upscaling.working.VISIBLE_SECONDS", 0.0)
    order = Order.of(film(source, tmp_path / "out").tasks[0])
    check_shared(order)
    assert order.task.output.is_absolute()
    with pytest.raises(UserError, match=r"has another .*unfinished than the command that sent it work"):
        check_shared(replace(order, plan=plan_digest(film(source, tmp_path / "other").output)))
    elsewhere = replace(order, task=replace(order.task, output=tmp_path / "nowhere" / "out"))
    with pytest.raises(UserError, match=r"cannot see .*nowhere/out\.unfinished, .*storage that all nodes share"):
        check_shared(elsewhere)


@pytest.mark.parametrize(
    ("cpus", "workers", "expected"),
    [([3], None, 3), ([64, 64], None, CPUS_OF_ACTOR), ([64, 2], None, 2), ([8], 4, 2), ([8], 100, 1), ([0, 4], 1, 4)],
)
def test_cpus_of_an_actor(cpus: list[int], workers: int | None, expected: int) -> None:
    assert cpus_of_actor([{"CPU": float(count)} for count in cpus], workers) == expected


def test_a_cluster_without_room_is_given_up(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("tecogan_dist.upscaling.ray_actors.PATIENCE", 1.0)
    made = film(source, tmp_path / "out")
    assert ray.cluster_resources()["CPU"] == 3
    with pytest.raises(UserError, match="no room for an actor with 4 CPUs for 0 minutes"):
        Spreading(lambda _: RayActors(MODEL, count=1, device="cpu", cpus=4))(
            made.groups, done=lambda _: None, advance=lambda _: None, note=lambda _: None
        )

"""Segments made by actors of a real Ray: bit for bit as in one process, also when one is killed in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling import ray_actors, ray_cluster, segment
from tecogan_dist.upscaling.nodes import Node, package_version
from tecogan_dist.upscaling.ray_actors import RayActors
from tecogan_dist.upscaling.ray_cluster import CPUS_OF_ACTOR, cluster, cpus_of_actor, look_at_gpu
from tecogan_dist.upscaling.segment import Rendered, SegmentResult
from tecogan_dist.upscaling.spread import Finished, GivenUp, Spread, Spreading
from tecogan_dist.upscaling.workers import Lost, Noted
from tecogan_dist.upscaling.working import Order, check_shared, frozen, plan_digest
from tests.support.local_ray import small_ray
from tests.support.segments import Film, film, in_one_process, moving_folder, small_model

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
    monkeypatch.setattr("tecogan_dist.upscaling.visible.VISIBLE_SECONDS", 0.0)
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


def run(made: Film, actors: Callable[[int], RayActors] | None = None) -> list[str]:
    """Make the film's segments; what was noted."""
    notes = list[str]()
    workers = actors or (lambda _: RayActors(MODEL, count=1, device="cpu", cpus=1))
    Spreading(workers)(made.groups, done=lambda _: None, advance=lambda _: None, note=notes.append)
    return notes


def test_notes_of_later_tasks_arrive_and_a_sick_gpu_gets_another_process(
    source: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_sick = tmp_path / "was_sick"

    class Noting(ray_actors._Actor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            plain = segment._render

            def noting(task: Any, model: Any, source: Any, recurrence: Any, *rest: Any) -> Rendered:
                if task.segment.number == 1 and not was_sick.exists():
                    was_sick.touch()
                    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with")
                recurrence._note(f"segment {task.segment.number}")
                return plain(task, model, source, recurrence, *rest)

            setattr(segment, "_render", noting)  # noqa: B010 - of this process, which the test cannot patch

    monkeypatch.setattr(ray_actors, "_Actor", Noting)
    made = film(source, tmp_path / "out")
    notes = run(made)
    failed = [note for note in notes if "failed (CUDA error: an illegal memory access was encountered)" in note]
    assert len(failed) == 1
    assert "while it made segment 1 (frames 3 to 5) of out; that is made again" in failed[0]
    assert sorted(set(notes) - set(failed)) == [f"segment {number}" for number in range(7)]
    assert made.digests() == expected


def test_an_actor_that_cannot_begin_says_why_at_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()

    class Unable(ray_actors._Actor):
        def __init__(self, *_: Any) -> None:
            (starts / str(os.getpid())).touch()
            raise UserError("the GPU cannot be used (no kernel image).")

    monkeypatch.setattr(ray_actors, "_Actor", Unable)
    with pytest.raises(UserError) as caught:
        run(film(source, tmp_path / "out"))
    assert str(caught.value).startswith("an actor cannot be started on 1")
    assert " (the GPU cannot be used (no kernel image)): install on all machines" in str(caught.value)
    assert len(list(starts.iterdir())) == 1


def test_another_version_of_the_package_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(ray_actors._Actor):
        def ready(self) -> Node:
            return replace(super().ready(), host="there", package="99.0")

    monkeypatch.setattr(ray_actors, "_Actor", Other)
    with pytest.raises(UserError, match=r"the node there has tecogan_dist 99\.0, and this command is of "):
        run(film(source, tmp_path / "out"))


def test_what_is_lost_and_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without actors: those of Ray that other machines would be needed for."""
    actors = RayActors(MODEL, count=2, device="cpu", cpus=1)
    begun = list[int]()
    monkeypatch.setattr(actors, "_start", begun.append)
    actors._places = {0: ray_actors._Place(None, None, is_ready=True), 1: ray_actors._Place(None, None)}
    here = Node(host="a", package=package_version(), tools={"torch": "2.14", "the CPU": "AVX2"})
    for node in (here, here, replace(here, host="b", tools=here.tools | {"torch": "2.13"}), replace(here, tools={})):
        actors._compare(0, node)
    (note,) = (event.text for event in actors._events if isinstance(event, Noted))  # once
    assert "torch is 2.14 on a and 2.13 on b" in note
    assert "the CPU is" not in note
    with pytest.raises(UserError, match="an older tecogan_dist"):
        actors._compare(0, None)
    # One that cannot begin while another works is left out.
    actors._events.clear()
    failed = ActorDiedError()
    failed._actor_init_failed = True
    failed.error_msg = (
        "ray::_Actor.__init__() (pid=1, ip=10.0.0.7, actor_id=b)\nModuleNotFoundError: No module named 'av'"
    )
    actors._failed(1, failed)
    assert not begun
    assert list(actors._places) == [0]
    (noted,) = actors._events
    assert isinstance(noted, Noted)
    assert noted.text.startswith("an actor cannot be started on 10.0.0.7 (ModuleNotFoundError: No module named 'av'): ")
    # A machine that was taken away counts against nobody; silence does.
    for preempted, expected in ((True, 0), (False, 1)):
        actors._events.clear()
        actors._places = {0: ray_actors._Place(None, None, is_ready=True)}
        error = ActorDiedError() if preempted else ActorUnavailableError("no answer", None)
        error._preempted = preempted
        actors._failed(0, error)
        (lost,) = actors._events
        assert isinstance(lost, Lost)
        assert (lost.is_expected, actors._lost_starts) == (preempted, expected)
    assert begun == [0, 0]


def test_gpus_of_a_cluster_are_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ray_actors, "PATIENCE", 1.0)
    there = "127.0.0.1:6379"  # Ray is connected already
    begun = time.monotonic()
    with (
        pytest.raises(UserError, match="no room for a task with 1 CPU and a GPU for 0 minutes: wait until"),
        cluster(there, workers=2, device="cuda"),
    ):
        pass
    assert time.monotonic() - begun >= 1
    with cluster(there, workers=1, device="auto") as found:
        assert (found.device, found.gpu) == ("cpu", None)
    assert "no GPU of the cluster is up: its CPUs are used; --device cuda" in capsys.readouterr().err


def test_a_gpu_that_cannot_be_used_is_found_before_anything_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ray.remote
    monkeypatch.setattr(ray, "remote", lambda num_cpus, num_gpus: plain(num_cpus=num_cpus) if num_gpus else plain)
    with pytest.raises(UserError, match="there is no CUDA device here"):
        look_at_gpu(precision="auto", codec=None)


@pytest.mark.parametrize("place", ["option", "environment"])
def test_the_client_of_ray_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def connected(*_: object, **__: object) -> None:
        pytest.fail("something was started")

    monkeypatch.setattr(ray_cluster, "connected", connected)
    if place == "environment":
        monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with (
        pytest.raises(UserError, match=r"ray://\).*HOST:6379.*'tecogan submit'"),
        cluster("ray://head:10001" if place == "option" else None, workers=1, device="auto"),
    ):
        pass

"""What is measured, on this machine: storage, decoding, sockets, processes of an all-reduce, and when they fail."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import load
from tecogan_dist.data.clips import ClipStore
from tecogan_dist.data.stream.windows import WindowConfig, window_config
from tecogan_dist.diagnosis.collectives import RankSettings, free_port, run_ranks
from tecogan_dist.diagnosis.decoding import measure_decoding, measure_made_clip
from tecogan_dist.diagnosis.machines import Answer, Machine, Machines, ThisMachine, in_words
from tecogan_dist.diagnosis.network import examine_network, listen, speak
from tecogan_dist.diagnosis.storage_speed import examine_storage, measure_storage, remove_folder
from tecogan_dist.diagnosis.trial_training import STEPS, Speed, compare, make_store, trial_config
from tecogan_dist.runs.quantities import SAMPLES
from tests.support.s3_server import S3Server
from tests.support.small_disk import small_disk
from tests.support.video_files import write_store

DATA = WindowConfig(sequence_length=4, crop_size=8, scenes_in_mix=4, windows_per_decode=3)


class TwoMachines(Machines):
    """This process twice, each with loopback addresses of its own, and by wish with another place for the storage."""

    def __init__(self, *, places: dict[str, Path] | None = None) -> None:
        both = [Machine(name=name, address=f"127.0.0.{number}") for number, name in enumerate("ab", start=1)]
        super().__init__(both, patience=60)
        self._places = places

    def _ask(self, calls: dict[Machine, tuple[Any, ...]]) -> dict[Machine, Answer]:
        alone = ThisMachine(patience=60)
        (me,) = alone.all
        return {machine: alone.ask_each({me: self._there(machine, call)})[me] for machine, call in calls.items()}

    def _there(self, machine: Machine, call: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._places is None:
            return call
        mounted = str(self._places[machine.name])
        return tuple(Location(mounted + w.uri) if isinstance(w, Location) else w for w in call)


def test_an_error_is_an_answer_and_so_is_silence() -> None:
    alone = ThisMachine(patience=0.2)
    (me,) = alone.all
    assert alone.ask(int, "x")[me].problem == "ValueError: invalid literal for int() with base 10: 'x'"
    assert alone.ask(int, "7")[me].value == 7
    asked = time.monotonic()
    answer = alone.ask(time.sleep, 3)[me]
    assert time.monotonic() - asked < 2
    assert (answer.problem, answer.is_silent) == ("no answer in 0 s", True)
    assert alone.answering == []
    assert alone.ask(int, "7") == {}
    assert in_words(UserError("a sentence.")) == "a sentence"


@pytest.mark.parametrize("where", ["local", "s3", "gs"])
def test_a_storage(where: str, server: S3Server, gs_address: str, tmp_path: Path) -> None:
    places = {"local": str(tmp_path), "s3": server.uri("doctor"), "gs": gs_address.format("doctor")}
    storage = Location(places[where])
    folder = storage / "unique"
    findings = examine_storage(TwoMachines(), storage, folder)
    assert [(f.status, f.text.split(" MB/s")[0].split()[0]) for f in findings] == [
        ("ok", "one"),
        ("ok", "each"),
        ("ok", "each"),
    ]
    assert set(findings[1].figures["rates"]) == {"a", "b"}
    assert folder.names() == ["0", "1"]
    remove_folder(folder)
    remove_folder(folder)  # there is nothing any more
    assert storage.names() == []


def test_a_storage_that_each_machine_has_for_itself(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in "ab"}
    for place in places.values():
        (place / "shared").mkdir(parents=True)
    findings = examine_storage(TwoMachines(places=places), Location("/shared"), Location("/shared/unique"))
    assert [(f.machines, f.text) for f in findings if f.status == "fail"] == [
        (("a",), "does not see the files of b"),
        (("b",), "does not see the files of a"),
    ]
    assert "mount the same storage" in findings[0].advice


def test_a_storage_that_is_not_mounted_on_a_machine(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in "ab"}
    (places["a"] / "shared").mkdir(parents=True)
    findings = examine_storage(TwoMachines(places=places), Location("/shared"), Location("/shared/unique"))
    (failed,) = (f for f in findings if f.status == "fail")
    assert failed.machines == ("b",)
    assert failed.text.startswith("there is no folder ")
    assert not (places["b"] / "shared").exists()


def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=30)
        (failed,) = examine_storage(ThisMachine(patience=60), Location(str(disk)), Location(str(disk)) / "unique")
    assert failed.text.endswith("cannot be written (Read-only file system): give a place that can be written")
    assert "permissions" in failed.advice


def test_a_storage_that_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        with pytest.raises(UserError, match="No space left on device"):
            measure_storage(Location(str(disk)), Location(str(disk)) / "unique", "0")
        remove_folder(Location(str(disk)) / "unique")
        assert list(disk.iterdir()) == []


def test_decoding(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", scenes=1)
    speed = measure_decoding(store.location, store.scenes[0], DATA)
    assert speed["windows"] > 0
    assert speed["frames"] > 0
    assert measure_made_clip(DATA)["windows"] > 0


def test_links_between_machines() -> None:
    findings = examine_network(TwoMachines())
    assert [(f.status, f.subject) for f in findings] == [("ok", "network")] * 2
    assert set(findings[0].figures["rates"]) == {"a to b", "b to a"}


def test_a_listener_answers_only_who_knows_the_token() -> None:
    port = listen("127.0.0.1", b"0123456789abcdef")
    with pytest.raises(OSError, match=r"closed|reset"):
        speak("127.0.0.1", port, b"fedcba9876543210")
    assert speak("127.0.0.1", port, b"0123456789abcdef")["bandwidth"] > 0


def test_a_machine_that_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        busy = server.getsockname()[1]

    class Refused(TwoMachines):
        """Listeners that are gone when they are called."""

        def _there(self, machine: Machine, call: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG002
            return (lambda *_: busy,) if call[0] is listen else call

    findings = examine_network(Refused())
    assert [f.status for f in findings] == ["fail", "fail"]
    assert "does not reach b at 127.0.0.2 (ConnectionRefusedError" in findings[0].text
    assert "open all ports" in findings[0].advice


def ranks(count: int, *, of: int, seconds: float) -> list[tuple[RankSettings, str | None]]:
    port = free_port("127.0.0.1")
    return [
        (
            {
                "backend": "gloo",
                "address": "127.0.0.1",
                "port": port,
                "rank": rank,
                "ranks": of,
                "seconds": seconds,
                "megabytes": 1,
                "repeats": 2,
            },
            None,
        )
        for rank in range(count)
    ]


def test_an_all_reduce() -> None:
    results = run_ranks(ranks(2, of=2, seconds=100), 120)
    assert [result["is_right"] for result in results] == [True, True]
    assert all(result["bandwidth"] > 0 and 0 < result["latency"] < 60 for result in results)


@pytest.mark.slow
def test_an_all_reduce_that_waits_for_somebody_ends() -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="does not end in 8 s"):
        run_ranks(ranks(1, of=2, seconds=600), 8)
    assert threading.active_count() == before


def records(**changes: float) -> tuple[dict[str, float], ...]:
    losses = {"raw/content": 0.5, "raw/total": 0.7, "raw/adversarial": 1.0, SAMPLES: 10.0}
    return tuple(losses | (changes if step == 7 else {}) for step in range(STEPS))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ok"),
        ({"raw/content": 0.5002}, "ok"),
        ({"raw/content": 0.51}, "fail"),
        ({"raw/adversarial": 1.005}, "ok"),
        ({"raw/adversarial": 1.05}, "fail"),
        ({"raw/total": float("nan")}, "fail"),
    ],
)
def test_losses_agree_or_not(changes: dict[str, float], status: str) -> None:
    finding = compare(Speed(records(**changes)), Speed(records(**{SAMPLES: 5.0})), workers=2, batch=4)
    assert finding.status == status
    assert "10 samples/s together, 10 samples/s alone, 1.00 times" in finding.text
    if status == "fail":
        assert "2 workers and one disagree in step 8: " in finding.text


def test_settings_of_a_trial() -> None:
    config = trial_config(load("tecogan"), workers=3, address="auto")
    assert (config.steps, config.batch_size, config.cluster.workers) == (STEPS, 6, 3)
    assert (config.initial_weights, config.loss.perceptual) == (None, 0)
    assert (config.cluster.precision, config.cluster.address) == ("fp32", "auto")
    assert config.model == load("tecogan").model


def test_a_trials_clips_fit(tmp_path: Path) -> None:
    config = trial_config(None, workers=2)
    make_store(Location(str(tmp_path / "store")), config)
    scenes = ClipStore.open(tmp_path / "store").scenes
    assert all(scene.frames >= window_config(config).sequence_length for scene in scenes)

"""Which Ray a command gets, and whether it can hold a run. Ray is real; its GPUs are numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.capacity import Demand, check_cluster, connected_for, resources_per_worker
from tecogan_dist.cluster.connect import connected
from tecogan_dist.cluster.shortage import Names, advice
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tests.support.local_ray import small_ray


def test_an_address_where_nobody_answers() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"), connected("127.0.0.1:1", cpus=1):
        pass


def test_one_worker_with_more_cpus_than_there_are_is_not_told_to_be_fewer() -> None:
    demand = Demand(config("--cluster.cpus_per_worker", "4096"))
    sentence = r"asks for 1 worker with 4096 CPUs: give each worker fewer CPUs \("
    with pytest.raises(UserError, match=sentence) as raised, connected_for(demand):
        pass
    assert "cluster.workers" not in str(raised.value)


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    """One machine of 8 CPUs, 2 GPUs and a fast disk."""
    with small_ray(cpus=8, num_gpus=2, resources={"fast_disk": 1, "accelerator_type:A100": 1}):
        yield


def config(*settings: str) -> Config:
    return override(Config(batch_size=12), list(settings))


@pytest.mark.usefixtures("machine")
def test_gpus_are_used_where_they_are() -> None:
    assert check_cluster(Demand(config("--cluster.workers", "2")))
    assert not check_cluster(Demand(config("--cluster.workers", "2", "--cluster.device", "cpu")))
    assert check_cluster(Demand(config("--cluster.workers", "1", "--cluster.accelerator_type", "A100")))


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["--cluster.workers", "3"], r"8 CPUs and 2 GPUs cannot hold 3 workers of 1 CPU and 1 GPU, .*workers 2\)"),
        (["--cluster.workers", "6", "--cluster.device", "cpu"], r"cannot hold 6 workers of 1 CPU, .*workers 4\)"),
        (
            ["--cluster.workers", "1", "--cluster.accelerator_type", "H100"],
            r"1 CPU and 1 GPU on H100, .*: no machine has a GPU of the model H100, but A100: use a cluster",
        ),
        (["--cluster.workers", "2", "--cluster.resources_per_worker", "fast_disk", "1"], r"1 fast_disk, plus.*ers 1\)"),
        (
            ["--cluster.resources_per_worker", "tape", "1"],
            "no machine has 1 tape: .* or change --cluster.resources",
        ),
        (["--cluster.cpus_per_worker", "9"], r"no machine has 9 CPUs: give each worker 8 at most \(--cluster.cpus-per"),
        (["--cluster.cpus_per_worker", "8"], r"no CPU is left for a worker's data: give each worker fewer \("),
    ],
)
def test_too_little_is_refused_with_what_would_do(settings: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_cluster(Demand(config(*settings)))


@pytest.mark.usefixtures("machine")
def test_elastic_runs_need_only_their_least() -> None:
    assert check_cluster(Demand(config("--cluster.workers", "4", "--cluster.min_workers", "2")))


def test_workers_reserve_what_the_config_says() -> None:
    settings = config("--cluster.cpus_per_worker", "3", "--cluster.resources_per_worker", "fast_disk", "0.5")
    assert resources_per_worker(settings, use_gpu=True) == {"CPU": 3, "GPU": 1, "fast_disk": 0.5}
    assert resources_per_worker(settings, use_gpu=False) == {"CPU": 3, "fast_disk": 0.5}


@pytest.mark.usefixtures("machine")
def test_a_connection_that_is_there_is_used_and_kept() -> None:
    with connected("192.0.2.1:6379", cpus=1):
        assert ray.is_initialized()
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("nodes", "place", "words"),
    [
        (
            [{"CPU": 8.0}],
            {"CPU": 1, "GPU": 1},
            "no machine has a GPU that Ray knows of: use a cluster",
        ),
        ([{"CPU": 1.0}], {"CPU": 1}, "no CPU is left for a worker's data: add a machine, which needs no GPU"),
        ([{"CPU": 0.0}], {"CPU": 1}, "no machine that takes work is up: "),
        ([{"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}], {"CPU": 2, "GPU": 1}, "no single machine has 2 CPUs and 1 GPU: "),
    ],
)
def test_what_is_missing_is_named_and_not_the_number_of_workers(
    nodes: list[dict[str, float]], place: dict[str, float], words: str
) -> None:
    said = advice(nodes, place, places=0, workers=1, trainings=1, names=Names(), on_cluster=False)
    assert said.startswith(words)
    assert "ask for fewer" not in said

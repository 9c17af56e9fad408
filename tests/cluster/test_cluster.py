"""Which Ray a command gets, and whether it can hold a run. Ray is real; its GPUs are numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.capacity import Demand, check_cluster, resources_per_worker
from tecogan_dist.cluster.connect import connected
from tecogan_dist.config.overrides import override
from tecogan_dist.config.schema import Config
from tests.support.local_ray import small_ray


def test_an_address_where_nobody_answers() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"), connected("127.0.0.1:1", cpus=1):
        pass


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
        (["--cluster.workers", "1", "--cluster.accelerator_type", "H100"], r"1 CPU and 1 GPU on H100"),
        (["--cluster.workers", "2", "--cluster.resources_per_worker", "fast_disk", "1"], r"1 fast_disk, plus"),
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

"""Options and fixtures of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported, as every command does it.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import pytest
import torch

from tests.support.gs_server import gs_server
from tests.support.s3_server import S3Server, s3_server

# Before Ray reads them, the same for every file: a process keeps the first authentication it was set up with, and its
# second Ray would refuse the calls of its own workers and wait for them for ever.
os.environ["RAY_AUTH_MODE"] = "disabled"
# Nothing is fetched and nobody's cache is read: this can be no folder. Tests of the cache name their own.
os.environ["TECOGAN_CACHE"] = "/dev/null/cache"
os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112 - Ray's own name; its 60 s are short on a busy machine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference",
        type=Path,
        default=Path(__file__).parent / "reference",
        metavar="DIR",
        help="folder of reference vectors for tests/parity, laid out like tests/reference (its default)",
    )


LONGEST = (
    *("test_faults.py", "test_dockerfile.py", "test_engines.py", "test_sweep.py", "test_doctor.py", "test_train.py"),
    *("test_chaos.py", "test_continuing.py", "test_survival.py"),
    *("test_autoscaling.py", "test_slurm.py", "test_submitted_jobs.py", "test_evaluate.py", "test_compose.py"),
)
"""Files of tests that take minutes each, begun first, so that the others end beside them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """A server that speaks S3 on loopback, with an empty bucket."""
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def gs_address() -> Iterator[str]:
    """An address on a server that speaks Google Cloud Storage on loopback, with ``{}`` for a name."""
    with gs_server() as address:
        yield address

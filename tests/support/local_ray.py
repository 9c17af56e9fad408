"""An embedded Ray for tests."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import ray


@contextlib.contextmanager
def small_ray(*, cpus: int, megabytes: int = 200, **settings: Any) -> Iterator[None]:
    """Ray in this process, small and quiet; ``cpus`` are numbers for its scheduler."""
    ray.init(
        "local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=megabytes * 2**20,
        logging_level=logging.ERROR,
        log_to_driver=False,
        **settings,
    )
    try:
        yield
    finally:
        ray.shutdown()

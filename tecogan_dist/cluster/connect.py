"""Which Ray a command runs on: this process's, a cluster, or one that is started here."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import ray

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.internals.ray_core import start_no_other_ray


@contextlib.contextmanager
def connected(address: str | None, *, cpus: int, dashboard: bool = False) -> Iterator[None]:
    """Ray as this process already has it; else the cluster at ``address`` or that the process runs in; else here.

    Here it has at least ``cpus`` CPUs, which are numbers for scheduling only, and on request a dashboard, on loopback.
    Raises :class:`UserError` if no cluster answers.
    """
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = cluster_address(address)
    if address:
        _check_answers(address)
        try:
            ray.init(address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at {address} ({error}): check the address.") from error
    else:
        ray.init("local", num_cpus=max(os.cpu_count() or 1, cpus), include_dashboard=dashboard, **quiet)
    start_no_other_ray()
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise :class:`UserError` unless something listens there: Ray itself would try for minutes and end the process."""
    match = re.fullmatch(r"(?:ray://)?(?P<host>.+):(?P<port>\d+)", address)
    if match is None:
        return  # "auto" and the like
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address} ({error}): check the address.") from error


def cluster_address(address: str | None) -> str | None:
    """The cluster's address that a user gave, or that Ray's environment names; None: there is none."""
    return address or os.environ.get("RAY_ADDRESS")

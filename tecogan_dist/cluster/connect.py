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
from ray.exceptions import AuthenticationError

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.internals.ray_core import address_of_auto, start_no_other_ray
from tecogan_dist.cluster.tokens import check_token, token_error


@contextlib.contextmanager
def connected(address: str | None, *, cpus: int, dashboard: bool = False) -> Iterator[None]:
    """Ray as this process already has it; else the cluster at ``address`` or that the process runs in; else here.

    Here it has at least ``cpus`` CPUs, which are numbers for scheduling only, and on request a dashboard, on loopback.
    Raises :class:`UserError` if no cluster answers, or if it refuses this process's token.
    """
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = cluster_address(address)
    if address:
        check_answers(address)
        try:
            ray.init(address, **quiet)
        except AuthenticationError as error:
            raise token_error(address) from error
        except (ConnectionError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at {address} ({error}): check the address.") from error
    else:
        ray.init("local", num_cpus=max(os.cpu_count() or 1, cpus), include_dashboard=dashboard, **quiet)
    start_no_other_ray()
    try:
        yield
    finally:
        ray.shutdown()


def check_answers(address: str) -> None:
    """Raise :class:`UserError` unless a cluster listens there that takes this process's token.

    Ray itself would try for minutes and end the process. ``address`` is ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``.
    """
    place = address_of_auto() if address == "auto" else address
    match = re.fullmatch(r"(?:ray://)?(?P<host>.+):(?P<port>\d+)", place or "")
    if place is None or match is None:
        return  # Ray looks for a cluster on this machine, or says that the address is none
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {place} ({error}): check the address.") from error
    check_token(place)


def cluster_address(address: str | None) -> str | None:
    """The cluster's address that a user gave, or that Ray's environment names; None: there is none."""
    return address or os.environ.get("RAY_ADDRESS")

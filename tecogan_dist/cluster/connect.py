"""Which Ray a command runs on: this process's, a cluster, or one that is started here."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from tecogan_dist.base.chatter import VERBOSE_VARIABLE, is_verbose
from tecogan_dist.base.console import printable, say
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.signals import keeping_handlers
from tecogan_dist.cluster.embedded import embedded_ray
from tecogan_dist.cluster.internals.ray_core import ANSWER_SECONDS, address_of_auto, start_no_other_ray
from tecogan_dist.cluster.tokens import check_mode, check_own_token, check_token, token_error
from tecogan_dist.cluster.worker_output import ray_logging, worker_output

ADDRESS_BYTES = 300
"""A longer address is a mistake: a host's name has 253 at most."""
SILENT_SECONDS = 3.0
"""After which a line says what is waited for."""


@contextlib.contextmanager
def connected(
    address: str | None, *, cpus: int, dashboard: bool = False, importing: Sequence[str] = ()
) -> Iterator[None]:
    """Ray as this process already has it; else the cluster at ``address`` or that the process runs in; else here.

    Here it has at least ``cpus`` CPUs, which are numbers for scheduling only, and on request a dashboard, on loopback;
    and modules that are named ``importing`` are imported while it starts.
    Raises :class:`UserError` if no cluster answers, if it refuses this process's token, or if Ray cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster_address(address)
    if not address:
        with embedded_ray(cpus=cpus, dashboard=dashboard, importing=importing):
            start_no_other_ray()
            yield
        return
    check_answers(address)
    try:
        with keeping_handlers():
            ray.init(address, **ray_logging(client=address.startswith("ray://")), **_told_to_workers())
    except AuthenticationError as error:
        raise token_error(shown(address)) from error
    except Exception as error:  # Ray raises whatever came up
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"no Ray cluster answers at {shown(address)} ({printable(reason.rstrip('.'))}): check the address."
        ) from error
    start_no_other_ray()
    try:
        with worker_output():
            yield
    finally:
        ray.shutdown()


def _told_to_workers() -> dict[str, Any]:
    """Arguments of ``ray.init`` by which workers on a cluster know that all is to be heard."""
    return {"runtime_env": {"env_vars": {VERBOSE_VARIABLE: "1"}}} if is_verbose() else {}


def check_answers(address: str) -> None:
    """Raise :class:`UserError` unless a cluster listens there that takes this process's token.

    Ray itself would try for minutes and end the process. ``address`` is ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``;
    all else is refused. Takes half a minute at most.
    """
    check_mode()
    check_own_token()
    place = address
    if address == "auto":
        try:
            found = address_of_auto()
        except (ConnectionError, ValueError, RuntimeError):
            found = None
        if found is None:
            raise UserError("no Ray cluster runs on this machine, which the address auto means: start one, or give its "
                            "address as HOST:PORT.")  # fmt: skip
        place = found
    host, port = _host_and_port(place)
    try:
        socket.create_connection((host, port), timeout=10).close()
    except (OSError, UnicodeError) as error:  # the second for a host that cannot be a name
        raise UserError(f"no Ray cluster answers at {shown(place)} ({error}): check the address.") from error
    waiting = threading.Timer(
        SILENT_SECONDS, say, [f"waiting for {shown(place)} to answer, {ANSWER_SECONDS:.0f} s at most"]
    )
    waiting.daemon = True
    waiting.start()
    try:
        check_token(place)
    finally:
        waiting.cancel()


def _host_and_port(address: str) -> tuple[str, int]:
    """Raises :class:`UserError` for what is not an address of a Ray cluster."""
    match = re.fullmatch(r"(?:ray://)?(?P<host>\[[0-9a-fA-F:.%\w]+\]|\w[\w.-]*):(?P<port>[0-9]{1,5})", address)
    if match is None or len(address) > ADDRESS_BYTES or not 0 < int(match["port"]) < 65536:
        hint = "a dashboard's address is for 'tecogan submit' only; " if address.startswith("http") else ""
        raise UserError(
            f"{shown(address)!r} is not the address of a Ray cluster: {hint}give HOST:PORT, where the port is 6379 "
            "unless it was chosen otherwise, ray://HOST:10001, or auto."
        )
    return match["host"].strip("[]"), int(match["port"])


def shown(address: str) -> str:
    """An address as messages have it: without a password, short, and without what could steer a terminal."""
    return printable(re.sub(r"(?<=//)[^/]*@|^[^/]*@", "", address), limit=80)


def cluster_address(address: str | None) -> str | None:
    """The cluster's address that a user gave, or that Ray's environment names; None: there is none.

    "local" is Ray's word for one inside this process.
    """
    place = address or os.environ.get("RAY_ADDRESS")
    return None if place == "local" else place or None

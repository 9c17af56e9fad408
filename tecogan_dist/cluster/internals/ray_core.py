"""What is used of Ray's core that has no public name, as read in Ray 2.60.0."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import grpc
from ray._common.tls_utils import load_certs_from_env
from ray._common.utils import get_default_system_temp_dir
from ray._private import auto_init_hook, ray_constants, utils, worker
from ray._private.authentication.authentication_token_setup import (
    AuthenticationTokenLoader,
    Config,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.authentication.grpc_authentication_client_interceptor import _get_authentication_metadata_tuple
from ray._private.node import Node
from ray._private.ray_logging import global_worker_stdstream_dispatcher
from ray._private.services import canonicalize_bootstrap_address

CLUSTER_CALL, CLIENT_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId", "/ray.rpc.RayletDriver/ClusterInfo"
"""A call that answers an empty message: of the cluster's own port, and of the one for ray://."""

ANSWER_SECONDS = 20.0
"""In which a Ray answers a call."""


def start_no_other_ray() -> None:
    """From now on no call starts a Ray by itself: a thread that outlives ours would do that by asking for anything."""
    auto_init_hook.enable_auto_connect = False


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started meanwhile listens on loopback only, as Ray does by itself on macOS and Windows."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def leaving_sigterm() -> Iterator[None]:
    """A Ray that is started meanwhile sets no handler of Python's, which would end the process wherever it is.

    It sets one below Python all the same, which ``keeping_handlers`` replaces.
    """
    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


@contextlib.contextmanager
def without_needless_processes(*, dashboard: bool) -> Iterator[None]:
    """A Ray that is started meanwhile has no autoscaler, and no server for a dashboard where none is wanted.

    One machine cannot grow. And the server is started, and waited for, also without a dashboard: then all that it does
    is to report the usage of Ray. Together they are a second of a start on two cores, and one of its end.
    """
    before = {name: getattr(Node, name) for name in ("start_monitor", *(() if dashboard else ("start_api_server",)))}
    for name in before:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, own in before.items():
            setattr(Node, name, own)


def _start_nothing(node: Any, **_given: Any) -> None:
    node._webui_url = ""  # as of a Ray without a dashboard


@contextlib.contextmanager
def handling_worker_lines(take: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Give what workers of the connected Ray print to ``take``, in batches of one process, instead of printing it.

    Ray must have been asked for it (``log_to_driver``).
    """
    name = "tecogan_dist"
    global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")
    global_worker_stdstream_dispatcher.add_handler(name, take)
    try:
        yield
    finally:
        global_worker_stdstream_dispatcher.remove_handler(name)


def read_environment_anew() -> None:
    """Have Ray see what the environment says of tokens now: it has read that when it was imported."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def lost_processes() -> list[str]:
    """Those of this process's own Ray that have ended without being asked to and that nothing runs without, in words.

    Nothing on a cluster that was started elsewhere.
    """
    names = {ray_constants.PROCESS_TYPE_RAYLET: "raylet", ray_constants.PROCESS_TYPE_GCS_SERVER: "GCS"}
    node = worker._global_node
    dead: list[Any] = [] if node is None else node.dead_processes()
    return [f"{names[kind]} (process {process.pid})" for kind, process in dead if kind in names]


def temporary_folder() -> str:
    """The folder in which Ray would make its own, named ray."""
    return str(get_default_system_temp_dir())


def address_of_auto() -> str | None:
    """``HOST:PORT`` of the cluster that ``auto`` means, if this machine has a record of one.

    Sets this process up for a token where ``ray.init("auto")`` would.
    """
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    address: str | None = canonicalize_bootstrap_address("auto")
    return address


Refusal = Literal["", "token", "http", "silent", "other"]


def refusal(address: str, *, of_client: bool) -> Refusal:
    """Why what listens at ``HOST:PORT`` will not have this process, as far as calls can tell in half a minute.

    token: it is a Ray that wants one, and not what this process sends. http: it is a server for browsers, as a
    dashboard is. silent: it does not answer. other: it is none of these, and not this port of a Ray. ``of_client`` says
    that it is to be the port for ray://.
    Raises ``ray.exceptions.AuthenticationError`` if this process is to send a token and finds none; ``OSError`` or
    ``RuntimeError`` if it is to use TLS and has no certificates.
    """
    # gRPC wants small letters.
    token = [(name.lower(), value) for name, value in _get_authentication_metadata_tuple()]
    deadline = time.monotonic() + ANSWER_SECONDS
    with _channel(address) as channel:
        call = channel.unary_unary(CLIENT_CALL if of_client else CLUSTER_CALL)
        while (left := deadline - time.monotonic()) > 0:
            try:
                call(b"", timeout=left, metadata=token)
            except grpc.RpcError as error:
                judged = _judged(error.code(), error.details() or "", of_client=of_client)
                if judged is not None:
                    return judged
                time.sleep(min(1.0, ANSWER_SECONDS / 4))  # a head that is just being started
            else:
                return ""
    return "silent"


def _judged(code: grpc.StatusCode, details: str, *, of_client: bool) -> Refusal | None:
    """What an error says; None: perhaps another answer comes later."""
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return "token"
    if "http1.x" in details:
        return "http"
    if "Failed parsing HTTP/2" in details or code == grpc.StatusCode.UNIMPLEMENTED:
        return "other"
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
        return None
    # The port for ray:// understands the empty message as little as an old client's, and says so.
    return "" if of_client else "other"


def _channel(address: str) -> grpc.Channel:
    """A connection as Ray makes it."""
    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(address, options=options)
    certificate, key, root = load_certs_from_env()
    credentials = grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=certificate)
    return grpc.secure_channel(address, credentials, options=options)

"""What is used of Ray's core that has no public name, as read in Ray 2.60.0."""

from __future__ import annotations

from typing import Literal

import grpc
from ray._private import auto_init_hook
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.authentication.grpc_authentication_client_interceptor import _get_authentication_metadata_tuple
from ray._private.services import canonicalize_bootstrap_address

CLUSTER_CALL, CLIENT_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId", "/ray.rpc.RayletDriver/ClusterInfo"
"""A call that answers an empty message: of the cluster's own port, and of the one for ray://."""


def start_no_other_ray() -> None:
    """From now on no call starts a Ray by itself: a thread that outlives ours would do that by asking for anything."""
    auto_init_hook.enable_auto_connect = False


def address_of_auto() -> str | None:
    """``HOST:PORT`` of the cluster that ``auto`` means, if this machine has a record of one.

    Sets this process up for a token where ``ray.init("auto")`` would.
    """
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    address: str | None = canonicalize_bootstrap_address("auto")
    return address


def refusal(address: str, *, of_client: bool) -> Literal["", "token", "http"]:
    """Why the Ray at ``HOST:PORT`` will not have this process, as far as a call can tell.

    token: it wants one, and not what this process sends. http: it is a server for browsers, as a dashboard is.
    ``of_client`` says that it is the port for ray://.
    Raises ``ray.exceptions.AuthenticationError`` if this process is to send a token and finds none.
    """
    # gRPC wants small letters.
    token = [(name.lower(), value) for name, value in _get_authentication_metadata_tuple()]
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:  # as Ray does
        try:
            channel.unary_unary(CLIENT_CALL if of_client else CLUSTER_CALL)(b"", timeout=10, metadata=token)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return "token"
            return "http" if "http1.x" in error.details() else ""
    return ""

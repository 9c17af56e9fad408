"""Ray's token authentication, in sentences: a cluster that wants a token, and a token that is missing or wrong.

Ray itself answers with a trace, or tries for 20 seconds and says that it cannot connect.
"""

from __future__ import annotations

import os

from ray.exceptions import AuthenticationError

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.internals.ray_core import refusal

MODE, TOKEN, TOKEN_FILE, DEFAULT_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"
PLACES = f"in {TOKEN}, in a file that {TOKEN_FILE} names, or in {DEFAULT_FILE}"


def check_token(address: str) -> None:
    """Raise :class:`UserError` if the Ray that listens there refuses this process for want of a token.

    ``address`` is ``HOST:PORT`` or ``ray://HOST:PORT``; a dashboard's is refused too.
    """
    try:
        reason = refusal(address.removeprefix("ray://"), of_client=address.startswith("ray://"))
    except AuthenticationError as error:
        raise token_error(address) from error
    if reason == "token":
        raise token_error(address)
    if reason == "http":
        raise UserError(
            f"what listens at {address} is a web server, perhaps a dashboard, and not a Ray cluster: a cluster's own "
            "port is 6379 unless it was chosen otherwise, and a dashboard's address begins with http://."
        )


def token_error(address: str) -> UserError:
    """What to do where a cluster refused this process, or where Ray found no token to send."""
    if os.environ.get(MODE, "").lower() != "token":
        return UserError(
            f"the Ray cluster at {address} wants a token: set {MODE}=token, and give the cluster's token {PLACES}."
        )
    if TOKEN in os.environ:
        found, there = TOKEN, bool(os.environ[TOKEN].strip())
    else:
        found = os.environ.get(TOKEN_FILE) or DEFAULT_FILE
        try:
            with open(os.path.expanduser(found), encoding="utf-8") as file:
                there = bool(file.read().strip())
        except (OSError, UnicodeDecodeError):
            there = False
    if there:
        return UserError(
            f"the Ray cluster at {address} refuses the token in {found}: give the cluster's own token {PLACES}."
        )
    return UserError(
        f"{MODE} is 'token' and there is no token in {found}: give the token of the Ray cluster at {address} {PLACES}."
    )

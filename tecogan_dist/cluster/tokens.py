"""Ray's token authentication, in sentences: a cluster that wants a token, and a token that is missing, wrong or none.

Ray itself answers with a trace, or tries for 20 seconds and says that it cannot connect.
"""

from __future__ import annotations

import os
from pathlib import Path

from ray.exceptions import AuthenticationError

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.inputs import check_regular
from tecogan_dist.cluster.internals.ray_core import refusal

MODE, TOKEN, TOKEN_FILE, DEFAULT_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"
PLACES = f"in {TOKEN}, in a file that {TOKEN_FILE} names, or in {DEFAULT_FILE}"

MODES = ("token", "disabled")
LONGEST_TOKEN = 8192
"""Characters. Ray's own tokens have 64."""


def check_mode() -> None:
    """Raise :class:`UserError` for a mode that Ray does not know and would take for 'disabled' without a word.

    An empty one is as none.
    """
    mode = os.environ.get(MODE)
    if mode is not None and not mode.strip():
        del os.environ[MODE]
    elif mode is not None and mode.lower() not in MODES:
        raise UserError(
            f"{MODE} is {printable(repr(mode), limit=80)}, which Ray would take for 'disabled': set it to "
            f"{' or '.join(MODES)}, or unset it."
        )


def check_own_token(*, environment_only: bool = False) -> None:
    """Raise :class:`UserError` if Ray could not read or send the token that this process has. Having none is fine.

    Ray would end the process, or wait for ever. ``environment_only`` leaves the files out, which a Ray that is started
    here does not need.
    """
    if os.environ.get(MODE, "token").lower() != "token":
        return
    if os.environ.get(TOKEN):
        _check_characters(os.environ[TOKEN].strip(), TOKEN)
        return
    if environment_only:
        return
    named = os.environ.get(TOKEN_FILE)
    path = Path(named or DEFAULT_FILE).expanduser()
    if named is None and not path.exists():
        return
    what = f"token file of {TOKEN_FILE}," if named else "token file"
    check_regular(path, what=what)
    where = f"the {what} {printable(path)}"
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_TOKEN + 1)
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}): give the token {PLACES}.") from error
    lines = content.decode("latin-1").strip().splitlines()
    _check_characters("".join(lines[:1]) if len(lines) <= 1 else "\n", where)


def _check_characters(token: str, where: str) -> None:
    """Raise :class:`UserError` for a token that cannot stand in a header. The sentence does not show it."""
    if len(token) > LONGEST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise UserError(
            f"{where} holds what cannot be a token: give one line of letters, digits and signs without spaces, as "
            "'ray get-auth-token --generate' makes it."
        )


def check_token(address: str) -> None:
    """Raise :class:`UserError` unless a Ray listens there that takes this process, with its token if it wants one.

    ``address`` is ``HOST:PORT`` or ``ray://HOST:PORT``; a dashboard's is refused too. Takes 20 s at most.
    """
    of_client = address.startswith("ray://")
    try:
        reason = refusal(address.removeprefix("ray://"), of_client=of_client)
    except AuthenticationError as error:
        raise token_error(address) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"RAY_USE_TLS is set and the certificates cannot be read ({printable(error)}): let RAY_TLS_SERVER_CERT, "
            "RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT name their files."
        ) from error
    if reason == "token":
        raise token_error(address)
    if reason == "http":
        raise UserError(
            f"what listens at {address} is a web server, perhaps a dashboard, and not a Ray cluster: a cluster's own "
            "port is 6379 unless it was chosen otherwise, and a dashboard's address begins with http://."
        )
    if reason:
        what = "does not answer" if reason == "silent" else "answers, but not as a Ray cluster does"
        ports = "10001 for ray://" if of_client else "6379, or 10001 with ray:// before the host,"
        raise UserError(
            f"what listens at {address} {what}: check host and port, which is {ports} unless it was chosen otherwise; "
            "a cluster with TLS needs RAY_USE_TLS=1 and its certificates."
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
        found = printable(os.environ.get(TOKEN_FILE) or DEFAULT_FILE)
        try:
            with open(os.path.expanduser(os.environ.get(TOKEN_FILE) or DEFAULT_FILE), "rb") as file:
                there = bool(file.read(LONGEST_TOKEN).strip())
        except OSError:
            there = False
    if there:
        return UserError(
            f"the Ray cluster at {address} refuses the token in {found}: give the cluster's own token {PLACES}."
        )
    return UserError(
        f"{MODE} is 'token' and there is no token in {found}: give the token of the Ray cluster at {address} {PLACES}."
    )

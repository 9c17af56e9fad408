"""Commands as jobs of a Ray cluster: submitted to its dashboard, found again, followed to their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shlex
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import ray
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails

from tecogan_dist.base.addresses import checked_url, shown_url
from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.connect import check_answers
from tecogan_dist.cluster.internals.ray_jobs import ADDRESS_VARIABLE, JobClient
from tecogan_dist.cluster.tokens import check_mode, check_own_token, token_error

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
OUTPUT = "tecogan_output"
"""In a job's metadata: the place that it writes to."""
SILENCE = 60.0
"""Seconds without a line after which a log is asked for anew: a connection that is cut somewhere between is silent."""
PATIENCE = 600.0
"""Seconds that a cluster which is followed may be out of reach."""
PAUSE = 2.0
CHATTY = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of the job client, which print a line for every connection and every upload."""
UNREACHABLE = (OSError, RuntimeError, aiohttp.ClientError, TimeoutError)
"""What the job client raises for a connection that breaks off, and where nobody answers."""
NO_DASHBOARD = (*UNREACHABLE, ValueError, TypeError, LookupError, AttributeError, RayError)
"""What it raises besides where the answer is not a dashboard's."""


STEERING = re.compile(
    r"\x1b(?!\[[0-9;]{0,20}m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True)
class Job:
    """A command that is to run on a cluster."""

    name: str
    """Its identity on the cluster, where no two jobs ever have the same."""
    command: Sequence[str]
    archive: Path
    """The .zip that is its working directory."""
    env: Mapping[str, str]
    """For its command, and for all that runs on the cluster for it."""
    output: str | None
    """The place that it writes to."""


@dataclass(frozen=True)
class End:
    """How a job ended."""

    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    reason: str
    """For one that failed; else empty."""


def job_name(command: str, output: str | None) -> str:
    """A name that can be read and is new: the command, the last part of its output, six random digits and letters."""
    words = [command, (output or "").rstrip("/").rpartition("/")[2], secrets.token_hex(3)]
    return "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words if word)


def connect(address: str | None) -> JobClient:
    """A client of the cluster at ``address``; None: the one that Ray's environment names, else this machine's.

    ``address`` is a dashboard's (http://, https://), or a cluster's ``HOST:PORT``. Raises :class:`UserError` if none
    answers, if it refuses this process's token, or if it runs another Ray than this package.
    """
    place = address or os.environ.get(ADDRESS_VARIABLE) or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    for logger in CHATTY:
        logging.getLogger(logger).setLevel(logging.WARNING)
    check_mode()
    check_own_token()
    if place.startswith(("http://", "https://")):
        _check_listens(place)
    elif "://" in place:
        raise UserError(
            f"jobs are submitted to a cluster's dashboard, not to {shown_url(place)}: give --address http://HEAD:8265."
        )
    else:
        check_answers(place)
    shown = shown_url(place)
    try:
        client = JobClient(place.rstrip("/"))
        theirs = client.ray_version
    except AuthenticationError as error:
        raise token_error(shown) from error
    except NO_DASHBOARD as error:
        raise UserError(
            f"what answers at {shown} is not a Ray dashboard ({printable(_first_line(str(error)), limit=120)}): give "
            "--address, as in http://127.0.0.1:8265 for a tunnel."
        ) from error
    ours = ray.__version__
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise UserError(
            f"the cluster at {shown} runs Ray {printable(theirs, limit=40)} and this package needs {ours}: start the "
            "cluster with that one."
        )
    return client


def shown_address(client: JobClient) -> str:
    """The dashboard's address as messages have it: without secrets."""
    return shown_url(client.get_address())


def _check_listens(url: str) -> None:
    """Before Ray's client, which would wait for minutes where packets are dropped."""
    parts = urlsplit(checked_url(url))
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((parts.hostname or "", port), timeout=10).close()
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"nobody listens at {shown_url(url)} ({error}): give --address, the dashboard of the cluster's head; "
            "perhaps a tunnel to it is missing, or the head was started with --include-dashboard=false."
        ) from error


def running_job(client: JobClient, *, output: str) -> str | None:
    """The name of a job that writes there and has not ended. Raises :class:`UserError` if the cluster does not say."""
    try:
        known = client.list_jobs()
    except AuthenticationError as error:
        raise token_error(shown_address(client)) from error
    except NO_DASHBOARD as error:
        raise UserError(
            f"{shown_address(client)} does not say which jobs it has ({printable(_first_line(str(error)), limit=120)}):"
            " try again, or look at its dashboard."
        ) from error
    for job in known:
        if not job.status.is_terminal() and (job.metadata or {}).get(OUTPUT) == output:
            return job.submission_id
    return None


def submit(client: JobClient, job: Job) -> None:
    """Upload what the job needs and have the cluster run it. Raises :class:`UserError` if its name is taken."""
    try:
        client.submit_job(
            entrypoint=shlex.join(job.command),
            submission_id=job.name,
            runtime_env={"working_dir": str(job.archive), "env_vars": dict(job.env)},
            metadata={} if job.output is None else {OUTPUT: job.output},
        )
    except AuthenticationError as error:
        raise token_error(shown_address(client)) from error
    except RuntimeError as error:
        if "already exists" in str(error):
            raise UserError(f"the cluster has had a job named {job.name}: give another name (--id).") from error
        reason = printable(_first_line(str(error)).rstrip("."))
        raise UserError(f"the cluster does not take the job ({reason}): try again, or ask who runs it.") from error
    except NO_DASHBOARD as error:
        reason = printable(_first_line(str(error)).rstrip("."))
        raise UserError(f"the connection to {shown_address(client)} broke off ({reason}): try again.") from error


def follow(client: JobClient, name: str, *, write: Callable[[str], None], patience: float = PATIENCE) -> End:
    """Give the job's log to ``write``, from its beginning, until the job has ended; how it did.

    A connection that is lost is made anew, for as long as ``patience`` seconds. Raises :class:`UserError` after that,
    and if the cluster does not know the job any more.
    """
    return asyncio.run(_follow(client, name, write, patience))


class _ScreenError(Exception):
    """Ours to tell apart: not the connection broke off, but nobody reads what is written."""


async def _follow(client: JobClient, name: str, write: Callable[[str], None], patience: float) -> End:
    shown, lost_since, failures = 0, None, 0
    while True:
        error: BaseException | None = None
        is_complete = False
        try:
            async for position, text in _log(client, name):
                new = text[max(0, shown - position) :]  # every connection begins with the first line
                if new:
                    try:
                        write(plain(new))
                    except OSError as broken:
                        raise _ScreenError from broken
                    shown = position + len(text)
            is_complete = True  # if the job has ended
        except _ScreenError as broken:
            raise broken.__cause__ or broken from None
        except TimeoutError:
            pass  # or it has nothing to say
        except NO_DASHBOARD as broken:
            error = broken
        try:
            details = await asyncio.to_thread(_details, client, name)
        except UserError:
            raise
        except NO_DASHBOARD as broken:
            error = broken
        else:
            failures = 0 if error is None else failures + 1
            # The machine that has the log may be gone, for good.
            if details.status.is_terminal() and (is_complete or failures > 2):
                return End(details.status.value, _reason(details) if details.status == "FAILED" else "")
        if error is None:
            lost_since = None
        elif lost_since is None:
            lost_since = time.monotonic()
            write(f"[no connection to {shown_address(client)}: trying again; the job does not depend on it]\n")
        elif time.monotonic() - lost_since > patience:
            raise UserError(
                f"{shown_address(client)} has not answered for {patience:g} s ({_first_line(str(error))}): look for "
                f"the job later with 'ray job status --address {shown_address(client)} {name}'."
            ) from error
        await asyncio.sleep(PAUSE)


async def _log(client: JobClient, name: str) -> AsyncIterator[tuple[int, str]]:
    """Pieces of the job's log from its beginning on, each with its position. Raises ``TimeoutError`` after silence."""
    position = 0
    async with contextlib.aclosing(client.tail_job_logs(name)) as pieces:  # type: ignore[type-var]  # a generator
        while True:
            async with asyncio.timeout(SILENCE):
                text = await anext(pieces, None)
            if text is None:
                return
            yield position, text
            position += len(text)


def _details(client: JobClient, name: str) -> JobDetails:
    try:
        return client.get_job_info(name)
    except AuthenticationError as error:
        raise token_error(shown_address(client)) from error
    except RuntimeError as error:
        if "does not exist" in str(error):
            raise UserError(
                f"{shown_address(client)} does not know the job {name} any more, its head was started anew: the same "
                "command goes on from the newest checkpoint."
            ) from error
        raise


def _reason(details: JobDetails) -> str:
    """Why it failed, as far as its log does not say it."""
    if details.driver_exit_code is not None:
        return f"its command ended with status {details.driver_exit_code}, the reason is above"
    return _last_line(details.message or "Ray does not say why")


def plain(text: str) -> str:
    """A log as a terminal may have it: lines, tabs and colours; whatever else would steer a terminal is escaped."""
    return STEERING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _last_line(text: str) -> str:
    return _first_line("\n".join(reversed(text.splitlines())))
